// Package abi is the contract between Doorward and a verifier: the names a
// module exports and may import, the JSON that crosses, the limits, and the
// numbers that mean trouble. It is the specification; hosts and guest SDKs
// both import it, and godoc is how to read it.
//
// The one idea: the guest pulls its input and pushes its answer, so that the
// host never writes into a guest outside a guest's own call, and a module's
// import section is the complete list of what it can do.
//
// A core module exports [ExportMemory] and [ExportVerify]. For each login the
// host calls doorward_v1_verify(n) where n is the length of the request. The
// guest reads the request with input_read, decides, writes a [Verdict] as JSON
// with output_write, and returns 0. A WASI command (it exports _start) is the
// stdio profile: the same request on standard input, the same verdict on
// standard output, exit status 0.
//
// A worked example, request and answer:
//
//	{"abi":1,"tenant":"acme","method":"password","request_id":"01J…","attempt":1,
//	 "credential":{"username":"alice","password":"…"},
//	 "client":{"ip":"192.0.2.7","user_agent":"curl/8"},"now_ms":1764000000000}
//
//	{"decision":"accept","subject":"alice","claims":{"role":"admin"},"amr":["pwd"]}
//
// A second step: the verifier answers
//
//	{"decision":"challenge","type":"otp","public":{"digits":6},"private":{"user":"alice"},"ttl":300}
//
// and is called again with the user's answer as credential, the same method,
// "attempt" counting the answers, and "state" holding what it wrote as private:
//
//	{"abi":1,…,"attempt":1,"credential":{"code":"123456"},"state":{"user":"alice"}}
//
// A module is made ready once: the host calls [ExportInitialize], [ExportInit] and
// [ExportWarm], those that there are, keeps an image of memory and globals, and
// every login begins from it. Nothing that a login leaves is there at the next. A
// guest whose preparation asks for what only a login has (the request,
// configuration, the real time, random) is as right and slower: that part of it is
// run at each login. warm is never part of a login; it is for filling caches.
// Generators that seed themselves (Go's math/rand and the order of its maps,
// JavaScript's Math.random) may go the same way in every login: what nobody may
// guess is taken from random, or from WASI's random_get, during the login.
//
// What a guest may ask of the host besides is granted in its [Manifest]:
//
//	{"abi":1,"name":"acme-users","grants":{
//	  "totp":true,"hmac":true,"secrets":["PEPPER"],
//	  "kv":{"namespaces":["tries"]},
//	  "http":{"hosts":["idp.acme.test:443"],"max_calls":2}}}
//
// A granted function takes byte strings as (pointer, length) and numbers as
// they are. Worked examples, in the order of their arguments:
//
//	secret_hmac("PEPPER", AlgSHA256, "alice")                      -> 32, then result_read gives 32 bytes
//	sig_verify(SigRS256, "-----BEGIN PUBLIC KEY-----…", m, s)      -> 1
//	totp_verify("JBSW Y3DP EHPK 3PXP", "287082")                   -> 1, and 0 the next time
//	kv_incr("tries", "alice", 1, 900)                              -> 1, 2, 3 … until 15 minutes after the first
//	kv_cas("tries", "alice", "", "1", 900)                         -> 1 if there was nothing
//	http_fetch({"method":"POST","url":"https://idp.acme.test/check",
//	  "headers":{"content-type":"application/json"},"body":"{\"user\":\"alice\"}"})
//	  -> n, then result_read gives {"status":200,"headers":{"content-type":["application/json"]},"body":"{\"ok\":true}"}
//
// totp_verify is RFC 6238 with SHA-1, six digits and a step of 30 seconds, one
// step off either way; the secret is base32, blanks and case as people copy them.
// A code that was right is used: the host refuses it from then on, for every
// verifier of the tenant, on every node.
//
// Keys and values of kv belong to the tenant and to verifiers of the manifest's
// name. An empty value is no value: kv_put of one deletes, and to kv_cas it means
// "nothing is there". A ttl is in seconds; 0 is MaxKVTTL. kv_incr counts from 0 in
// decimal text, and an entry that is there keeps its end.
//
// http_fetch reaches public addresses by https, with a certificate for the host's
// name, and hosts that the operator has opened besides. [ErrNotGranted] is for a
// host that is not in the manifest or not open, [ErrUpstream] for one that gave no
// answer, or is where nobody may go; the tenant's log says which.
//
// An upload's vectors run without a network (http_fetch is ErrUpstream), and, as
// does a try, with a key-value store that is empty and forgotten afterwards. Time
// is the request's now_ms, so that a vector may hold a one-time code.
//
// This package is not a runtime: it opens, compiles and calls nothing, and it
// imports nothing but the standard library.
package abi
