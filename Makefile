# The verbs of this project; CI calls only these.

CARGO ?= cargo
SCRIPTS := packaging/scripts

.DEFAULT_GOAL := help
.PHONY: help demo demo-live test lint check check-mappings bench bench-diode fuzz-smoke peers build siem-content test-siem test-kafka test-seccomp
.PHONY: package package-reproducible test-packages test-machine

help: ## Show the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: ## Pair two agents, send real samples across, and account for every record
	$(SCRIPTS)/demo.sh

demo-live: ## The same, and stay up until interrupted
	$(SCRIPTS)/demo.sh --live

test: peers check build ## Formatting, lints and every test, with real peers
	$(CARGO) test --locked --workspace

test-kafka: peers ## The sink for Kafka, which is an option of the build: its lints and tests, beside a broker
	$(SCRIPTS)/install-kafka.sh
	$(CARGO) clippy --locked -p low-side -p tests --features tests/kafka --all-targets -- -D warnings
	$(CARGO) test --locked -p low-side --features kafka --lib kafka
	$(CARGO) build --locked -p high-side -p low-side --features low-side/kafka --bins
	$(CARGO) test --locked -p tests --features kafka --test sinks kafka

test-seccomp: peers build ## The tests with every agent under the filter of system calls of its unit
	PENSTOCK_TEST_SECCOMP=1 $(CARGO) test --locked -p tests --test e2e --test sinks --test archive

lint: check ## Formatting, lints, scripts, dependencies
	$(SCRIPTS)/lint.sh

check-mappings: ## Check what the SIEM schemas are given with validators that are not ours
	$(SCRIPTS)/check-mappings.sh

bench: peers ## Measure ingest, sealing, replay and memory beside the peers; prints one table
	$(SCRIPTS)/bench.sh

bench-diode: peers ## Measure the UDP diode, beside lidi where LIDI_DIR names the folder of its programs
	$(SCRIPTS)/bench.sh diode diode-campaign

fuzz-smoke: ## Run each fuzz target for a few seconds
	$(SCRIPTS)/fuzz-smoke.sh

siem-content: ## Write the queries of every SIEM anew from the Sigma rules
	$(SCRIPTS)/siem-content.sh

test-siem: ## Run the detection rules over samples, and have every SIEM's queries checked
	$(SCRIPTS)/test-siem.sh

package: ## Build .deb and .rpm of both sides with bill of materials and checksums, into target/package/out
	$(SCRIPTS)/package.sh

package-reproducible: ## Build the packages, and again from nothing in other folders, and compare them byte by byte
	$(SCRIPTS)/package-reproducible.sh

test-packages: ## Install the packages in bare Debian roots, start by the handbook, upgrade, remove, purge (as root)
	$(SCRIPTS)/test-packages.sh

test-machine: ## Try the packages in an emulated machine: systemd, a TPM, sticks, a power cut (as root; half an hour)
	$(SCRIPTS)/test-machine.sh

# Formatting and lints of the Rust code.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# The programs that end-to-end tests start.
build:
	$(CARGO) build --locked --workspace --bins

# The Debian programs that tests and benches meet.
peers:
	$(SCRIPTS)/install-peers.sh
