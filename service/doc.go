// Package service holds the verbs: sign in, answer a challenge, validate, sign
// out, revoke, and what operators do to tenants. Each verb joins nouns and is a
// dozen straight lines; the nouns (tenants, plugins, sessions) own their rules.
//
// The one idea: a caller names a door (a host or a tenant id), never a tenant
// record, so that every verb begins by asking whose door it is and no path can
// forget to.
//
// It knows no HTTP, no Wasm and no etcd. It also owns what spans nouns: a
// tenant is deleted here, in an order that a crash may interrupt anywhere.
package service
