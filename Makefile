# Everything sets itself up: each target works on a bare machine with
# Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
METHODS ?= few
SEEDS ?= 5
EPOCHS ?= 12
OUT ?= out/demo
DIGITS = $(BIN)/python -m benchmarks.experiments digits

GALLERY = digits_nnx tumours_linen signals_equinox lora_text cart_poles missing_labels \
  heat_equation own_method

.PHONY: demo paper evidence speed gallery docs test test-all test-lowest lint format dist clean

demo: .venv/demo  ## train on handwritten digits; table, figures and JSON in $(OUT)
	$(DIGITS) sweep --out $(OUT) --methods $(METHODS) --seeds $(SEEDS) --epochs $(EPOCHS)
	$(DIGITS) report --out $(OUT)

paper: .venv/demo  ## the paper's tables and figures, small, on rendered scenes; in out/paper
	$(BIN)/python -m benchmarks.experiments.paper

evidence: .venv/demo  ## every table of docs/results.md, in a day of two cores
	$(BIN)/python -m benchmarks.evidence $(PROBLEMS)

speed: .venv/demo .venv-torch/torch  ## time of a step, beside PyTorch and TorchJD; of train steps
	$(BIN)/python -m benchmarks.speed --torch .venv-torch/bin/python
	$(BIN)/python -m benchmarks.speed.ways
	$(BIN)/python -m benchmarks.speed.refresh

gallery: .venv/dev  ## the pictures of the examples
	for name in $(GALLERY); do \
	  $(BIN)/python examples/$$name.py --picture docs/gallery/$$name.png || exit 1; done
	$(BIN)/python examples/data_parallel.py --fsdp --picture docs/gallery/data_parallel.png

docs: .venv/dev  ## the documentation, in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html

test: .venv/dev  ## what every change must pass
	$(BIN)/pytest

test-all: .venv/dev  ## all tests, for nights and releases
	$(BIN)/pytest -m ""

test-lowest: .venv-lowest/dev  ## all tests with the oldest versions allowed
	.venv-lowest/bin/pytest -m ""

lint: .venv/dev  ## style, types, and files that GitHub reads
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --offline --quiet .github

format: .venv/dev  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: .venv/dev  ## what a release uploads, in dist
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

clean:
	rm -rf .venv .venv-lowest .venv-torch docs/_build docs/api/generated docs/notebooks out dist

.venv-torch/torch:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 'torchjd[full]==0.18.0'
	touch $@

.venv/demo .venv/dev .venv-lowest/dev: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(if $(findstring lowest,$@),grep -oE '"[a-z-]+>=[0-9.]+"' pyproject.toml | tr -d '"' | sed 's/>=/==/') > $(@D)/versions
	$(@D)/bin/pip install --quiet --no-compile --disable-pip-version-check --constraint $(@D)/versions --editable '.[$(@F)]'
	touch $@
