"""Rewrites the reports of finished runs from their folders.

    python -m selfdistill_jax.report runs/distributed [runs/adaptive ...]

Writes result.txt, report.html and the evaluation in the model card into each run's folder, as the
training command does at the end of a run, and prints each result.
"""

from absl import flags

from selfdistill_jax.cli.run import run_command
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand
from selfdistill_jax.report.write import write_report

_FLAGS = flags.FlagValues()


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise InputError("no run given; name the folder of at least one finished run")
    print("\n".join(write_report(expand(folder)) for folder in argv[1:]), end="")


if __name__ == "__main__":
    run_command(main, flag_values=_FLAGS)
