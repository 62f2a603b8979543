"""How many devices JAX shall make of a CPU; to be settled before it starts."""

import os

import jax

from selfdistill_jax.retrieval.encode_corpus import cores

# Each holds parameters, moments and gradient of its own.
_MOST = 4


def split_cpu_into_devices(triplets: int) -> None:
    """Has a CPU's cores train as devices, each on its part of the batch.

    As one device they share the work of one operation after the other, and wait for each other at
    the end of each: two cores of Zen 3 take a step 1.2 times as fast as two devices. Nothing is
    done on other backends, nor where the number is given, by JAX_NUM_CPU_DEVICES or in XLA_FLAGS.

    Args:
      triplets: of a micro-batch; as many devices as can share it equally, of at most four.
    """
    given = jax.config.jax_num_cpu_devices != -1  # ty: ignore[missing-attribute]
    if not given and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", cpu_devices(triplets, cores()))


def cpu_devices(triplets: int, cores: int) -> int:
    """The most devices, up to four and the cores, that can share so many triplets equally.

    >>> cpu_devices(64, cores=2), cpu_devices(6, cores=16), cpu_devices(7, cores=4)
    (2, 3, 1)
    """
    return max(n for n in range(1, min(cores, _MOST) + 1) if triplets % n == 0)
