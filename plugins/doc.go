// Package plugins is the life of verifiers: a tenant uploads a module, it is
// examined and staged, activated, rolled back, and asked about logins.
//
// The one idea: this package holds the rules and never the code. What a module
// is made of is found out, and what it does is done, in another process
// (package sandbox); here its bytes are only kept, its requests for abilities
// held against its grants, and its answers checked before anybody believes
// them.
//
// Catalog is the life, Host the logins. Artifacts is where modules rest; Dir and
// plugins/etcd implement it and plugins/artifacttest examines them. KV is what
// verifiers keep; MemoryKV and plugins/etcd implement it and plugins/kvtest
// examines them. What they reach by HTTP is the business of plugins/egress.
//
// It knows no HTTP and no sessions, and tenants only by their uuid.
package plugins
