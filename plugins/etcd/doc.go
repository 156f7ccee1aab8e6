// Package etcd keeps verifier modules in etcd: it is a plugins.Artifacts on a
// client somebody else opened.
//
//	/dw/p/blob/{digest}/meta             how many pieces, and the size
//	/dw/p/blob/{digest}/{n}              a piece of at most 1 MiB, compressed
//	/dw/p/ref/{digest}/{tenant}/{n}      this version is made of it
//	/dw/p/ver/{tenant}/{n}               the version, JSON
//	/dw/p/seq/{tenant}                   the number given out last
//	/dw/p/active/{tenant}                which version is active, and was
//
// The one idea: a module is there as long as something refers to it. Who adds
// one refers to it first, by a mark that ends by itself, and only then looks
// whether it is there; who removes the last reference deletes it in a
// transaction that holds no reference exists. Whatever a crash leaves behind
// is not referred to and is swept at a start.
package etcd
