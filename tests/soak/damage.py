"""Damages files and arguments of every command at random, and checks how each command answers.

    python -m tests.soak.damage [--minutes=10] [--seed=0]

Damages one of an input file, an argument, a permission, or the room on the disk that is written to.
The exit status must be 0 or 2, an error must be one line without a traceback, and no file that was
there before may change. Prints every answer that is wrong, with the seed that repeats it.

As root it also mounts full disks, and runs the commands without root's right to ignore permissions.
"""

import argparse
import collections
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.tiny import Tiny, content, texts, write_rows

ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if IS_ROOT else []
# Kind -> a function from a file's bytes, a place in them and a random generator to new bytes.
KINDS = {
    "cut": lambda data, at, rng: data[:at],
    "byte": lambda data, at, rng: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
    "empty": lambda data, at, rng: b"",
    "utf-16": lambda data, at, rng: data.decode(errors="replace").encode("utf-16"),
    "latin-1": lambda data, at, rng: (
        data.decode(errors="ignore").replace("a", "é", 1).encode("latin-1", errors="replace")
    ),
    "mark": lambda data, at, rng: b"\xef\xbb\xbf" + data,
    "line twice": lambda data, at, rng: data + rng.choice(data.splitlines(keepends=True) or [b""]),
    "null": lambda data, at, rng: b"null",
}
ENDS = ("", "\0", "\n", "é" * 300, "~nobody-here/x", "/proc/none", "/dev/null", "a,b", "-1", "nan")


def make_inputs(root: Path) -> None:
    """Writes an encoder, a BEIR folder, texts, triplets, qrels and a run."""
    Tiny(root)
    rows = [texts(i, i % 5) for i in range(40)]
    triplets = [
        {"query": q, "positive": f"{a} {b}", "negative": " ".join(rows[i - 1][1:])}
        for i, (q, a, b) in enumerate(rows)
    ]
    write_rows(root / "triplets.jsonl", triplets)
    lines = ["\t".join(triplets[0]), *("\t".join(row.values()) for row in triplets)]
    (root / "triplets.tsv").write_text("\n".join(lines) + "\n")
    write_rows(root / "texts.jsonl", [{"_id": f"t{i}", "text": r[2]} for i, r in enumerate(rows)])
    run = [f"q{q} Q0 c{d} {d + 1} {9 - d} x\n" for q in range(32, 40) for d in range(9)]
    (root / "run.trec").write_text("".join(run))


def commands(root: Path, rng: random.Random) -> list[list[str]]:
    """Returns the arguments of every command, with paths of the inputs."""
    model, data = f"--model={root}/encoder", root / "tiny"
    out = root / "out"
    config = [
        "--config=configs/distributed.py", f"--config.encoder.init={root}/encoder",
        f"--config.data.triplets={root}/triplets.{rng.choice(('jsonl', 'tsv'))}",
        "--config.train.steps=2", "--config.train.batch_size=4", "--config.data.query_length=8",
        "--config.data.document_length=12", f"--config.data.cache={root}/cache",
    ]  # fmt: skip
    return [
        ["encode", model, f"--input={root}/texts.jsonl", f"--output={out}/v.npy"],
        ["search", model, f"--corpus={data}/corpus.jsonl", f"--queries={data}/queries.jsonl",
         f"--run={out}/r.trec"],
        ["evaluate", model, f"--dataset={data}", f"--output={out}/e"],
        ["compare", f"--qrels={data}/qrels/test.tsv", f"{root}/run.trec"],
        ["prepare", *config],
        ["main", *config, f"--workdir={out}/run"],
    ]  # fmt: skip


def damage_file(root: Path, rng: random.Random) -> str:
    """Damages one input file and says how."""
    path = rng.choice(sorted(p for p in root.rglob("*") if p.is_file()))
    data = path.read_bytes()
    at = rng.randrange(len(data) + 1)
    kind = rng.choice([*KINDS, "gone", "folder"])
    if kind in KINDS:
        path.write_bytes(KINDS[kind](data, at, rng))
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    return f"{path.relative_to(root)}: {kind} at {at} of {len(data)}"


