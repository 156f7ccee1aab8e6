// Package cluster runs an etcd member inside this process.
//
// The one idea: a member of one needs no network. Its client is a function
// call, and the listeners that etcd insists on are Unix sockets in a private
// directory, so that no port is open and a data directory is all there is.
//
// It holds an exclusive lock on the data directory for as long as it runs: two
// processes on one directory would lose what both were told is safe. It knows
// no sessions, no tenants and no HTTP.
package cluster
