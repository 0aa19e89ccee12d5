# verify never writes, fix does. Everything here also runs without make: the
# recipes are plain go commands.
GO ?= go
GOFILES = $(shell git ls-files --cached --others --exclude-standard '*.go')

.DEFAULT_GOAL := help
.PHONY: help build test race sim bench fuzz verify fix mutation-gate

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

build: ## the binaries, into ./bin
	$(GO) build -o bin/ ./cmd/...

test: ## every test
	$(GO) test ./...

race: ## every test under the race detector
	$(GO) test -race -timeout 15m ./...

SEEDS ?= 200
sim: ## SEEDS=200 seeds of the simulator
	$(GO) build -o bin/octopii-chaos ./cmd/octopii-chaos
	bin/octopii-chaos sim --seeds $(SEEDS)

bench: ## every benchmark
	$(GO) test -run '^$$' -bench . -benchmem ./...

fuzz: ## every fuzz target for FUZZTIME (1m), one after the other
	scripts/fuzz $(or $(FUZZTIME),1m)

verify: ## everything a change must pass; writes nothing
	@bad=$$(gofmt -l $(GOFILES)); test -z "$$bad" || { echo "not formatted, run make fix:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	scripts/genproto/run -check
	$(GO) mod tidy -diff
	$(GO) test ./...

fix: ## formats, tidies go.mod and generates again what is generated
	gofmt -w $(GOFILES)
	$(GO) mod tidy
	scripts/genproto/run

mutation-gate: ## plants known bugs and lets the simulator look for them; nightly
	scripts/mutation-gate
