"""Functions that call the launch scripts and read what the scripts did."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
WHERE = ["--name=pod-1", "--zone=us-west4-a"]
# Words that a shell would change if they were not quoted.
AWKWARD = ["--config.data.dataset=a b", "it's", 'say "so"', "$HOME `id` \\ * ;", "", "--x=1\n2"]
# Starts a command as a terminal would, without ignoring SIGINT, which the tests may ignore.
INTERRUPTIBLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def git(folder: Path, *words: str) -> str:
    run = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def start(place: Path, script: str, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-S", "-c", INTERRUPTIBLE]
    command += [str(place / "a repository" / "launch" / script), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes)


def launch(place: Path, script: str, *words: str) -> subprocess.CompletedProcess:
    command = [str(place / "a repository" / "launch" / script), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def local(place: Path, *words: str) -> subprocess.CompletedProcess:
    return launch(place, "local.sh", f"--python={place / 'trainer'}", *words)


def tpu(place: Path, *words: str) -> subprocess.CompletedProcess:
    return launch(place, "tpu_vm.sh", *WHERE, *words)


def one_line(run: subprocess.CompletedProcess, status: int) -> str:
    """Returns the one-line error of a refused call."""
    assert (run.returncode, run.stdout) == (status, "")
    assert run.stderr.count("\n") == 1
    return run.stderr


def notes(place: Path, number: int = 0) -> dict:
    return json.loads((place / f"{number}.json").read_text())


def calls(place: Path) -> list[list[str]]:
    """Returns the arguments of every call of gcloud, after `compute tpus tpu-vm`."""
    log = place / "gcloud.log"
    found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert all(call[:3] == ["compute", "tpus", "tpu-vm"] for call in found)
    return [call[3:] for call in found]


def verbs(place: Path) -> list[str]:
    return [call[0] for call in calls(place)]


def until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # without an init, a container keeps orphans as zombies
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
