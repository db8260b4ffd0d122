# Python 3.10 or newer is all this needs; the first target builds the environment, once.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test lint types unit slow long smoke clean

demo: $(VENV)/installed
	@mkdir -p demo
	@$(VENV)/bin/talkingface generate examples/portrait.jpg examples/speech.wav \
		-o demo/talking.mp4 --sheet demo/sheet.png --overwrite
	@$(VENV)/bin/talkingface generate examples/man.jpg examples/man.wav -o demo/man.mp4 --overwrite
	@echo "the talking videos: $(CURDIR)/demo/talking.mp4 and $(CURDIR)/demo/man.mp4"
	@echo "frames of the first: $(CURDIR)/demo/sheet.png"

test: lint types unit

lint: $(VENV)/developing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/developing
	$(VENV)/bin/mypy

# One thread for each process: small tensors, and a process for each of two cores.
TESTS := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

unit: $(VENV)/developing
	$(TESTS) -m "not slow and not long"

slow: $(VENV)/developing
	$(TESTS) -m slow

# Attacks on a server, and commands that are killed: not in CI, for they take minutes.
long: $(VENV)/developing
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m long

# The wheel and the sdist, each installed into an empty environment, make a video.
smoke: $(VENV)/developing
	tools/smoke_test.sh $(VENV)/bin/python

# Debian keeps `venv` in a package of its own; without it this says so and leaves nothing half made.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is older than 3.10: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: no venv module: apt-get install python3-venv" >&2; exit 2; }

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[serve]'
	@touch $@

$(VENV)/developing: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo .mypy_cache .pytest_cache .ruff_cache
