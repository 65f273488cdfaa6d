# make demo: install into .venv and run the embedded workload, from raw rows to a report.
# make test: install, lint, run the tests.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
INSTALLED := $(VENV)/installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo setup lint test bench pull clean

demo: setup
	snakemake --cores all
	@echo
	@echo reports/fable/index.html
	@cat reports/fable/summary.txt

setup: $(INSTALLED)

# torch comes first and by itself: where pip is given a folder of CPU builds, that line takes one.
$(INSTALLED): requirements.txt requirements.lock
	$(PYTHON) -m venv $(VENV)
	pip install --quiet torch==2.13.0
	pip install --quiet --requirement requirements.txt --constraint requirements.lock
	touch $@

lint: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint

test: lint
	pytest

# Needs training rows and checkpoints of the demo.
bench: setup
	snakemake --cores all results/fable/data/problems/bucket/train.jsonl results/fable/data/lessons/bucket/train.jsonl results/fable/reinforcement/grpo/manifest.json foundation
	python -m benches.sft_throughput
	python -m benches.clean
	python -m benches.detection
	python -m benches.adapters
	python -m benches.merge
	python -m benches.geometry
	python -m benches.rl
	python -m benches.opd

# What another clone has pushed, checked against dvc.lock.
pull: setup
	dvc pull
	dvc status --quiet
	snakemake --dry-run

# Everything made but the environment, the committed reports and what DVC has stored.
clean:
	rm -rf results work logs benchmarks slurm_logs dvc_plots .snakemake
	find reports -mindepth 1 -maxdepth 1 ! -name 'fable_*' -exec rm -rf {} + 2>/dev/null || true
