# Every target sets up what it needs, from nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo paper test test-slow lint bench zoo clean
help:
	@echo "make demo       every claim of the paper on tinytales, small (minutes); opens runs/demo/report.html"
	@echo "make paper      the same at full size (hours; goes on where it was stopped), into docs/results.md"
	@echo "make test       the tests"
	@echo "make test-slow  the tests that take long"
	@echo "make lint       ruff and mypy"
	@echo "make bench      the benchmarks, as JSON in benchmarks/results/"
	@echo "make zoo        train the shipped models again (about two hours)"

# Torch goes first: with it in place, nothing that is installed later asks for another build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crossproof needs Python 3.11 or newer; say make PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/crossproof paper --size demo --out runs/demo
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" = Darwin ]; then \
		$(BIN)/python -m webbrowser "file://$(CURDIR)/runs/demo/report.html"; fi

# What the documentation quotes is kept beside it: the words and, of every study, the data of its figures.
paper: $(READY)
	$(BIN)/crossproof paper --size full --out runs/paper
	mkdir -p docs/results
	for study in runs/paper/*/findings.json; do \
		$(BIN)/python -m json.tool --compact $$study docs/results/$$(basename $$(dirname $$study)).json || exit 1; done
	sed 's#runs/paper/\([a-z-]*\)/findings.json#docs/results/\1.json#g' runs/paper/report.md > docs/results.md

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --timeout=3600

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)
	mkdir -p benchmarks/results
	for benchmark in benchmarks/*.py; do \
		$(BIN)/python $$benchmark --json > benchmarks/results/$$(basename $$benchmark .py).json || exit 1; \
		cat benchmarks/results/$$(basename $$benchmark .py).json; \
	done

zoo: $(READY)
	$(BIN)/crossproof zoo all

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
