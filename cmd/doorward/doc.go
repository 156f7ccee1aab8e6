// Command doorward is the whole program: the server (dev, serve), the
// operator's command line (tenant, verifier, session), and, for itself only,
// the sandbox workers that run tenants' code.
//
// main.go starts the rooms bottom-up and closes them top-down; config.go is
// every setting; each subcommand has a file. What the program promises as a
// whole is tested here: testdata/script holds its behaviour as scripts, and
// imports_test.go holds the plan of which room may import which.
//
// It holds no rules of its own: what a tenant, a verifier or a session is, the
// rooms know.
package main
