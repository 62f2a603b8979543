"""Trains an encoder for retrieval.

    python -m selfdistill_jax.main --config=configs/distributed.py [--config.train.steps=100 ...]

The same command resumes a stopped run, and prints the result of a finished one. All settings are
listed in selfdistill_jax/config.py; --config.<key>=<value> changes one.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Any

# Set before transformers is imported, which would otherwise warn at every start without PyTorch.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
if __name__ == "__main__":
    # Imports create no garbage, and the collector's search for it takes 0.4 s of the start.
    gc.disable()

import jax
from absl import flags

from selfdistill_jax.cli import config_flag, options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.cli.session import StopSignal, keep_compiled
from selfdistill_jax.errors import InputError
from selfdistill_jax.fit import train_and_report
from selfdistill_jax.progress import show_log
from selfdistill_jax.train.job import split_devices

_FLAGS = flags.FLAGS


def _define() -> None:
    config_flag.define()
    options.define_path("workdir", "Folder of the run; runs/<name of the config> by default.")
    flags.DEFINE_bool(
        "restart", False, "Move an existing run in the folder aside, then start over."
    )
    flags.DEFINE_bool("distributed", False, "Train in several processes, by jax.distributed.")
    flags.DEFINE_string(
        "coordinator_address", None, "HOST:PORT of process 0; automatic on TPU pods."
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes; automatic on TPU pods.")
    flags.DEFINE_integer(
        "process_id", None, "This process's number, from 0; automatic on TPU pods."
    )


def main(argv: list[str]) -> int | None:
    if len(argv) > 1:
        raise InputError(
            f"unexpected argument {argv[1]!r}; settings are given as --config.<key>=<value>"
        )
    show_log()
    _start_distributed()
    keep_compiled()
    config = _FLAGS.config
    if not _FLAGS.distributed:  # otherwise other processes may run on this machine too
        split_devices(config)
    workdir = _FLAGS.workdir or Path("runs") / config_flag.run_name(sys.argv)
    stopped = StopSignal()
    text = train_and_report(config, workdir, restart=_FLAGS.restart, stop=stopped)
    if text is None:
        return stopped.exit_status
    print(text, end="")
    return 0


def _start_distributed() -> None:
    names = ("coordinator_address", "num_processes", "process_id")
    given: dict[str, Any] = {
        name: _FLAGS[name].value for name in names if _FLAGS[name].value is not None
    }
    if given and not _FLAGS.distributed:
        name = next(iter(given))
        raise InputError(f"--{name} needs --distributed; add it, or leave out --{name}")
    if not _FLAGS.distributed:
        return
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--distributed: jax.distributed.initialize failed ({error}); check "
            "--coordinator_address, --num_processes and --process_id, or leave out --distributed "
            "to train on this machine alone"
        ) from None


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)  # tracing the step creates millions of objects
    gc.enable()
    _define()
    run_command(main, parse=config_flag.parse)
