# make demo      from a CT to a denoised CT, pictures and a report (INPUT=folder-or-file: your own scan)
# make test      the checks; make test-slow: those that take minutes; make lint (style and types); make bench: speed and memory
# make install   .venv with the locked versions; all of the above do it first
# PYTHON=...       the interpreter for .venv
# TORCH_INDEX=...  package index that offers PyTorch's CPU build (see README)

PYTHON ?= python3
BIN = .venv/bin
STAMP = .venv/.installed

.PHONY: install demo test test-slow lint format bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "ASCON needs Python 3.11 or newer, which '$(PYTHON)' is not. Name another one: make install PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	  $(PYTHON) -m venv .venv; }
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --no-deps --index-url "$(TORCH_INDEX)" "$$(grep '^torch==' constraints.txt)")
	$(BIN)/python -m pip install -c constraints.txt setuptools
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[dev,slicer-test,node,batch]'
	@touch $@

demo: install
	$(BIN)/ascon demo $(if $(INPUT),--input "$(INPUT)")

test: install
	$(BIN)/python -m pytest --ignore=Testing/panel $(ARGS)
	@# the panel's tests in a process of their own: they reload the module, as Slicer does; 5: all of them skipped
	$(BIN)/python -m pytest Testing/panel $(ARGS) || [ $$? = 5 ]

test-slow: install
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install
	@for script in Testing/benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf build dist demo-output .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find ASCONDenoise ASCONTraining Testing -name __pycache__ -prune -exec rm -rf {} +
