package plugins_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/kvtest"
)

func TestKVInMemorySitsTheExam(t *testing.T) {
	kvtest.Run(t, func(*testing.T) (plugins.KV, string, string) { return plugins.NewMemoryKV(kvtest.Limit), "a", "b" })
}

// What has ended takes no room, neither the tenant's nor the host's.
func TestEndedEntriesAreNoBurden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := plugins.NewMemoryKV(10)
		for i := range 100 {
			for _, namespace := range []string{"ns", ""} {
				s := plugins.Slot{Tenant: "a", Namespace: namespace, Key: fmt.Sprint(i)}
				if err := kv.Put(t.Context(), s, []byte("v"), 5*time.Second); err != nil {
					t.Fatalf("entry %d of %q: %v", i, namespace, err)
				}
			}
			time.Sleep(time.Second)
		}
	})
}
