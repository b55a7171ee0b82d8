# Every target can be run again; what is done is not done twice. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Shared clones and CI point CARGO_TARGET_DIR elsewhere.
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
GGUF := .cache/inputs/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL := .cache/models/smollm2-135m
WORK_DIR := .plumbline
# Tests at a time: the cluster's wait most of the time, the trainer's half of it.
CLUSTER_THREADS := 6
TRAINER_THREADS := 4

# What needs neither libtorch nor Kubernetes.
CHECKED := plumbline-crds plumbline-operator plumbline-feedback plumbline-confined

.PHONY: help setup setup-tests setup-cluster build model quickstart quickstart-dpo check test test-crash lint advisories generate
.PHONY: fixture parity images images-cuda cluster-up cluster-down e2e bench-operator clean
# Steps follow one another, also with `make -j`.
.NOTPARALLEL:

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-15s %s\n", $$1, $$2 }'

setup: ## Bring in libtorch and the quickstart's inputs (0.7 GB to download, 1.3 GB on disk; minutes)
	@scripts/setup.sh

setup-tests: ## Also bring in the Kubernetes that tests start, built from its source (Go; 1 GB to download; minutes, once)
	@scripts/setup.sh --tests

setup-cluster: setup-tests ## Also bring in a node: kubelet, scheduler and proxy from source, Debian's containerd (root installs it), and Kueue
	@scripts/check_machine.sh --cluster
	@scripts/install_node.sh
	@scripts/install_kueue.sh

build: setup ## Build both programs, optimised
	cargo build --release --locked --package plumbline-operator --package plumbline-trainer --bins

model: build ## Import the model of the quickstart
	$(RELEASE)/plumbline-trainer import --gguf $(GGUF) --out $(MODEL)

quickstart: model ## Align a small model on this machine: AI labels, reward model, PPO, win rate
	$(RELEASE)/plumbline run -f examples/quickstart --work-dir $(WORK_DIR)

quickstart-dpo: model ## The same labels, DPO in place of reward model and PPO
	$(RELEASE)/plumbline run -f examples/quickstart/dataset.yaml -f examples/quickstart-dpo --work-dir $(WORK_DIR)

check: ## Formatting, lints and tests of what needs neither libtorch nor Kubernetes; needs cargo alone
	cargo fmt --all --check
	cargo clippy --locked $(CHECKED:%=--package %) --all-targets -- -D warnings
	cargo test --locked --no-fail-fast $(CHECKED:%=--package %)

test: announce early setup-tests lint ## Formatting, lints and all tests: what a change must pass
	cargo test --workspace --locked --no-run
	@CLUSTER_THREADS=$(CLUSTER_THREADS) TRAINER_THREADS=$(TRAINER_THREADS) scripts/run_tests.sh

.PHONY: announce early
announce:
	@scripts/check_machine.sh --plan

# While libtorch is still to be downloaded, what does not need it is checked first. Later, everything is compiled once.
early:
	@[ -e .cache/libtorch ] || $(MAKE) --no-print-directory check

test-crash: setup-tests ## The operator killed after every write, a chain killed 30 times at random (KILLS, SEED); make test takes samples
	PLUMBLINE_CRASH_EVERY=1 cargo test --workspace --locked --test cluster crash:: -- --nocapture --test-threads $(CLUSTER_THREADS)
	OMP_NUM_THREADS=1 PLUMBLINE_KILLS=$(or $(KILLS),30) $(if $(SEED),PLUMBLINE_KILL_SEED=$(SEED)) \
		cargo test --workspace --locked --test trainer resume::random -- --nocapture

lint: setup ## Formatting, lints, and what the dependencies may be (cargo deny)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --workspace --test e2e --locked -- -D warnings
	@scripts/install_deny.sh
	.cache/deny/bin/cargo-deny --offline --locked check bans licenses sources

advisories: ## Known vulnerabilities in the dependencies (fetches the RustSec database from GitHub)
	@scripts/install_deny.sh
	.cache/deny/bin/cargo-deny --locked check advisories

generate: ## Write the files that are generated: the CRDs and their reference from the code, the chart's README from its values
	cargo run --locked --package plumbline-operator --bin plumbline -- crds --out crds
	cargo run --locked --package plumbline-operator --bin plumbline -- crds --reference docs/reference
	cp crds/*.yaml charts/plumbline/files/crds/
	scripts/chart_readme.py

fixture: setup ## Make the tests' tiny model, prompts and pairs again (39 MB to download; minutes)
	@flock .cache/lock scripts/fetch_texts.sh
	OMP_NUM_THREADS=1 cargo run --locked --package plumbline-tests-trainer --bin make_fixture -- \
		--package .cache/texts --out tests/fixtures

parity: model ## Compare logits, tokens and saved folders with transformers (5 GB to download)
	scripts/parity.sh $(RELEASE)/plumbline-trainer $(MODEL)

images: setup ## Write the images of operator and trainer into .cache/images; needs no Docker
	@scripts/build_images.sh

images-cuda: setup ## Write the trainer's image for NVIDIA's GPUs into .cache/images-cuda (2 GB to download, 8 GB on disk)
	@scripts/build_images.sh --cuda

cluster-up: setup-cluster ## Start a Kubernetes with one node on this machine, with the images if they are built (root)
	@scripts/cluster_up.sh

cluster-down: ## End it; nothing of it is left
	@scripts/cluster_down.sh

e2e: setup-cluster ## Real pods on such a cluster, of the programs that `make test` has built (root; minutes)
	@# Its tests wait most of the time.
	OMP_NUM_THREADS=1 cargo test --workspace --locked --test e2e -- --nocapture --test-threads 6

bench-operator: setup-tests ## Many resources at once on a real API server: times, requests, memory
	cargo build --release --locked --workspace --bins
	cargo run --release --locked --package plumbline-testkit --bin bench_operator -- 1000

clean: ## Remove builds and runs; .cache stays (remove it by hand to download again)
	cargo clean
	rm -rf $(WORK_DIR)