@contextlib.contextmanager
def forbidden(root: Path, rng: random.Random) -> Iterator[str]:
    """Forbids reading or writing one file or folder while the block runs."""
    path = rng.choice(sorted((root, *root.rglob("*"))))
    before, mode = path.stat().st_mode, rng.choice((0o000, 0o444, 0o555))
    path.chmod(mode)
    try:
        yield f"{path.relative_to(root)}: mode {mode:03o}"
    finally:
        path.chmod(before)


@contextlib.contextmanager
def full_disk(root: Path, rng: random.Random) -> Iterator[str]:
    """Mounts a small disk where outputs or caches are written while the block runs."""
    place = root / rng.choice(("out", "cache", "xdg"))
    size = rng.choice((4, 16, 40, 64, 100, 200, 400))
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place], check=True)
    try:
        yield f"{place.name}: a disk of {size} kB"
    finally:
        subprocess.run(["umount", place], check=True)


def damage_argument(arguments: list[str], rng: random.Random) -> str:
    """Damages one argument and says how."""
    i = rng.randrange(1, len(arguments))
    name, _, value = arguments[i].partition("=")
    new = rng.choice((*ENDS, value + "x", value[: rng.randrange(len(value) + 1)]))
    new = new.replace("\0", "")  # no program can be given one
    arguments[i] = rng.choice((f"{name}={new}", name, f"{name}x={value}", f"{name}={value}/"))
    return f"argument {arguments[i]!r}"


def trial(seed: int, inputs: Path, folder: Path) -> tuple[str, list[str]]:
    """Runs one damaged command.

    Returns:
      A description of the command, and a list of faults in its answer, empty if it is right.
    """
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(inputs, folder)
    arguments = rng.choice(commands(folder, rng))
    kind = rng.choice(("file",) * 5 + ("argument",) * 2 + ("permission",) + ("disk",) * IS_ROOT)
    what = ""
    if kind == "file":
        what = damage_file(folder, rng)
    elif kind == "argument":
        what = damage_argument(arguments, rng)
    before = content(folder)
    with contextlib.ExitStack() as stack:
        if kind == "permission":
            what = stack.enter_context(forbidden(folder, rng))
        elif kind == "disk":
            what = stack.enter_context(full_disk(folder, rng))
        done = run(arguments, folder)
    wrong = faults(done.returncode, done.stderr)
    after = content(folder)
    wrong += [f"{name} has changed" for name in before if after.get(name) != before[name]]
    return f"seed {seed}, {arguments[0]}, {what}", wrong


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Runs a command with caches and a home below ``folder``."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "xdg"), "HOME": str(folder / "home"),
    }  # fmt: skip
    return subprocess.run(
        [*BOUND, sys.executable, "-m", f"selfdistill_jax.{arguments[0]}", *arguments[1:]],
        cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=300,
    )  # fmt: skip


def faults(status: int, stderr: str) -> list[str]:
    """Returns the faults in a command's exit status and error output."""
    found = []
    if status not in (0, 2):
        found.append(f"exit status {status}")
    if "Traceback" in stderr or "Exception ignored" in stderr:
        found.append("a traceback: " + stderr.strip()[-600:])
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    if status == 2 and (len(errors) != 1 or not stderr.endswith(f"{errors[0]}\n")):
        found.append(f"not one line of error at the end: {stderr.strip()[-400:]!r}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="selfdistill_jax-damage-"))
    root.chmod(0o755)
    make_inputs(root / "inputs")
    end, seed = time.monotonic() + 60 * options.minutes, options.seed
    answers = collections.Counter()
    while time.monotonic() < end:
        what, wrong = trial(seed, root / "inputs", root / "trial")
        answers["wrong" if wrong else "right"] += 1
        for line in wrong:
            print(f"{what}: {line}", flush=True)
        seed += 1
    shutil.rmtree(root)
    print(f"{answers['right']} right, {answers['wrong']} wrong answers")
    return bool(answers["wrong"])


if __name__ == "__main__":
    sys.exit(main())
