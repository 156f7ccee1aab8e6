# make build | run | cluster | test | soak | bench | lint | fuzz | toolchains | guests | clean

GO          ?= go
VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo devel)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERIFIERS   := htpasswd http-bridge legacy-hashes users

BENCH_SESSIONS ?= 10000,100000
BENCH_TIME     ?= 6s
BENCHED        := ./cmd/doorward ./service/web ./plugins/sandbox

.PHONY: build cluster verifiers engine run test lint unit soak bench fuzz toolchains guests clean

build: verifiers engine
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/doorward ./cmd/doorward
	$(GO) build -trimpath -o bin/doorload ./cmd/doorload

# The ready-made verifiers go to bin/verifiers and into the program.
verifiers:
	@mkdir -p bin/verifiers
	@for v in $(VERIFIERS); do \
		$(GO) run ./sdk/verifiers/build $$v bin/verifiers/$$v.wasm && \
		{ cmp -s bin/verifiers/$$v.wasm cmd/doorward/verifiers/$$v.wasm || cp bin/verifiers/$$v.wasm cmd/doorward/verifiers/$$v.wasm; } || exit 1; \
	done

# The engine of verifiers in JavaScript goes into the program where it can be built:
# that takes clang, and npm for QuickJS's source.
engine:
	@if command -v clang-14 >/dev/null && command -v wasm-ld-14 >/dev/null && [ -d /usr/include/wasm32-wasi ] && \
		ls /usr/lib/llvm-14/lib/clang/14.*/lib/wasi/libclang_rt.builtins-wasm32.a >/dev/null 2>&1 && command -v npm >/dev/null; then \
		$(MAKE) --no-print-directory $(ENGINE); \
	else \
		echo "without the JavaScript engine (doorward verifier build makes no .js): it needs clang-14, lld-14, wasi-libc, libclang-rt-14-dev-wasm32 and npm; as root, make toolchains installs them" >&2; \
	fi

run: build
	bin/doorward dev

# Three nodes behind a load balancer on this machine.
cluster: build
	deploy/cluster.sh

# The whole suite: what CI runs, and what is green only as a whole.
test: toolchains guests build lint unit

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'not gofmt-ed:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# The servers of cmd/doorward want the machine for themselves. What is tested
# without the race detector has no goroutines (wasm), runs two thousand random
# lives in fake time where the detector ran two hundred (sessions), compiles
# large verifiers, which take half a minute each under it, or is a cluster under
# load.
unit:
	$(GO) test -timeout 10m ./plugins/wasm ./sessions
	$(GO) test -timeout 10m -run AGuestInGo ./plugins/sandbox
	$(GO) test -timeout 10m -run 'OldSystem|FiveLanguages|EverySDK' ./plugins
	$(GO) test -timeout 10m -run 'HostileVerifiers|OtherLanguages|FollowedInATerminal|ClusterGrows|OfThree|Script' ./cmd/doorward
	$(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v -e /plugins/wasm -e /cmd/doorward)
	$(GO) test -race -timeout 20m -skip Script ./cmd/doorward

# What the tests drive besides Go, as Debian's packages: htpasswd, and compilers of
# verifiers in C, Rust, AssemblyScript and JavaScript. Rust is called by its path: a
# newer one that stands before it has no Wasm library. nodejs and npm are there
# wherever node and npm are, whoever installed them.
PACKAGES := apache2-utils curl openssl clang-14 lld-14 wasi-libc libclang-rt-14-dev-wasm32 rustc libstd-rust-dev-wasm32
NPM      := assemblyscript@0.27.31 qjsc@0.3.0
NPM_DIR  := bin/npm
NPM_DONE := $(NPM_DIR)/$(firstword $(NPM))+$(lastword $(NPM))
ASC      := $(NPM_DIR)/node_modules/assemblyscript/bin/asc.js
QUICKJS  := $(NPM_DIR)/node_modules/qjsc/deps/quickjs_2021_03_27

toolchains:
	@missing=; for p in $(PACKAGES); do \
		dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; done; \
	command -v node >/dev/null || missing="$$missing nodejs"; command -v npm >/dev/null || missing="$$missing npm"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "the tests need packages of Debian 12 that are not installed; as root, run: apt-get install --no-install-recommends$$missing" >&2; exit 1; fi; \
	echo "installing$$missing"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null
	@$(MAKE) --no-print-directory $(NPM_DONE)

$(NPM_DONE):
	@rm -rf $(NPM_DIR) && mkdir -p $(NPM_DIR)
	npm install --loglevel=error --no-audit --no-fund --ignore-scripts --prefix $(NPM_DIR) $(NPM)
	@touch $@

# The SDK's example in five languages, for the tests, one that only works, and one
# that calls every function of the SDK: the files are bin/guests/LANGUAGE.wasm,
# LANGUAGE-work.wasm and LANGUAGE-probe.wasm. A project is put together as an author
# has it: the glue beside the source.
SDK      := sdk/guest
WORK     := plugins/testdata/guests
BUILT    := bin/guests
GUEST_C  := clang-14 --target=wasm32-wasi -O2 -mexec-model=reactor
STACK    := -Wl,--strip-all -Wl,--stack-first # what runs over it traps, and does not write over data

