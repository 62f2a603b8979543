"""Plans real runs for TPUs and GPUs, without having them, and prints the tables of the docs.

    python -m benchmarks.plans tpu      # or: gpu, sizing; make tpu-compile gpu-compile

Each case runs `selfdistill_jax.plan` once and adds its result to benchmarks/results/plans.json.
Cases that are already in that file are skipped, unless --again is given. All times are estimates
with two bounds, see docs/accelerators.md.
"""

import argparse
import datetime
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "plans.json"
_TEXTS = ("--lengths=8,70", "--config.data.query_length=20", "--config.data.document_length=200")
_PLAIN = ("--config=configs/distributed.py", *_TEXTS)
ENCODERS = {
    "BERT-base": ("--encoder=bert-base", "--passages=8800000"),
    "MPNet": ("--encoder=mpnet",),
    "ModernBERT": ("--encoder=modernbert",),
    "DistilBERT, LoRA": ("--encoder=distilbert", "--config.encoder.adapter=lora"),
    "BERT-large, fsdp 2": (
        "--encoder=bert-large", "--config.train.micro_batches=2", "--config.train.fsdp=2"
    ),
}  # fmt: skip
TPUS = {"v5e:2x4": 8, "v5p:2x2x2": 8, "v6e:2x4": 8}
GPUS = {"h100:8": 8}
# The paper's set-up, with other numbers of examples in a step.
_MSMARCO = (
    "--config=configs/distributed.py:msmarco", "--encoder=distilbert", "--lengths=8,70",
    "--passages=8800000",
)  # fmt: skip
MACHINES = {
    "v5e-1": 1, "v5e-8": 8, "v5e-64": 64, "v5e-256": 256, "v6e-8": 8, "v5p-8": 4, "h100:1": 1,
    "h100:8": 8,
}  # fmt: skip
BATCHES = (128, 1024)
PASSAGES = {"8.8 M": 8.8e6, "100 M": 1e8, "1 B": 1e9}


def cases(kind: str) -> dict[str, tuple[str, ...]]:
    """Returns the flags of each case of a table, by its name."""
    if kind == "sizing":
        return {
            f"{machine} {batch}": (
                *_MSMARCO, _machine_flag(machine), f"--config.train.batch_size={batch}"
            )
            for machine, chips in MACHINES.items()
            for batch in BATCHES
            if batch % chips == 0
        }  # fmt: skip
    machines = TPUS if kind == "tpu" else GPUS
    return {
        f"{name} {machine}": (
            *_PLAIN, *flags, _machine_flag(machine), f"--config.train.batch_size={128 * chips}"
        )
        for machine, chips in machines.items()
        for name, flags in ENCODERS.items()
    }  # fmt: skip


def _machine_flag(machine: str) -> str:
    return f"--gpu={machine}" if machine.startswith("h100") else f"--topology={machine}"


def plan(flags: tuple[str, ...]) -> dict[str, Any]:
    """Runs the command and returns its JSON, with its flags, the date and the version of JAX."""
    command = [sys.executable, "-m", "selfdistill_jax.plan", "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout) | {
        "flags": list(flags),
        "date": datetime.date.today().isoformat(),
        "jax": version("jax"),
    }


def compiled_table(results: dict[str, Any], kind: str) -> str:
    """Returns what each step needs, as Markdown."""
    lines = [
        "| encoder | machine | memory, GiB | gradient and vectors, MB | step, ms | share of peak "
        "| encoding, tokens/s a chip |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in cases(kind):
        if name not in results:
            continue
        found = results[name]
        step, encoder = found["step"], name.rsplit(" ", 1)[0]
        low, high = (1e3 * step["estimate"][key] for key in ("least", "most"))
        moved = sum(e["bytes"] * e["times"] for e in step["exchanges"]) / 1e6
        encoding = found.get("encoding", {}).get("tokens_per_second_and_device")
        lines.append(
            f"| {encoder} | {found['machine']['name']} "
            f"| {step['memory_bytes']['total'] / 2**30:.1f} | {moved:,.0f} "
            f"| {low:,.0f} to {high:,.0f} | {_percent(step['estimated_share_of_peak'])} "
            f"| {_thousands(encoding)} |"
        )
    return "\n".join(lines)


def sizing_table(results: dict[str, Any]) -> str:
    """Returns hours of training and of encoding for each machine, as Markdown."""
    heads = [f"20,000 steps of {batch:,}" for batch in BATCHES]
    heads += [f"encoding {name}" for name in PASSAGES]
    lines = ["| machine | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for machine in MACHINES:
        found = [results.get(f"{machine} {batch}") for batch in BATCHES]
        some = next((f for f in found if f), None)
        if some is None:
            continue
        cells = [_hours(f["run"]["hours"]) + _changed(f) if f else "–" for f in found]
        encoding = some["encoding"]
        for count in PASSAGES.values():
            hours = [h * count / encoding["passages"] for h in encoding["hours"]]
            cells.append(_hours(hours))
        lines.append(f"| {machine} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _changed(found: dict[str, Any]) -> str:
    changes = found["tried"][-1]["changes"]
    text = ", ".join(f"{key.removeprefix('train.')} {value}" for key, value in changes.items())
    return f" ({text})" if text else ""


def _hours(hours: list[float]) -> str:
    low, high = hours
    units = (("d", 1 / 24), ("h", 1), ("min", 60), ("s", 3600))
    unit, scale = next((u for u in units if high * u[1] >= 2), units[-1])
    return f"{low * scale:,.1f} to {high * scale:,.1f} {unit}"


def _percent(values: list[float]) -> str:
    return " to ".join(f"{value:.0%}" for value in values)


def _thousands(values: list[float] | None) -> str:
    return "" if values is None else " to ".join(f"{value / 1e3:,.0f}k" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("tpu", "gpu", "sizing"))
    parser.add_argument("--again", action="store_true", help="compile all cases again")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = json.loads(options.output.read_text()) if options.output.is_file() else {}
    for name, flags in cases(options.kind).items():
        if name in results and not options.again:
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        results[name] = plan(flags)
        options.output.write_text(json.dumps(results, indent=1) + "\n")
    sizing = options.kind == "sizing"
    print(sizing_table(results) if sizing else compiled_table(results, options.kind))


if __name__ == "__main__":
    main()
