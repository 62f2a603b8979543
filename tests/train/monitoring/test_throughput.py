"""The account of a run, on a clock and a machine of its own."""

from types import SimpleNamespace

import pytest

from selfdistill_jax.train.monitoring import throughput as module
from selfdistill_jax.train.monitoring.throughput import PHASES, RunStats


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Meter:
    """Stands for `Energy`: 7 joules a reading."""

    def __init__(self, source="RAPL"):
        self.source, self.readings = source, 0

    def joules(self):
        self.readings += 1
        return 7.0 * self.readings if self.source else None


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(module, "host_peak_gb", lambda: 1.5)
    monkeypatch.setattr(module, "device_peak_gb", lambda: None)
    return Clock()


@pytest.fixture
def run(clock):
    made = RunStats(matmul_flops=1e12, energy=Meter(), clock=clock)
    return SimpleNamespace(ledger=made, clock=clock)


def step(ledger, seconds, *, triplets=64, useful=600, computed=1000, flops=1e11):
    ledger.step(
        triplets=triplets,
        useful_tokens=useful,
        computed_tokens=computed,
        useful_flops=flops,
        seconds=seconds,
    )


def test_rates_are_sums_over_sums_without_the_first_step(run):
    step(run.ledger, 100.0, triplets=1, useful=100, computed=2000, flops=1e15)
    step(run.ledger, 1.0, useful=600, computed=1000)
    step(run.ledger, 4.0, triplets=16, useful=900, computed=1000)
    account = run.ledger.account()
    assert account["steps"] == 3
    assert account["triplets_per_second"] == (64 + 16) / 5  # no mean of 64 and 4
    assert account["useful_tokens_per_second"] == 1500 / 5
    assert account["model_flops_per_second"] == 2e11 / 5
    assert account["matmul_flops_per_second"] == 1e12
    assert account["model_flops_utilization"] == pytest.approx(0.04)
    assert account["padding_share"] == 1 - 1600 / 4000  # of all steps: it does not warm up


def test_a_single_step_is_better_than_none(run):
    step(run.ledger, 2.0)
    account = run.ledger.account()
    assert (account["steps"], account["triplets_per_second"]) == (1, 32.0)
    assert account["model_flops_utilization"] == pytest.approx(0.05)


def test_without_steps_there_are_no_rates(run):
    account = run.ledger.account()
    assert account["steps"] == 0
    rates = [key for key in account if key.endswith(("per_second", "share", "utilization"))]
    assert len(rates) == 7
    assert {key for key in rates if account[key] is not None} == {"matmul_flops_per_second"}
    assert account["seconds_to_first_step"] is account["seconds_to_first_update"] is None
    stretches = ("compile_wait", "evaluation", "checkpoint")
    assert [account[f"{name}_seconds"] for name in stretches] == [0, 0, 0]
    assert account["compile_seconds"] is None


def test_without_a_rate_of_the_machine_there_is_no_utilization(clock):
    ledger = RunStats(matmul_flops=None, energy=Meter(), clock=clock)
    step(ledger, 2.0)
    account = ledger.account()
    assert account["matmul_flops_per_second"] is None
    assert account["model_flops_utilization"] is None
    assert account["model_flops_per_second"] == 5e10


def test_stretches_add_up(run):
    for seconds in (3.0, 4.0):
        with run.ledger.timed("evaluation"):
            run.clock.sleep(seconds)
        run.clock.sleep(50)
    with run.ledger.timed("checkpoint"):
        run.clock.sleep(2)
    account = run.ledger.account()
    assert account["evaluation_seconds"] == 7.0
    assert account["checkpoint_seconds"] == 2.0
    assert account["compile_wait_seconds"] == account["data_wait_seconds"] == 0.0


def test_no_second_of_nested_stretches_counts_twice(run):
    with run.ledger.timed("evaluation"):
        run.clock.sleep(1)
        with run.ledger.timed("compile"):
            run.clock.sleep(10)
            with run.ledger.timed("evaluation"):
                run.clock.sleep(100)
        with run.ledger.timed("checkpoint"):
            run.clock.sleep(1000)
        run.clock.sleep(2)
    with run.ledger.timed("evaluation"):
        run.clock.sleep(4)
    account = run.ledger.account()
    assert account["evaluation_seconds"] == 107.0
    assert account["compile_wait_seconds"] == 10.0
    assert account["checkpoint_seconds"] == 1000.0


