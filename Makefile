# From an empty checkout, without root:  make up
# Needs Python 3.11 to 3.14 and a minute for the first installation; the rest is in .venv/ and .sluice/.

VENV := .venv
BIN := $(VENV)/bin
# Versions without hashes: with one hash, pip requires all, and refuses an editable install, which has none (pip 23.2).
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help up test chaos screenshots lint bench constraints clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(VENV)/installed ## Run it all on this machine until Ctrl-C (ARGS="--port 4201" for options)
	@$(BIN)/sluice up $(ARGS)

test: $(VENV)/installed-test ## Run the tests (ARGS="-k redis" for options; CI=true: all, thoroughly)
	@$(BIN)/python -m pytest --numprocesses 3 --max-worker-restart 0 --dist loadfile $(if $(filter true,$(CI)),-m "not chaos") $(ARGS)

chaos: $(VENV)/installed-test ## Kill real outlets and Redis under load, 200 times for each pipeline (many minutes)
	@CHAOS_KILLS=200 $(BIN)/python -m pytest -s -m '' -o faulthandler_timeout=0 tests/chaos tests/pump/test_handovers.py $(ARGS)

screenshots: $(VENV)/installed-test ## Take the pictures in docs/images again, with the installed Chromium
	@$(BIN)/python -m pytest tests/stack/test_browser.py -m slow --screenshots docs/images $(ARGS)

lint: $(VENV)/installed-test ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/installed-bench ## Measure beside others, into README and docs (six minutes; ARGS=--quick: two, no files)
	@$(BIN)/python -m benchmarks $(ARGS)

# The oldest supported Python: packages for it also run on newer ones.
constraints: ## Renew constraints.txt with the newest of everything (then: make test)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && python3.11 -m venv "$$folder" && \
	"$$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[test,quotes,bench]' && \
	{ sed '/^[^#]/d' constraints.txt; "$$folder/bin/python" -m pip freeze --exclude-editable | LC_ALL=C sort -f; } \
	    > "$$folder/constraints.txt" && cp "$$folder/constraints.txt" constraints.txt

clean: ## Remove what was installed and cached; the data in .sluice/ stays
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (once; a minute or two) ..."
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), with what the tests need (once; a minute or two) ..."
	@$(INSTALL) --editable '.[test]'
	@touch $(VENV)/installed $@

$(VENV)/installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), with what the benchmark compares (once; a minute or two) ..."
	@$(INSTALL) --editable '.[bench]'
	@touch $(VENV)/installed $@

# The preferred version first. Each is tried: a `python3.12` can be a pyenv shim for a missing version, and Debian's can lack venv.
# If PYTHON is given, no other is tried: a run meant for one version must not pass on another.
PYTHONS := $(or $(PYTHON),python3.12 python3.13 python3.14 python3.11 python3 python)
$(BIN)/python:
	@for python in $(PYTHONS); do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; \
	    then "$$python" -m venv $(VENV) && exit 0; fi; \
	done; \
	echo "expected Python 3.11 to 3.14 with its venv module, found none as $(PYTHONS); install it" >&2; \
	echo "(Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.12)," >&2; \
	echo "or say where it is: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1
