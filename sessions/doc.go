// Package sessions knows who is signed in: what a session is, what its token
// looks like, how long it lives, and where it is kept.
//
// The one idea: the truth is a record in a store, found by a digest of the
// token, with its deadlines inside. Nothing a browser holds decides anything,
// a stolen store opens no session, and no clock but the record's counts.
//
// Manager holds the policy and is what everybody calls. Store and Challenges
// are its ports; Memory and sessions/etcd implement both, and
// sessions/storetest examines them.
//
// It knows no HTTP, no tenants but by their uuid, and never decides whether a
// credential is good.
package sessions
