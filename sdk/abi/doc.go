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
// This package is not a runtime: it opens, compiles and calls nothing, and it
// imports nothing but the standard library.
package abi
