# `make demo` and `make test` need Python 3.11+ and nothing installed before.
PYTHON ?= python3
BIN := .venv/bin
UV := 0.13.9

.PHONY: setup demo test test-slow bench bench-gpu headline fuzz check docs format clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "autospike needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]' \
	  || $(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'  # behind a mirror that only pip knows
	touch $@

demo: setup
	$(BIN)/autospike run experiments/digits.yaml --run runs/digits

test: check
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow -n auto --dist loadfile -o faulthandler_timeout=1800

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python experiments/benchmarks $(ONLY)

# Exits with code 2 where there is no GPU.
bench-gpu: setup
	$(BIN)/python experiments/benchmarks/bench_gpu.py

# make fuzz [SECONDS=600] [SEED=7] [KIND=spaces] [COUNT=10000]
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python experiments/fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(KIND),--kind $(KIND)) $(if $(COUNT),--count $(COUNT))

# make headline [SEEDS=5] [EXPERIMENT=experiments/digits.yaml]
headline: setup
	OMP_NUM_THREADS=1 $(BIN)/python experiments/headline $(or $(EXPERIMENT),experiments/digits.yaml) $(or $(SEEDS),5)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python -m mkdocs build --strict

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build *.egg-info