guests: toolchains
	@mkdir -p $(BUILT)
	@$(MAKE) --no-print-directory -j$$(nproc) $(foreach l,js c rust assemblyscript go,$(BUILT)/$l.wasm) $(foreach l,js c rust assemblyscript go,$(BUILT)/$l-work.wasm) $(foreach l,js c rust assemblyscript,$(BUILT)/$l-probe.wasm)

$(BUILT)/c.wasm: $(SDK)/c/hello/verifier.c $(SDK)/c/doorward.h
	$(GUEST_C) -Wall -Werror -I$(SDK)/c $(STACK) -o $@ $<

$(BUILT)/c-%.wasm: $(WORK)/c/%.c $(SDK)/c/doorward.h
	$(GUEST_C) -Wall -Werror -I$(SDK)/c $(STACK) -o $@ $<

RUSTC := /usr/bin/rustc --edition 2021 --target wasm32-unknown-unknown --crate-type cdylib -C opt-level=s -C panic=abort -C linker=wasm-ld-14 -C link-arg=-zstack-size=262144 -C strip=symbols

$(BUILT)/rust.wasm: $(SDK)/rust/hello/verifier.rs $(SDK)/rust/doorward.rs
	@rm -rf $(BUILT)/rust && mkdir -p $(BUILT)/rust && cp $^ $(BUILT)/rust
	$(RUSTC) -D warnings -o $@ $(BUILT)/rust/verifier.rs

$(BUILT)/rust-%.wasm: $(WORK)/rust/%.rs $(SDK)/rust/doorward.rs
	@rm -rf $(BUILT)/rust-$* && mkdir -p $(BUILT)/rust-$* && cp $^ $(BUILT)/rust-$*
	$(RUSTC) -D warnings -o $@ $(BUILT)/rust-$*/$*.rs

# asc, as a project's npm run build calls it: what it is told is in asconfig.json.
ASCRIPT := node $(abspath $(ASC)) --target release
PROJECT := $(SDK)/assemblyscript/hello/asconfig.json $(SDK)/assemblyscript/doorward.ts

$(BUILT)/assemblyscript.wasm: $(SDK)/assemblyscript/hello/verifier.ts $(PROJECT) $(NPM_DONE)
	@rm -rf $(BUILT)/assemblyscript && mkdir -p $(BUILT)/assemblyscript && cp $(filter %.ts %.json,$^) $(BUILT)/assemblyscript
	cd $(BUILT)/assemblyscript && $(ASCRIPT) verifier.ts -o $(abspath $@)

$(BUILT)/assemblyscript-%.wasm: $(WORK)/assemblyscript/%.ts $(PROJECT) $(NPM_DONE)
	@rm -rf $(BUILT)/assemblyscript-$* && mkdir -p $(BUILT)/assemblyscript-$* && cp $(filter %.ts %.json,$^) $(BUILT)/assemblyscript-$*
	cd $(BUILT)/assemblyscript-$* && $(ASCRIPT) $*.ts -o $(abspath $@)

# wasi-libc rounds one way only, so QuickJS's two other ways are that one: it
# minds the last digit of toFixed and toPrecision, half way between two.
ENGINE := $(SDK)/js/engine/engine.wasm
PARTS  := $(foreach f,quickjs libregexp libunicode cutils,bin/quickjs/$f.o)

bin/quickjs/%.o: $(NPM_DONE)
	@mkdir -p $(@D)
	$(GUEST_C) -w -D_GNU_SOURCE -DEMSCRIPTEN -DCONFIG_VERSION='"2021-03-27"' -DFE_DOWNWARD=0 -DFE_UPWARD=0 -c -o $@ $(QUICKJS)/$*.c

bin/quickjs/engine.o: $(SDK)/js/engine/engine.c $(SDK)/c/doorward.h $(NPM_DONE)
	@mkdir -p $(@D)
	$(GUEST_C) -Wall -Werror -Wno-unused-command-line-argument -I$(QUICKJS) -c -o $@ $<

$(ENGINE): bin/quickjs/engine.o $(PARTS)
	$(GUEST_C) $(STACK) -Wl,-z,stack-size=262144 -Wl,--export=dw_script -o $@ $^

BUNDLE := $(GO) run ./$(SDK)/js/bundle

$(BUILT)/js.wasm: $(SDK)/js/hello/verifier.js $(SDK)/js/hello/doorward.manifest.json $(ENGINE) $(SDK)/js/js.go
	$(BUNDLE) $(ENGINE) $< $(SDK)/js/hello/doorward.manifest.json $@

$(BUILT)/js-%.wasm: $(WORK)/js/%.js $(WORK)/probe.manifest.json $(ENGINE) $(SDK)/js/js.go
	$(BUNDLE) $(ENGINE) $< $(WORK)/probe.manifest.json $@

GUEST_GO := GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 $(GO) build -buildmode=c-shared -trimpath -ldflags='-s -w'

.PHONY: $(BUILT)/go.wasm $(BUILT)/go-work.wasm
$(BUILT)/go.wasm:
	$(GUEST_GO) -o $@ ./$(SDK)/go/hello

$(BUILT)/go-work.wasm:
	$(GUEST_GO) -o $@ ./$(WORK)/go

# What takes too long for every change.
soak:
	DOORWARD_SOAK=1 $(GO) test -count=1 -timeout 120m -run 'Soak|Hammer' ./...
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
	rm -rf bin cmd/doorward/verifiers/*.wasm sdk/guest/js/engine/*.wasm
