# make build | run | test | soak | bench | lint | fuzz | clean

GO          ?= go
VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo devel)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERIFIERS   := htpasswd users

BENCH_SESSIONS ?= 10000,100000
BENCH_TIME     ?= 6s
BENCHED        := ./cmd/doorward ./service/web ./plugins/sandbox

.PHONY: build verifiers run test lint unit soak bench fuzz needs clean

build: verifiers
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/doorward ./cmd/doorward
	$(GO) build -trimpath -o bin/doorload ./cmd/doorload

# The ready-made verifiers go to bin/verifiers and into the program.
verifiers:
	@mkdir -p bin/verifiers
	@for v in $(VERIFIERS); do \
		$(GO) run ./sdk/verifiers/build $$v bin/verifiers/$$v.wasm && \
		{ cmp -s bin/verifiers/$$v.wasm cmd/doorward/verifiers/$$v.wasm || cp bin/verifiers/$$v.wasm cmd/doorward/verifiers/$$v.wasm; } || exit 1; \
	done

run: build
	bin/doorward dev

# The whole suite: what CI runs, and what is green only as a whole.
test: needs build lint unit

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'not gofmt-ed:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# The servers of cmd/doorward want the machine for themselves. What is tested
# without the race detector has no goroutines (wasm), or runs two thousand random
# lives in fake time where the detector ran two hundred (sessions).
unit:
	$(GO) test -timeout 10m ./plugins/wasm ./sessions
	$(GO) test -timeout 10m -run AGuestInGo ./plugins/sandbox
	$(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v -e /plugins/wasm -e /cmd/doorward)
	$(GO) test -race -timeout 20m ./cmd/doorward

# Programs that the tests drive: the real htpasswd.
needs:
	@command -v htpasswd >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq apache2-utils >/dev/null; \
		else echo 'the tests need htpasswd: install apache2-utils'; exit 1; fi; }

# What takes too long for every change.
soak:
	DOORWARD_SOAK=1 $(GO) test -count=1 -timeout 60m -run 'Soak|Hammer' ./...

# The tables of sessions/DESIGN.md and README.md, made anew: some ten minutes, as
# quiet as the machine can be. BENCH_SESSIONS=1000000 is for patience.
bench: verifiers
	@mkdir -p bin
	@{ echo "date: $$(date -u +%F)"; echo "command: make bench BENCH_SESSIONS=$(BENCH_SESSIONS)"; echo "cores: $$(nproc)"; \
		echo "go: $$($(GO) env GOVERSION)"; echo "etcd: $$($(GO) list -m -f '{{.Version}}' go.etcd.io/etcd/server/v3)"; \
		DOORWARD_BENCH_SESSIONS=$(BENCH_SESSIONS) $(GO) test -p 1 -timeout 60m -run '^$$' -bench . -benchtime $(BENCH_TIME) $(BENCHED) 2>&1; \
	} | tee bin/bench.txt
	$(GO) run ./cmd/doorload table bin/bench.txt sessions/DESIGN.md README.md

fuzz:
	@for target in $$(grep -rho '^func Fuzz[A-Za-z0-9]*' --include='*_test.go' . | cut -d' ' -f2 | sort -u); do \
		dir=$$(dirname $$(grep -rl "^func $$target(" --include='*_test.go' . | head -1)); \
		echo "$$target in $$dir"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $${FUZZTIME:-20s} $$dir || exit 1; \
	done

clean:
	rm -rf bin cmd/doorward/verifiers/*.wasm
