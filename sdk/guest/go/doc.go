// Package doorward is for writing verifiers in Go. A whole one:
//
//	package main
//
//	import doorward "github.com/doorward/doorward/sdk/guest/go"
//
//	func init() { doorward.Handle(verify) }
//	func main() {}
//
//	func verify(r *doorward.Request) doorward.Verdict {
//		hash, err := doorward.Config("alice")
//		if err != nil || r.Credential.Text("username") != "alice" || !doorward.VerifyPassword(hash, r.Credential.Text("password")) {
//			return doorward.Reject()
//		}
//		return doorward.Accept("alice", "pwd")
//	}
//
// Build it with the Go toolchain alone:
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags='-s -w' -o verifier.wasm .
//
// The one idea: verify is an ordinary function. Built for wasip1 it runs in the
// server's sandbox and the functions below are the host's; built natively, as
// go test does, they are answered by Fake, so that a verifier's logic is tested
// without any of it.
package doorward
