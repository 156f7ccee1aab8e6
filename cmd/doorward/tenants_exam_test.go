package main

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/tenants"
	"github.com/doorward/doorward/tenants/sourcetest"
)

// The exam of tenants, on a real member that each part finds empty.
func TestTenantsInEtcdSitTheExam(t *testing.T) {
	client := startMember(t)
	sourcetest.Run(t, func(t *testing.T) tenants.Source {
		if _, err := client.Delete(t.Context(), "", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		return newSource(t, client)
	})
}
