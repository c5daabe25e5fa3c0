# ipsecagent. The two commands for a newcomer: make demo, make test.
GO ?= go
export CGO_ENABLED = 0
BIN := bin
# The programs say which revision they are of, where git can tell.
STAMP = $(shell git rev-parse -q --verify HEAD >/dev/null 2>&1 && echo auto || echo false)

.PHONY: build install demo demo-kerberos demo-domain test test-full test-vm lint bench bench-vm bench-directory clean

build:
	$(GO) build -trimpath -buildvcs=$(STAMP) -o $(BIN)/ ./cmd/...

# What packaging/README.md lists, below DESTDIR; settings that are there stay.
install: build
	@packaging/install "$(DESTDIR)"

# Two hosts in network namespaces, a policy, traffic secured: shown.
demo: build
	@test/install-packages demo
	@test/demo

# A realm, two hosts, no secret exchanged by hand; a wrong clock, an old keytab.
demo-kerberos: build
	@test/install-packages kerberos
	@test/demo-kerberos

# An Active Directory domain, two member hosts, policy by group policy.
demo-domain: build
	@test/install-packages domain
	@test/demo-domain

# Everything, long figures sampled by fixed seeds.
test: lint
	@test/install-packages test
	@$(MAKE) --no-print-directory build
	@test/run

# What needs ESP and AH of a kernel: on this host's own, else in a virtual machine.
test-vm:
	@test/install-packages test
	@test/on-esp

# Everything with the full figures; its output is kept in docs/results.md.
test-full: lint
	@test/install-packages test
	@$(MAKE) --no-print-directory build
	@IPSECAGENT_FULL=1 test/run && test/keep-results

lint:
	@files=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .) || exit 1; test -z "$$files" || { echo "gofmt would change: $$files" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags esp ./driver/xfrm ./test
	$(GO) tool staticcheck ./...

# The data path in memory; then IKE against strongSwan's, which takes root and
# a quiet machine.
bench:
	@test/install-packages test
	$(GO) test -run '^$$' -bench . -benchmem ./bench/...
	$(GO) run ./bench/handshakes

# The kernel driver against ip and strongSwan, on Debian's kernel in a virtual
# machine; on a host whose kernel has ESP: go run ./bench/kernel. One round there is
# like another: its clock counts instructions.
bench-vm: build
	@test/install-packages test
	$(GO) build -o out/ ./bench/kernel ./test/vm
	out/vm -accel count -timeout 60m $(addprefix -module ,esp4 xfrm_user nft_ct nft_fib_inet nlmon) -- out/kernel -rounds 1

# A fleet of hosts against a domain controller of Samba and against OpenLDAP.
bench-directory:
	@test/install-packages test
	$(GO) run ./bench/directory

clean:
	rm -rf $(BIN) out