def test_a_stretch_that_fails_took_its_time(run):
    def fail():
        run.clock.sleep(3)
        raise KeyError

    with pytest.raises(KeyError), run.ledger.timed("checkpoint"):
        fail()
    with run.ledger.timed("data"):
        run.clock.sleep(1)
    account = run.ledger.account()
    assert (account["checkpoint_seconds"], account["data_wait_seconds"]) == (3.0, 1.0)


def test_a_stretch_nobody_knows(run):
    known = f"'sleep'; expected one of {', '.join(PHASES)}"
    with pytest.raises(ValueError, match=known), run.ledger.timed("sleep"):
        pass


def test_waiting_for_data_is_of_the_step_that_ends_it(run):
    for waited in (30.0, 1.0, 2.0, 500.0):  # the last is of a step that is not noted yet
        with run.ledger.timed("data"):
            run.clock.sleep(waited)
        if waited < 500:
            step(run.ledger, 10.0 + waited)
    account = run.ledger.account()
    assert account["data_wait_seconds"] == 533.0
    assert account["data_wait_share"] == 3.0 / 23.0


def test_waiting_of_the_only_step(run):
    with run.ledger.timed("data"):
        run.clock.sleep(2)
    step(run.ledger, 8.0)
    assert run.ledger.account()["data_wait_share"] == 0.25


def test_what_the_machine_says(run, monkeypatch):
    run.ledger.first_step(4.5, 41.5)
    account = run.ledger.account()
    assert (account["seconds_to_first_step"], account["seconds_to_first_update"]) == (4.5, 41.5)
    assert (account["host_peak_gb"], account["device_peak_gb"]) == (1.5, None)
    assert (account["energy_joules"], account["energy_source"]) == (7.0, "RAPL")
    monkeypatch.setattr(module, "device_peak_gb", lambda: 12.25)
    assert run.ledger.account()["device_peak_gb"] == 12.25


def test_energy_is_read_now_and_then_for_its_counters_wrap(clock):
    meter = Meter()
    ledger = RunStats(matmul_flops=None, energy=meter, clock=clock)
    for _ in range(120):
        clock.sleep(1)
        step(ledger, 1.0)
    assert meter.readings == 4
    with ledger.timed("evaluation"):
        clock.sleep(100)
    assert meter.readings == 5


TABLE = """\
steps                           1,201
triplets                        640 /s
useful tokens                   61.3 k/s
padding, of computed tokens     25.0 %
model's operations              421 GFLOP/s
matrix product's operations     1.4 TFLOP/s
utilization, of matrix product  30.1 %
waiting for data                60.0 s
waiting for data, of steps      50.0 %
compiling, in the background    8.5 s
waiting for compiled steps      0.0 s
process start to first step     31.0 s
process start, first step done  1,041.5 s
evaluation                      12.2 s
checkpoints                     0.0 s
most memory, host               1.50 GB
most memory, one device         not reported by this machine
energy                          14 J, by RAPL
"""


def test_table(clock):
    energy = SimpleNamespace(joules=lambda: 14.0, source="RAPL")
    ledger = RunStats(matmul_flops=1.4e12, energy=energy, clock=clock)
    for number in range(1201):
        if number:
            with ledger.timed("data"):
                clock.sleep(0.05)
        step(ledger, 0.1, useful=6130, computed=6130 / 0.75, flops=4.21e10)
    with ledger.timed("evaluation"):
        clock.sleep(12.25)
    ledger.first_step(31.0, 1041.5)
    ledger.compile_seconds = 8.5
    assert ledger.table() == TABLE


def test_table_tells_a_silent_machine_from_what_was_not_measured(clock):
    ledger = RunStats(matmul_flops=None, energy=Meter(source=None), clock=clock)
    lines = ledger.table().splitlines()
    silent = [line for line in lines if line.endswith("  not reported by this machine")]
    assert [line.split("  ")[0] for line in silent] == ["most memory, one device", "energy"]
    unmeasured = [line.split("  ")[0] for line in lines if line.endswith("  not measured")]
    assert "utilization, of matrix product" in unmeasured
    assert "triplets" in unmeasured


def test_table_has_a_row_for_every_figure(run):
    assert [key for key, _, _ in module._ROWS] == [
        key for key in run.ledger.account() if key != "energy_source"
    ]
