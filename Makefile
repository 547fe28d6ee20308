# Two commands on a fresh machine: `make run` and `make test`.
# Both install what they need: a virtual environment from pinned requirements,
# Debian packages that are missing, Go tools into a cache outside the checkout.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Services of the measured set; 10,000 is the one that the figures are of.
SERVICES ?= 10000
# How many generated clusters `make fuzz-answers` compares, or histories `make simulate` runs, and the first.
SEEDS ?= 200
# Seconds of `make fuzz` for each target.
FUZZ ?= 120
START ?= 0

# Seconds that the tests of another Python may take in continuous integration.
LIMIT ?= 420
QUICK := not cluster and not coredns and not slow
# Tests that mostly wait run side by side; those that judge times have the machine to themselves.
SIDE_BY_SIDE := tests/unit tests/chart tests/faults tests/fuzz tests/simulation
ALONE := tests/cluster tests/monitoring tests/image tests/node tests/apps
# Of these the quick ones run side by side, as in test-fast, and the others alone.
BOTH := tests/wire tests/e2e
EDIT := not cluster and not slow
# What a real node needs beside what tools/build.py builds.
NODE := runc buildah debootstrap nft iptables conntrack /usr/lib/cni/bridge

.PHONY: help run test test-fast test-pythons coverage lint format bench chaos siege alerts monitoring chart apps apps-record apps-table apps-parts simulate simulate-mutants fuzz \
	fuzz-answers scale-answers tools \
	cluster node node-test screenshots proto requirements dist image clean

help: ## Show this list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Every day

run: $(READY) ## Serve the bundled example, CoreDNS in front, and show the first answers
	@tools/setup packages dig
	@command -v coredns >/dev/null || $(PYTHON) tools/build.py coredns || true
	@$(BIN)/headwater demo

