"""Damages files and arguments of every command at random, and checks how each command answers.

    python -m tests.soak.damage [--minutes=10] [--seed=0]

Exit status 0 or 2, an error is one line, there is never a traceback, and no file that was there
before is changed. Prints every answer that is wrong, with the seed that repeats it.
"""

import argparse
import collections
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.tiny import Tiny, content, texts, write_rows

ROOT = Path(__file__).parents[2]
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
    kind = rng.choice(("cut", "byte", "empty", "gone", "folder", "utf-16", "line twice", "null"))
    if kind == "cut":
        path.write_bytes(data[:at])
    elif kind == "byte":
        path.write_bytes(data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "utf-16":
        path.write_bytes(data.decode(errors="replace").encode("utf-16"))
    elif kind == "line twice":
        lines = data.splitlines(keepends=True) or [b""]
        path.write_bytes(data + rng.choice(lines))
    elif kind == "null":
        path.write_bytes(b"null")
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    return f"{path.relative_to(root)}: {kind} at {at} of {len(data)}"


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
    in_file = rng.random() < 0.7
    what = damage_file(folder, rng) if in_file else damage_argument(arguments, rng)
    before = content(folder)
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "xdg"), "HOME": str(folder / "home"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", f"selfdistill_jax.{arguments[0]}", *arguments[1:]],
        cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=300,
    )  # fmt: skip
    wrong = []
    if done.returncode not in (0, 2):
        wrong.append(f"exit status {done.returncode}")
    if "Traceback" in done.stderr or "Exception ignored" in done.stderr:
        wrong.append("a traceback: " + done.stderr.strip()[-600:])
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if done.returncode == 2 and (len(errors) != 1 or not done.stderr.endswith(f"{errors[0]}\n")):
        wrong.append(f"not one line of error at the end: {done.stderr.strip()[-400:]!r}")
    after = content(folder)
    wrong += [f"{name} has changed" for name in before if after.get(name) != before[name]]
    return f"seed {seed}, {arguments[0]}, {what}", wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="selfdistill_jax-damage-"))
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
