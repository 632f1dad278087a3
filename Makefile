# demo · test · docs · lint · bench-real · bench-full: each sets up .venv by itself, once; then no network is needed.

# 3.11 first, the version that the PyTorch of constraints-dev.txt is tried with. Each candidate is asked, because
# a command of that name may be there and not run.
PYTHON ?= $(shell for p in python3.11 python3.13 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
RUN = .venv/bin/python
JOBS ?= 1
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)

.PHONY: help demo test docs lint bench-real bench-full
.DEFAULT_GOAL := help

help:
	@echo "make demo        every method on embedded data, two minutes: tables, figures and demo/index.html"
	@echo "make test        all tests but those on real data sets"
	@echo "make docs        the documentation in docs/_build/html; warnings are errors"
	@echo "make lint        ruff and mypy"
	@echo "make bench-real  one seed of everything in tests/golden.toml, on all cores (needs SCDANCE_DATA_DIR, an hour on two)"
	@echo "make bench-full  all seeds (needs SCDANCE_DATA_DIR, hours; run it again to continue)"

# Written last, so an interrupted set-up starts again. An environment without pip is the rest of one.
.venv/.ready: pyproject.toml requirements-dev.txt constraints-dev.txt
	@test -n '$(PYTHON)' && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "scdance needs Python 3.11 or newer; found: '$(PYTHON)'." \
			"Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON): a few minutes and 2.5 GB, once."
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	@touch $@

.venv/.docs-ready: .venv/.ready
	$(RUN) -m pip install --quiet -c constraints-dev.txt -e '.[docs]'
	@touch $@

demo: .venv/.ready
	OMP_NUM_THREADS=1 .venv/bin/scdance demo demo

test: .venv/.ready
	$(RUN) -m pytest -n 2 --dist loadgroup -m "not real"

lint: .venv/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: .venv/.docs-ready
	$(RUN) -m sphinx -W --keep-going -E -b html docs docs/_build/html

# Both go on where they were stopped. The first keeps its rows to itself, the second in the tables of the docs.
bench-real: .venv/.ready
	.venv/bin/scdance bench tests/golden.toml bench --seeds 1 --jobs $(CORES)

bench-full: .venv/.ready
	.venv/bin/scdance bench tests/golden.toml docs/leaderboard --jobs $(JOBS)
