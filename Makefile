# make install | make demo | make test: each works on a fresh machine with Python >= 3.11.
# The first Python on the path that runs and is new enough (a pyenv shim may exist and not run).
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo-out
DATA ?= ../shared/data
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

.PHONY: install demo test fast check evidence evidence-pretraining tiny-encoders clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "auscult needs Python >= 3.11 on the path, or PYTHON=/path/to/it." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[demo,test]'
	touch $@

demo: install
	$(BIN)/auscult demo --out $(DEMO)

test: check
	$(BIN)/python -m pytest

fast: install
	$(BIN)/python -m pytest -m 'not slow'

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/typecheck.py

evidence: install
	tools/evidence.sh $(DATA)
	tools/evidence_tasks.sh $(DATA)

tiny-encoders: install
	tools/tiny_encoders.sh $(DATA)

evidence-pretraining: tiny-encoders
	tools/evidence_pretraining.sh $(DATA)

clean:
	rm -rf $(VENV) .links $(DEMO) evidence-out build dist *.egg-info
