# Every target first makes the environment if it is missing or outdated: .venv,
# or the folder in FRSKD_VENV. PYTHON picks the interpreter, a Python 3.11.
# STACK=classic takes the classic libraries instead of the maintained ones, in
# .venv-classic: make test STACK=classic
# ARGS are handed on: make test ARGS='tests/test_utils -x'

STACK ?= maintained
IN_ENV = STACK=$(STACK) bash tools/env.sh

.PHONY: help demo demo-all test coverage lint format types docs env
help:
	@echo 'make demo      train a classifier on bundled data, show the gain and pictures'
	@echo 'make demo-all  the same for classification, segmentation and detection'
	@echo 'make test      run the tests'
	@echo 'make coverage  run them, and report the lines that none of them runs'
	@echo 'make lint      check style and spelling'
	@echo 'make format    mend what ruff can mend'
	@echo 'make types     check the types with mypy'
	@echo 'make docs      build the site of the documentation in build/site'
	@echo 'make env       only make the environment'

# Classifiers need no operators of mmcv, so nothing has to be compiled.
demo:
	@OPERATORS=0 $(IN_ENV) python tools/demo.py --task cls $(ARGS)

demo-all:
	@$(IN_ENV) python tools/demo.py $(ARGS)

# Processes with one thread each, the tests of a file in one of them.
test:
	@OMP_NUM_THREADS=1 $(IN_ENV) python -m pytest -n auto --maxprocesses 4 \
	    --dist loadfile $(ARGS)

coverage:
	@OMP_NUM_THREADS=1 $(IN_ENV) python -m pytest -n auto --maxprocesses 4 \
	    --dist loadfile --cov --cov-report=term $(ARGS)

lint:
	@$(IN_ENV) ruff check .
	@$(IN_ENV) ruff format --check .
	@$(IN_ENV) codespell

format:
	@$(IN_ENV) ruff check --fix .
	@$(IN_ENV) ruff format .

types:
	@$(IN_ENV) mypy frskd_mm

# A warning, such as of a link that leads nowhere, is an error.
docs:
	@NO_MKDOCS_2_WARNING=1 $(IN_ENV) mkdocs build --quiet --strict

env:
	@$(IN_ENV)
