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
	ExportWarm       = "doorward_v1_warm"   // () -> i32
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

// Host functions that need a grant.
const (
	FuncConfigGet      = "config_get"      // (key, klen) -> length; the value as JSON text, a JSON string as its plain text
	FuncSecretGet      = "secret_get"      // (name, nlen) -> length
	FuncPasswordHash   = "password_hash"   // (p, plen) -> length of a PHC string (argon2id)
	FuncPasswordVerify = "password_verify" // (h, hlen, p, plen) -> 1 yes, 0 no
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
	MaxInput         = 64 << 10 // bytes of one request
	MaxOutput        = 64 << 10 // bytes of one verdict
	MaxLogLines      = 64       // a call
	MaxLogBytes      = 16 << 10 // a call
	MaxHostCalls     = 64       // a call, of the granted functions
	MaxPasswordCalls = 3        // password_hash and password_verify together, a call
	MaxSubject       = 256      // printable characters
	MaxClaims        = 8 << 10  // bytes of JSON
	MaxDepth         = 8        // nesting of the verdict
	MaxTTL           = 900      // seconds a challenge may live
	DefaultTTL       = 300      // seconds, when the verdict says none
	MaxAttempts      = 10       // answers to one challenge
	DefaultAttempts  = 5        // when the verdict says none
	DefaultModule    = 8 << 20  // bytes of a module
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
