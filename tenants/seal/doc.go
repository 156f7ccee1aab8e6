// Package seal is the one room for encryption at rest: what is written to
// etcd, or handed to a browser to bring back, is sealed here and nowhere else.
//
// The one idea is an envelope of two levels. A [Ring] holds root keys and lives
// in a file, never in etcd. A [Keys] belongs to one tenant, is wrapped by the
// ring, and seals that tenant's records; losing it is losing them, which is how
// a deleted tenant stays deleted. A [Box] seals with keys derived from the ring
// for one purpose of the whole service, such as a login form's flow value.
//
// Every ciphertext names its key and is bound to additional data (for a
// record: its full etcd key), so that it opens nowhere but where it was put.
//
// It knows no tenants, no sessions and no etcd, and imports nothing of ours.
package seal
