"""What a machine says of itself, with machines made of files and of stand-ins for jax's devices."""

import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.train.monitoring import hardware
from selfdistill_jax.train.monitoring.hardware import (
    Energy,
    device_peak_gb,
    host_peak_gb,
    matmul_rate,
    process_seconds,
)

IMPORTED = time.monotonic()
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's files")


@linux
def test_age_of_the_process_from_the_kernels_line(tmp_path, monkeypatch):
    """The name of a program may look like the fields behind it."""
    stat = tmp_path / "stat"
    ticks = 90 * os.sysconf("SC_CLK_TCK")
    fields = ["S", *map(str, range(4, 22)), str(ticks), "23", "24"]
    stat.write_text(f"17 (a) b (c)) {' '.join(fields)}\n")
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 100.5}.get)
    assert process_seconds(stat) == 10.5


@linux
def test_age_of_this_process_includes_what_went_before():
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert process_seconds() >= time.monotonic() - IMPORTED - tick
    assert process_seconds() <= time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize("content", [None, "", "17 (a) S 1"])
def test_age_elsewhere_is_that_of_the_module(tmp_path, monkeypatch, content):
    stat = tmp_path / "stat"
    if content is not None:
        stat.write_text(content)
    monkeypatch.setattr(hardware, "_IMPORTED", 5.0)
    monkeypatch.setattr(time, "monotonic", lambda: 12.0)
    assert process_seconds(stat) == 7.0


def test_host_peak_is_of_this_process_alone(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmPeak:\t 9000 kB\nVmHWM:\t    2000000 kB\nVmRSS:\t 10 kB\n")
    assert host_peak_gb(status) == 2.048


@pytest.mark.parametrize("content", [None, "Name:\tx\n"])
def test_host_peak_without_the_kernels_page(tmp_path, monkeypatch, content):
    status = tmp_path / "status"
    if content is not None:
        status.write_text(content)
    used = SimpleNamespace(ru_maxrss=3_000_000)
    monkeypatch.setattr(hardware.resource, "getrusage", lambda who: used)
    monkeypatch.setattr(sys, "platform", "linux")
    assert host_peak_gb(status) == 3.072
    monkeypatch.setattr(sys, "platform", "darwin")  # counts bytes
    assert host_peak_gb(status) == 0.003


def test_host_peak_holds_what_was_held():
    held = np.ones(25_000_000)
    assert host_peak_gb() >= held.nbytes / 1e9


def devices(monkeypatch, *stats, platform="gpu"):
    made = [SimpleNamespace(platform=platform, memory_stats=lambda s=s: s) for s in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: made)


def test_device_peak_is_of_the_fullest(monkeypatch):
    devices(monkeypatch, {"peak_bytes_in_use": 10**9}, None, {"peak_bytes_in_use": 3 * 10**9})
    assert device_peak_gb() == 3.0


def test_device_peak_where_nobody_counts(monkeypatch):
    assert device_peak_gb() is None  # the CPU
    devices(monkeypatch, {"bytes_in_use": 5}, None)
    assert device_peak_gb() is None


@pytest.fixture
def clock(monkeypatch):
    """A second goes by from one look to the next."""
    looks = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(looks)))
    monkeypatch.setattr(
        hardware, "_SHAPES", {"cpu": ((8, 4, 2), (16, 4, 2)), "other": ((32, 4, 2),)}
    )
    return looks


def test_rate_is_the_best_shapes_operations_by_seconds(clock):
    assert matmul_rate(jnp.bfloat16, seconds=10) == jax.device_count() * 2 * 16 * 4 * 2
    assert next(clock) == 2 * 5 * 2  # two looks a reading, five seconds a shape, two shapes


def test_rate_is_read_twice_however_little_time_there_is(clock):
    matmul_rate(jnp.float32, seconds=0)
    assert next(clock) == 2 * 2 * 2


