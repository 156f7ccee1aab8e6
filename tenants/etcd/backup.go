package etcd

import "strings"

// IsKey reports whether a key in etcd is that of somebody who administers. A
// restore leaves them out: each node makes its operator's key when it starts, and
// those of nodes that are no more would open the new ones for ever.
func IsKey(key string) bool { return strings.HasPrefix(key, keyPrefix) }
