"""Tests the remote commands of tpu_vm.sh, run for real in a folder."""

from pathlib import Path

from tests.launch.scripts import (
    AWKWARD,
    WHERE,
    executable,
    git,
    lives,
    notes,
    start,
    tpu,
    until,
    verbs,
)  # fmt: skip
from tests.launch.stand_ins import FAKE_TRAINER


def test_all_on_a_worker(place, worker):
    """`all` installs the commit, runs the training detached, and fetches its log and result."""
    root = place / "a repository"
    first = git(root, "rev-parse", "HEAD")
    (root / "new").write_text("")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=Two")
    (root / "uncommitted").write_text("")
    assert tpu(place, "--commit=HEAD", "sync").returncode == 0
    assert (worker / "new").exists()
    run = tpu(place, f"--commit={first[:10]}", "--output=here", "all", "--", *AWKWARD)
    assert run.returncode == 0, run.stderr
    assert git(worker, "rev-parse", "HEAD") == first
    assert not (worker / "new").exists()
    assert not (worker / "uncommitted").exists()
    assert list(worker.parent.glob("*.bundle")) == list((root / ".git").glob("*.bundle")) == []
    assert git(root, "for-each-ref", "refs/launch") == ""

    install = (worker.parent / "python3.log").read_text().splitlines()
    assert "uv==" in install[0]
    assert "-m uv venv" in install[1]
    assert install[2].endswith("--require-hashes -r requirements.lock")
    assert install[3].endswith("--constraint requirements.lock jax[tpu]")

    given = ["--distributed", "--workdir=runs/pod-1", *AWKWARD]
    assert notes(place)["argv"] == ["-m", "selfdistill_jax.main", *given]
    assert notes(place)["env"]["JAX_PLATFORMS"] == "tpu,cpu"
    log = "hello from 0\noops from 0\nlast words"
    assert log in run.stdout
    assert Path("here/pod-1/config.json").exists()
    assert Path("here/pod-1.log").read_text() == log
    assert verbs(place)[-1] == "delete"
    assert "costs money" not in run.stderr


def test_run_follows_a_run_that_is_under_way(place, worker, monkeypatch):
    """Training survives a lost connection, and the next `run` reports its status."""
    worker.mkdir()
    executable(worker / ".venv" / "bin" / "python", FAKE_TRAINER)
    monkeypatch.setenv("PLAN", '{"0": "wait for go exit 3"}')
    with monkeypatch.context() as patch:
        patch.setenv("FAIL", "tail")
        assert tpu(place, "run", "--", "--config=first").returncode == 1
    until((place / "0.json").exists)
    pid = notes(place)["pid"]
    assert lives(pid)

    again = start(place, "tpu_vm.sh", *WHERE, "run", "--", "--x=1")
    assert "under way" in again.stdout.readline()
    assert again.stdout.readline() == "hello from 0\n"
    (place / "go.json").write_text("")
    _, err = again.communicate(timeout=10)
    assert again.returncode == 1
    assert "training failed" in err
    assert (worker / "runs" / "pod-1.status").read_text() == "3\n"
    assert notes(place)["pid"] == pid
    assert "--config=first" in notes(place)["argv"]
