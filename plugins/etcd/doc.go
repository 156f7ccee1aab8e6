// Package etcd keeps verifier modules, and what verifiers remember, in etcd: it
// has a plugins.Artifacts, plugins.Nodes and a plugins.KV on a client somebody
// else opened.
//
//	/dw/p/blob/{digest}/meta             how many pieces, and the size
//	/dw/p/blob/{digest}/{n}              a piece of at most 1 MiB, compressed
//	/dw/p/size/{digest}                  the bytes of its pieces, for the limit on all
//	/dw/p/ref/{digest}/{tenant}/{n}      this version is made of it
//	/dw/p/ver/{tenant}/{n}               the version, JSON
//	/dw/p/seq/{tenant}                   the number given out last
//	/dw/p/active/{tenant}                which version is active, and was
//	/dw/p/node/{node}                    a live node, on its lease
//	/dw/p/ask/{ask}                      a version that every node is asked to compile, on a lease
//	/dw/p/has/{ask}/{node}               that node has compiled it, on the lease of the ask
//	/dw/p/kv/{tenant}/{index}            an entry of a verifier: its end and value, sealed
//	/dw/p/own/{tenant}/{index}           an entry of the host's own: which one-time codes were used
//
// The one idea of Artifacts: a module is there as long as something refers to it. Who adds
// one refers to it first, by a mark that ends by itself, and only then looks
// whether it is there; who removes the last reference deletes it in a
// transaction that holds no reference exists. Whatever a crash leaves behind
// is not referred to and is swept at a start.
//
// The one idea of Nodes: what nodes have compiled is asked for when somebody needs
// to know it, and everything that is written for that ends with the asking.
//
// The one idea of KV: every change is a comparison with the revision that was
// read, so that of two that count or swap at once one goes again.
package etcd
