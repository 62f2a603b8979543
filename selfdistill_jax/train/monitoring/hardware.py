"""Measures the machine: the process's age and memory, the rate of matrix products, the energy.

A figure that the machine does not report is None: missing statistics are no reason to fail a run.
"""

import contextlib
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from selfdistill_jax.encoder.precision import precision
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import write_json
from selfdistill_jax.json_file import read_json

_IMPORTED = time.monotonic()
_POWERCAP = Path("/sys/class/powercap")

# Shapes [m, k] x [k, n]: an encoder's where they fill the machine, else larger ones. Several, since
# no single shape is the fastest on every machine.
_SHAPES = {
    "cpu": ((2048, 384, 1536), (2048, 768, 3072), (2048, 3072, 768)),
    "other": ((8192, 1024, 4096), (8192, 4096, 1024), (8192, 4096, 4096)),
}
# Consecutive products per reading: on an accelerator a launch overlaps with the previous product.
_AT_ONCE = {"cpu": 1, "other": 4}
# Types that `fastest_dtype` chooses from, and how much faster the second must be: a CPU without
# 16-bit units converts bfloat16 to float32 and computes with that.
_NAMES, _FASTER = ("float32", "bfloat16"), 1.2


def process_seconds(stat: Path = Path("/proc/self/stat")) -> float:
    """Returns the seconds since this process was started, imports included.

    On systems other than Linux, returns the seconds since this module was imported.

    Args:
      stat: the kernel's status line of the process.
    """
    try:
        # The second field is the program's name, which may contain blanks and brackets.
        fields = stat.read_text().rpartition(")")[2].split()
        started = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, IndexError, ValueError):
        return time.monotonic() - _IMPORTED


