# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH ?= .venv-bench
SERVICES ?= .venv-services
KUBERNETES ?= .venv-k8s
TESTBED ?= ../shared/k8s_testbed
# torch first and alone, in the build this project is tested with: what follows finds it there.
TORCH ?= torch==2.13.0
# A file of tests stays in one process, which may take 4 GB.
SPREAD ?= --numprocesses=auto --maxprocesses=4 --dist=loadfile

.PHONY: demo test test-services test-k8s lint bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.user  ## simulated scenes -> cube -> chips -> training -> map, in demo/
	$(BIN)/deepforest-xr demo --out demo

test: $(VENV)/.dev  ## the plain tests
	$(BIN)/python -m pytest $(SPREAD) -m "not slow and not network and not k8s and not services"

test-services: $(VENV)/.dev $(SERVICES)/.ready  ## against a real STAC server and an S3 store
	tests/services/install.sh
	DEEPFOREST_XR_SERVICES=$(abspath $(SERVICES)) $(BIN)/python -m pytest -m services tests/services

ifdef KUBECONFIG
test-k8s: $(VENV)/.dev  ## the same runs on the cluster that KUBECONFIG names
	$(BIN)/python -m pytest tests/k8s
else ifneq ($(wildcard $(TESTBED)/requirements.txt),)
test-k8s: $(VENV)/.dev $(KUBERNETES)/.ready  ## manifests, and runs on a small Kubernetes (as root)
	DEEPFOREST_XR_K8S=$(abspath $(KUBERNETES)) $(BIN)/python -m pytest tests/k8s
else
test-k8s:
	@echo "test-k8s: skipped, there is no Kubernetes test bed at $(TESTBED)"
endif

lint: $(VENV)/.dev  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(BENCH)/.ready  ## ratios against named peers, written to docs/benchmarks.md
	$(BENCH)/bin/python -m benchmarks

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	touch $@

$(VENV)/.user: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[train,viz]"
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

# An environment of its own: beside a torch without CUDA, the torchvision that smp needs breaks
# what imports it in passing. torch stands on the line again so that it stays as it is.
$(BENCH)/.ready: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[bench,viz]"
	touch $@

# Servers that the tests start as processes; nothing here imports them.
$(SERVICES)/.ready:
	$(PYTHON) -m venv $(SERVICES)
	$(SERVICES)/bin/python -m pip install --quiet --disable-pip-version-check \
		"stac-fastapi.pgstac==7.2.*" "pypgstac[psycopg]==0.10.*" uvicorn "moto[server]"
	touch $@

# The operator has an environment of its own, as in a cluster; both have the same dask.
$(KUBERNETES)/.ready: pyproject.toml $(VENV)/.dev
	$(PYTHON) -m venv $(KUBERNETES)
	$(KUBERNETES)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r $(TESTBED)/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c $(TESTBED)/requirements.txt -e ".[k8s]"
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) $(SERVICES) $(KUBERNETES) demo build
