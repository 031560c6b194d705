# Every task is one line in `make help`. What takes more than a line lives in scripts/.
.DEFAULT_GOAL := help
SHELL := bash

.PHONY: help
help: ## List the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: ## Build Enfold for SQLite only and run the main job on a generated shop
	cargo build --locked --profile demo -p enfold-cli --no-default-features --features sqlite --target-dir target/demo-build
	mkdir -p target/bin && cp target/demo-build/demo/enfold target/bin/enfold
	target/bin/enfold demo --dir target/demo

.PHONY: build
build: ## Build the command with everything in it
	cargo build --locked --release -p enfold-cli

.PHONY: deps
deps: ## Install what the tests need (apt packages, Python environments)
	scripts/deps.sh

.PHONY: services
services: deps ## Start the servers that the tests talk to
	scripts/services.sh start

.PHONY: services-stop
services-stop: ## Stop them
	scripts/services.sh stop

.PHONY: lint
lint: ## Formatting, clippy, licences and bans, documentation without warnings
	scripts/lint.sh

.PHONY: test
test: ## Install and start what the tests need, and run every check and every test
	scripts/test.sh

.PHONY: test-cloud
test-cloud: ## Run the conformance suite on a key of yours in AWS, Google or Azure, named by ENFOLD_CLOUD_…_KEY
	cargo run --locked -p enfold --example own_key --features aws,azure,google

.PHONY: unit
unit: ## The inner loop: tests that need no server
	cargo test --locked -p enfold-core -p enfold-discover -p enfold --lib

.PHONY: bless
bless: ## Rewrite generated references, vectors and snapshots after a change that means to change them
	scripts/bless.sh

.PHONY: bench
bench: deps ## Measure; prints ratios, each side by side in one run, and writes target/bench.json
	scripts/bench.sh

.PHONY: fips
fips: ## Build everything on the FIPS module, and run the tests of core and enfold on it (some twenty minutes)
	scripts/fips.sh

.PHONY: fuzz
fuzz: deps ## Fuzz the envelope parser for five minutes (needs a nightly toolchain)
	scripts/fuzz.sh
