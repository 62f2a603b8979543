"""Reads the file that defines a study."""

import itertools
import json
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from selfdistill_jax.errors import InputError, nearest

# Name in the file -> type, and whether it is required.
_NAMES = {
    "SETTINGS": (dict, False),
    "COLLECTIONS": (tuple, True),
    "METHODS": (dict, True),
    "TUNED": (dict, False),
    "OWN_TUNED": (dict, False),
    "SEEDS": (tuple, True),
    "BASELINE": (str, True),
}


class Study(NamedTuple):
    """Holds the definition of a study.

    Attributes:
      name: name of the file, without its ending.
      title: first line of the file's docstring.
      text: the rest of the docstring.
      settings: settings of all runs, by their names in the config, such as ``"train.steps"``.
      collections: names of embedded collections or of folders in ``--data``.
      methods: method -> the settings that define it.
      tuned: setting -> values to try for each method on each collection, by dev.
      own_tuned: method -> the same, for methods with values of their own.
      seeds: seeds of the tested runs; the first is used for tuning too.
      baseline: the method that all others are compared with.
    """

    name: str
    title: str
    text: str
    settings: dict[str, Any]
    collections: tuple[str, ...]
    methods: dict[str, dict[str, Any]]
    tuned: dict[str, tuple[Any, ...]]
    own_tuned: dict[str, dict[str, tuple[Any, ...]]]
    seeds: tuple[int, ...]
    baseline: str

    def tuned_of(self, method: str) -> dict[str, tuple[Any, ...]]:
        """Returns the values to try for a method."""
        return self.own_tuned.get(method, self.tuned)

    def grid(self, method: str) -> list[dict[str, Any]]:
        """Returns every combination of a method's tuned values; one empty combination if none."""
        tuned = self.tuned_of(method)
        values = itertools.product(*tuned.values())
        return [dict(zip(tuned, combination, strict=True)) for combination in values]

    def cells(self) -> Iterator[tuple[str, str]]:
        """Yields every pair of a collection and a method."""
        return itertools.product(self.collections, self.methods)


class Run(NamedTuple):
    """Identifies one run of a study.

    Attributes:
      collection, method: names.
      phase: "tune" to choose the tuned values by dev, or "test".
      seed: the run's seed.
      tuned: the tuned settings' values.
    """

    collection: str
    method: str
    phase: str
    seed: int
    tuned: Mapping[str, Any]

    def key(self) -> tuple[str, ...]:
        """Returns the run's fields as text, the same for the same run."""
        tuned = json.dumps(dict(self.tuned), sort_keys=True)
        return self.collection, self.method, self.phase, str(self.seed), tuned


def read_study(path: Path) -> Study:
    """Reads a study's Python file.

    Raises:
      InputError: the file does not exist, or a value in it is missing or wrong.
    """
    if not path.is_file():
        raise InputError(f"--study={path}: no such file; try --study=studies/losses.py")
    try:
        raw = runpy.run_path(str(path))
    except Exception as error:  # the user's file can raise anything
        raise InputError(f"--study={path}: {type(error).__name__}: {error}") from None
    found = {}
    for name, (kind, required) in _NAMES.items():
        value = raw.get(name, None if required else kind())
        if value is None:
            raise InputError(f"--study={path}: {name} is missing; see studies/losses.py")
        if not isinstance(value, kind) or (required and not value):
            raise InputError(
                f"--study={path}: {name} is {value!r}; expected a {kind.__name__} that is not empty"
            )
        found[name.lower()] = value
    title, _, text = (raw.get("__doc__") or path.stem).strip().partition("\n")
    study = Study(path.stem, title.rstrip("."), text.strip(), **found)
    if study.baseline not in study.methods:
        raise InputError(
            f"--study={path}: BASELINE is {study.baseline!r}; expected one of METHODS"
            f"{nearest(study.baseline, study.methods)}"
        )
    for method in study.own_tuned:
        if method not in study.methods:
            raise InputError(
                f"--study={path}: OWN_TUNED has {method!r}; expected one of METHODS"
                f"{nearest(method, study.methods)}"
            )
    return study
