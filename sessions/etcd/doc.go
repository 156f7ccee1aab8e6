// Package etcd keeps sessions and challenges in etcd: it is a sessions.Store
// and a sessions.Challenges on a client somebody else opened. It starts no
// server.
//
//	/dw/live/s/{tenant}/{digest}             the record, sealed (watched by nodes)
//	/dw/live/e/all                           the epoch of all sessions (watched, as all epochs)
//	/dw/live/e/{tenant}/all                  the epoch of a tenant; tenants/etcd writes it too
//	/dw/live/e/{tenant}/v/{hex}              the epoch of a verifier, by its module's digest
//	/dw/s/sub/{tenant}/{subject}/{id}        empty, or as below; subject as a keyed hash
//	/dw/s/id/{tenant}/{id}                   of one that was rotated: the digest it is under
//	/dw/s/ch/{tenant}/{digest}               a challenge, sealed
//
// A session's public ID is the digest of the token that it began with, so that no
// index leads from the one to the other until the session is rotated.
//
// The one idea: a session is written once, with its index entries, in one
// transaction and on one lease, and revoking it deletes them. There are no
// tombstones, because under a full disk only deletes work, and no janitor,
// because readers pass over an entry whose record is gone.
//
// An epoch is a key whose revision is all that counts: a record that came to be
// at or before it is over. Etcd gives the revisions, so no record holds an
// epoch's number and none can hold an old one. What a rotation leaves is the
// same record, marked, on the lease it has; what it makes is a new record.
//
// Creates and touches share transactions: what queues while one is committed is
// the next one. A create among them has no condition, and a touch has its own,
// nested, so that one that fails fails nobody else. Everything else is a
// transaction of its own that compares the revisions it read.
//
// Leases are shared by up to a thousand keys that end in the same minute and
// only collect garbage; deadlines are in the record and checked by the Manager.
// Values are sealed by the tenant's data keys and bound to their own key in
// etcd; keys hold hashes only.
package etcd
