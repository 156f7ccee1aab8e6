// Package etcd keeps sessions and challenges in etcd: it is a sessions.Store
// and a sessions.Challenges on a client somebody else opened. It starts no
// server.
//
//	/dw/live/s/{tenant}/{digest}             the record, sealed (watched by nodes)
//	/dw/s/id/{tenant}/{session id}           digest
//	/dw/s/sub/{tenant}/{subject}/{id}        digest; subject as a keyed hash
//	/dw/s/ver/{tenant}/{verifier}/{id}       digest
//	/dw/s/ch/{tenant}/{digest}               a challenge, sealed
//
// The one idea: a session is written once, with its index entries, in one
// transaction and on one lease, and revoking it deletes them. There are no
// tombstones, because under a full disk only deletes work, and no janitor,
// because readers pass over an entry whose record is gone.
//
// Leases are shared by up to a thousand sessions that end in the same minute
// and only collect garbage; deadlines are in the record and checked by the
// Manager. Values are sealed by the tenant's data keys and bound to their own
// key in etcd; keys hold hashes only.
package etcd
