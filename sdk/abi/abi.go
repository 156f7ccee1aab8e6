package abi

// Version is the major of this contract; it stands in [Request].ABI and
// [Manifest].ABI. Inside a major, fields and host functions are only added.
const Version = 1

// Module is the import module that holds the host functions; WASI is the only
// other module a verifier may import from (a stateless shim that opens
// nothing).
const (
	Module = "doorward_v1"
	WASI   = "wasi_snapshot_preview1"
)

// What a module exports. Memory and verify are required in the core profile;
// the rest are optional. A module that exports _start and no verify is the
// stdio profile.
const (
	ExportMemory     = "memory"
	ExportVerify     = "doorward_v1_verify" // (input_len i32) -> i32; 0 = answered
	ExportInit       = "doorward_v1_init"   // (config_len i32) -> i32; 0 = ready
	ExportWarm       = "doorward_v1_warm"   // () -> i32; 0 = done; before logins, for caches
	ExportInitialize = "_initialize"        // () -> ()
	ExportStart      = "_start"             // () -> (); stdio profile
)

// Host functions that every verifier may import. All integers are i32 but
// now_ms's result. A function that produces bytes returns their length and
// keeps them for result_read; a negative result is one of the Err numbers. A
// pointer outside the guest's memory traps.
const (
	FuncInputRead   = "input_read"   // (dst, off, len) -> bytes copied
	FuncOutputWrite = "output_write" // (src, len) -> bytes written so far
	FuncResultRead  = "result_read"  // (dst, off, len) -> bytes copied
	FuncFail        = "fail"         // (code, src, len); records the reason, then traps
	FuncLog         = "log"          // (level, src, len); 0 debug, 1 info, 2 warn, 3 error
	FuncRandom      = "random"       // (dst, len) -> 0
	FuncNowMS       = "now_ms"       // () -> i64; frozen for the call
	FuncCTEqual     = "ct_equal"     // (a, alen, b, blen) -> 1 equal, 0 not; constant time
)

// Host functions that need a grant. An argument of more than MaxArgument bytes
// is ErrTooLarge, one call more than a budget allows ErrQuota; both are
// answered before any work. Besides, all but config_get are ErrNotDuringInit
// before doorward_v1_verify has begun.
const (
	FuncConfigGet      = "config_get"      // (key, klen) -> length; the value as JSON text, a JSON string as its plain text
	FuncSecretGet      = "secret_get"      // (name, nlen) -> length
	FuncSecretHMAC     = "secret_hmac"     // (name, nlen, alg, d, dlen) -> length; hmac under a secret that the guest never sees
	FuncHash           = "hash"            // (alg, d, dlen) -> length
	FuncHMAC           = "hmac"            // (alg, k, klen, d, dlen) -> length
	FuncSigVerify      = "sig_verify"      // (alg, k, klen, m, mlen, s, slen) -> 1 yes, 0 no
	FuncPasswordHash   = "password_hash"   // (p, plen) -> length of a PHC string (argon2id)
	FuncPasswordVerify = "password_verify" // (h, hlen, p, plen) -> 1 yes, 0 no; ErrTooLarge for a password above MaxPassword
	FuncTOTPVerify     = "totp_verify"     // (secret, slen, code, clen) -> 1 yes, 0 no or used before
	FuncKVGet          = "kv_get"          // (ns, nlen, key, klen) -> length; ErrNotFound
	FuncKVPut          = "kv_put"          // (ns, nlen, key, klen, v, vlen, ttl) -> 0
	FuncKVIncr         = "kv_incr"         // (ns, nlen, key, klen, by, ttl) -> the new count
	FuncKVCAS          = "kv_cas"          // (ns, nlen, key, klen, old, olen, new, nwlen, ttl) -> 1 done, 0 it was not old
	FuncHTTPFetch      = "http_fetch"      // (request, rlen) -> length of an HTTPResponse as JSON
)

