"""Tests that a CPU's cores become devices before JAX starts, unless a number is given."""

import os
import subprocess
import sys

import pytest

from selfdistill_jax.train.mesh import cpu_devices

START = """
import jax
from selfdistill_jax.train import mesh
mesh.cores = lambda: 3
mesh.split_cpu_into_devices(6)
print(jax.device_count())
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 3),
        ({"JAX_NUM_CPU_DEVICES": "1"}, 1),
        ({"JAX_NUM_CPU_DEVICES": "5"}, 5),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, 2),
        ({"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}, 3),
    ],
)
def test_devices_of_a_process(given, expected):
    kept = {k: v for k, v in os.environ.items() if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    environment = kept | {"JAX_PLATFORMS": "cpu"} | given
    found = subprocess.check_output([sys.executable, "-c", START], env=environment, text=True)
    assert int(found) == expected


@pytest.mark.parametrize("triplets", [1, 7, 12, 64, 129])
@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
def test_devices_share_a_batch_equally(triplets, cores):
    count = cpu_devices(triplets, cores)
    assert triplets % count == 0
    assert 1 <= count <= min(cores, 4)
    assert not any(triplets % n == 0 for n in range(count + 1, min(cores, 4) + 1))
