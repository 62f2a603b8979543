"""Flags that the commands around a trained model share."""

import os
from pathlib import Path

from absl import flags

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand

flags.disclaim_key_flags()  # --help of a command shows the flags that it defines


class _PathParser(flags.ArgumentParser):
    """Reads a path; shells leave the ~ of ``--output=~/x`` as it is."""

    syntactic_help = "a path"

    def parse(self, argument: str | Path) -> Path | None:
        return expand(argument) if argument else None


class _PathSerializer(flags.ArgumentSerializer):
    def serialize(self, value: Path) -> str:
        return str(value)


def define_path(name: str, help: str, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag whose value is a `Path`, None where it is not given.

    Every flag that names a file or folder is defined by this.

    Args:
      name: of the flag.
      help: for ``--help``.
      values: the command's flags.
    """
    flags.DEFINE(_PathParser(), name, None, help, values, _PathSerializer())


def define_model(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "model", None, "Encoder: a run's model/ folder, another folder or a hub id.",
        flag_values=values,
    )  # fmt: skip


def define_adapter(values: flags.FlagValues) -> None:
    define_path(
        "adapter",
        "Adapter of --model: a run's adapter/ folder, or another in PEFT's format.",
        values,
    )


def define_dimensions(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        "dimensions", None, "Keep only a vector's first numbers, this many; all by default.",
        lower_bound=1, flag_values=values,
    )  # fmt: skip


def required(values: flags.FlagValues, *names: str) -> None:
    """Raises InputError, naming the first flag that was not given."""
    for name in names:
        if not values[name].value:
            raise InputError(f"--{name} is missing; {values[name].help.rstrip('.').lower()}")


def refuse_rest(argv: list[str]) -> None:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; --help lists the flags")


def split_datasets(value: str) -> list[str]:
    """Splits a list of collections at its commas, unless the whole names a folder that is there.

    >>> split_datasets("data/a,data/b")
    ['data/a', 'data/b']
    """
    if expand(value).exists():
        return [value]
    return [part.strip() for part in value.split(",") if part.strip()]


def refuse_existing(*paths: Path) -> None:
    """Raises InputError, naming the first file that is already there."""
    for path in paths:
        if os.path.lexists(path):  # a link to a missing file too
            raise InputError(f"{path}: already there; remove it or give another name")
