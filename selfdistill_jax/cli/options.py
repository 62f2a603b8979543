"""Flags and checks shared by the commands that use a trained model."""

import os
from pathlib import Path

from absl import flags

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand

flags.disclaim_key_flags()  # so that --help of a command shows only its own flags


class _PathParser(flags.ArgumentParser):
    """Parses a path and expands ~, which shells do not expand in ``--output=~/x``."""

    syntactic_help = "a path"

    def parse(self, argument: str | Path) -> Path | None:
        return expand(argument) if argument else None


class _PathSerializer(flags.ArgumentSerializer):
    def serialize(self, value: Path) -> str:
        return str(value)


def define_path(name: str, help: str, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag whose value is a `Path`, or None if it is not given.

    Every flag that names a file or folder is defined with this function.

    Args:
      name: name of the flag.
      help: text for ``--help``.
      values: flags of the command.
    """
    flags.DEFINE(_PathParser(), name, None, help, values, _PathSerializer())


def define_model(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "model", None, "Encoder to use: a run's model/ folder, another model folder or a hub id.",
        flag_values=values,
    )  # fmt: skip


def define_adapter(values: flags.FlagValues) -> None:
    define_path(
        "adapter",
        "LoRA adapter to add to --model: a run's adapter/ folder, or another in PEFT's format.",
        values,
    )


def define_dimensions(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        "dimensions", None, "Number of leading dimensions to keep of each vector; all by default.",
        lower_bound=1, flag_values=values,
    )  # fmt: skip


def required(values: flags.FlagValues, *names: str) -> None:
    """Raises InputError that names the first of these flags that was not given."""
    for name in names:
        if not values[name].value:
            meaning = values[name].help.rstrip(".")
            raise InputError(f"--{name} is missing; give --{name}=VALUE ({meaning})")


def refuse_rest(argv: list[str]) -> None:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; --help lists the flags")


def split_datasets(value: str) -> list[str]:
    """Splits a list of collections at its commas, unless the whole value is an existing folder.

    >>> split_datasets("data/a,data/b")
    ['data/a', 'data/b']
    """
    if expand(value).exists():
        return [value]
    return [part.strip() for part in value.split(",") if part.strip()]


def refuse_pipe(flag: str, path: Path) -> None:
    """Checks that an input that is read several times is not a pipe.

    Raises:
      InputError: it is.
    """
    if path.exists() and not path.is_file():
        raise InputError(
            f"--{flag}={path}: not a regular file; it is read several times, which a pipe does not "
            "allow; write the texts to a file first"
        )


def refuse_existing(*paths: Path) -> None:
    """Raises InputError that names the first of these files that already exists."""
    for path in paths:
        if os.path.lexists(path):  # also true of a link to a missing file
            raise InputError(f"{path}: already exists; remove it or give another path")
