# `make` lists what can be made. Every target is one command that also works by itself.

.DEFAULT_GOAL := help
.PHONY: help build run test fmt lint doc ci compose-check chaos chaos-quick chaos-can-fail

help: ## Show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: [^#]*## */\t/' | expand -t 16

build: ## Build the gateway and sse-publish, optimised, into target/release
	cargo build --release --locked

run: ## Run a gateway without Redis; its console is at http://127.0.0.1:8080/
	cargo run --locked --package sse-gateway

test: ## Run every test; installs what they need on Debian
	scripts/test

fmt: ## Format the code
	cargo fmt --all

lint: ## Check the format and what clippy finds
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc: ## Build the code's documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

ci: ## Run what continuous integration runs
	.ci/run

compose-check: ## Prove docker-compose.yml: start it, use it, stop a replica under it
	deploy/compose-check

chaos: ## Break everything for five minutes and check every event; SEED=n replays, SEEDS=n repeats
	cargo build --release --locked --package sse-gateway --package sse-chaos
	for n in $$(seq $(or $(SEEDS),1)); do target/release/sse-chaos --seconds $(or $(SECONDS),240) --seed $(or $(SEED),random) || exit; done

chaos-quick: ## The same within a minute, once it is built
	$(MAKE) chaos SECONDS=30

chaos-can-fail: ## Prove that the chaos suite sees a gateway that repairs nothing
	cargo build --release --locked --package sse-chaos
	cargo build --release --locked --package sse-gateway --features sabotage --target-dir target/sabotage
	target/release/sse-chaos --gateway target/sabotage/release/sse-gateway --seconds 20; test $$? -eq 1
