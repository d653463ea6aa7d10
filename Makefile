SHELL    := /bin/bash
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LINT     := 2.15.0
FUZZTIME ?= 10s
export CGO_ENABLED := 0
SEEDS    ?= 10000

.PHONY: build demo test tools sim netns interop lint bench microbench fuzz clean

build:
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/tandem ./cmd/tandem

demo: build
	bin/tandem demo

test: tools
	@if [ "$$(id -u)" != 0 ]; then echo 'Not root, so the tests with network namespaces are skipped in:'; \
		grep -rlF 'netns.New(' --include='*_test.go' . | xargs -r -n1 dirname | sort -u; fi
	go vet ./...
	go test -p 1 -timeout 40m ./...

tools:
	@tests/tools.sh

sim:
	go test ./tests/sim/... -timeout 60m -seeds $(SEEDS)

netns: tools
	go test -count=1 -timeout 40m ./tests/netns ./tests/hostile

interop: tools
	go test -count=1 -timeout 10m ./tests/interop

lint:
	@if golangci-lint version 2>/dev/null | grep -qF 'version $(LINT)'; then golangci-lint run; \
		else go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(LINT) run; fi

bench: build tools
	@tests/tools.sh keepalived conntrackd
	go build -o bin/bench ./tests/bench
	bin/bench

microbench:
	go test -run '^$$' -bench . -benchmem ./...

fuzz:
	@grep -rHoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . | while IFS=: read -r file func; do \
		echo "$$file $${func#func }"; \
		go test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null || exit 1; \
	done

clean:
	rm -rf bin dist
