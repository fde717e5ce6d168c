# make demo: the main job, end to end. make test: the whole suite. make check: what a change must pass besides.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo
DATA := data

.PHONY: demo test test-slow check format clean

.venv/installed: pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

.venv/tested: .venv/installed
	$(BIN)/pip install --quiet --group test --group check
	touch $@

$(DATA)/%/manifest.json: | .venv/installed
	$(BIN)/mmcl data build $* --out $(@D)

demo: .venv/installed
	$(MAKE) --no-print-directory -j2 $(DATA)/glyphs/manifest.json $(DATA)/mnist5k/manifest.json
	rm -rf $(RUN) embeddings/demo
	$(BIN)/mmcl train glyphs/clip_tiny run=$(RUN)
	$(BIN)/mmcl embed $(RUN) --shards $(DATA)/glyphs/test --out embeddings/demo

# Two processes of one thread each: more threads of torch on two cores are slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: .venv/tested
	$(PYTEST) -m "not slow"

test-slow: .venv/tested
	$(PYTEST) -m slow

check: .venv/tested
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: .venv/tested
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv dist
