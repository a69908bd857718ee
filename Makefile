# `make campaign` and `make test` need Python 3.11 and make, nothing else; without a C++ compiler KeOps is left out.
PYTHON ?= python3
# A CUDA or ROCm build of the same version may take its place: make env TORCH=PATH_OR_REQUIREMENT
TORCH ?= torch==2.13.0
SERVICES := sampler simulator surrogate orchestrator
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
PROTOS := $(wildcard protos/caligo/v1/*.proto)

.PHONY: help env campaign dist docs sbom test test-dist test-docs test-docker test-long test-tutorials lint protos check-protos tables format bench bench-long locks images clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

env: $(READY)  ## the virtual environment in .venv

$(READY): requirements.txt pyproject.toml $(SERVICES:%=services/%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	# A source of rounds (docs/sources.md); what it needs is among the requirements, what it asks for is a notebook server and more.
	$(BIN)/python -m pip install --quiet --no-deps sequence==0.8.5
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable . $(SERVICES:%=--editable services/%)
	touch $@

campaign: $(READY)  ## the example campaign: four services, a progress display, results and a report
	$(BIN)/caligo run examples/cliff.yaml --output results/$$(date +%Y%m%d-%H%M%S)

# Two processes, a file's tests in one of them, which share its fixtures. A thread each: more would only get in the way.
TEST_PROCESSES ?= 2
PYTEST_PARALLEL := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

test: $(READY)  ## the test suite; no GPU needed; make test TEST_PROCESSES=8 on more cores
	$(PYTEST_PARALLEL) -m "not slow and not docker and not documents"

test-long: $(READY)  ## the slow tests as well
	$(PYTEST_PARALLEL) -m "not docker and not documents"

test-docker: $(READY)  ## images and a campaign on a real Docker engine: root, docker.io, docker-compose and debootstrap
	$(BIN)/python -m pytest -m docker tests/docker --timeout 3600

$(DOCS_READY): $(READY) requirements-docs.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-docs.txt
	touch $@

docs: $(DOCS_READY)  ## the site, in build/site: a broken link, or something public without a docstring, fails
	$(BIN)/python -m tools.site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(READY) check-protos  ## ruff, mypy, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint
	$(BIN)/python -m tools.tables --check

protos: $(READY)  ## write caligo/v1 anew from protos/
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)

check-protos: $(READY)  ## fail where caligo/v1 and protos/ differ
	rm -rf build/protos && mkdir -p build/protos
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=build/protos --pyi_out=build/protos \
		--grpc_python_out=build/protos $(PROTOS)
	diff -r --exclude=__pycache__ --exclude=__init__.py build/protos/caligo/v1 caligo/v1

tables: $(READY)  ## write anew what repeats the settings: the chart's schema, .env, tables of the documents
	$(BIN)/python -m tools.tables

format: $(READY)  ## ruff's layout and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# cliff_rows is what these two share: rows of the real simulator, kept under build/.
LONG_BENCHMARKS := cliff_finding batch_rules
BENCHMARKS := $(filter-out cliff_rows $(LONG_BENCHMARKS),$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/[a-z]*.py)))

bench: $(READY)  ## the benchmarks, each against its peer, one JSON line each
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name --json || exit 1; done

bench-long: $(READY)  ## those that simulate for hours
	@for name in $(LONG_BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name --json || exit 1; done

# What an image installs, with hashes: what its packages ask for, at the versions of requirements.txt. Telemetry is in
# every one; the orchestrator's has the commands that are used inside it, for tokens and certificates.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --custom-compile-command "make locks" \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraint requirements.txt \
	--no-emit-package caligo $(SERVICES:%=--no-emit-package caligo-%)

locks: $(READY)  ## pin what the images install
	echo setuptools | $(LOCK) --output-file services/build.lock -
	printf '%s\n' '.[telemetry]' ./services/sampler | $(LOCK) --output-file services/sampler/requirements.lock -
	printf '%s\n' '.[telemetry]' ./services/simulator | $(LOCK) --output-file services/simulator/requirements.lock -
	printf '%s\n' '.[telemetry,certificates]' ./services/orchestrator rich typer | \
		$(LOCK) --output-file services/orchestrator/requirements.lock -
	printf '%s\n' '.[telemetry]' ./services/surrogate | $(LOCK) --no-emit-package torch \
		--excludes services/surrogate/cuda-only.txt --output-file services/surrogate/requirements-cpu.lock -
	printf '%s\n' '.[telemetry]' './services/surrogate[keops]' | \
		$(LOCK) --output-file services/surrogate/requirements-cuda.lock -

dist: $(DOCS_READY)  ## wheels and sources of every distribution, in dist/
	rm -rf dist
	for place in . $(SERVICES:%=services/%); do $(BIN)/python -m build --no-isolation --outdir dist $$place || exit 1; done
	$(BIN)/python -m twine check --strict dist/*

test-docs: docs  ## the site, and what documents tell to type, each document in a network of its own
	$(BIN)/python -m pytest -m documents tests/documents/test_site.py tests/documents/test_commands.py --timeout 900

test-tutorials: $(DOCS_READY)  ## docs/tutorials as notebooks, each under three minutes on two cores
	$(BIN)/python -m pytest -m documents tests/documents/test_tutorials.py

# Of what images install beside Debian's own packages. Those for CUDA are not in our environment: their licences are
# NVIDIA's and Triton's, and in the SBOM by name.
SBOM := $(wildcard services/*/requirements*.lock)
sbom: $(DOCS_READY)  ## what each image installs (CycloneDX), and under which licences, in build/sbom
	rm -rf build/sbom && mkdir -p build/sbom
	for lock in $(SBOM); do \
		$(BIN)/cyclonedx-py requirements --output-reproducible --output-format JSON \
			--output-file build/sbom/$$(basename $$(dirname $$lock))-$$(basename $$lock .lock).json $$lock || exit 1; done
	$(BIN)/pip-licenses --python $(BIN)/python --from=mixed --with-urls --format=markdown \
		--partial-match --fail-on "GPL;UNKNOWN" --output-file build/sbom/licences.md \
		--packages $$(sed -n 's/^\([A-Za-z0-9_.-]*\)==.*/\1/p' $(SBOM) | sort -u)

test-dist: dist sbom  ## install them into an empty environment, and run a campaign there
	$(BIN)/python -m pytest -m documents tests/documents/test_distributions.py --timeout 1200

images: $(SERVICES:%=image-%)  ## a container image of each service; make images BUILD='--build-arg BASE=...'

image-%:
	docker build --file services/$*/Dockerfile --tag caligo/$*:$(VERSION) $(BUILD) .

clean:  ## remove the environment and caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
