"""Opens the devices of TPU slices and GPUs that this machine does not have, to compile for them."""

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Generator, Sequence
from importlib.metadata import requires
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from selfdistill_jax.errors import InputError, nearest

_GIB = 2**30
# Chips of a TPU slice -> its usual shape. The names of v4 and v5p count cores, two a chip.
_FLAT = {
    1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"
}  # fmt: skip
_CUBES = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8",
    512: "8x8x8",
}  # fmt: skip
SHAPES = {"v5e": _FLAT, "v6e": _FLAT, "v4": _CUBES, "v5p": _CUBES, "tpu7x": _CUBES}
_ENVIRONMENT = {
    # libtpu would ask the network for the machine that it runs on.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Several processes may compile at once.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


class Chip(NamedTuple):
    """Holds the figures of a chip, as its maker states them.

    Attributes:
      flops: peak of bfloat16 operations per second.
      bandwidth: bytes per second to and from its memory.
      ring: bytes per second that it sends to the next chip of a ring, an estimate.
      memory: bytes of its memory.
      clock: cycles per second of the compiler's estimates; 0 for GPUs, for which it has none.
      kernels: cycles of the attention kernels, relative to v5e.
    """

    flops: float
    bandwidth: float
    ring: float
    memory: float
    clock: float = 0.0
    kernels: float = 1.0


_TPU_CHIPS = {
    "TPU v4": Chip(275e12, 1.23e12, 90e9, 32 * _GIB, 1.05e9, 0.75),
    "TPU v5 lite": Chip(197e12, 0.82e12, 90e9, 16 * _GIB, 1.5e9),
    "TPU v5": Chip(459e12, 2.77e12, 180e9, 95 * _GIB, 1.75e9, 0.54),
    "TPU v6 lite": Chip(918e12, 1.64e12, 180e9, 32 * _GIB, 1.75e9, 0.78),
}
# Bytes per second that a chip sends to another slice. This assumes 100 Gbit/s for a host of four.
SLICE_BANDWIDTH = 3e9

# The properties of a GPU that XLA needs to know, in the format of its `GpuTargetConfigProto`.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
GPUS = {"h100": (_H100, Chip(989e12, 3.35e12, 450e9, 84929347584))}
_GPUS_A_HOST = 8


class Machine(NamedTuple):
    """Holds the devices that a program is compiled for.

    Attributes:
      name: for messages.
      kind: JAX's name of its chips, such as "TPU v5 lite".
      devices: all devices.
      chips: number of chips; those of some TPUs have two devices.
      slices: number of TPU slices.
      chip: figures of a chip; None if they are not listed here.
    """

    name: str
    kind: str
    devices: Sequence[jax.Device]
    chips: int
    slices: int = 1
    chip: Chip | None = None

    @property
    def platform(self) -> str:
        """Returns the type of the devices: "tpu" or "gpu"."""
        return self.devices[0].platform

    @property
    def hosts(self) -> int:
        """Returns the number of hosts."""
        return len({device.process_index for device in self.devices})


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Hides what C++ libraries print on stderr while they are loaded."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def prepare() -> None:
    """Prepares this process to compile for other devices; call it before JAX is used."""
    os.environ.update(_ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    # A process without the device could write entries to JAX's cache, but not read them.
    jax.config.update("jax_enable_compilation_cache", val=False)


def open_tpu(name: str, *, slices: int = 1) -> Machine:
    """Opens the devices of a TPU slice, or several slices.

    Args:
      name: a kind and a shape, such as "v5e:2x4", or Google Cloud's name, such as "v5e-8".
      slices: number of slices, connected by the network of the data center.

    Raises:
      InputError: the name is unknown, or libtpu is not installed.
    """
    kind, shape = _shape_of(name)
    _find_compiler("libtpu", "tpu", "the TPU compiler", [_required("libtpu")])
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if shape == "1x1":
        options["chips_per_host_bounds"] = [1, 1, 1]
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # otherwise a chip is two devices
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{shape}", **options
        )
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--topology={name}: the TPU compiler does not know it: {reason}"
        ) from None
    devices: list[Any] = list(found.devices)
    # The devices of one chip have the same coordinates.
    places = {(getattr(device, "slice_index", 0), *device.coords) for device in devices}
    title = f"{kind}:{shape}" if slices == 1 else f"{slices} slices of {kind}:{shape}"
    kind = devices[0].device_kind
    return Machine(title, kind, devices, len(places), slices, _TPU_CHIPS.get(kind))


