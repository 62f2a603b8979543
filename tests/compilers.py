"""Marks for tests that need a compiler for devices that this machine does not have."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _needs(module: str, folder: str, name: str) -> pytest.MarkDecorator:
    """Returns a mark that skips a test if a compiler is neither installed nor in make's folder."""
    found = (Path(sys.prefix) / folder / module).is_dir() or importlib.util.find_spec(module)
    reason = f"{name} is not installed (make {folder}; Linux x86-64 only)"
    return pytest.mark.skipif(not found, reason=reason)


needs_libtpu = _needs("libtpu", "tpu", "libtpu")
needs_cuda = _needs("jax_cuda12_plugin", "gpu", "JAX's plugin for CUDA")
