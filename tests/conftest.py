"""Test environment: eight virtual CPU devices, no hub, strict shapes."""

import os
from pathlib import Path

# Before jax or transformers is imported: without a network a hub name would hang for 46 s.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

# Programs that tests start find the package without its being installed.
os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
