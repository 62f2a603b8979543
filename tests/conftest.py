"""Test environment: eight virtual CPU devices, no hub, strict shapes."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Before jax or transformers is imported: without a network a hub name would hang for 46 s.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

# Programs that tests start find the package without its being installed.
os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)

# What is compiled here runs for milliseconds: half of all tests' time went into optimising it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# A training step takes seconds to compile and is the same in many tests; of this session only.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="selfdistill_jax-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest

atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A collection and an encoder small enough to train in a second: `tests.tiny.Tiny`."""
    from tests.tiny import Tiny

    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def finished(tiny):
    """The folder of a run with tiny's own settings, from start to end; not to be changed."""
    from selfdistill_jax.train.loop import train

    workdir = tiny.root / "finished"
    assert train(tiny.config(), workdir) is not None
    return workdir
