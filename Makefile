# Each target works alone on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
STAMP := .venv/.installed

.PHONY: help demo test storm engines parity lab readme site clean .venv
help:  ## list the targets
	@grep -E '^[a-z.]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

.venv: $(STAMP)  ## make the virtual environment and install everything
$(STAMP): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "videop2r needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not found). Use make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	-$(BIN)/python -m pip install --quiet --no-deps --target .venv/torchvision torchvision==0.28.0  # for one test: the families' own video processors
	@touch $@

demo: $(STAMP)  ## run the whole pipeline in small; options in ARGS
	$(BIN)/videop2r demo $(ARGS)

test: $(STAMP)  ## notebooks, tests, generated files, and the demo's smoke preset
	OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 nbs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile
	$(BIN)/python scripts/unchanged.py
	out=$$(mktemp -d) && $(BIN)/videop2r demo --preset smoke --out "$$out/smoke" && rm -r "$$out"
	@echo "make test: notebooks, tests, generated files and the smoke demo passed"

storm: $(STAMP)  ## the long tests too: hundreds of damaged clips, kills at random moments
	VIDEOP2R_STORM=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

engines: $(STAMP)  ## hold a real vLLM on the CPU beside ours, in an environment of its own (3.5 GB)
	OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} OMP_NUM_THREADS=1 $(BIN)/python scripts/engines.py

parity: $(STAMP)  ## hold lmms-eval's own scoring beside ours, in an environment of its own (2.5 GB)
	OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} OMP_NUM_THREADS=1 $(BIN)/python scripts/parity.py

lab: $(STAMP)  ## open JupyterLab on the notebooks, trusted, with the command at hand
	$(BIN)/jupyter trust nbs/*.ipynb nbs/*/*.ipynb > /dev/null
	OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} PATH="$$PWD/$(BIN):$$PATH" $(BIN)/jupyter lab nbs/index.ipynb

readme: $(STAMP)  ## make README.md from nbs/index.ipynb
	$(BIN)/python scripts/readme.py

SITE := .venv/.site
$(SITE): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt sphinx myst-nb sphinx-book-theme sphinx-design latex2mathml
	@touch $@

site: $(SITE)  ## make build/site, all notebooks and the API as pages; a lost link fails
	$(BIN)/python scripts/site.py

clean:  ## remove the environment, runs and caches
	rm -rf .venv runs build dist *.egg-info .pytest_cache .hypothesis
