# The developer's commands. `make help` lists them.

# Without a target: what is quick.
.DEFAULT_GOAL := quick

.PHONY: help test alone quick tools lint page python peers recipes schedules mutants loaded faults versions \
	format bench wheel clean part-faults part-computing lint-rust lint-python

# How long `make faults` runs.
FOR ?= 30m
PROFILE ?= --release
# `--links-optional`: skip the faults that need network namespaces where these cannot be made, as in many
# containers.
LINKS ?=
# `--tracing-optional`: skip the fault that needs strace where the system does not permit that it attaches to
# other processes. Without strace, or if it does not attach for another reason, the run fails in any case.
TRACING ?=
# Set if everything has been built: to build one package alone, cargo would choose other features and compile
# again.
BUILT ?=
# Where cargo builds; and the file that records how long each part of `make test` took.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
PARTS := $(TARGET)/parts
PART = PARTS=$(PARTS) sh scripts/part.sh
# Where servers of tests keep their files.
ifneq ($(filter test page bench loaded python peers recipes faults versions,$(MAKECMDGOALS)),)
export TMPDIR := $(shell sh scripts/tmpdir.sh)
endif
# Which stores `make versions` tests; none: all of them.
STORES ?=
# Where `make page` puts its pictures; none: beside what was built.
PICTURES ?=
# Which part of `make mutants` to run, and how many mutants at a time.
SHARD ?= 0/1
JOBS ?= 1
# How often `make loaded` runs every test program, and how many at a time.
ROUNDS ?= 50
LANES ?= 3
MUTANTS := $(TARGET)/mutants/venv

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## Install what the tests need, then run every check and every test (what CI runs).
	@mkdir -p $(TARGET) && : >$(PARTS)
	$(PART) "tools" $(MAKE) tools
	$(PART) "format, lints, documentation" $(MAKE) -j 2 --output-sync=target lint
	$(PART) "the oldest Rust" sh scripts/msrv.sh
	$(PART) "tests, built" cargo test --locked --workspace --all-targets --no-run
	$(PART) "tests" python3 scripts/tests.py
	$(PART) "page" env BUILT=yes sh scripts/page.sh
	$(MAKE) -j 2 --output-sync=target part-faults part-computing
	$(PART) "Python" sh scripts/python.sh test built
	@cat $(PARTS)

# The same faults in the same order every time. `make faults` without a seed finds others.
part-faults:
	$(PART) "faults" $(MAKE) faults FOR=140s SEED="--seed 1" PROFILE= BUILT=yes \
		LINKS=$$(unshare --net true 2>/dev/null || unshare --map-root-user --net true 2>/dev/null || \
			echo --links-optional) \
		TRACING=--tracing-optional

# What only computes takes what is left of the processors beside the faults, which wait half of their time.
part-computing:
	$(PART) "tests of the documentation" nice -n 19 cargo test --locked --workspace --doc
	$(PART) "schedules" nice -n 19 $(MAKE) schedules
	$(PART) "each store alone" nice -n 19 $(MAKE) alone

alone: ## Check the library with no store, and with each store or other feature alone.
	cargo clippy --locked -p globallock --no-default-features -- -D warnings
	set -e; stores=$$(sed -n 's/^default = //p' crates/globallock/Cargo.toml | tr -d '[]",'); \
		for feature in $$stores metrics opentelemetry; do \
			cargo clippy --locked -p globallock --no-default-features --features $$feature -- -D warnings; \
		done

page: tools ## Test the page of `globallock serve` in headless Chromium (PICTURES=docs/pictures renews those).
	BUILT=$(BUILT) PICTURES=$(PICTURES) sh scripts/page.sh

python: ## Check the Python package, and test its wheel in every CPython that is installed.
	sh scripts/python.sh lint
	sh scripts/python.sh test

peers: ## Run all the lock tests of redis-py, django-redis, kazoo and the original package on our locks.
	sh scripts/python.sh peers

wheel: ## Build the wheel of the Python package, with the command in it, and print where it is.
	sh scripts/python.sh wheel

recipes: ## Run the recipes for Airflow and APScheduler 4, whose installation takes minutes.
	sh scripts/python.sh recipes

# It has a build of its own, because its locks and wake-ups are other types.
schedules: ## Search the orders in which threads can go through the core.
	RUSTFLAGS="--cfg globallock_schedules" CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-target}/schedules \
		cargo test --locked -p globallock --no-default-features --features zookeeper --lib -- schedules

mutants: tools ## Search for changes of the code that no test notices, for hours (SHARD=0/8, JOBS=2).
	command -v cargo-mutants >/dev/null || cargo install --locked cargo-mutants
	$(MUTANTS)/bin/python -c 'import tree_sitter_rust' 2>/dev/null || { python3 -m venv --clear $(MUTANTS) && \
		$(MUTANTS)/bin/pip --quiet install tree-sitter==0.26.* tree-sitter-rust==0.24.*; }
	$(MUTANTS)/bin/python scripts/mutants/run.py run --shard $(SHARD) --jobs $(JOBS)
	$(MUTANTS)/bin/python scripts/mutants/lua.py run --shard $(SHARD)
	$(MUTANTS)/bin/python scripts/mutants/run.py report $(if $(filter-out 0/1,$(SHARD)),--part)

loaded: ## Run every test program ROUNDS times beside a full load, for hours (ROUNDS=50, LANES=3).
	python3 scripts/loaded.py --rounds $(ROUNDS) --lanes $(LANES)

faults: ## Break every store under real owners for 30 minutes (FOR=10m, SEED="--seed 7"); judge their logs.
	$(if $(BUILT),,cargo build --locked $(PROFILE) -p globallock-faults --bins)
	python=$$(sh scripts/python.sh interpreter) && env --default-signal=HUP,INT,QUIT,TERM \
		$${CARGO_TARGET_DIR:-target}/$(if $(PROFILE),release,debug)/globallock-faults \
		pass --python "$$python" --for $(FOR) $(SEED) $(LINKS) $(TRACING)

versions: tools ## Run the tests of stores on other releases of their servers (STORES="redis etcd").
	sh scripts/versions.sh $(STORES)

quick: ## Run the unit tests and the conformance suite on the stores that need no server.
	cargo test --locked -p globallock
	cargo test --locked -p globallock-conformance --test conformance -- memory:: file::

tools: ## Install the servers and peers that the tests start (apt, pip, cargo; only what is missing).
	sh scripts/install-tools.sh

lint: lint-rust lint-python ## Check format, lints, documentation, alerts, licences and sources.

lint-rust:
	cargo fmt --all --check
	sh scripts/lines.sh
	sh scripts/api.sh
	sh scripts/alerts.sh
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	sh scripts/deny.sh

lint-python:
	sh scripts/python.sh lint

format: ## Format the code.
	cargo fmt --all

bench: tools ## Measure against raw round trips and the peers, in one run.
	cargo run --locked --release -p globallock-bench

clean: ## Remove what was built.
	cargo clean
