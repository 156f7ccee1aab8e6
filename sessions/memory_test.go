package sessions_test

import (
	"testing"

	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/sessions/storetest"
)

func TestMemorySitsTheExam(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (storetest.Store, string, string) {
		return sessions.NewMemory(), "tenant-a", "tenant-b"
	})
}
