# The checks of this project. Tools come from the active environment; `make install` puts them there.

SMP ?= build/smp
RAY ?= build/ray

.PHONY: help install check lint types imports test smp ray

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install:  ## Install the project with everything its checks need
	python -m pip install -c constraints.txt -e ".[dev]"

check: lint types imports test  ## Run all checks

lint:  ## Check style and formatting with ruff
	ruff check .
	ruff format --check .

types:  ## Check types with mypy
	mypy

imports:  ## Check the imports between modules with import-linter
	lint-imports

test:  ## Run the tests, without those that take minutes
	pytest

# The extra stays out of the active environment. Its own environment sees the packages of the active one through a
# .pth file, so that PyTorch is not installed a second time.
smp:  ## Run the tests of the extra `smp` in an environment of its own
	python -m venv $(SMP)
	python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(SMP)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/active.pth"
	$(SMP)/bin/python -m pip install -c constraints.txt -e ".[smp]"
	$(SMP)/bin/python -m pytest -m smp tests

# As for `smp`. The clusters of the tests listen on the loopback interface only.
ray:  ## Run the tests of the extra `ray` in an environment of its own
	python -m venv $(RAY)
	python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(RAY)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/active.pth"
	$(RAY)/bin/python -m pip install -c constraints.txt -e ".[ray]"
	$(RAY)/bin/python -m pytest -m ray tests/predicting tests/docs/test_commands.py
