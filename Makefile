# `make run` and `make test` do everything on a fresh machine; `make help` lists the rest.
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
CLIENTS := .venv-clients
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check

.PHONY: help run test test-node test-postgres storm crash check mutants proto docs pictures lock bench bench-ledger clean
.DELETE_ON_ERROR:

help:
	@echo "make run        install, then start the gateway in demo mode (simulated Lightning, simulated chat backend)"
	@echo "make test       everything that is tested on every commit"
	@echo "make check      formatting, lint, types, import rules, generated code"
	@echo "make test-node  the stories against a real LND; says which variables to set"
	@echo "make crash      200 kills under load"
	@echo "make test-postgres  the gateway's and the web's tests with their books in PostgreSQL"
	@echo "make storm      replicas on PostgreSQL and one process on SQLite while everything breaks: SECONDS=1800 SEED=7"
	@echo "make mutants    small mistakes in the money's code that a test must see: MUTANTS='core sqlite'"
	@echo "make bench      speed as ratios to a plain ASGI server, in one run; streams; then the ledger alone"
	@echo "make bench-ledger  the ledger alone: BENCH='--database URL' for another one than SQLite"
	@echo "make proto      regenerate src/arkgate/_proto; make docs: the configuration reference; make pictures: those of the README; make lock: pin dependencies anew"

$(VENV)/.runtime: requirements/runtime.lock requirements/build.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "arkgate needs Python 3.11 or 3.12: apt-get install python3 python3-venv, or set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "cannot make $(VENV): apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV) …"
	@$(PIP) install --require-hashes --no-deps -r requirements/build.lock
	@$(PIP) install --require-hashes --no-deps -r requirements/runtime.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.lock
	@echo "installing what the tests need into $(VENV) …"
	@$(PIP) install --require-hashes --no-deps -r requirements/dev.lock
	@touch $@

# The client libraries that buy from the gateway in tests. They never meet its own dependencies; and what wants
# OpenAI's SDK before version 3 has an environment of its own.
$(CLIENTS)/.ready: requirements/clients.lock requirements/clients-older.lock | $(VENV)/.runtime
	@echo "installing the clients that the tests buy with into $(CLIENTS) …"
	@rm -rf $(CLIENTS)
	@$(PYTHON) -m venv --without-pip $(CLIENTS)
	@$(PYTHON) -m venv --without-pip $(CLIENTS)/older
	@$(PIP) --python $(CLIENTS)/bin/python install --require-hashes --no-deps -r requirements/clients.lock & \
	$(PIP) --python $(CLIENTS)/older/bin/python install --require-hashes --no-deps -r requirements/clients-older.lock; \
	older=$$?; wait $$! && exit $$older
	@touch $@

run: $(VENV)/.runtime
	@exec $(VENV)/bin/arkgate demo

test: $(VENV)/.dev $(CLIENTS)/.ready
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" tests/setup.sh $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST)

test-node: $(VENV)/.dev
	@$(VENV)/bin/python -m pytest -m node tests/node $(PYTEST)

test-postgres: $(VENV)/.dev
	@ARKGATE_TEST_ENGINE=postgres ARKGATE_SKIPS_FAIL= $(VENV)/bin/python -m pytest tests/gateway tests/web $(PYTEST)

storm: $(VENV)/.dev
	@GRPC_VERBOSITY=ERROR $(VENV)/bin/python -m tests.storm $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

crash: $(VENV)/.dev
	@ARKGATE_CRASHES=200 $(VENV)/bin/python -m pytest --timeout 3600 tests/test_crash.py $(PYTEST)

check: $(VENV)/.dev
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/mypy src tests bench
	@$(VENV)/bin/lint-imports
	@tests/proto_is_current.sh

# Not in the lock: nothing that is shipped or tested on a commit needs it. Without --no-deps it would bring a terminal UI.
$(VENV)/.mutants: $(VENV)/.dev
	@$(PIP) install --no-deps --upgrade --target $(VENV)/mutmut mutmut==3.8.1 libcst==1.9.0 setproctitle==1.3.8 coverage==7.17.4
	@touch $@

mutants: $(VENV)/.mutants
	@PYTHONPATH=$(CURDIR)/$(VENV)/mutmut $(VENV)/bin/python -m tests.mutants $(MUTANTS)

docs: $(VENV)/.runtime
	@$(VENV)/bin/arkgate config reference > docs/configuration.md

pictures: $(VENV)/.dev
	@$(VENV)/bin/python -m tests.browser.pictures docs/pictures

proto: $(VENV)/.dev
	@tests/generate_proto.sh src/arkgate

bench: $(VENV)/.dev
	@$(VENV)/bin/python -m bench $(BENCH); missed=$$?; $(VENV)/bin/python -m bench.streams || missed=1; \
	$(VENV)/bin/python -m bench.ledger && exit $$missed

bench-ledger: $(VENV)/.dev
	@$(VENV)/bin/python -m bench.ledger $(BENCH)

PIP_COMPILE := $(VENV)/bin/pip-compile --quiet --no-header --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --allow-unsafe

lock: $(VENV)/.dev
	@$(PIP_COMPILE) --extra dev -o requirements/dev.lock pyproject.toml
	@$(PIP_COMPILE) -c requirements/dev.lock -o requirements/runtime.lock pyproject.toml
	@$(PIP_COMPILE) -o requirements/clients.lock requirements/clients.in
	@$(PIP_COMPILE) -o requirements/clients-older.lock requirements/clients-older.in

clean:
	rm -rf $(VENV) $(CLIENTS) tests/clients/node/node_modules tests/browser/node/node_modules .mypy_cache .ruff_cache .pytest_cache build src/*.egg-info
