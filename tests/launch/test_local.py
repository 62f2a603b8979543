"""Tests local.sh, run for real with a stand-in for Python."""

import json
import os
import re
import signal
import subprocess

import pytest

from tests.launch.scripts import (
    AWKWARD,
    LAUNCH,
    launch,
    lives,
    local,
    notes,
    one_line,
    start,
    until,
)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--processes=0"], "--processes=0"),
        (["--devices=-1"], "--devices=-1"),
        (["--devices"], "--devices needs a value"),
        (["--python=/no/such/python"], "/no/such/python"),
        ([], "make setup"),
    ],
)
def test_wrong_options_are_refused_in_one_line(place, words, named):
    assert named in one_line(launch(place, "local.sh", *words), 2)


@pytest.mark.parametrize("script", ["local.sh", "tpu_vm.sh"])
def test_help_and_readme_name_every_option(place, script):
    run = launch(place, script, "--help")
    assert (run.returncode, run.stderr) == (0, "")
    options = set(re.findall(r"^    (--[a-z_]+)", (LAUNCH / script).read_text(), re.MULTILINE))
    readme = (LAUNCH / "README.md").read_text()
    assert len(options) > 3
    assert [o for o in options if o not in run.stdout or o not in readme] == []


def test_one_process_is_plain_training(place, monkeypatch):
    monkeypatch.setenv("PLAN", '{"0": "exit 7"}')
    run = local(place, "--devices=3", *AWKWARD, "--", "--devices=5")
    assert (run.returncode, run.stderr) == (7, "oops from 0\n")
    assert run.stdout == "hello from 0\nlast words"
    assert notes(place)["argv"] == ["-m", "selfdistill_jax.main", *AWKWARD, "--devices=5"]
    assert notes(place)["cwd"] == os.getcwd()
    environment = notes(place)["env"]
    assert environment["PYTHONPATH"] == str(place / "a repository")
    assert (environment["JAX_PLATFORMS"], environment["JAX_NUM_CPU_DEVICES"]) == ("cpu", "3")


@pytest.mark.parametrize("words", [[], ["--config=configs/distributed.py"]])
def test_a_config_of_the_repository_is_found_from_any_folder(place, words):
    local(place, *words)
    config = place / "a repository" / "configs" / "distributed.py"
    assert notes(place)["argv"][2:] == [f"--config={config}"]
    assert notes(place)["env"].get("JAX_PLATFORMS") is None


def test_several_processes_form_one_job(place):
    run = local(place, "--processes=3", "--devices=2", *AWKWARD)
    assert run.returncode == 0
    lines = [f"[{i}] {text}" for i in range(3) for text in [f"hello from {i}", "last words"]]
    assert sorted(run.stdout.splitlines()) == sorted(lines)
    assert sorted(run.stderr.splitlines()) == [f"[{i}] oops from {i}" for i in range(3)]
    addresses = set()
    for i in range(3):
        module, name, distributed, address, *rest = notes(place, i)["argv"]
        assert (module, name, distributed) == ("-m", "selfdistill_jax.main", "--distributed")
        assert rest == ["--num_processes=3", f"--process_id={i}", *AWKWARD]
        assert notes(place, i)["env"]["JAX_NUM_CPU_DEVICES"] == "2"
        addresses.add(address)
    (address,) = addresses
    assert re.fullmatch(r"--coordinator_address=127\.0\.0\.1:\d+", address)


@pytest.mark.parametrize(
    ("plan", "status"),
    [
        ({"0": "sleep", "1": "wait for 0 exit 5"}, 5),
        ({"0": "catch", "1": "wait for 0 exit 5"}, 5),
        ({"0": "wait for 1 exit 3", "1": "stubborn"}, 3),  # is killed
    ],
)
def test_a_failure_ends_the_rest(place, monkeypatch, plan, status):
    monkeypatch.setenv("PLAN", json.dumps(plan))
    monkeypatch.setenv("GRACE_SECONDS", "1")
    run = local(place, "--processes=2")
    assert run.returncode == status
    assert f"process {0 if status == 3 else 1} ended with status {status}" in run.stderr
    assert not any(lives(notes(place, i)["pid"]) for i in range(2))


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


def test_dry_run_prints_what_it_would_run(place):
    run = launch(place, "local.sh", "--dry_run", "--processes=2", "--devices=4", *AWKWARD)
    assert run.returncode == 0
    for i, command in enumerate(run.stdout.splitlines()):
        # Runs the command in a shell, with printf in place of Python.
        python = f"'{place}/a repository/.venv/bin/python'"
        assert python in command
        shown = command.replace(python, "printf '%s\\0'")
        out = subprocess.run(["bash", "-c", shown], capture_output=True, text=True).stdout
        words = out.split("\0")[:-1]
        assert words[:3] == ["-m", "selfdistill_jax.main", "--distributed"]
        assert words[4:] == ["--num_processes=2", f"--process_id={i}", *AWKWARD]
    assert i == 1
    assert not (place / "0.json").exists()
