"""Tests that a run's figures are right, with stand-ins for the clock and the machine."""

from contextlib import suppress
from types import SimpleNamespace

import pytest

from selfdistill_jax.train.monitoring import throughput as module
from selfdistill_jax.train.monitoring.throughput import RunStats


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Meter:
    """Stands in for `Energy`, with 7 joules for each reading."""

    def __init__(self, source="RAPL"):
        self.source, self.readings = source, 0

    def joules(self):
        self.readings += 1
        return 7.0 * self.readings if self.source else None


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(module, "host_peak_gb", lambda: 1.5)
    monkeypatch.setattr(module, "device_peak_gb", lambda: None)
    clock, meter = Clock(), Meter()
    made = RunStats(matmul_flops=1e12, energy=meter, clock=clock)
    return SimpleNamespace(stats=made, clock=clock, meter=meter)


def step(stats, seconds, *, triplets=64, useful=600, computed=1000, flops=1e11):
    stats.step(
        triplets=triplets,
        useful_tokens=useful,
        computed_tokens=computed,
        useful_flops=flops,
        seconds=seconds,
    )


def test_rates_are_sums_over_sums_without_the_first_step(run):
    step(run.stats, 100.0, triplets=1, useful=100, computed=2000, flops=1e15)
    assert run.stats.account()["triplets_per_second"] == 0.01  # a single step is better than none
    step(run.stats, 1.0, useful=600, computed=1000)
    step(run.stats, 4.0, triplets=16, useful=900, computed=1000)
    account = run.stats.account()
    assert account["steps"] == 3
    assert account["triplets_per_second"] == (64 + 16) / 5  # not the mean of 64 and 4
    assert account["useful_tokens_per_second"] == 1500 / 5
    assert account["model_flops_per_second"] == 2e11 / 5
    assert account["model_flops_utilization"] == pytest.approx(0.04)
    assert account["padding_share"] == 1 - 1600 / 4000  # of all steps, since padding has no warm-up


def test_what_was_not_measured_is_left_out(run):
    run.stats.matmul_flops, run.meter.source = None, None
    account = run.stats.account()
    rates = [key for key in account if key.endswith(("per_second", "share", "utilization"))]
    assert len(rates) == 7
    for key in (*rates, "seconds_to_first_step", "compile_seconds", "device_peak_gb"):
        assert account[key] is None
    assert account["steps"] == account["evaluation_seconds"] == 0
    lines = run.stats.table().splitlines()
    assert len(lines) == len(account) - 1  # the energy's source is in the energy's line
    assert sum(line.endswith(" not measured") for line in lines) == 10
    silent = [line.split("  ")[0] for line in lines if " not reported" in line]
    assert silent == ["most memory, one device", "energy"]
    step(run.stats, 2.0)
    assert run.stats.account()["model_flops_utilization"] is None


def test_no_second_of_nested_stretches_counts_twice(run):
    with run.stats.timed("evaluation"):
        run.clock.sleep(1)
        with run.stats.timed("compile"):
            run.clock.sleep(10)
            with run.stats.timed("evaluation"):
                run.clock.sleep(100)
        with suppress(KeyError), run.stats.timed("checkpoint"):
            run.clock.sleep(1000)
            raise KeyError  # its time counts all the same
        run.clock.sleep(2)
    run.clock.sleep(50)
    with run.stats.timed("evaluation"):
        run.clock.sleep(4)
    account = run.stats.account()
    assert account["evaluation_seconds"] == 107.0
    assert account["compile_wait_seconds"] == 10.0
    assert account["checkpoint_seconds"] == 1000.0
    with pytest.raises(ValueError, match="'sleep'; expected one of"), run.stats.timed("sleep"):
        pass


def test_waiting_for_data_is_of_the_step_that_ends_it(run):
    for waited in (30.0, 1.0, 2.0, 500.0):  # the last belongs to a step not recorded yet
        with run.stats.timed("data"):
            run.clock.sleep(waited)
        if waited < 500:
            step(run.stats, 10.0 + waited)
    account = run.stats.account()
    assert account["data_wait_seconds"] == 533.0
    assert account["data_wait_share"] == 3.0 / 23.0


def test_energy_is_read_now_and_then_for_its_counters_wrap(run):
    for _ in range(120):
        run.clock.sleep(1)
        step(run.stats, 1.0)
    assert run.meter.readings == 4
    with run.stats.timed("evaluation"):
        run.clock.sleep(100)
    assert run.meter.readings == 5
