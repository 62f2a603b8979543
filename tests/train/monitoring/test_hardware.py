"""Tests that the machine's figures are right, or None where it does not report them."""

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
from selfdistill_jax.train.monitoring.hardware import Energy, matmul_rate, process_seconds

IMPORTED = time.monotonic()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's files")
def test_age_of_the_process_is_read_from_the_kernel(tmp_path, monkeypatch):
    assert process_seconds() >= time.monotonic() - IMPORTED - 1 / os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"
    fields = ["S", *map(str, range(4, 22)), str(90 * os.sysconf("SC_CLK_TCK")), "23", "24"]
    stat.write_text(f"17 (a) b (c)) {' '.join(fields)}\n")  # a program named "a) b (c)"
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 100.5}.get)
    assert process_seconds(stat) == 10.5
    # Without a valid line, the age counts from the import of the module.
    monkeypatch.setattr(hardware, "_IMPORTED", 5.0)
    monkeypatch.setattr(time, "monotonic", lambda: 12.0)
    stat.write_text("17 (a) S 1")
    assert process_seconds(stat) == process_seconds(tmp_path / "none") == 7.0


def test_peak_of_memory_is_the_kernels_or_the_fullest_devices(tmp_path, monkeypatch):
    held = np.ones(25_000_000)
    assert hardware.host_peak_gb() >= held.nbytes / 1e9
    status = tmp_path / "status"
    status.write_text("VmPeak:\t 9000 kB\nVmHWM:\t    2000000 kB\nVmRSS:\t 10 kB\n")
    assert hardware.host_peak_gb(status) == 2.048
    used = SimpleNamespace(ru_maxrss=3_000_000)
    monkeypatch.setattr(hardware.resource, "getrusage", lambda who: used)
    for system, expected in (("linux", 3.072), ("darwin", 0.003)):  # macOS counts bytes
        monkeypatch.setattr(sys, "platform", system)
        assert hardware.host_peak_gb(tmp_path / "none") == expected

    assert hardware.device_peak_gb() is None  # CPU devices do not report it
    stats = [{"peak_bytes_in_use": 10**9}, None, {"peak_bytes_in_use": 3 * 10**9}]
    devices = [SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert hardware.device_peak_gb() == 3.0


@pytest.mark.parametrize("count", [1, 3])
def test_rate_is_the_best_reading_of_all_devices_at_once(monkeypatch, count):
    """The rate is that of the larger shape, whose three readings take 4, 2 and 9 s."""
    shapes = {"cpu": ((8, 4, 2), (16, 4, 2)), "other": ((32, 4, 2),)}
    monkeypatch.setattr(hardware, "_SHAPES", shapes)
    monkeypatch.setitem(hardware._AT_ONCE, "cpu", 4)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:count])
    looks = iter([0.0, 20.0, 30.0, 40.0, 40.0, 44.0, 50.0, 52.0, 60.0, 69.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(looks))
    assert matmul_rate(jnp.bfloat16, seconds=30) == count * 4 * 2 * 16 * 4 * 2 / 2.0
    assert not list(looks)


def test_product_is_the_encoders():
    """The product has operands in the given type and sums in float32."""
    ones = jnp.ones((8, 4), jnp.bfloat16), jnp.ones((4, 2), jnp.bfloat16)
    made = jax.make_jaxpr(hardware._product)(*ones)
    (product,) = [e for e in made.eqns if e.primitive.name == "dot_general"]
    assert {v.aval.dtype for v in product.invars} == {jnp.dtype(jnp.bfloat16)}
    assert product.outvars[0].aval.dtype == jnp.float32
    assert made.out_avals[0].dtype == jnp.bfloat16


def zone(root, folder, name, energy):
    """Writes a RAPL zone that counts microjoules up to 1000."""
    path = root / folder
    path.mkdir(exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    (path / "max_energy_range_uj").write_text("1000\n")
    return path / "energy_uj"


@pytest.fixture
def no_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError


@pytest.mark.usefixtures("no_nvml")
def test_energy_of_processors_counts_on_where_its_counters_wrap(tmp_path):
    assert (Energy(tmp_path).source, Energy(tmp_path / "nowhere").joules()) == (None, None)
    zone(tmp_path, "intel-rapl:0", "package-0", 900)
    zone(tmp_path, "intel-rapl:1", "package-1", 10)
    energy = Energy(tmp_path)
    assert (energy.source, energy.joules()) == ("RAPL", 0)
    zone(tmp_path, "intel-rapl:0", "package-0", 30)  # it wraps at 1000
    zone(tmp_path, "intel-rapl:1", "package-1", 15)
    assert energy.joules() == pytest.approx((130 + 5) * 1e-6)


@pytest.mark.usefixtures("no_nvml")
def test_no_joule_is_counted_twice(tmp_path):
    """Parts of a package, the whole machine, and a package's other registers are not added."""
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


@pytest.mark.usefixtures("no_nvml")
@pytest.mark.parametrize("content", ["", "unknown\n", PermissionError(13, "Permission denied")])
def test_energy_that_cannot_be_read_is_left_out(tmp_path, monkeypatch, content):
    """One unreadable package leaves out all energy, and so does one failed reading in a run."""
    path, read_text = zone(tmp_path, "intel-rapl:0", "package-0", 100), Path.read_text
    energy = Energy(tmp_path)

    def read(self, *args, **kwargs):  # root ignores a file's mode
        if self == path and isinstance(content, Exception):
            raise content
        return content if self == path else read_text(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", read)
        assert (energy.joules(), energy.source) == (None, None)
        zone(tmp_path, "intel-rapl:1", "package-1", 100)
        assert Energy(tmp_path).source is None
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 100)  # another way to read package 0
        assert Energy(tmp_path).source == "RAPL"
    assert energy.joules() is None


class NVMLError(Exception):
    pass


def test_energy_of_gpus_comes_first_where_all_count(tmp_path, monkeypatch):
    counted = []  # millijoules of each GPU, or the error that it raises

    def total(handle):
        if isinstance(counted[handle], Exception):
            raise counted[handle]
        return counted[handle]

    fake = ModuleType("pynvml")
    fake.NVMLError, fake.nvmlInit = NVMLError, lambda: None
    fake.nvmlDeviceGetCount = lambda: len(counted)
    fake.nvmlDeviceGetHandleByIndex = lambda index: index
    fake.nvmlDeviceGetTotalEnergyConsumption = total
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    assert Energy(tmp_path).source == "RAPL"  # no GPU
    counted[:] = [5_000, NVMLError("Not Supported")]
    assert Energy(tmp_path).source == "RAPL"
    counted[:] = [5_000, 7_000_000]
    energy = Energy(tmp_path)
    counted[:] = [6_500, 7_002_000]
    assert (energy.source, energy.joules()) == ("NVML", pytest.approx(3.5))
    counted[:] = [6_500, NVMLError("GPU is lost")]
    assert (energy.joules(), energy.source) == (None, None)
    monkeypatch.setattr(fake, "nvmlInit", lambda: total(1))
    assert Energy(tmp_path).source == "RAPL"  # no driver


def test_the_faster_type_is_measured_once_per_machine(tmp_path, monkeypatch):
    rates = {jnp.float32: 1e9, jnp.bfloat16: 1.5e9}
    monkeypatch.setattr(hardware, "matmul_rate", lambda dtype, *, seconds: rates[dtype.type])
    assert hardware.fastest_dtype(tmp_path / "cache") == "bfloat16"
    rates[jnp.bfloat16] = 1.1e9  # gains less than conversion costs
    assert hardware.fastest_dtype(tmp_path / "cache") == "bfloat16"
    assert hardware.fastest_dtype(tmp_path / "other") == "float32"
    monkeypatch.setattr(hardware, "_machine", lambda: "another")
    assert hardware.fastest_dtype(tmp_path / "cache") == "float32"
    (tmp_path / "other" / "dtypes.json").write_text("{")
    (tmp_path / "file").write_text("")  # a cache that cannot be written
    for damaged in ("other", "file"):
        assert hardware.fastest_dtype(tmp_path / damaged) == "float32"
