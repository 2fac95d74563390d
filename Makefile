# SPDX-License-Identifier: Apache-2.0
# All tasks of developers and the CI; `make` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MODULE  := github.com/bucketring/bucketring
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BIN     := $(CURDIR)/bin
FUZZ    ?= 10s
FLOODS  ?= 10m
SEEDS   ?= 20000
FIRST   ?= 0
CAMPAIGNS ?=
SIZING    ?=
WIRE      ?= --rounds 5 --for 2s
WIRE_PORT ?= 6399
DIST      ?= $(CURDIR)/dist
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
# Long tests of one goroutine, which the race detector makes several times longer.
ALONE := TestCopiesWithoutRoom|TestCopyIsTheOwner|TestBooksOfSlices|TestCollectedChangesThatAreForgotten|TestManyChangesAreCollectedInSteps|TestMemoryOfIDs|TestHotKeysSample|TestGrowingMovesFewRecords
# Packages without goroutines.
SERIAL := bench/report|cluster/continuity|internal/docstest|internal/replay|limiter/hotkeys|limiter/line|limiter/policy/pricelist|limiter/policy/scenario|limiter/slice|ring

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## the static binary, bin/bucketring
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X $(MODULE)/internal/buildinfo.version=$(VERSION)" -o $(BIN)/bucketring ./cmd/bucketring

.PHONY: image
image: build ## the container image bucketring:dev; needs Docker, no registry
	docker build --quiet --label org.opencontainers.image.version=$(VERSION) -t bucketring:dev .

.PHONY: dist
dist: $(BIN)/cyclonedx-gomod ## dist/: archives, Debian packages, SBOMs and checksums of VERSION=v0.1.0; needs dpkg-deb and GNU tar
	rm -rf $(DIST)
	tools/dist.sh $(DIST) $(VERSION) $(PLATFORMS)

.PHONY: test
test: ## all tests that need only Go
	go test ./...

.PHONY: race
race: ## the same tests under the race detector, but for packages and long tests without goroutines
	go test -race -short -skip '^($(ALONE))$$' $$(go list ./... | grep -v -E '$(MODULE)/($(SERIAL))$$')

.PHONY: dist-test
dist-test: $(BIN)/cyclonedx-gomod ## make dist for this platform, and what is in it; takes minutes
	go test -tags e2e -count 1 -timeout 20m -v -run '^TestDist$$' ./internal/e2e

.PHONY: e2e
e2e: image ## end-to-end tests with containers and broken networks; needs root, Docker, Compose, iproute2
	go test -tags e2e -count 1 -timeout 30m -v -skip '^TestDist$$' ./internal/e2e
	go test -tags e2e -count 1 ./bench/report
	go test -tags e2e -count 1 -run '^TestStatusPageInBrowser$$' ./internal/node

.PHONY: deploy
deploy: ## tests of the Helm chart, the manifests and the alerts in deploy/, with Helm and Kubernetes as libraries
	cd deploy/test && go mod tidy -diff && go test -vet=off . # vet would analyze all of Helm and Kubernetes

.PHONY: manifests
manifests: ## what in deploy/ is made from other files: manifests from the chart, tables, copies
	cd deploy/test && go test -count 1 -run 'TestSettingsFile|TestCopies' . -update
	cd deploy/test && go test -count 1 -run 'TestManifests|TestValuesTable' . -update

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZ=10s
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do \
	  sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file" | while read -r target; do \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ) "./$$(dirname "$$file")"; \
	  done; \
	done

.PHONY: sim
sim: ## the simulator of cluster/continuity with SEEDS=20000 seeds from FIRST=0 on; a failure prints its seed
	go test -count 1 -timeout 24h -run '^TestSim$$' ./cluster/continuity -seeds $(SEEDS) -first $(FIRST)

.PHONY: floods
floods: ## every flood of internal/isolation at once against three nodes, for FLOODS=10m; Linux
	go test -count 1 -timeout 24h -v -run '^TestMixedFloods$$' ./internal/isolation -floods $(FLOODS)

.PHONY: bench
bench: ## the engine's benchmarks, on one core and on two
	go test -run '^$$' -bench . -benchmem -cpu 1,2 ./limiter/...

.PHONY: continuity
continuity: build ## docs/continuity.md: restarts, kills, pauses and splits under load, in two hours; needs root, or CAMPAIGNS="--kills 5"
	$(BIN)/bucketring bench continuity $(CAMPAIGNS)

.PHONY: waiting
waiting: ## docs/waiting.svg and the table of docs/waiting.md: a burst refused, retried and queued, in a minute; needs an idle machine
	go test -count 1 -timeout 10m -v -run '^TestBurst$$' ./internal/waitstudy -full -docs $(CURDIR)/docs

