# Everything sets itself up: `make demo` and `make test` work on a bare machine with
# Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
SEEDS ?= 3
METHODS ?=
OUT ?= out/demo

.PHONY: demo test lint format clean

demo: .venv/demo  ## train on handwritten digits; table, figures and JSON in $(OUT)
	$(BIN)/python -m benchmarks.digits --seeds $(SEEDS) --out $(OUT) \
	  $(if $(METHODS),--methods $(METHODS))

test: .venv/dev  ## all tests
	$(BIN)/pytest

lint: .venv/dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv out

.venv/demo .venv/dev: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 needed" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(@F)]'
	touch $@
