// Package tenants knows whose door it is: the tenants of this installation,
// their hosts, apps and policy, and the keys of those who may administer them.
//
// The one idea: what is asked on every request is answered from an immutable
// snapshot in memory. A Registry follows a Source and swaps the snapshot whole,
// so a look-up takes no lock and sees one consistent moment.
//
// A tenant is its UUID, random and never reused; the id in its URLs is only a
// name. Everything stored is under the UUID, so that a deleted and re-created
// id sees nothing of the old one.
//
// It holds no sessions and no verifiers, and imports nothing of ours.
package tenants
