# Names the commands; the work is in scripts/ and in kprov itself.

.PHONY: up test static bundle lint oracle field-tables bench bench-bundle soak help

help: ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

up: ## Build kprov and the bundle, then bring up a cluster on this host
	@scripts/up

test: ## Everything that CI runs
	@scripts/test

static: ## The static kprov for this architecture
	@scripts/static

bundle: static ## The bundle of the pinned Kubernetes version, from the cache where it is there
	@scripts/bundle

lint: ## Formatting, clippy with the house's lints, licences and sources of dependencies
	@scripts/lint

oracle: ## What the real kubeadm makes of the configurations in tests/oracle, kept anew and compared with kprov
	@scripts/oracle

field-tables: ## The tables of configuration fields, read anew from the Go types of the Kubernetes releases
	@scripts/field-tables

bench: static ## kprov beside the real kubeadm on equal machines of this host; writes docs/benchmarks.md
	@scripts/bench

bench-bundle: static ## Time to build, size, time to install; printed
	@scripts/bench-bundle

soak: ## What is too long for CI: other versions and architectures, a guest in qemu, many kills and power cuts, idle hours
	@scripts/soak
