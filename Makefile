# Everything installs itself into .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Most of a test's time is waiting.
PYTEST_WORKERS ?= 4

.PHONY: demo test lint types arrows unit bench bench-compile docs man clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: lint types arrows unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

arrows: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/pytest -n $(PYTEST_WORKERS) --dist worksteal --timeout 60 -m "not tvm"  # they slow each other down
	$(BIN)/pytest -n 2 --dist loadfile -m tvm tests/daemon/toolchains  # compilers without a daemon
	$(BIN)/pytest -m tvm --ignore tests/daemon/toolchains  # one at a time: a daemon's compiles make way for everybody, other tests included

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/hit.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/storm.py

# BENCH="--models ../shared/models --python PYTHON" and the like: see benchmarks/compile.py
bench-compile: $(VENV)/.dev
	$(BIN)/python benchmarks/compile.py $(BENCH)

docs: man $(VENV)/.dev  # the tables of settings and metrics, from what they describe
	$(BIN)/python docs/tables.py

man: $(VENV)/.dev  # docs/man and client/mlc_jit/completions, from what --help comes from
	$(BIN)/python docs/terminal.py

clean:
	rm -rf $(VENV) .demo build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing mlc-jitd and TVM into $(VENV) …"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[tvm]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing mlc-jitd and its development tools into $(VENV) …"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.demo
