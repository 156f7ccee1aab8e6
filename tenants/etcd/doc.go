// Package etcd keeps tenants in etcd: it is a tenants.Source on a client
// somebody else opened, and it holds the tenants' data keys.
//
//	/dw/live/a/t/{uuid}       the tenant, JSON (watched)
//	/dw/live/a/k/{id}         an administration key's digest, JSON (watched)
//	/dw/t/id/{id}             uuid; guards that ids are unique
//	/dw/t/host/{host}         uuid; guards that hosts are unique
//	/dw/t/keys/{uuid}         data keys, wrapped by the root keys
//	/dw/t/config/{uuid}       configuration, sealed by the data keys
//	/dw/t/secret/{uuid}/{n}   a secret, likewise
//
// The one idea: a tenant's data keys are made with it and deleted with it, in
// one transaction each. Whatever of its data outlives it anywhere, a backup
// included, cannot be opened again. A rotation adds one and drops the oldest
// beyond seal.MaxDataKeys.
package etcd
