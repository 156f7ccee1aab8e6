# make build | run | test | soak | bench | lint | fuzz | toolchains | guests | clean

GO          ?= go
VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo devel)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERIFIERS   := htpasswd users

BENCH_SESSIONS ?= 10000,100000
BENCH_TIME     ?= 6s
BENCHED        := ./cmd/doorward ./service/web ./plugins/sandbox

.PHONY: build verifiers run test lint unit soak bench fuzz needs toolchains guests clean

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
test: needs build guests lint unit

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

# Programs that the tests drive: the real htpasswd, and the compilers of guests.
needs: toolchains
	@command -v htpasswd >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq apache2-utils >/dev/null; \
		else echo 'the tests need htpasswd: install apache2-utils'; exit 1; fi; }

# Compilers of verifiers in C, Rust, AssemblyScript and JavaScript. Rust is
# Debian's by its path: a newer one that stands before it has no Wasm library.
TOOLCHAINS := clang-14 lld-14 wasi-libc libclang-rt-14-dev-wasm32 rustc libstd-rust-dev-wasm32
NPM        := assemblyscript@0.27.31 qjsc@0.3.0
NPM_DIR    := bin/npm
ASC        := $(NPM_DIR)/node_modules/assemblyscript/bin/asc.js
QUICKJS    := $(NPM_DIR)/node_modules/qjsc/deps/quickjs_2021_03_27

toolchains: $(NPM_DIR)/installed
	@dpkg -s $(TOOLCHAINS) >/dev/null 2>&1 || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TOOLCHAINS) >/dev/null; \
		else echo 'guests need a Debian with these packages, which root installs by make toolchains: $(TOOLCHAINS)'; exit 1; fi; }

$(NPM_DIR)/installed: Makefile
	@command -v npm >/dev/null || { echo 'guests need npm and node, for the packages $(NPM)'; exit 1; }
	@mkdir -p $(NPM_DIR)
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(NPM_DIR) $(NPM)
	@touch $@

# One verifier in five languages, for the tests: bin/guests/*.wasm.
GUESTS  := plugins/testdata/guests
GUEST_C := clang-14 --target=wasm32-wasi -O2 -mexec-model=reactor

guests: toolchains bin/guests/c.wasm bin/guests/rust.wasm bin/guests/assemblyscript.wasm bin/guests/js.wasm
	cd $(GUESTS)/go && GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 $(GO) build -buildmode=c-shared -trimpath -ldflags='-s -w' -o $(CURDIR)/bin/guests/go.wasm .

bin/guests/c.wasm: $(wildcard $(GUESTS)/c/*) | toolchains
	@mkdir -p bin/guests
	$(GUEST_C) -Wall -Werror -Wl,--strip-all -o $@ $(GUESTS)/c/verifier.c

bin/guests/rust.wasm: $(wildcard $(GUESTS)/rust/*) | toolchains
	@mkdir -p bin/guests
	/usr/bin/rustc --edition 2021 --target wasm32-unknown-unknown --crate-type cdylib -C opt-level=s -C panic=abort -C linker=wasm-ld-14 -C strip=symbols -o $@ $(GUESTS)/rust/verifier.rs

bin/guests/assemblyscript.wasm: $(wildcard $(GUESTS)/assemblyscript/*) | toolchains
	@mkdir -p bin/guests
	node $(ASC) $(GUESTS)/assemblyscript/verifier.ts --runtime stub --optimizeLevel 3 --use abort=$(GUESTS)/assemblyscript/doorward/abort -o $@

# wasi-libc rounds one way only, so QuickJS's two other ways are that one: it
# minds the last digit of toFixed and toPrecision, half way between two. Its stack
# is first in memory: what runs over it traps instead of writing over data.
bin/guests/quickjs.o: $(NPM_DIR)/installed | toolchains
	@mkdir -p bin/guests/quickjs
	for f in quickjs libregexp libunicode cutils; do \
		$(GUEST_C) -w -D_GNU_SOURCE -DEMSCRIPTEN -DCONFIG_VERSION='"2021-03-27"' -DFE_DOWNWARD=0 -DFE_UPWARD=0 \
			-c -o bin/guests/quickjs/$$f.o $(QUICKJS)/$$f.c || exit 1; \
	done
	wasm-ld-14 -r -o $@ bin/guests/quickjs/*.o

bin/guests/js.wasm: bin/guests/quickjs.o $(wildcard $(GUESTS)/js/*) $(GUESTS)/c/doorward.h
	{ echo '#include <stdint.h>'; echo 'const char dw_script[] = {'; od -An -v -tx1 $(GUESTS)/js/verifier.js | sed 's/ \(..\)/0x\1,/g'; \
		echo "0};const uint32_t dw_script_length = $$(wc -c < $(GUESTS)/js/verifier.js);"; } > bin/guests/script.c
	$(GUEST_C) -I$(QUICKJS) -Wl,--strip-all -Wl,--stack-first -Wl,-z,stack-size=1048576 -o $@ $(GUESTS)/js/engine.c bin/guests/script.c bin/guests/quickjs.o

# What takes too long for every change.
soak:
	DOORWARD_SOAK=1 $(GO) test -count=1 -timeout 60m -run 'Soak|Hammer' ./...
	DOORWARD_SOAK_CYCLES=10000 $(GO) test -count=1 -timeout 60m -v -run RetiredVersions ./plugins

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