def open_gpus(name: str) -> Machine:
    """Opens GPUs.

    Args:
      name: a model and the number of GPUs, such as "h100:8"; a host has up to eight.

    Raises:
      InputError: the name is unknown, or the plugin for CUDA is not installed.
    """
    model, _, given = name.partition(":")
    if model not in GPUS:
        raise InputError(
            f"--gpu={name}: unknown GPU; expected one of {', '.join(GPUS)} and a number, such as "
            f"h100:8{nearest(model, GPUS)}"
        )
    count = int(given or 1) if (given or "1").isdecimal() else 0
    hosts = -(-count // _GPUS_A_HOST)
    if count < 1 or count % hosts:
        raise InputError(
            f"--gpu={name}: expected 1 to {_GPUS_A_HOST} GPUs, or a multiple of {_GPUS_A_HOST}"
        )
    plugin = _required("jax-cuda12-plugin")
    packages = [plugin, plugin.replace("plugin", "pjrt"), "nvidia-cuda-nvcc-cu12"]
    _find_compiler("jax_cuda12_plugin", "gpu", "JAX's plugin for CUDA", packages)
    target, chip = GPUS[model]
    with _quiet():  # the plugin reports that this machine has no GPU
        found = topologies.get_topology_desc(
            platform="cuda", target_config=target, topology=f"1x{hosts}x{count // hosts}"
        )
    devices = list(found.devices)
    return Machine(f"{count} × {model.upper()}", devices[0].device_kind, devices, count, 1, chip)


def _shape_of(name: str) -> tuple[str, str]:
    """Returns the kind and the shape of a slice.

    >>> _shape_of("v5e-8"), _shape_of("v5p-8"), _shape_of("v6e:4x4")
    (('v5e', '2x4'), ('v5p', '2x2x1'), ('v6e', '4x4'))
    """
    found = re.fullmatch(r"(\w+?)(?::(\d+(?:x\d+)+)|-(\d+))", name)
    kind = found[1] if found else re.split(r"[:-]", name)[0]
    if kind not in SHAPES:
        raise InputError(
            f"--topology={name}: unknown kind; expected one of {', '.join(SHAPES)} and a shape or "
            f"size, such as v5e:2x4 or v5e-8{nearest(kind, SHAPES)}"
        )
    if found and found[2]:
        return kind, found[2]
    cores = 2 if kind in ("v4", "v5p") else 1
    sizes = {chips * cores: shape for chips, shape in SHAPES[kind].items()}
    if not found or int(found[3]) not in sizes:
        known = ", ".join(f"{kind}-{size}" for size in sizes)
        raise InputError(f"--topology={name}: expected one of {known}, or a shape, such as v5e:2x4")
    return kind, sizes[int(found[3])]


def _required(package: str) -> str:
    """Returns a requirement for pip: a package in the version that the installed JAX needs."""
    found = (re.match(rf"({package}(?:\[.*?\])?)([^;]*)", line) for line in requires("jax") or ())
    versions = [match[2].strip() for match in found if match]
    return package + (versions[0] if versions else "")


def _find_compiler(module: str, folder: str, title: str, packages: Sequence[str]) -> None:
    """Makes a compiler importable.

    Args:
      module: the module to import.
      folder: subfolder of the environment where it is, if it is not installed in the environment.
      title: its name in the error message.
      packages: requirements for pip that install it.

    Raises:
      InputError: it is not installed.
    """
    path = Path(sys.prefix) / folder
    if importlib.util.find_spec(module) is not None:
        return
    if not (path / module).is_dir():
        quoted = " ".join(f"'{package}'" for package in packages)
        raise InputError(
            f"this needs {title} (Linux x86-64); install it with: {sys.executable} -m pip install "
            f"--no-deps --target {path} {quoted} (in a checkout: make {folder})"
        )
    sys.path.append(str(path))
