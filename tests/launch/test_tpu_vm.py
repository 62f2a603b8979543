"""Tests the calls that tpu_vm.sh makes to gcloud, recorded by a stand-in."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.launch.scripts import AWKWARD, WHERE, calls, one_line, start, tpu, until, verbs


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--nmae=x", "create"], "--nmae=x"),
        (["crate"], "crate"),
        (["create", "delete"], "create or delete"),
        ([], "no command"),
        (["--name=Has Blank", "create"], "--name=Has Blank"),
        (["--zone=", "create"], "--zone"),
        (["--type=v9-8", "create"], "--type=v9-8"),
        (["--commit=nothing", "sync"], "--commit=nothing"),
        (["delete", "--", "--config=x"], "training arguments"),
        (["run", "--", "--workdir=x"], "--workdir=x"),
    ],
)
def test_wrong_options_are_refused_in_one_line(place, words, named):
    assert named in one_line(tpu(place, *words), 2)
    assert calls(place) == []


def test_create_uses_a_machine_that_is_ready_and_refuses_another(place, monkeypatch):
    monkeypatch.setenv("STATE", "READY")
    assert tpu(place, "create").returncode == 0
    monkeypatch.setenv("STATE", "PREEMPTED")
    assert "PREEMPTED" in one_line(tpu(place, "create"), 1)
    assert verbs(place) == ["describe"] * 2


def test_dry_run_prints_the_commands_that_are_run(place, monkeypatch):
    """Each printed line, given to a shell, calls gcloud as the script itself does."""
    words = ["--project=p", "all", "--spot", "--output=here", "--", *AWKWARD]
    assert tpu(place, *words).returncode == 0
    real = calls(place)
    (place / "gcloud.log").unlink()

    empty = place / "empty"
    empty.mkdir()
    for tool in ["bash", "git", "dirname", "sed"]:
        (empty / tool).symlink_to(shutil.which(tool))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(empty))
        dry = tpu(place, "--dry_run", *words)
        assert "gcloud not found" in one_line(tpu(place, *words), 2)
    assert (dry.returncode, dry.stderr, calls(place)) == (0, "", [])
    for line in dry.stdout.splitlines():
        subprocess.run(["bash", "-c", line], check=False)
    assert calls(place) == real
    steps = (
        "describe create scp ssh(unpack) ssh(install) ssh(start) ssh(log) ssh(status) scp delete"
    )
    assert verbs(place) == [step.partition("(")[0] for step in steps.split()]
    kind = ["--accelerator-type=v5litepod-8", "--version=v2-alpha-tpuv5-lite", "--spot"]
    assert real[1] == ["create", "pod-1", *kind, "--zone=us-west4-a", "--project=p"]
    remote = "pod-1:selfdistill_jax/runs/pod-1"
    assert real[-2][:4] == ["scp", remote, f"{remote}.log", "here"]
    workers = [word for call in real for word in call if word.startswith("--worker=")]
    assert workers == ["--worker=all"] * 4 + ["--worker=0", "--worker=all", "--worker=0"]


@pytest.mark.parametrize("step", ["create", "scp", "requirements.lock", "tail", "nothing"])
def test_a_failed_step_stops_all_and_keeps_the_machine(place, monkeypatch, step):
    monkeypatch.setenv("FAIL", step if step == "tail" else f" {step}")
    run = tpu(place, "--keep", "all")
    assert run.returncode == {"tail": 1, "nothing": 0}.get(step, 9)
    assert verbs(place)[-1] == {"create": "create", "scp": "scp", "nothing": "scp"}.get(step, "ssh")
    assert "gcloud compute tpus tpu-vm delete pod-1 --quiet --zone=us-west4-a\n" in run.stderr
    assert list((place / "a repository" / ".git").glob("*.bundle")) == []


def test_interrupting_all_keeps_the_machine(place, monkeypatch):
    monkeypatch.setenv("HANG", "tail")
    run = start(place, "tpu_vm.sh", *WHERE, "all")
    until(lambda: verbs(place).count("ssh") == 4)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=10)
    assert run.returncode != 0
    assert "delete" not in verbs(place)
    assert "pod-1 is kept and costs money until: gcloud" in err


def test_uncommitted_changes_are_refused_before_anything_is_made(place):
    (place / "a repository" / "new").write_text("")
    for command in ["sync", "all"]:
        assert "--commit=HEAD" in one_line(tpu(place, command), 2)
    assert calls(place) == []
    assert tpu(place, "--commit=HEAD", "sync").returncode == 0
