"""Reads the flags --config and --config.<key>=<value>, with one-line errors."""

import runpy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.io import expand
from selfdistill_jax.train.run_folder import flatten

flags.disclaim_key_flags()  # so that --help of a command shows only its own flags


def define() -> None:
    """Defines --config among absl's global flags; to be called once per process."""
    config_flags.DEFINE_config_file("config", None, "Python file with get_config().")


def _path_and_argument(argv: list[str]) -> tuple[Path, list[str]]:
    """Returns the path in --config, and the argument of get_config after its colon, if any."""
    for i, argument in enumerate(argv):
        name, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config" and (value or argv[i + 1 :]):
            path, colon, rest = (value or argv[i + 1]).partition(":")
            return expand(path), [rest] if colon else []
    raise InputError("--config is missing; try --config=configs/distributed.py")


def run_name(argv: list[str]) -> str:
    """Returns the default name of a run's folder in runs/.

    Args:
      argv: the command line.

    Raises:
      InputError: --config is missing.

    >>> run_name(["main", "--config=configs/distributed.py:msmarco"])
    'distributed-msmarco'
    """
    path, argument = _path_and_argument(argv)
    return "-".join([path.stem, *(part.replace("/", "-") for part in argument if part)])


def parse(argv: list[str]) -> list[str]:
    """Parses the flags and turns a wrong flag or setting into a one-line error.

    Args:
      argv: the command line.

    Returns:
      The arguments that are not flags, with the program's name first.

    Raises:
      InputError: a flag or setting is unknown or wrong, or the config file cannot be used.
    """
    path, argument = _path_and_argument(argv)
    if not path.is_file():
        whole = ":".join((str(path), *argument))
        hint = ""
        if argument and Path(whole).is_file():
            hint = " (a colon separates the file from its argument; rename the file)"
        raise InputError(f"--config={path}: no such file{hint}")
    known = _read_config(path, argument).to_dict()
    try:
        return flags.FLAGS(_expanded(argv))
    except (AttributeError, KeyError):
        _name_unknown_key(argv, path, known)
        raise
    except flags.UnrecognizedFlagError as error:
        raise InputError(
            f"unknown flag --{error.flagname}{nearest(error.flagname, list(flags.FLAGS))}"
        ) from None
    except flags.IllegalFlagValueError as error:
        raise InputError(str(error).strip().splitlines()[-1]) from None


def _expanded(argv: list[str]) -> list[str]:
    """Returns the command line with the ~ of ``--config=~/mine.py`` replaced."""
    expanded = list(argv)
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name.lstrip("-") == "config" and argument.startswith("-"):
            at, prefix = (i, f"{name}=") if equals else (i + 1, "")
            if at < len(argv):
                expanded[at] = prefix + str(expand(value if equals else argv[at]))
    return expanded


def load_config(
    path: Path, argument: str, settings: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """Returns the config of a file with settings changed.

    Args:
      path: Python file with get_config().
      argument: argument of get_config; empty for none.
      settings: values by their names, such as ``{"train.steps": 30}``.

    Raises:
      InputError: the file cannot be used, it has no such setting, or a value has another type.
    """
    config = _read_config(path, [argument] if argument else [])
    change_settings(config, settings, source=str(path))
    return config


def change_settings(
    config: ml_collections.ConfigDict, settings: Mapping[str, Any], *, source: str
) -> None:
    """Changes settings of a config.

    Args:
      config: the config.
      settings: values by their names, such as ``{"train.steps": 30}``.
      source: the file that defines the config, for messages.

    Raises:
      InputError: the config has no such setting, or a value has another type.
    """
    known = flatten(config.to_dict())
    for key, value in settings.items():
        if key not in known:
            raise InputError(f"config.{key}: {source} has no such setting{nearest(key, known)}")
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise InputError(f"config.{key} is {value!r}: {error}") from None


def _read_config(path: Path, argument: list[str]) -> ml_collections.ConfigDict:
    """Returns the result of get_config.

    It runs before the flag's parser calls get_config, which would not turn errors into one line.
    """
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is not None:
            return get_config(*argument)
    except Exception as error:  # the user's file can raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        given = ":".join((str(path), *argument))
        raise InputError(
            f"--config={given}: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        ) from None
    raise InputError(
        f"--config={path}: has no get_config(); define one as in configs/distributed.py"
    )


def _name_unknown_key(argv: list[str], path: Path, config: dict[str, Any]) -> None:
    known = flatten(config)
    given = [a.lstrip("-").partition("=")[0] for a in argv if a.lstrip("-").startswith("config.")]
    for key in (name.removeprefix("config.") for name in given):
        if key not in known and key not in config:
            raise InputError(f"--config.{key}: {path} has no such setting{nearest(key, known)}")
