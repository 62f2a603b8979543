"""local.sh, run for real against a stand-in Python."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launch.scripts import (
    AWKWARD,
    launch,
    lives,
    local,
    notes,
    start,
    until,
)


def test_one_process_is_plain_training(place, monkeypatch):
    monkeypatch.setenv("PLAN", '{"0": "exit 7"}')
    run = local(place, *AWKWARD)
    assert run.returncode == 7
    assert run.stdout == "hello from 0\nlast words"
    assert run.stderr == "oops from 0\n"
    assert notes(place)["argv"] == ["-m", "selfdistill_jax.main", *AWKWARD]
    assert notes(place)["cwd"] == os.getcwd()
    assert notes(place)["env"]["PYTHONPATH"] == str(place / "a repository")
    assert notes(place)["env"].get("JAX_PLATFORMS") is None


def test_devices_are_virtual_cpu_devices(place):
    assert local(place, "--devices=3").returncode == 0
    environment = notes(place)["env"]
    assert (environment["JAX_PLATFORMS"], environment["JAX_NUM_CPU_DEVICES"]) == ("cpu", "3")


@pytest.mark.parametrize("form", ["--config={}", "--config {}"])
def test_config_is_found_from_any_folder(place, form):
    config = place / "a repository" / "configs" / "distributed.py"
    local(place, *form.format("configs/distributed.py:msmarco").split())
    assert notes(place)["argv"][2:] == form.format(f"{config}:msmarco").split(" ", form.count(" "))
    Path("configs").mkdir()
    Path("configs/distributed.py").write_text("")
    local(place, *form.format("configs/distributed.py:msmarco").split())
    assert notes(place)["argv"][2:] == form.format("configs/distributed.py:msmarco").split()


def test_no_training_arguments_mean_the_default_config(place):
    local(place)
    config = place / "a repository" / "configs" / "distributed.py"
    assert notes(place)["argv"][2:] == [f"--config={config}"]


def test_own_options_are_taken_before_the_dashes_only(place):
    local(place, "--config.a=1", "--devices=2", "--", "--devices=5", "--help")
    assert notes(place)["argv"][2:] == ["--config.a=1", "--devices=5", "--help"]
    assert notes(place)["env"]["JAX_NUM_CPU_DEVICES"] == "2"


def test_several_processes_form_one_job(place):
    run = local(place, "--processes=3", "--devices=2", *AWKWARD)
    assert run.returncode == 0
    lines = [f"[{i}] {text}" for i in range(3) for text in [f"hello from {i}", "last words"]]
    assert sorted(run.stdout.splitlines()) == sorted(lines)
    assert sorted(run.stderr.splitlines()) == [f"[{i}] oops from {i}" for i in range(3)]
    addresses = set()
    for i in range(3):
        module, name, distributed, address, count, number, *rest = notes(place, i)["argv"]
        assert (module, name, distributed) == ("-m", "selfdistill_jax.main", "--distributed")
        assert (count, number, rest) == ("--num_processes=3", f"--process_id={i}", AWKWARD)
        assert notes(place, i)["env"]["JAX_NUM_CPU_DEVICES"] == "2"
        addresses.add(address)
    (address,) = addresses
    host, port = address.removeprefix("--coordinator_address=").split(":")
    assert host == "127.0.0.1"
    assert 1024 < int(port) < 65536


@pytest.mark.parametrize(
    ("plan", "status"),
    [
        ({"0": "sleep", "1": "wait for 0 exit 5"}, 5),
        ({"0": "wait for 1 exit 6", "1": "parent"}, 6),
        ({"0": "catch", "1": "wait for 0 exit 5"}, 5),
        ({"0": "exit 0", "1": "later 5"}, 0),
    ],
)
def test_a_failure_ends_the_rest(place, monkeypatch, plan, status):
    monkeypatch.setenv("PLAN", json.dumps(plan))
    monkeypatch.setenv("GRACE_SECONDS", "1")
    run = local(place, "--processes=2")
    assert run.returncode == status
    failed = 0 if "exit" in plan["0"] and status else 1
    assert f"process {failed} ended with status {status or 5}; ending the others\n" in run.stderr
    pids = [notes(place, i)["pid"] for i in range(2)]
    assert not any(map(lives, pids))
    if "child" in notes(place, 1):
        assert not lives(notes(place, 1)["child"])


def test_a_process_that_will_not_end_is_killed(place, monkeypatch):
    monkeypatch.setenv("PLAN", '{"0": "wait for 1 exit 3", "1": "stubborn"}')
    monkeypatch.setenv("GRACE_SECONDS", "1")
    assert local(place, "--processes=2").returncode == 3
    assert not lives(notes(place, 1)["pid"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(place, monkeypatch, number):
    monkeypatch.setenv("PLAN", '{"0": "catch", "1": "catch"}')
    run = start(place, "local.sh", "--processes=2", f"--python={place / 'trainer'}")
    until(lambda: all((place / f"{i}.json").exists() for i in range(2)))
    run.send_signal(number)
    out, _ = run.communicate(timeout=10)
    assert run.returncode == 40
    assert {f"[0] got {number.name}", f"[1] got {number.name}"} <= set(out.splitlines())
    assert not any(lives(notes(place, i)["pid"]) for i in range(2))


def test_local_dry_run_prints_what_it_would_run(place):
    run = launch(place, "local.sh", "--dry_run", "--processes=2", "--devices=4", *AWKWARD)
    assert run.returncode == 0
    commands = run.stdout.splitlines()
    assert len(commands) == 2
    for i, command in enumerate(commands):
        # As a shell reads it, with the real Python's place taken by printf.
        python = f"'{place}/a repository/.venv/bin/python'"
        assert python in command
        shown = command.replace(python, "printf '%s\\0'")
        out = subprocess.run(["bash", "-c", shown], capture_output=True, text=True).stdout
        words = out.split("\0")[:-1]
        assert words[:3] == ["-m", "selfdistill_jax.main", "--distributed"]
        assert words[4:] == ["--num_processes=2", f"--process_id={i}", *AWKWARD]
    assert not (place / "0.json").exists()
