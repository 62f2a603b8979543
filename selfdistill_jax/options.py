"""Flags that the commands around a trained model share."""

from pathlib import Path

from absl import flags

from selfdistill_jax.errors import InputError


def define_model(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "model", None, "Encoder: a run's model/ folder, another folder or a hub id.",
        flag_values=values,
    )  # fmt: skip


def define_adapter(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "adapter", "", "Adapter of --model: a run's adapter/ folder, or another in PEFT's format.",
        flag_values=values,
    )  # fmt: skip


def define_dimensions(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        "dimensions", None, "So many of a vector's numbers, the first; all without it.",
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


def refuse_existing(*paths: Path) -> None:
    """Raises InputError, naming the first file that is already there."""
    for path in paths:
        if path.exists():
            raise InputError(f"{path}: already there; remove it or give another name")
