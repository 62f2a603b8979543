"""Manages a run's folder: its run's config and environment, and whether the run is finished."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from selfdistill_jax.checkpoints.model_folder import Pretrained, fingerprint
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import NO_ROOM, reason, write_json
from selfdistill_jax.locks import LOCK, locked_folder
from selfdistill_jax.train.data.tokenized_collection import TokenizedCollection

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "tokenizers",
    "safetensors", "tensorflow-datasets", "ml_collections", "pytrec-eval-terrier", "bm25s",
    "numpy", "scipy",
)  # fmt: skip
RESULT = "result.txt"
FINISHED = "finished.json"  # written when training and evaluation are done
ENVIRONMENT = "environment.json"


def check_run(workdir: Path, config: Mapping[str, Any], *, data: str) -> None:
    """Checks that a folder, if it exists, belongs to a run with this config and these data.

    Args:
      workdir: the folder.
      config: the whole config as plain values.
      data: fingerprint of the collection; the config has only the names of files.

    Raises:
      InputError: the folder holds no run, or a run with another config or other data.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: is a file, not a folder; give another --workdir")
    if not workdir.exists() or all(entry.name == LOCK for entry in workdir.iterdir()):
        return
    if not path.is_file():
        raise InputError(
            f"{workdir}: the folder is not empty and holds no run; give another --workdir"
        )
    old, new = flatten(_read(path)), flatten(config)
    changed = [
        f"{key} is {old[key]!r} there and {new[key]!r} here"
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key]
    ]
    unknown = sorted(old.keys() ^ new.keys())
    if old.get("loss.name") != new.get("loss.name"):  # each loss has its own options
        unknown = [key for key in unknown if not key.startswith("loss.")]
    if unknown:
        changed.insert(0, f"only one of the two has {', '.join(unknown)}")
    if changed:
        raise InputError(
            f"{workdir} holds a run {'of another version' if unknown else 'with another config'}: "
            f"{'; '.join(changed)}; give another --workdir, or --restart to move that run aside"
        )
    path = workdir / ENVIRONMENT
    if path.is_file() and _read(path).get("collection_fingerprint") != data:
        raise InputError(
            f"{workdir} holds a run with other data: the content of the dataset or triplets has "
            "changed since; give another --workdir, or --restart to move that run aside"
        )


def check_start(workdir: Path, encoder: str) -> None:
    """Checks that a resumed run still has the start encoder that it began with.

    Args:
      workdir: the run's folder.
      encoder: fingerprint of the start encoder; the config has only its name.

    Raises:
      InputError: the encoder's folder has changed since.
    """
    path = workdir / ENVIRONMENT
    if path.is_file() and _read(path).get("encoder_fingerprint", encoder) != encoder:
        raise InputError(
            f"{workdir} holds a run from another start encoder: the content of config.encoder.init "
            "has changed since; give another --workdir, or --restart to move that run aside"
        )


def open_run(workdir: Path, config: Mapping[str, Any], *, data: str, restart: bool) -> None:
    """Creates a run's folder, or checks that the existing one belongs to this config.

    Args:
      workdir: the folder.
      config: the whole config as plain values.
      data: see `check_run`.
      restart: move the content of the old folder aside and start anew.

    Raises:
      InputError: see `check_run`.
    """
    if restart and workdir.exists():
        _move_aside(workdir)
    check_run(workdir, config, data=data)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", config)


def start_run(
    workdir: Path,
    config: Mapping[str, Any],
    encoder: Pretrained,
    data: TokenizedCollection,
    *,
    restart: bool,
) -> None:
    """Creates or checks the run's folder, and records its settings and the software versions.

    Args:
      workdir: the folder.
      config: the whole config as plain values.
      encoder: the start encoder.
      data: the run's data.
      restart: see `open_run`.

    Raises:
      InputError: the folder belongs to another run.
    """
    of_data = data.collection.fingerprint
    start = fingerprint(encoder, encoder.prompts, data.tokenizer.fingerprint)
    if not restart:
        check_start(workdir, start)
    open_run(workdir, config, data=of_data, restart=restart)
    facts = environment(
        seed=config["seed"],
        collection=data.collection.name,
        collection_fingerprint=of_data,
        collection_source=data.collection.description,
        tokenizer_fingerprint=data.tokenizer.fingerprint,
        encoder_fingerprint=start,
    )
    write_json(workdir / ENVIRONMENT, facts)


@contextmanager
def claimed(workdir: Path) -> Generator[None]:
    """Creates a run's folder if it does not exist, and locks it against other processes.

    Raises:
      InputError: another process trains there, or a file could not be written at any time of the
        run; its checkpoints are intact then.
    """
    try:
        with locked_folder(workdir, "the run", "give a --workdir that can be written"):
            yield
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        raise InputError(
            f"{error.filename or workdir}: cannot be written ({reason(error)}); fix this, then "
            "run the same command to resume"
        ) from None


def mark_finished(workdir: Path, **facts: Any) -> None:
    """Records that training and evaluation are done, with the facts that a report needs."""
    write_json(workdir / FINISHED, facts)


def is_finished(workdir: Path) -> bool:
    """Returns whether training and evaluation are done."""
    # Runs of version 0.1 have only the result.
    return (workdir / FINISHED).is_file() or (workdir / RESULT).is_file()


def read_result(workdir: Path) -> str | None:
    """Returns the result table of a reported run, None for any other."""
    path = workdir / RESULT
    return path.read_text(encoding="utf-8") if path.is_file() else None


def recorded_dtype(workdir: Path) -> str:
    """Returns the type of matrix products of the run in a folder; empty if there is none."""
    path = workdir / "config.json"
    if not path.is_file():
        return ""
    return str(_read(path).get("train", {}).get("dtype", ""))


def environment(**facts: Any) -> dict[str, Any]:
    """Returns the versions, machine and devices, and the given facts."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": versions,
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "commit": _commit(),
        **facts,
    }


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``{"train.steps": 1}`` for ``{"train": {"steps": 1}}``, with lists for tuples."""
    flat = traverse_util.flatten_dict(dict(config), sep=".")
    return {k: list(v) if isinstance(v, tuple) else v for k, v in flat.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        problem = "not an object"
    except (OSError, ValueError) as error:
        problem = str(error)
    raise InputError(
        f"{path}: damaged ({problem}); give another --workdir, or --restart to move that run aside"
    )


def _move_aside(workdir: Path) -> None:
    """Moves a folder's content to a new folder beside it; the locked folder itself stays."""
    old = _free_name(workdir)
    old.mkdir()
    for entry in workdir.iterdir():
        if entry.name != LOCK:
            entry.rename(old / entry.name)


def _free_name(workdir: Path) -> Path:
    number = 1
    while (path := workdir.with_name(f"{workdir.name}.{number}")).exists():
        number += 1
    return path


def _commit() -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a wheel
    return done.stdout.strip()
