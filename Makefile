# `make help` lists the targets. Everything runs inside .venv, which the first target that needs it creates.
PYTHON ?= python3.11
SAMPLE_ROWS ?= 100000
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install example repro sample test test-slow lint docs check format

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[dev,docs]'
	touch $@

# The page that `dvc plots` fills, with its drawing library inside, so that it needs no network.
.dvc/plots/page.html: .venv/installed qin/experiments/plots_page.py
	python -m qin.experiments.plots_page

install: .venv/installed .dvc/plots/page.html ## create .venv with the tested versions, and the page for dvc plots

sample: install ## generate the sample log into data/ where no log is there (SAMPLE_ROWS=100000)
	@test -e data/train.parquet || { python -m qin.sample --rows $(SAMPLE_ROWS) --seed 0 --out data && \
		dvc add --quiet data/train.parquet data/test.parquet data/sample_submission.csv; }

example: install ## put an example's settings into params.yaml and run it on your files in data/ (NAME=kuairand or kuairand/liked)
	@test -n "$(NAME)" || { echo "usage: make example NAME=kuairand"; exit 1; }
	qin overlay $(sort examples/$(firstword $(subst /, ,$(NAME)))/params.yaml) $(if $(findstring /,$(NAME)),examples/$(NAME).yaml)
	dvc repro

repro: sample ## install, generate the sample log if data/ has none, run the pipeline
	dvc repro

test: install ## install, run the fast tests
	python -m pytest -n auto --dist loadfile

test-slow: install ## run the tests that take minutes
	python -m pytest -m 'slow and not gpu and not scale'

lint: install ## formatter, linter, types, import layers
	ruff format --check .
	ruff check .
	mypy
	lint-imports

docs: install ## build the documentation into site/, links checked, without a network
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

check: lint test docs ## lint, the fast tests, the documentation

format: install ## apply the formatter and the linter's fixes
	ruff format .
	ruff check --fix .
