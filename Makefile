# The two commands are `make course` and `make test`. What they do is Python; this file finds Python and calls it.
PROFILE ?= standard
SEED    ?= 0
VENV    ?= .venv

# The first interpreter that runs, is new enough and can make environments (a name alone proves nothing).
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
RUN := $(VENV)/bin/python

# Threads that wait must sleep, or lessons crawl on a busy machine. Read when OpenMP starts, so it is set here.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help course test lab app notebooks book browser benchmarks clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  options: PROFILE=quick|standard|full  SEED=0  PYTHON=python3.12  VENV=.venv"

course: $(VENV)/complete ## run every lesson; pages and tables go to output/ (PROFILE=quick for a first look)
	@$(RUN) -m course_lib.lessons.course --profile $(PROFILE) --seed $(SEED)

test: $(VENV)/complete ## everything that CI runs
	@$(RUN) tests/run_all.py

lab: $(VENV)/complete ## open JupyterLab in notebooks/
	@$(RUN) -m jupyter lab notebooks

app: $(VENV)/complete ## the threshold explorer as a page, for a lecture hall; prints its address
	@$(RUN) -m course_lib.app

notebooks: $(VENV)/complete ## build changed lessons from their sources (FORCE=1: all of them)
	@$(RUN) -m course_lib.lessons.build $(if $(FORCE),--force)

book: $(VENV)/complete ## all lessons as one site to read without Python: output/book/index.html
	@$(RUN) -m course_lib.lessons.book

browser: $(VENV)/complete ## drive the explorers in a real browser (needs Chromium); screenshots in output/browser/
	@$(RUN) -c "import playwright" 2>/dev/null || $(RUN) -m pip install --quiet -c constraints.txt -e ".[browser]"
	@$(RUN) -m pytest -p no:cacheprovider -s tests/browser

benchmarks: $(VENV)/complete ## speed, beside reference implementations
	@for script in tests/benchmarks/[a-z]*.py; do echo "== $$script"; $(RUN) $$script || exit 1; done

clean: ## remove the environment and the caches (your data/ and output/ stay)
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/complete: pyproject.toml constraints.txt course_lib/lessons/environment.py
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv was found. Install one (on Debian and Ubuntu also" \
		"python3-venv), or name it: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) course_lib/lessons/environment.py $(VENV)