@pytest.mark.parametrize("count", [1, 3])
def test_rate_is_of_all_devices_at_once(clock, monkeypatch, count):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:count])
    monkeypatch.setitem(hardware._AT_ONCE, "cpu", 4)
    assert matmul_rate(jnp.float32) == count * 4 * 2 * 16 * 4 * 2


def test_rate_is_of_the_best_reading(monkeypatch):
    monkeypatch.setattr(hardware, "_SHAPES", {"cpu": ((8, 4, 2),)})
    looks = iter([0.0, 4.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(looks))
    assert matmul_rate(jnp.float32, seconds=15) == jax.device_count() * 2 * 8 * 4 * 2 / 2.0


def test_product_is_the_encoders():
    """Operands in the given type, sums in float32."""
    made = jax.make_jaxpr(hardware._product)(
        jnp.ones((8, 4), jnp.bfloat16), jnp.ones((4, 2), jnp.bfloat16)
    )
    (product,) = [e for e in made.eqns if e.primitive.name == "dot_general"]
    assert {v.aval.dtype for v in product.invars} == {jnp.dtype(jnp.bfloat16)}
    assert product.outvars[0].aval.dtype == jnp.float32
    assert made.out_avals[0].dtype == jnp.bfloat16


@pytest.fixture
def no_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError


def zone(root, folder, name, energy, span=1000):
    """A RAPL zone; microjoules."""
    path = root / folder
    path.mkdir(exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    (path / "max_energy_range_uj").write_text(f"{span}\n")
    return path


@pytest.mark.usefixtures("no_nvml")
def test_energy_counts_from_its_construction_and_wraps(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 900)
    zone(tmp_path, "intel-rapl:1", "package-1", 10)
    energy = Energy(tmp_path)
    assert energy.source == "RAPL"
    assert energy.joules() == 0
    zone(tmp_path, "intel-rapl:0", "package-0", 950)
    assert energy.joules() == pytest.approx(50e-6)
    zone(tmp_path, "intel-rapl:0", "package-0", 30)  # 1000 is where it begins anew
    zone(tmp_path, "intel-rapl:1", "package-1", 15)
    assert energy.joules() == pytest.approx((50 + 80 + 5) * 1e-6)
    zone(tmp_path, "intel-rapl:0", "package-0", 10)  # once more around
    assert energy.joules() == pytest.approx((135 + 980) * 1e-6)


@pytest.mark.usefixtures("no_nvml")
def test_no_joule_is_counted_twice(tmp_path):
    """Parts of a package, the zone that holds all, and the same package by other registers."""
    zones = {
        "intel-rapl": "no zone",
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "package-0-die",
        "intel-rapl:1": "psys",
        "intel-rapl-mmio:0": "package-0",
        "thermal:0": "package-9",
    }
    for folder, name in zones.items():
        zone(tmp_path, folder, name, 100)
    energy = Energy(tmp_path)
    for folder, name in zones.items():
        zone(tmp_path, folder, name, 107)
    assert energy.joules() == pytest.approx(7e-6)


@pytest.fixture
def locked(monkeypatch):
    """Files that may not be read, also by root, who may read whatever the mode says."""
    paths = set()
    read_text = Path.read_text

    def read(path, *args, **kwargs):
        if path in paths:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read)
    return paths


@pytest.mark.usefixtures("no_nvml")
def test_energy_that_may_not_be_read_is_not_there(tmp_path, locked):
    locked.add(zone(tmp_path, "intel-rapl:0", "package-0", 100) / "energy_uj")
    energy = Energy(tmp_path)
    assert (energy.source, energy.joules()) == (None, None)
    zone(tmp_path, "intel-rapl:1", "package-1", 100)  # half of a machine is no figure of it
    assert Energy(tmp_path).source is None
    other = zone(tmp_path, "intel-rapl-mmio:0", "package-0", 100)  # package 0 by another way
    assert Energy(tmp_path).source == "RAPL"
    locked.clear()
    locked.add(other / "energy_uj")
    assert Energy(tmp_path).source == "RAPL"


@pytest.mark.usefixtures("no_nvml")
@pytest.mark.parametrize("content", ["", "unknown\n"])
def test_energy_that_is_no_number_is_not_there(tmp_path, content):
    (zone(tmp_path, "intel-rapl:0", "package-0", 100) / "energy_uj").write_text(content)
    assert Energy(tmp_path).source is None


@pytest.mark.usefixtures("no_nvml")
def test_energy_that_stops_being_read_is_gone_for_good(tmp_path, locked):
    path = zone(tmp_path, "intel-rapl:0", "package-0", 100) / "energy_uj"
    energy = Energy(tmp_path)
    locked.add(path)
    assert (energy.joules(), energy.source) == (None, None)
    locked.clear()  # joules went by unseen
    assert energy.joules() is None


@pytest.mark.usefixtures("no_nvml")
def test_energy_of_a_machine_without_counters(tmp_path):
    for root in (tmp_path, tmp_path / "nowhere"):
        energy = Energy(root)
        assert (energy.source, energy.joules()) == (None, None)


class NVMLError(Exception):
    pass


@pytest.fixture
def gpus(monkeypatch):
    """Millijoules of each GPU, or the error of asking for them."""
    counted = []

    def total(handle):
        if isinstance(counted[handle], Exception):
            raise counted[handle]
        return counted[handle]

    fake = ModuleType("pynvml")
    fake.NVMLError = NVMLError
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetCount = lambda: len(counted)
    fake.nvmlDeviceGetHandleByIndex = lambda index: index
    fake.nvmlDeviceGetTotalEnergyConsumption = total
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return counted


def test_energy_of_all_gpus(tmp_path, gpus):
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    gpus[:] = [5_000, 7_000_000]
    energy = Energy(tmp_path)
    assert energy.source == "NVML"
    gpus[:] = [6_500, 7_002_000]
    assert energy.joules() == pytest.approx(3.5)


@pytest.mark.parametrize("why", ["no driver", "no GPU", "a GPU that does not count"])
def test_energy_of_processors_where_gpus_do_not_tell(tmp_path, gpus, monkeypatch, why):
    def no_driver():
        raise NVMLError("Driver Not Loaded")

    if why == "no driver":
        monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", no_driver)
    if why == "a GPU that does not count":
        gpus[:] = [5_000, NVMLError("Not Supported")]
    assert Energy(tmp_path).source is None
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    assert Energy(tmp_path).source == "RAPL"


def test_energy_of_a_gpu_that_is_lost(tmp_path, gpus):
    gpus[:] = [5_000]
    energy = Energy(tmp_path)
    gpus[:] = [NVMLError("GPU is lost")]
    assert (energy.joules(), energy.source) == (None, None)


def test_the_faster_type_is_measured_once(tmp_path, monkeypatch):
    rates = {jnp.float32: 1e9, jnp.bfloat16: 1.5e9}
    asked = []

    def rate(dtype, *, seconds):
        asked.append(dtype)
        return rates[dtype.type]

    monkeypatch.setattr(hardware, "matmul_rate", rate)
    assert hardware.fastest_dtype(tmp_path / "cache") == "bfloat16"
    rates[jnp.bfloat16] = 1.1e9  # no faster than what converting it costs
    assert hardware.fastest_dtype(tmp_path / "cache") == "bfloat16"
    assert len(asked) == 2
    assert hardware.fastest_dtype(tmp_path / "other") == "float32"
    monkeypatch.setattr(hardware, "_machine", lambda: "another")
    assert hardware.fastest_dtype(tmp_path / "cache") == "float32"
    (tmp_path / "cache" / "dtypes.json").write_text("{")
    assert hardware.fastest_dtype(tmp_path / "cache") == "float32"
    (tmp_path / "file").write_text("")  # a cache that cannot be written
    assert hardware.fastest_dtype(tmp_path / "file") == "float32"
