"""What tpu_vm.sh asks of gcloud, which a stand-in notes."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.launch.scripts import AWKWARD, WHERE, calls, one_line, start, tpu, until, verbs


def test_create_makes_the_machine(place):
    run = tpu(place, "--type=v5litepod-16", "--project=p", "--spot", "create")
    assert run.returncode == 0
    end = ["--zone=us-west4-a", "--project=p"]
    kind = ["--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"]
    assert calls(place) == [
        ["describe", "pod-1", "--format=value(state)", *end],
        ["create", "pod-1", *kind, *end],
    ]


def test_create_uses_a_machine_that_is_there(place, monkeypatch):
    monkeypatch.setenv("STATE", "READY")
    run = tpu(place, "create")
    assert run.returncode == 0
    assert verbs(place) == ["describe"]
    assert "pod-1 is there already" in run.stderr


def test_create_refuses_a_machine_that_is_not_ready(place, monkeypatch):
    monkeypatch.setenv("STATE", "PREEMPTED")
    assert "PREEMPTED" in one_line(tpu(place, "create"), 1)
    assert verbs(place) == ["describe"]


@pytest.mark.parametrize(
    ("words", "version"),
    [
        ([], "v2-alpha-tpuv5-lite"),
        (["--type=v5p-8"], "v2-alpha-tpuv5"),
        (["--type=v6e-8"], "v2-alpha-tpuv6e"),
        (["--type=v4-8"], "tpu-ubuntu2204-base"),
        (["--type=v9-8", "--version=mine"], "mine"),
    ],
)
def test_the_software_version_follows_the_type(place, words, version):
    run = tpu(place, "--dry_run", *words, "create")
    assert f" --version={version} " in run.stdout


def test_dry_run_prints_the_commands_that_are_run(place, monkeypatch):
    """Each printed line, given to a shell, calls gcloud as the script itself does."""
    words = ["all", "--spot", "--output=here", "--", *AWKWARD]
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
    assert (dry.returncode, dry.stderr) == (0, "")
    assert calls(place) == []
    for line in dry.stdout.splitlines():
        subprocess.run(["bash", "-c", line], check=False)
    assert calls(place) == real
    steps = (
        "describe create scp ssh(unpack) ssh(install) ssh(start) ssh(log) ssh(status) scp delete"
    )
    assert verbs(place) == [step.partition("(")[0] for step in steps.split()]


def test_everything_goes_to_all_workers(place):
    tpu(place, "all")
    workers = [word for call in calls(place) for word in call if word.startswith("--worker=")]
    # The bundle, its unpacking, install, start; then worker 0's log, everybody's status, fetch.
    assert workers == ["--worker=all"] * 4 + ["--worker=0", "--worker=all", "--worker=0"]


def test_a_failed_training_keeps_the_machine(place, monkeypatch):
    monkeypatch.setenv("FAIL", "tail")
    run = tpu(place, "--project=p", "all")
    assert run.returncode == 1
    assert verbs(place)[-1] == "ssh"
    assert "training failed" in run.stderr
    assert run.stderr.endswith(
        "tpu_vm.sh: pod-1 is kept and costs money until: gcloud compute tpus tpu-vm delete pod-1 "
        "--quiet --zone=us-west4-a --project=p\n"
    )


def test_interrupting_all_keeps_the_machine(place, monkeypatch):
    monkeypatch.setenv("HANG", "tail")
    run = start(place, "tpu_vm.sh", *WHERE, "all")
    until(lambda: verbs(place).count("ssh") == 4)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=10)
    assert run.returncode != 0
    assert "delete" not in verbs(place)
    assert "pod-1 is kept and costs money until: gcloud" in err


@pytest.mark.parametrize("step", ["create", "scp", "requirements.lock"])
def test_a_failed_step_stops_all_and_keeps_the_machine(place, monkeypatch, step):
    monkeypatch.setenv("FAIL", f" {step}")
    run = tpu(place, "all")
    assert run.returncode == 9
    assert step in " ".join(calls(place)[-1])
    assert "delete" not in verbs(place)
    assert "gcloud compute tpus tpu-vm delete pod-1" in run.stderr
    assert list((place / "a repository" / ".git").glob("*.bundle")) == []


def test_keep_keeps_the_machine(place):
    run = tpu(place, "--keep", "all")
    assert run.returncode == 0
    assert verbs(place)[-1] == "scp"
    assert "gcloud compute tpus tpu-vm delete pod-1" in run.stderr


def test_delete_and_fetch_alone(place):
    assert tpu(place, "delete").returncode == 0
    assert tpu(place, "fetch").returncode == 0
    remote = "pod-1:selfdistill_jax/runs/pod-1"
    assert calls(place) == [
        ["delete", "pod-1", "--quiet", "--zone=us-west4-a"],
        ["scp", remote, f"{remote}.log", "runs", "--worker=0", "--recurse", "--zone=us-west4-a"],
    ]


def test_uncommitted_changes_are_refused_before_anything_is_made(place):
    (place / "a repository" / "new").write_text("")
    for command in ["sync", "all"]:
        assert "--commit=HEAD" in one_line(tpu(place, command), 2)
    assert calls(place) == []
    assert tpu(place, "--commit=HEAD", "sync").returncode == 0