test: $(READY) lint ## Everything: lint, unit, wire, end to end, and a real control plane
	@tools/setup packages dig dnsperf h2load chromium chromedriver w3m $(NODE)
	@$(PYTHON) tools/build.py || test -z "$${CI:-}"
	@wrong=; $(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(SIDE_BY_SIDE) || wrong=1; \
		$(BIN)/python -m pytest --numprocesses 3 --dist worksteal -m "$(EDIT)" $(BOTH) || wrong=1; \
		$(BIN)/python -m pytest -m "not ($(EDIT))" $(BOTH) || wrong=1; \
		$(BIN)/python -m pytest $(ALONE) || wrong=1; test -z "$$wrong"
	@test -z "$${CI:-}" || $(PYTHON) -m tools.pythons --other-than $(BIN)/python --limit $(LIMIT) -- -q -m "$(QUICK)" tests/unit

test-fast: $(READY) lint ## What every edit runs: all quick tests without the control plane, under 2 minutes
	@$(BIN)/python -m pytest --numprocesses 3 --dist worksteal -m "$(EDIT)" tests/unit $(BOTH)

lint: $(READY) ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(READY) ## Let ruff format and mend what it can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

##@ Now and then

test-pythons: $(READY) ## Quick unit and wire tests on every Python from 3.11 to 3.13 that is installed
	@$(PYTHON) -m tools.pythons

coverage: $(READY) ## How much of each room unit and wire tests reach, beside its floor
	@$(BIN)/python -m coverage run -m pytest -q -m "$(QUICK)" tests/unit tests/wire
	@$(BIN)/python tools/covered.py

bench: $(READY) ## Measure everything beside Go and beside CoreDNS (45 minutes)
	@tools/setup packages dnsperf h2load nghttpd
	@$(PYTHON) tools/build.py
	@$(BIN)/python -m bench.resolver
	@$(BIN)/python -m bench.profile
	@$(BIN)/python -m bench.serving
	@$(BIN)/python -m bench.scale --services $(SERVICES)
	@$(BIN)/python -m bench.seeding --services $(SERVICES)
	@$(BIN)/python -m bench.propagation --services $(SERVICES)
	@$(BIN)/python -m bench.requests --services $(SERVICES)

chaos: $(READY) ## Break everything once, as long as it takes; docs/reliability.md gets the table (5 minutes)
	@$(PYTHON) tools/build.py
	@HEADWATER_CHAOS=long $(BIN)/python -m pytest tests/cluster/test_chaos.py

simulate: $(READY) ## SEEDS=200 histories of one instance and all that can go wrong, from START=0; tells one that fails
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --start $(START)

simulate-mutants: $(READY) ## Put mistakes back into the code: the simulation has to find each (10 minutes)
	@$(BIN)/python -m tests.simulation --mutants

siege: $(READY) ## Break things two at a time, with hung processes and attackers; the same page gets the table (25 minutes)
	@$(PYTHON) tools/build.py
	@HEADWATER_SIEGE=long $(BIN)/python -m pytest tests/cluster/test_siege.py

alerts: $(READY) ## Make each alert fire that can be, before a real Prometheus; docs/monitoring.md gets the table (10 minutes)
	@$(PYTHON) tools/build.py
	@$(BIN)/python -m tests.monitoring

node-test: $(READY) ## Rollouts, deaths and mistakes on a real node, as root; docs/reliability.md has the table (20 minutes)
	@tools/setup packages $(NODE)
	@$(PYTHON) tools/build.py
	@HEADWATER_NODE=long $(BIN)/python -m pytest tests/node

# SYSTEM names one of tests/apps/test_*.py.
SYSTEM ?= *

apps: $(READY) apps-parts ## Real servers that find one another by DNS, in the long form, or one of them: SYSTEM=rabbitmq
	@HEADWATER_APPS=long $(BIN)/python -m pytest tests/apps/test_$(SYSTEM).py

apps-record: $(READY) apps-parts ## Write down anew what each of them asks (tests/apps/recorded)
	@$(BIN)/python -m tests.apps record

apps-table: $(READY) apps-parts ## How fast they recover with which DNS; docs/systems/README.md gets the table (90 minutes)
	@$(BIN)/python -m tests.apps table

apps-parts: $(READY)
	@tools/setup packages dig debootstrap java javac mvn
	@$(PYTHON) tools/build.py
	@$(PYTHON) tools/build.py ferretdb
	@$(PYTHON) tools/jars.py
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[apps]'

fuzz: $(READY) ## Each target under atheris for FUZZ=120 seconds; what it finds goes into the corpus
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	@for target in http2 question resolver; do $(BIN)/python -m tests.fuzz $$target $(FUZZ) || exit 1; done

fuzz-answers: $(READY) ## Compare SEEDS=200 generated clusters with CoreDNS, from START=0 (40 minutes)
	@$(PYTHON) tools/build.py
	@$(BIN)/python -m tests.answers --seeds $(SEEDS) --start $(START)

scale-answers: $(READY) ## Compare 50,000 answers of the whole set with CoreDNS's, and those too large
	@$(PYTHON) tools/build.py
	@$(BIN)/python -m tests.answers.scale --services $(SERVICES)

##@ Parts

tools: ## Build what tests are run with (CoreDNS, a control plane, Prometheus, Helm) into the cache (15 minutes, once)
	@$(PYTHON) tools/build.py

cluster: $(READY) tools ## A real control plane on loopback, until Ctrl-C
	@$(BIN)/python -m tests.harness.plane

node: $(READY) tools ## A real node with deploy/base on it, as root, until Ctrl-C
	@tools/setup packages $(NODE)
	@$(BIN)/python -m tests.node

screenshots: $(READY) ## Draw the pictures of docs/page.md anew (16 minutes)
	@tools/setup packages chromium chromedriver
	@$(BIN)/python -m tools.screenshots

monitoring: $(READY) ## Write what deploy/monitoring and the chart have of rules.yaml and the dashboard's source
	@$(BIN)/python tools/monitoring.py

chart: $(READY) ## Write the chart's table of values, and the objects that its tests expect
	@$(PYTHON) tools/build.py helm
	@$(BIN)/python tools/chart.py
	@$(BIN)/python -m tests.chart.expected

proto: $(READY) ## Generate the protobuf code again
	@$(BIN)/python tools/protoc.py

requirements: $(READY) ## Write deploy/requirements.txt anew: constraints.txt's runtime part, with hashes
	@$(BIN)/python tools/requirements.py

image: ## Build the image with docker, podman or buildah; BASE=NAME@sha256:… names its base, TAG= the image
	@$(PYTHON) tools/image.py $(if $(BASE),--base $(BASE)) $(if $(TAG),--tag $(TAG))

dist: $(READY) ## Build a release into dist/, try it in an empty environment, write its bill of materials
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[release]'
	@$(BIN)/python tools/dist.py

clean: ## Remove the virtual environment and caches in the checkout; the tools' cache stays
	rm -rf $(VENV) dist build .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt tools/setup
	@tools/setup venv $(PYTHON) $(VENV)
	@touch $@
