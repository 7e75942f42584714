# Every target sets up what it needs: .venv with the locked dependencies, then skywright itself, editable.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p))))
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo session test bench accuracy soak lint docs lock wheel images conda release
ENGINE ?= $(firstword $(foreach e,podman docker,$(shell command -v $(e))))
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# Each process of the tests would compile anew what it imports: 10 s of each worker alone.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo      simulated beamline, every instrument's main plan, a table of runs and pictures"
	@echo "make session   IPython with the beamline's devices and plans"
	@echo "make test      the test suite;  make lint, bench, accuracy, soak, docs: see README.md"
	@echo "make wheel     the wheels into dist;  make images, conda, release VERSION=...: see docs/how-to/release.md"

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "skywright needs Python 3.11 or newer; $(PYTHON) is older. Say make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python -m compileall -q src iocs devices plans dashboard compat
	-$(BIN)/python -m skywright.processes.warm
	@touch $(INSTALLED)

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/skywright demo

session: $(INSTALLED)
	$(BIN)/skywright session

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not accuracy and not soak" --numprocesses 4 --dist loadfile

accuracy: $(INSTALLED)
	$(BIN)/python -m pytest -m accuracy --timeout 3600 -s

soak: $(INSTALLED)
	$(BIN)/python -m pytest -m soak --timeout 3600 -s

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src iocs devices plans dashboard profile_collection tests benchmarks docs examples README.md CHANGELOG.md

docs: $(INSTALLED)
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build
	@echo "docs/_build/index.html"

lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --no-emit-index-url --no-annotate --no-header -o requirements.lock

wheel: $(INSTALLED)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist . ./compat/psss_processing
	@ls dist/skywright-$(VERSION)-*.whl dist/skywright_psss_processing-$(VERSION)-*.whl

images:
	@test -n "$(ENGINE)" || { echo "make images needs a container engine, podman or docker" >&2; exit 2; }
	for name in psss epu automl; do \
	  $(ENGINE) build -t skywright-$$name:$(VERSION) -f deploy/$$name/Containerfile . || exit; done

conda:
	@command -v conda-build >/dev/null || { echo "make conda needs conda-build: conda install conda-build" >&2; exit 2; }
	conda-build deploy/psss/conda --channel conda-forge --output-folder dist/conda

release: $(INSTALLED)
	@test "$(origin VERSION)" = "command line" || { echo "say make release VERSION=0.2.0" >&2; exit 2; }
	$(BIN)/python tools/release.py $(VERSION)
