# Everything runs in .venv, which the first target that needs it creates. `make` lists the targets.

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
# Options for the pip call that installs torch, for example the index of its CPU builds.
TORCH_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)
WHEEL_DIR := dist/wheel-check
# Two pytest workers with a thread pool each would fight over the same cores. The time limit of a test, in seconds, is
# here and not in pyproject.toml, where pytest would refuse it on a machine without pytest-timeout.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTEST_TIMEOUT=300

define USE_WHEEL
import importlib.resources, importlib.util, torch, otlabel
assert importlib.resources.files("otlabel").joinpath("py.typed").is_file(), "the wheel has no py.typed"
assert importlib.util.find_spec("numpy") is None, "this environment is not bare"
scores = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
result = otlabel.sinkhorn_label(scores)
print(f"wheel of otlabel: {result.status}, {result.hard_labels.bincount().tolist()} labels a class")
assert result.converged
endef
export USE_WHEEL

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format docs wheel-check bench clean install

help: ## list the targets
	@printf 'otlabel: scores in, labels that meet your class proportions out\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1mmake %-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nPYTHON=%s makes the environment; ARGS="..." is passed on by demo and test.\n' '$(PYTHON)'

install: $(VENV)/.installed ## make .venv with every pinned dependency (done by the others when needed)

# torch goes first and alone, by its pin. Its CUDA builds need triton and its CPU build does not, so forbidding triton
# picks the CPU build where the index has one; where it has none, the default build (gigabytes) is the only one there is.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'triton<0' > $(VENV)/cpu-only.txt
	@$(PIP) install --quiet "$(TORCH)" -c constraints.txt -c $(VENV)/cpu-only.txt $(TORCH_FLAGS) 2> $(VENV)/torch.log || { \
		echo 'no CPU build of $(TORCH) on this index (TORCH_FLAGS="--index-url ..." names another): installing the default one'; \
		$(PIP) install --quiet "$(TORCH)" $(TORCH_FLAGS); }
	@$(PIP) install --quiet -e ".[examples,video,test,docs,dev]" -c constraints.txt
	@touch $@

demo: $(VENV)/.installed ## train and evaluate the CASE example on small data
	@$(BIN)/python -m examples.case_wtal demo $(ARGS)

test: $(VENV)/.installed ## run all tests, doctests and the code of the Markdown pages
	@$(TEST_ENV) $(BIN)/python -m pytest -p xdist -n $(WORKERS) $(ARGS)

lint: $(VENV)/.installed ## check format, style, spelling, types and the direction of imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/codespell
	@$(BIN)/sphinx-lint -i docs/_build -i docs/gallery docs otlabel examples README.md CHANGELOG.md
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed ## format the code and apply the safe fixes
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

docs: $(VENV)/.installed ## build the documentation; a warning is an error
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m sphinx -n -W --keep-going -q docs docs/_build/html
	@$(BIN)/python tests/docs/site_check.py docs/_build/html
	@echo "docs/_build/html/index.html"

# Outside the tree, with nothing but torch and jaxtyping beside the wheel: the core may need no other package.
wheel-check: $(VENV)/.installed ## build the wheel and use it in a bare environment
	@rm -rf $(WHEEL_DIR)
	@log=$$($(BIN)/python -m build --wheel --no-isolation --outdir $(WHEEL_DIR) . 2>&1) || { echo "$$log"; exit 1; }
	@$(PYTHON) -m venv $(WHEEL_DIR)/venv
	@echo 'triton<0' > $(WHEEL_DIR)/cpu-only.txt
	@$(WHEEL_DIR)/venv/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH_FLAGS) \
		-c constraints.txt -c $(WHEEL_DIR)/cpu-only.txt $(WHEEL_DIR)/otlabel-*.whl 2> $(WHEEL_DIR)/pip.log || \
		$(WHEEL_DIR)/venv/bin/python -m pip --disable-pip-version-check install --quiet $(WHEEL_DIR)/otlabel-*.whl
	@cd $(WHEEL_DIR) && venv/bin/python -I -W error -W "ignore:Failed to initialize NumPy" -c "$$USE_WHEEL"

bench: $(VENV)/.installed ## measure otlabel beside its peers (hours; ARGS="--workloads a c" for less)
	@$(PIP) install --quiet -e ".[benchmarks]" -c constraints.txt
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove the environment, the caches and what was built
	@rm -rf docs/_build docs/gallery docs/recipes/systems docs/sg_execution_times.rst
	@rm -rf $(VENV) dist build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
