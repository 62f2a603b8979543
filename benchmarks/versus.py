"""Complete training jobs: this package, the released method's step and sentence-transformers.

    python benchmarks/versus.py --dataset=DIR --steps=30 --batch_size=128 --output=versus.json

All sides train the same encoder on the same triplets (a BEIR folder's training pairs with random
negatives), with the same loss, AdamW and batch size. Each run is a separate process, and the sides
run in turn:

    ours                   the command `python -m selfdistill_jax.main`, nothing evaluated
    released               the released code's step: every text padded to its maximum
    sentence_transformers  its own trainer: texts padded to the longest of their column

The table has, for each side:

    triplets/s, tokens/s   of the median step, from the third to the last but one; without padding
    first step             seconds from the start of the process to the begin of its first step
    update                 seconds to the end of the first step
    job                    seconds to the exit of the process, with the model on disk
    peak                   peak memory

Dropout is off on all sides; --dropout sets it on all sides to the rates of the encoder's
config.json.
Ratios are speed-ups of ours: above 1, ours is faster. Each is the median of the rounds' ratios,
not the
ratio of the medians in the table. The JSON also has each side's first and last loss, and facts: the
attention and number of threads of the peers, and parts of the account of our run.

On a GPU install flash-attn too: with it sentence-transformers pads nothing. On several GPUs set
CUDA_VISIBLE_DEVICES to one GPU, since ours and sentence-transformers would use all.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when run as a file

from benchmarks import common
from benchmarks.common import print_table, summary, write
from benchmarks.jobs import OPTIMIZER, Job
from selfdistill_jax.checkpoints.hub import locate

SIDES = ("ours", "released", "sentence_transformers")
# Figures in seconds, for which less is faster.
SECONDS = ("first_step_seconds", "first_update_seconds", "job_seconds")


def summaries(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median, minimum, maximum and all values of each measured figure; facts of the last run."""
    figures = {
        name: {**summary(values), "rounds": values}
        for name in runs[0]
        if name != "facts" and None not in (values := [run[name] for run in runs])
    }
    return figures | {"facts": runs[-1]["facts"]}


def speedups(runs: Mapping[str, Sequence[Mapping[str, Any]]], figure: str) -> dict[str, float]:
    """Peer -> speed-up of ours by a figure, as the median of the rounds' ratios."""
    found = {}
    for side in runs.keys() - {"ours"} if "ours" in runs else ():
        ratios = [a[figure] / b[figure] for a, b in zip(runs["ours"], runs[side], strict=True)]
        found[side] = statistics.median(1 / r if figure in SECONDS else r for r in ratios)
    return found


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="BEIR folder with qrels/train.tsv")
    add("--steps", type=int, default=30, help="updates of a run, 4 or more")
    add("--batch_size", type=int, default=128)
    add("--query_length", type=int, default=20)
    add("--document_length", type=int, default=200)
    add("--dropout", action="store_true", help="as the encoder's config.json says, all sides")
    text = "of compiled programs and tokens; warm: a run of ours that is not counted fills it"
    add("--cache", default="cold", choices=["cold", "warm"], help=text)
    add("--seed", type=int, default=0, help="of the triplets")
    text = "settings of ours, such as train.attention=cudnn"
    add("--ours_config", nargs="*", default=[], metavar="KEY=VALUE", help=text)
    options = common.parse(parser, argv, SIDES)
    if options.steps < 4:
        parser.error("--steps: 4 or more, of which the first two and the last are not counted")
    return options


def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="versus-") as folder:
        job = Job(options, locate(options.model), Path(folder))
        precisions = common.precisions(options)
        if options.cache == "warm" and "ours" in options.sides:
            job.run("ours", precisions["ours"], options.steps)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
        for number in range(options.rounds):
            for side in options.sides:
                found = job.run(side, precisions[side], options.steps)
                runs[side].append(found)
                rate, seconds = found["triplets_per_second"], found["job_seconds"]
                print(f"round {number + 1}, {side}: {rate:.1f} triplets/s, job {seconds:.1f} s",
                      flush=True)  # fmt: skip
    report(options, runs, precisions, job.tokens_per_triplet)


def report(options, runs, precisions: Mapping[str, str], tokens_per_triplet: float) -> None:
    """Prints the table and writes the JSON."""
    found = {side: {"precision": precisions[side], **summaries(runs[side])} for side in runs}
    columns = {
        "triplets_per_second": ("triplets/s", 1),
        "useful_tokens_per_second": ("tokens/s", 0),
        "first_step_seconds": ("first step s", 1),
        "first_update_seconds": ("update s", 1),
        "job_seconds": ("job s", 1),
        "peak_gb": ("peak GB", 2),
        "device_peak_gb": ("device GB", 2),
    }
    columns = {name: c for name, c in columns.items() if all(name in v for v in found.values())}
    head = [text for title, _ in columns.values() for text in (title, "min..max")]
    rows = [["side", "precision", *head]]
    for side, values in found.items():
        row = [side, precisions[side]]
        for name, (_, digits) in columns.items():
            median, least, most = (values[name][k] for k in ("median", "min", "max"))
            row += [f"{median:.{digits}f}", f"{least:.{digits}f}..{most:.{digits}f}"]
        rows.append(row)
    print()
    print_table(rows)
    ratios = {
        "ratios": speedups(runs, "triplets_per_second"),
        "ratios_whole_job": speedups(runs, "job_seconds"),
        "ratios_first_step": speedups(runs, "first_step_seconds"),
        "ratios_first_update": speedups(runs, "first_update_seconds"),
    }
    for side, rate in ratios["ratios"].items():
        print(
            f"\nours, times as fast as {side}: {rate:.2f} by triplets/s, "
            f"{ratios['ratios_whole_job'][side]:.2f} by the whole job, "
            f"{ratios['ratios_first_step'][side]:.2f} to the first step",
            end="",
        )
    print()
    kept = (
        "steps", "batch_size", "query_length", "document_length", "dropout", "cache", "seed",
        "ours_config",
    )  # fmt: skip
    settings = {
        **common.settings(options),
        **{name: getattr(options, name) for name in kept},
        **OPTIMIZER,
        "tokens_per_triplet": tokens_per_triplet,
    }
    write(options.output, {"settings": settings, **found, **ratios})


def main(argv: Sequence[str] | None = None) -> None:
    common.run(measure, read_options(argv))


if __name__ == "__main__":
    main()
