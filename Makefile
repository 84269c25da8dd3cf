# The gateway needs Python 3.11 or newer; everything else is installed into .venv by these rules.
PYTHON ?= python3
VENV = .venv
PIP = $(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes
LOCK = $(VENV)/bin/pip-compile --quiet --generate-hashes --strip-extras --no-header --no-emit-options $(ARGS)
# Several tests at a time; what they measure is not to be trusted then.
WORKERS = auto --maxprocesses 4
NODE_MODULES = tests/node/node_modules/.package-lock.json

.PHONY: help run test check torture bench prices lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

run: $(VENV)/run.stamp ## install what is needed and start the gateway (ARGS="--port 4001")
	@exec $(VENV)/bin/python anos_gateway.py $(ARGS)

test: $(VENV)/test.stamp $(NODE_MODULES) ## run the tests (ARGS="-k cancel")
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) $(ARGS)

check: $(VENV)/test.stamp ## lint, types and the tests: what has to pass before a change lands
	$(VENV)/bin/ruff check . && $(VENV)/bin/mypy && $(MAKE) test

torture: export ANOS_TORTURE = 1
torture: WORKERS = 0
torture: test ## the same tests at their full counts: minutes to an hour

bench: $(VENV)/run.stamp ## a small measurement of the cost of a request and of a streamed chunk
	$(VENV)/bin/python bench/quick.py

prices: $(VENV)/test.stamp ## renew anos/prices.json from the package genai-prices (offline)
	$(VENV)/bin/python -m bench.refresh_prices

lock: $(VENV)/test.stamp ## renew both lock files from setup.cfg (ARGS="--upgrade")
	$(VENV)/bin/pip install --quiet pip-tools
	$(LOCK) --output-file requirements.txt setup.cfg
	$(LOCK) --extra dev --constraint requirements.txt --output-file requirements-dev.txt setup.cfg

clean: ## remove everything that was installed or built
	rm -rf $(VENV) build dist *.egg-info tests/node/node_modules .*_cache .hypothesis

# Stamps: pip is asked only when a lock file has changed, so that `make run` starts at once.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed.")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/run.stamp: requirements.txt | $(VENV)/bin/python
	$(PIP) -r requirements.txt && touch $@

$(VENV)/test.stamp: requirements-dev.txt | $(VENV)/bin/python
	$(PIP) -r requirements-dev.txt && touch $@ $(VENV)/run.stamp

$(NODE_MODULES): tests/node/package-lock.json
	@command -v npm >/dev/null || { echo "The tests with the official Node client need node and npm."; exit 1; }
	npm ci --loglevel=error --no-audit --no-fund --prefix tests/node
