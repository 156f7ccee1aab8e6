package tenants_test

import (
	"testing"

	"github.com/doorward/doorward/tenants"
	"github.com/doorward/doorward/tenants/sourcetest"
)

func TestMemorySitsTheExam(t *testing.T) {
	sourcetest.Run(t, func(*testing.T) tenants.Source { return tenants.NewMemory() })
}