.PHONY: sizing
sizing: ## the table of docs/operating.md of what a node takes in memory, in minutes; Linux; SIZING="-binary $(BIN)/bucketring" runs that
	go test -count 1 -timeout 1h -v -run '^TestTable$$' ./internal/sizing -full -write $(SIZING)

.PHONY: pictures
pictures: ## docs/pictures: the status page, light, dark and at 400 px, and a page of the bench; needs chromium
	rm -rf $(BIN)/shots && mkdir -p $(BIN)/shots docs/pictures
	BUCKETRING_SHOTS=$(BIN)/shots go test -tags e2e -count 1 -run '^TestStatusPageInBrowser$$' ./internal/node
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,1500 --screenshot=$(BIN)/shots/bench.png file://$(CURDIR)/docs/bench/azure-10x.html
	for name in status-light-1200 status-dark-1200 status-dark-400 bench; do install -m 644 $(BIN)/shots/$$name.png docs/pictures; done

.PHONY: overload
overload: build ## bin/overload/overload.md: goodput at up to ten times the capacity, servers and load on a processor each, in half an hour; needs redis-server, taskset
	cd bench/gubernator && go build -o $(BIN)/gubernator .
	go test -tags e2e -count 1 -timeout 1h -v -run '^TestOverloadReport$$' ./internal/e2e -overload $(BIN)/overload -gubernator $(BIN)/gubernator

.PHONY: bench-reports
bench-reports: build ## docs/bench: the Azure trace against Redis, in twenty minutes; needs redis-server and an idle machine
	go test -tags e2e -count 1 -timeout 1h -v -run '^TestBenchReports$$' ./internal/e2e -reports $(CURDIR)/docs/bench

.PHONY: wire-report
wire-report: build ## the tables of docs/performance.md: what a call costs beside an echo, Redis and Gubernator, in ten minutes; needs redis-server and an idle machine
	cd bench/gubernator && go build -o $(BIN)/gubernator .
	redis-server --bind 127.0.0.1 --port $(WIRE_PORT) --save "" --appendonly no > /dev/null & trap "kill $$!" EXIT; \
		bin/bucketring bench wire $(WIRE) --vs redis-lua://127.0.0.1:$(WIRE_PORT) --gubernator bin/gubernator --write docs/performance.md

.PHONY: lint
lint: $(BIN)/golangci-lint $(BIN)/buf ## Go and proto linters, at the versions of tools/go.mod
	$(BIN)/golangci-lint run ./...
	cd rpc/proto && $(BIN)/buf lint && $(BIN)/buf format --diff --exit-code

.PHONY: fmt
fmt: $(BIN)/golangci-lint $(BIN)/buf ## format Go and proto files
	$(BIN)/golangci-lint fmt ./...
	cd rpc/proto && $(BIN)/buf format -w

.PHONY: generate
generate: $(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc $(BIN)/protoc-gen-go-vtproto ## rpc/pb from rpc/proto
	cd rpc/proto && PATH="$(BIN):$$PATH" $(BIN)/buf generate
	cd rpc/proto && PATH="$(BIN):$$PATH" $(BIN)/buf generate --template buf.gen.vtproto.yaml --type bucketring.v1.Result

.PHONY: verify
verify: generate ## fail if generated code or go.mod is not what is committed, or another system cannot build the binary
	go mod tidy -diff
	git diff --exit-code -- rpc/pb
	GOOS=darwin go build -o /dev/null ./cmd/bucketring
	GOOS=windows go build -o /dev/null ./cmd/bucketring

.PHONY: check
check: verify lint test race ## verify, lint, test and race: run it before a push

$(BIN)/buf: tools/go.mod
	cd tools && go build -o $@ github.com/bufbuild/buf/cmd/buf

$(BIN)/protoc-gen-go-grpc: tools/go.mod
	cd tools && go build -o $@ google.golang.org/grpc/cmd/protoc-gen-go-grpc

# A generator and its library are one module: their versions cannot differ.
$(BIN)/protoc-gen-go: go.mod
	go build -o $@ google.golang.org/protobuf/cmd/protoc-gen-go

$(BIN)/protoc-gen-go-vtproto: go.mod
	go build -o $@ github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto

# An SBOM has the hash of the program that wrote it, so that must be the same everywhere.
$(BIN)/cyclonedx-gomod: tools/go.mod
	cd tools && CGO_ENABLED=0 go build -trimpath -o $@ github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

$(BIN)/golangci-lint: tools/go.mod
	cd tools && go build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