// Algorithms of hash, hmac and secret_hmac. Another number is ErrUnsupported.
const (
	AlgSHA256 = 1
	AlgSHA384 = 2
	AlgSHA512 = 3
)

// Algorithms of sig_verify. Keys are SubjectPublicKeyInfo (RFC 5280), in DER or
// in PEM as "PUBLIC KEY"; one that is not of the algorithm's kind is ErrInvalid,
// and so is RSA of other than 2048 to 4096 bits.
const (
	SigEd25519  = 1 // RFC 8032
	SigES256    = 2 // ECDSA P-256 with SHA-256; r and s of 32 bytes each, as JWS has it (RFC 7518 §3.4)
	SigES256DER = 3 // the same, r and s in ASN.1, as WebAuthn has it
	SigRS256    = 4 // RSASSA-PKCS1-v1_5 with SHA-256
	SigPS256    = 5 // RSASSA-PSS with SHA-256, a salt of 32 bytes
)

// Numbers that a host function returns for trouble.
const (
	ErrInvalid       = -1
	ErrNotFound      = -2
	ErrNotGranted    = -3
	ErrBusy          = -4
	ErrTooLarge      = -5
	ErrTimeout       = -6
	ErrQuota         = -7
	ErrUpstream      = -8
	ErrUnsupported   = -9
	ErrInternal      = -10
	ErrNotDuringInit = -11
)

// What the host enforces on one call and one module.
const (
	MaxInput         = 64 << 10   // bytes of one request
	MaxOutput        = 64 << 10   // bytes of one verdict
	MaxLogLines      = 64         // a call
	MaxLogBytes      = 16 << 10   // a call
	MaxHostCalls     = 64         // a call, of the granted functions
	MaxArgument      = 64 << 10   // bytes of one argument of a granted function
	MaxPasswordCalls = 3          // password_hash and password_verify together, a call
	MaxPassword      = 1 << 10    // bytes of a password handed to password_hash or password_verify
	MaxTOTPSecret    = 256        // characters of a secret handed to totp_verify
	MaxPublicKey     = 4 << 10    // bytes of a key handed to sig_verify
	MaxKVCalls       = 16         // kv_get, kv_put, kv_incr and kv_cas together, a call
	MaxKVKey         = 256        // bytes
	MaxKVValue       = 1 << 10    // bytes
	MaxKVTTL         = 90 * 86400 // seconds; what a ttl of 0 means, too
	MaxKVEntries     = 10_000     // of one tenant
	MaxKVWrites      = 50         // a second, of one tenant on one node, totp_verify's among them
	DefaultHTTPCalls = 2          // http_fetch, a call, when the manifest says none
	MaxHTTPCalls     = 5          // that a manifest may ask for
	MaxHTTPBody      = 1 << 20    // bytes of an answer to http_fetch, decoded
	HTTPTimeoutMS    = 3000       // of one http_fetch, all in all, inside the wall limit
	MaxSubject       = 256        // printable characters
	MaxClaims        = 8 << 10    // bytes of JSON
	MaxDepth         = 8          // nesting of the verdict
	MaxTTL           = 900        // seconds a challenge may live
	DefaultTTL       = 300        // seconds, when the verdict says none
	MaxAttempts      = 10         // answers to one challenge
	DefaultAttempts  = 5          // when the verdict says none
	DefaultModule    = 8 << 20    // bytes of a module
	MaxModule        = 16 << 20   // that an operator may let in
	DefaultMemoryMiB = 32
	MaxMemoryMiB     = 64
	DefaultWallMS    = 2000
	MaxWallMS        = 5000
	DefaultCPUMS     = 50 // of the guest's own code, counted by instruction and not by clock
	MaxCPUMS         = 500
)

// ReservedClaims are names a verdict's claims may not use at the top level;
// the host owns them.
var ReservedClaims = []string{"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "tenant", "amr", "acr", "sid", "auth_time"}
