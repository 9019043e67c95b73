# quickstart and test set everything up by themselves; they need Python >= 3.11 and a package index.
PYTHON ?= python3
BIN := .venv/bin
# Three files of tests at once, for most tests wait most of their time.
AT_ONCE := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test faults lint docs lock clean
.DEFAULT_GOAL := quickstart

quickstart: .venv/installed
	$(BIN)/sweep launch quickstart --name quickstart-$$(date +%Y%m%d-%H%M%S)
	@echo "The command is $(BIN)/sweep; put it on your path with:  source $(BIN)/activate"

test: .venv/installed
	$(BIN)/python -m pytest $(AT_ONCE) $(ARGS)

# The fault tests with all their counts; more than an hour.
faults: .venv/installed
	SWEEP_FAULTS=full $(BIN)/python -m pytest $(AT_ONCE) tests/faults $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The references in docs/reference, from the program.
docs: .venv/installed
	$(BIN)/python -m docs.make

# Needs uv; the hashes are checked by pip when a lock is installed.
LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
  --no-annotate --no-emit-index-url --extra cluster
lock:
	$(LOCK) --group dev -o requirements.lock
	$(LOCK) --group image -c requirements.lock -o docker/cpu.lock
	$(LOCK) --group image --extra cuda -c requirements.lock -o docker/cuda.lock

clean:
	rm -rf .venv build *.egg-info

# setuptools first: a package without a wheel is built by the one in the lock.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > .venv/build.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r .venv/build.lock
	$(BIN)/python -m pip install --quiet --require-hashes --compile --no-build-isolation -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@
