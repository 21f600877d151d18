# `make` lists the targets. Each is a single command, which also works without make.

.DEFAULT_GOAL := help
.PHONY: help build run test test-fallback pictures browsers clients clients-quick examples fmt lint doc ci compose-check compose-check-sentinel compose-check-cluster chaos chaos-quick chaos-sentinel chaos-cluster chaos-can-fail rules-can-fail microbench redis-versions instructions contract-cost bench openapi docs-commands alerts dashboard kubernetes workflows release package-check fuzz fuzz-quick deny sbom

help: ## Show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: [^#]*## */\t/' | expand -t 24

build: ## Build the gateway and sse-publish, optimised, into target/release
	cargo build --release --locked

run: ## Run a gateway without Redis; its console is at http://127.0.0.1:8080/
	cargo run --locked --package sse-gateway

test: ## Run every test; on Debian it installs missing programs
	scripts/test

test-fallback: ## Run the gateway's tests of streams with actix-web bodies and without coalescing
	TEST_SETTINGS='stream.takeover=false stream.coalesce=0s' scripts/test --package sse-gateway --test it -- \
		$(foreach module,console contract configuration documents join_model rooms top,--skip $(module)::)

pictures: ## Make the pictures of the console in docs/; needs the fonts fonts-inter and fonts-jetbrains-mono
	TEST_PICTURES=$(CURDIR)/docs scripts/test --package sse-gateway --test it console::looks::pictures

browsers: ## Run the client tests in Firefox and WebKitGTK, and with clients from npm and PyPI
	scripts/browsers

clients: ## Run twenty client libraries and write docs/clients.md; CLIENTS=a,b runs only these
	scripts/clients $(CLIENTS)

clients-quick: ## Run seven Python and Node clients through two scenarios in a minute
	scripts/clients httpx-sse,sseclient-py,requests,eventsource-2,eventsource-3,fetch-event-source,undici-fetch published,drained

examples: ## Run the examples and the JavaScript client against real gateways, Redis and Chromium
	scripts/examples

fmt: ## Format the code
	cargo fmt --all

lint: ## Check the format and run clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc: ## Build the code's documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

ci: ## Run the same steps as continuous integration
	.ci/run

compose-check: ## Test docker-compose.yml: start it, use it, stop a replica under load
	deploy/compose-check

compose-check-sentinel: ## Test it with deploy/sentinel.env: kill masters under load, make all containers anew
	deploy/compose-check --topology sentinel

compose-check-cluster: ## The same with deploy/cluster.env, and move slots under load
	deploy/compose-check --topology cluster

chaos: ## Break everything for a minute, check every event; SEED=n replays, SEEDS=n: n runs, ARGS=...
	scripts/chaos release --seconds $(or $(SECONDS),60) --seed $(or $(SEED),random) --seeds $(or $(SEEDS),1) $(ARGS)

chaos-quick: ## The same for half a minute, with a dev build
	scripts/chaos dev --seconds 30 --seed $(or $(SEED),random)

chaos-sentinel: ## The same for a master behind Sentinels: twenty runs of 45 s, or SECONDS=n SEEDS=n SEED=n
	scripts/chaos release --topology sentinel --seconds $(or $(SECONDS),45) --seed $(or $(SEED),random) --seeds $(or $(SEEDS),20) $(ARGS)

chaos-cluster: ## The same for a Redis Cluster
	scripts/chaos release --topology cluster --seconds $(or $(SECONDS),45) --seed $(or $(SEED),random) --seeds $(or $(SEEDS),20) $(ARGS)

chaos-can-fail: ## Check that the chaos suite fails for a gateway that repairs nothing
	cargo build --release --locked --package sse-gateway --features sabotage --target-dir target/sabotage
	scripts/chaos release --gateway target/sabotage/release/sse-gateway --seconds 20 --set broker=redis --set history.max_len=300; test $$? -eq 1
	scripts/chaos release --gateway target/sabotage/release/sse-gateway --topology sentinel --seconds 20 --seed 1 --seeds 3; test $$? -eq 1
	scripts/chaos release --gateway target/sabotage/release/sse-gateway --topology cluster --seconds 20 --seed 1 --seeds 3; test $$? -eq 1

rules-can-fail: ## Remove each rule of "complete or told" and check that a test fails; about an hour
	scripts/rules-can-fail

openapi: ## Compare docs/openapi.yaml with a running gateway for a minute; ARGS="--max-time 600 --seed 2"
	scripts/openapi $(ARGS)

docs-commands: ## Run every command of the documents; ARGS=--list also lists what is not run, ARGS=docs/guide.md runs one page
	scripts/docs-commands $(ARGS)

alerts: ## Check the rules of Prometheus and test the alerts
	scripts/alerts

dashboard: ## Break Redis for a minute under load, run each query of the dashboard, draw docs/dashboard.png
	scripts/dashboard --seconds 90 --outage 60 --picture docs/dashboard.png $(ARGS)

kubernetes: ## Check deploy/kubernetes against the schemas of Kubernetes
	scripts/kubernetes

workflows: ## Check the workflows in .github against GitHub's schema
	scripts/workflows

release: ## Make the static programs, the Debian package, SBOMs and checksums in target/artifacts
	scripts/release

package-check: ## Install and start what `make release` made, in namespaces of its own; needs root
	deploy/package-check

fuzz: ## Fuzz every parser, ten minutes each; SECONDS=n, JOBS=n, TARGETS="a b"
	scripts/fuzz --seconds $(or $(SECONDS),600) --jobs $(or $(JOBS),2) $(TARGETS)

fuzz-quick: ## The same for ten seconds each
	scripts/fuzz --seconds $(or $(SECONDS),10) --jobs $(or $(JOBS),2) $(TARGETS)

deny: ## Check licences, sources and versions of dependencies, and advisories if they can be fetched
	scripts/deny

sbom: ## Write the SBOMs (CycloneDX) of the programs into target/sbom
	scripts/sbom

microbench: ## Time each step of an event's path; ARGS=pattern selects steps
	cargo bench --locked --package sse-gateway --features jemalloc --bench hot_path -- $(ARGS)

instructions: ## Count the instructions of one delivery and of one connect; ARGS=... sets limits
	scripts/instructions $(ARGS)

contract-cost: ## Time publishing inside Redis: single events, batches, idempotency keys
	scripts/contract-cost

bench: ## Compare servers for a quarter of an hour and write bench/RESULTS.md; QUICK=1 takes three minutes; SCALE=1 measures larger sizes, for docs/scale.md
	$(if $(SCALE),scripts/scale,scripts/bench --results bench/RESULTS.md) $(if $(QUICK),--quick)

redis-versions: ## Run the tests of the contract and of the brokers on Redis 8, Valkey 8 and Valkey 9; SERVERS=... chooses
	scripts/redis-versions $(SERVERS)
