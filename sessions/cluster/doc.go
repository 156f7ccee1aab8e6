// Package cluster gives the client of an etcd cluster: of a member that it runs
// inside this process (Start), or of one that somebody else runs (Dial).
//
// The one idea: a member of one needs no network. Its client is a function
// call, and the listeners that etcd insists on are Unix sockets in a private
// directory, so that no port is open and a data directory is all there is.
//
// Backup and Restore are of keys and values, so that they are the same for either,
// and what was saved of the one can go into the other.
//
// A member keeps its database in order by itself while Run runs. It holds an
// exclusive lock on the data directory for as long as it runs: two processes on
// one directory would lose what both were told is safe. It knows no sessions,
// no tenants and no HTTP.
package cluster
