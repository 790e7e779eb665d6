# make study: the environment, then every notebook of the demo profile (DATA=DIR for real images; JOBS=2 notebooks at once)
# make test:  the environment, then the tests
# make test-quick: the tests of seconds; make test-walk: those that run all notebooks; make test-walks: also every cell
#                  twice, and JupyterLab in a browser
# make bench: glide-mini, then GLIDE at full size beside openai/glide-text2im, a copy of it in GLIDE_TEXT2IM
# make release-check: what must hold before a release, the demo made once more last (SKIP_VERIFY=1 leaves that out)
PYTHON ?= python3.11
PROFILE ?= demo
DATA ?=
JOBS ?= 2
VENV := .venv
STAMP := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

unexport PYTHONDONTWRITEBYTECODE  # without bytecode every kernel compiles half a million lines anew

.PHONY: study test test-quick test-walk test-walks bench lint release-check clean
.DELETE_ON_ERROR:

study: $(STAMP)
	$(VENV)/bin/dermstudy run $(PROFILE) --jobs $(JOBS) $(if $(DATA),--data "$(DATA)")

test: $(STAMP)
	$(PYTEST) -m "not walk"

test-quick: $(STAMP)
	$(PYTEST) -m "not walk and not slow"

test-walk: $(STAMP)
	$(PYTEST) -m walk tests/test_study.py

test-walks: $(STAMP)
	$(PYTEST) -m walk

bench: $(STAMP)
	$(VENV)/bin/python -m dermstudy.maintenance.mini_speed
	$(VENV)/bin/python -m dermstudy.maintenance.glide_speed

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/nbstripout --verify --keep-id notebooks/*.ipynb

release-check: $(STAMP)
	$(VENV)/bin/python -m dermstudy.maintenance.release_check $(if $(SKIP_VERIFY),--skip-verify)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "dermstudy needs Python 3.11: install it, or name it with make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $(STAMP)

clean:
	rm -rf $(VENV) results/smoke results/*-data results/*-lab results/*/artifacts
