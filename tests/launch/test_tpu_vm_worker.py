"""What tpu_vm.sh does on the machine: its remote commands run for real, in a folder."""

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
)
from tests.launch.stand_ins import FAKE_TRAINER


def test_all_on_a_worker(place, worker):
    """Bundle, checkout, environment, detached run, log, result: with the remote commands run."""
    root = place / "a repository"
    (root / "uncommitted").write_text("")
    run = tpu(place, "--commit=HEAD", "--output=here", "all", "--", *AWKWARD)
    assert run.returncode == 0, run.stderr
    assert git(worker, "rev-parse", "HEAD") == git(root, "rev-parse", "HEAD")
    assert not (worker / "uncommitted").exists()
    assert list(worker.parent.glob("*.bundle")) == list((root / ".git").glob("*.bundle")) == []
    assert git(root, "for-each-ref", "refs/launch") == ""

    install = (worker.parent / "python3.log").read_text().splitlines()
    assert install[0].startswith("-m pip install --quiet --user uv==")
    assert "-m uv venv" in install[1]
    assert install[2].endswith("--require-hashes -r requirements.lock")
    assert install[3].endswith("--constraint requirements.lock jax[tpu]")

    given = ["--distributed", "--workdir=runs/pod-1", *AWKWARD]
    assert notes(place)["argv"] == ["-m", "selfdistill_jax.main", *given]
    assert notes(place)["env"]["JAX_PLATFORMS"] == "tpu,cpu"
    assert "hello from 0\noops from 0\nlast words" in run.stdout
    assert Path("here/pod-1/config.json").exists()
    assert Path("here/pod-1.log").read_text() == "hello from 0\noops from 0\nlast words"
    assert verbs(place)[-1] == "delete"
    assert "costs money" not in run.stderr


def test_run_follows_a_run_that_is_under_way(place, worker, monkeypatch):
    """After a lost connection the training goes on; its status is had from the next `run`."""
    worker.mkdir()
    executable(worker / ".venv" / "bin" / "python", FAKE_TRAINER)
    monkeypatch.setenv("PLAN", '{"0": "wait for go exit 3"}')
    with monkeypatch.context() as patch:
        patch.setenv("FAIL", "tail")
        lost = tpu(place, "run", "--", "--config=first")
    assert lost.returncode == 1
    assert "connection to it was lost" in lost.stderr
    until((place / "0.json").exists)
    pid = notes(place)["pid"]
    assert lives(pid)

    again = start(place, "tpu_vm.sh", *WHERE, "run", "--", "--x=1")
    assert again.stdout.readline() == "a run is under way: following it\n"
    assert again.stdout.readline() == "hello from 0\n"
    (place / "go.json").write_text("")
    _, err = again.communicate(timeout=10)
    assert again.returncode == 1
    assert "training failed" in err
    assert (worker / "runs" / "pod-1.status").read_text() == "3\n"
    assert notes(place)["pid"] == pid
    assert "--config=first" in notes(place)["argv"]


def test_a_named_commit_is_brought(place, worker):
    root = place / "a repository"
    first = git(root, "rev-parse", "HEAD")
    (root / "new").write_text("")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=Two")
    assert tpu(place, "sync").returncode == 0
    assert (worker / "new").exists()
    (worker / "runs").mkdir()
    assert tpu(place, f"--commit={first[:10]}", "sync").returncode == 0
    assert git(worker, "rev-parse", "HEAD") == first
    assert not (worker / "new").exists()
    assert (worker / "runs").exists()
