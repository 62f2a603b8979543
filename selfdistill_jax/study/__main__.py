"""Runs a study: a grid of settings on several collections with several seeds, and one page.

    python -m selfdistill_jax.study --study=studies/losses.py --output=docs/studies/losses

The same command resumes: runs that are in the table are not repeated. The table (runs.csv and
queries.csv) is written after every run, the page (README.md) at the end. Settings that the study
tunes are chosen on dev, for each method and collection; test is read once for each seed.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from selfdistill_jax.cli import config_flag, options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.cli.session import StopSignal, keep_compiled
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import show_log
from selfdistill_jax.study.definition import read_study
from selfdistill_jax.study.page import write_page
from selfdistill_jax.study.runs import execute
from selfdistill_jax.study.table import RUNS, Table
from selfdistill_jax.train.job import split_devices

_FLAGS = flags.FlagValues()
options.define_path("study", "Python file that defines the study, see studies/losses.py.", _FLAGS)
options.define_path("output", "Folder of the table and the page.", _FLAGS)
options.define_path("data", "Folder with BEIR folders, by the names in the study.", _FLAGS)
options.define_path("config", "Config of all runs; configs/base.py by default.", _FLAGS)
options.define_path("work", "Folder for the runs themselves; runs/studies by default.", _FLAGS)
_SHARD = flags.DEFINE_string(
    "shard", "0/1", "i/n: run every n-th pair of collection and method, from the i-th (from 0).",
    flag_values=_FLAGS,
)  # fmt: skip
_PAGE = flags.DEFINE_bool("page", False, "Only write the page from the table.", flag_values=_FLAGS)


def main(argv: list[str]) -> int | None:
    options.refuse_rest(argv)
    options.required(_FLAGS, "study", "output")
    study, table = read_study(_FLAGS.study), Table(_FLAGS.output / RUNS)
    complete, stopped = True, None
    if not _PAGE.value:
        show_log()
        keep_compiled()
        configs = _FLAGS.config or Path("configs/base.py")
        split_devices(_make_config(configs, study.settings | next(iter(study.methods.values()))))
        stopped = StopSignal()
        complete = execute(
            study,
            table,
            partial(_make_config, configs),
            data=_FLAGS.data,
            work=_FLAGS.work or Path("runs/studies"),
            shard=_shard(_SHARD.value),
            stop=stopped,
        )
    write_page(study, table, _FLAGS.output)
    print(f"{len(table.results)} runs; page: {_FLAGS.output / 'README.md'}")
    return None if complete or stopped is None else stopped.exit_status


def _make_config(path: Path, settings: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config of a run; ``loss.name`` is the argument of get_config."""
    rest = {key: value for key, value in settings.items() if key != "loss.name"}
    return config_flag.load_config(path, settings.get("loss.name", ""), rest)


def _shard(text: str) -> tuple[int, int]:
    """Returns the numbers of ``i/n``."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"--shard={text}: expected i/n with i from 0 to n - 1, such as 0/2")
    return int(index), int(count)


if __name__ == "__main__":
    run_command(main, flag_values=_FLAGS)
