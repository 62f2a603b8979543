"""Measures whether bfloat16 costs accuracy: the demo in bfloat16 against float32.

    make real-accuracy

Every kind of run is trained with the same seeds, which set the order of the batches and their
negatives, and is tested on the demo's queries. Noise is the standard deviation of nDCG@10 between
the seeds of the float32 runs; a kind whose mean differs by more fails. Each of the six runs is the
whole demo, so this takes hours. Finished runs are kept in runs/accuracy and reused, so the output
names their commits. This is not part of `make test`; docs/performance.md has its results.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.retrieval.text_table import format_table

ROOT = Path(__file__).parent.parent.parent
REFERENCE = "float32"
KINDS = {
    REFERENCE: [],
    "bfloat16": ["--config.train.dtype=bfloat16"],
}
MEASURE = "nDCG@10"


def train(kind: str, seed: int, folder: Path) -> Path:
    """Trains or resumes a run, unless it is finished, and returns its folder."""
    workdir = folder / f"{kind.replace(', ', '-').replace(' ', '-')}-{seed}"
    if not (workdir / "eval" / "per_query.test.tsv").exists():
        command = [sys.executable, "-m", "selfdistill_jax.main", "--config=configs/distributed.py"]
        given = [f"--workdir={workdir}", f"--config.seed={seed}", *KINDS[kind]]
        subprocess.run([*command, *given], cwd=ROOT, check=True)
    return workdir


def of_queries(workdir: Path) -> dict[str, float]:
    """Returns query id -> the trained model's value."""
    with (workdir / "eval" / "per_query.test.tsv").open() as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["query"]: float(row[MEASURE]) for row in rows if row["system"] == "trained"}


def commits(workdirs: list[Path]) -> str:
    """Returns the commits that made the runs."""
    facts = [json.loads((workdir / "environment.json").read_text()) for workdir in workdirs]
    return ", ".join(sorted({str(one["commit"]) for one in facts}))


def compare(values: dict[str, list[dict[str, float]]]) -> tuple[str, bool]:
    """Returns a table, and whether every kind is within noise of the reference.

    Args:
      values: kind -> for each seed, query id -> value; seeds and queries have the same order.
    """
    means = {kind: [statistics.mean(run.values()) for run in runs] for kind, runs in values.items()}
    noise = statistics.stdev(means[REFERENCE])
    over_seeds = {
        kind: {query: statistics.mean(run[query] for run in runs) for query in runs[0]}
        for kind, runs in values.items()
    }
    rows, within = [], True
    for kind, of_seeds in means.items():
        row = [kind, *of_seeds, statistics.mean(of_seeds)]
        if kind != REFERENCE:
            test = paired_test(over_seeds[REFERENCE], over_seeds[kind])
            row += [f"{test.mean_difference:+.4f}", f"{test.ci_low:+.4f} to {test.ci_high:+.4f}"]
            within &= abs(test.mean_difference) <= noise
        rows.append(row + [None] * (len(values[kind]) + 4 - len(row)))
    seeds = [f"run {n}" for n in range(1, len(means[REFERENCE]) + 1)]
    table = format_table(rows, ["run", *seeds, "mean", "difference", "95 % of it"])
    return f"{table}\n\n{MEASURE}; between seeds it varies by {noise:.4f}", within


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    text = "of runs, the float32 one among them"
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help=text)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "accuracy")
    options = parser.parse_args()
    if len(options.seeds) < 2:
        parser.error("--seeds: 2 or more, or nothing tells how much a seed changes")
    if REFERENCE not in options.kinds:
        parser.error(f"--kinds: {REFERENCE!r} must be among them")
    runs: dict[str, list[Path]] = {kind: [] for kind in options.kinds}
    for seed in options.seeds:
        for kind in options.kinds:
            runs[kind].append(train(kind, seed, options.folder))
    table, within = compare({kind: [of_queries(run) for run in of] for kind, of in runs.items()})
    print(table)
    every = commits([run for of_kind in runs.values() for run in of_kind])
    print(f"seeds {', '.join(map(str, options.seeds))}; by commit {every}")
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
