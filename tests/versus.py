"""Runs ``benchmarks/versus.py`` as a file in any folder, without installing the package."""

import os
import subprocess
import sys
from pathlib import Path

_FILE = Path(__file__).parent.parent / "benchmarks" / "versus.py"


def run(tiny, folder: Path, *flags: str) -> str:
    """Returns the JSON from 4 steps of 4 triplets, with `tests.tiny.Tiny`'s encoder and data."""
    output = folder / "versus.json"
    given = [f"--dataset={tiny.collection}", f"--model={tiny.encoder}", f"--output={output}"]
    command = [sys.executable, str(_FILE), *given, "--steps=4", "--batch_size=4", "--rounds=1"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [*command, *flags], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    return output.read_text()
