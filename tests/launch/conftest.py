"""Fixtures for the launch scripts: a repository and a worker machine."""

import os
import shutil
import sys

import pytest

from tests.launch.scripts import LAUNCH, executable, git
from tests.launch.stand_ins import FAKE_GCLOUD, FAKE_TRAINER, FAKE_WORKER_PYTHON


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Commits a copy of launch/ in a path with a blank, and puts stand-ins on PATH."""
    ours = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "PYTHONPATH", "PLAN", "FAIL")
    for name in (*ours, *(name for name in os.environ if name.startswith("GIT_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for role in ["AUTHOR", "COMMITTER"]:
        monkeypatch.setenv(f"GIT_{role}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.setenv("TRAINER", str(executable(tmp_path / "trainer", FAKE_TRAINER)))
    executable(tmp_path / "bin" / "gcloud", FAKE_GCLOUD)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    root = tmp_path / "a repository"
    shutil.copytree(LAUNCH, root / "launch")
    (root / ".gitignore").write_text("/.venv/\n/runs/\n")
    (root / "requirements.lock").write_text("jax==0.10.2\n")
    (root / "configs").mkdir()
    (root / "configs" / "distributed.py").write_text("")
    git(root, "-c", "init.defaultBranch=main", "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=One")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


@pytest.fixture
def worker(place, monkeypatch):
    """Sets up a worker machine: a home folder in which ssh commands are really run."""
    if sys.platform != "linux":
        pytest.skip("a worker has setsid and GNU tail and ps")
    home = place / "worker"
    home.mkdir()
    executable(place / "bin" / "python3", FAKE_WORKER_PYTHON)
    monkeypatch.setenv("WORKER", str(home))
    return home / "selfdistill_jax"