def host_peak_gb(status: Path = Path("/proc/self/status")) -> float:
    """Returns this process's peak memory in GB (10⁹ bytes).

    Args:
      status: the kernel's status page of the process. It is read first, since `getrusage` starts
        from the peak of the parent process.
    """
    try:
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.M):
            return int(found[1]) * 1024 / 1e9
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def device_peak_gb() -> float | None:
    """Returns the peak memory of this process's fullest device in GB (10⁹ bytes).

    Returns None where the backend does not count: on CPUs, and on GPUs without jax's own allocator.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(peaks) / 1e9 if peaks else None


def matmul_rate(dtype: jnp.dtype, *, seconds: float = 0.3) -> float:
    """Returns the FLOP/s of this process's devices in a matrix product, the base of utilization.

    The rate is measured, as no table has that of a CPU or a shared machine. It is the best reading
    over a few shapes, with operands of ``dtype``, sums in float32 and results in ``dtype``, as in
    the encoder. All devices multiply at once: a CPU's devices share its cores, and one device alone
    does not use them fully. On a machine that others use too, it is the rate that they leave.

    Args:
      dtype: type of the operands, that of training.
      seconds: approximate time to measure; compiling and creating operands come on top.
    """
    devices = jax.local_devices()
    kind = "cpu" if devices[0].platform == "cpu" else "other"
    shapes, at_once = _SHAPES[kind], _AT_ONCE[kind]
    return max(_rate(*shape, dtype, devices, at_once, seconds / len(shapes)) for shape in shapes)


def fastest_dtype(cache: Path) -> str:
    """Returns "bfloat16" if this machine multiplies it faster than float32, else "float32".

    Args:
      cache: folder that stores the answer for the next start, by kind of machine.
    """
    path, key = cache / "dtypes.json", f"{_machine()}, jax {jax.__version__}"
    try:
        known = read_json(path)
    except InputError:  # not there yet, or damaged
        known = {}
    if known.get(key) not in _NAMES:
        rates = [matmul_rate(jnp.dtype(name), seconds=0.1) for name in _NAMES]
        known |= {key: _NAMES[int(rates[1] > _FASTER * rates[0])]}
        with contextlib.suppress(OSError):  # else the next start measures again
            cache.mkdir(parents=True, exist_ok=True)
            write_json(path, known)
    return known[key]


def _machine() -> str:
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.platform}: {device.device_kind}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        units = [flag for flag in fields.get("flags", "").split() if "bf16" in flag]
        name = " ".join([fields.get("model name", name), *units])
    return f"cpu: {name}"


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    dims = (((1,), (0,)), ((), ()))
    how = {"precision": precision(a.dtype), "preferred_element_type": jnp.float32}
    return lax.dot_general(a, b, dims, **how).astype(a.dtype)


def _rate(
    m: int, k: int, n: int, dtype: jnp.dtype, devices: list, at_once: int, seconds: float
) -> float:
    """Returns the FLOP/s of ``[m, k] x [k, n]``, the best of at least two readings."""
    numbers = np.random.default_rng(0)  # equal numbers draw less power: too fast a rate
    a, b = (
        jnp.asarray(numbers.random(shape, np.float32) - 0.5, dtype) for shape in ((m, k), (k, n))
    )
    operands = [jax.device_put((a, b), device) for device in devices]
    multiply = jax.jit(_product)
    jax.block_until_ready([multiply(*each) for each in operands])
    best, left, readings = float("inf"), seconds, 0
    while left > 0 or readings < 2:
        begin = time.perf_counter()
        for _ in range(at_once):
            c = [multiply(*each) for each in operands]
        jax.block_until_ready(c)
        taken = time.perf_counter() - begin
        best, left, readings = min(best, taken), left - taken, readings + 1
    return len(devices) * at_once * 2 * m * k * n / best


class Energy:
    """Counts joules since construction, by the machine's own counters.

    The source is NVML if that counts: all NVIDIA GPUs of the machine, including other users' work,
    and nothing else (package ``nvidia-ml-py``). Otherwise it is RAPL: the machine's processor
    packages, without their DRAM where that is counted separately. Counters without read permission
    are treated as missing; since Linux 5.10 only root may read those of RAPL.

    A RAPL counter wraps around after ``max_energy_range_uj`` (a quarter of an hour at 290 W if that
    is 2.6e11), and a second wrap between two readings goes unnoticed. Therefore call `joules`
    regularly in a long run, such as at every row of a log.

    Args:
      root: folder where Linux shows RAPL.

    Attributes:
      source: "NVML", "RAPL", or None.
    """

    def __init__(self, root: Path = _POWERCAP):
        self.source: str | None = None
        self._joules = 0.0
        self._counters: Sequence[_Counter] = ()
        for source, find in (("NVML", _nvml), ("RAPL", lambda: _rapl(root))):
            try:
                self._counters = find()
            except _UNREADABLE:
                continue
            if self._counters:
                self.source = source
                break

    def joules(self) -> float | None:
        """Returns the joules of all counters; None without any, and after any failed reading."""
        if self.source is None:
            return None
        try:
            self._joules += sum(counter.more() for counter in self._counters)
        except _UNREADABLE:
            self.source = None
            return None
        return self._joules


_UNREADABLE = (OSError, ValueError)  # ValueError: a file without a number


class _Counter:
    """Reads a counter: ``read`` returns joules or raises OSError, and wraps around at ``span``."""

    def __init__(self, read: Callable[[], float], span: float):
        self._read, self._span = read, span
        self._last = read()

    def more(self) -> float:
        """Returns the joules since the last call, or since construction."""
        now = self._read()
        more, self._last = now - self._last, now
        return more if more >= 0 else more + self._span


def _nvml() -> list[_Counter]:
    try:
        import pynvml  # ty: ignore[import-not-found]
    except ImportError:
        return []

    def counter(index: int) -> _Counter:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)

        def read() -> float:
            try:
                return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            except pynvml.NVMLError as error:
                raise OSError(f"NVML, GPU {index}: {error}") from error

        return _Counter(read, span=0.0)  # 64 bits of mJ never wrap around

    try:
        pynvml.nvmlInit()
        return [counter(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []  # no driver


def _rapl(root: Path) -> list[_Counter]:
    """Returns a counter per processor package; none if any is unreadable: a part would mislead.

    Other zones are left out: those below a package (two colons) are its parts or its DRAM, and
    the top-level zone ``psys`` contains all packages.
    """
    counters: dict[str, _Counter | None] = {}
    for zone in sorted(root.glob("*rapl*:*")):
        if zone.name.count(":") > 1 or not (zone / "name").is_file():
            continue
        name = (zone / "name").read_text().strip()
        # A package may appear twice, by its registers and by its memory-mapped registers.
        if not name.startswith("package") or counters.get(name):
            continue
        try:
            span = _microjoules(zone / "max_energy_range_uj")
            counters[name] = _Counter(lambda path=zone / "energy_uj": _microjoules(path), span)
        except _UNREADABLE:
            counters[name] = None
    found = [counter for counter in counters.values() if counter]
    return found if len(found) == len(counters) else []


def _microjoules(path: Path) -> float:
    """Returns the joules in a file of microjoules."""
    return int(path.read_text()) / 1e6
