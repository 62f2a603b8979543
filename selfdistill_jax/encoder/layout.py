"""Finds the parts of a sentence-transformers folder, and reads its JSON files with checks."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import reason

MODULES = "modules.json"
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")  # in the order they are applied
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_NAMES |= {list: "a list", dict: "an object", type(None): "null"}


class Layout(NamedTuple):
    """Lists the folders and files of a model's parts.

    Attributes:
      root: the model's folder: ``modules.json``, prompts, model card.
      transformer: ``config.json``, weights and tokenizer; the root, or ``0_Transformer`` in folders
        of sentence-transformers before 1.0.
      pooling: the pooling's ``config.json``; None in a plain transformer's folder.
      dense: folders of dense layers, in order.
    """

    root: Path
    transformer: Path
    pooling: Path | None
    dense: tuple[Path, ...]


def read_layout(root: Path) -> Layout:
    """Reads ``modules.json`` and checks that the files it names are there.

    Args:
      root: a model's folder; one without ``modules.json`` is a plain transformer's.

    Raises:
      InputError: the file is damaged, names a module that is not computed here, or a module's
        folder is missing.
    """
    path = root / MODULES
    if not path.exists():
        pooling = root / "1_Pooling" / "config.json"
        return Layout(root, root, pooling if pooling.exists() else None, ())
    modules = [_module(path, module) for module in read_json(path, list)]
    kinds = [kind for kind, _ in modules]
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(
                f"{path}: has a module {kind}, without which the vectors would differ; supported: "
                f"{', '.join(KINDS)}"
            )
    if kinds != sorted(kinds, key=KINDS.index) or kinds.count("Transformer") != 1:
        raise InputError(
            f"{path}: modules are {', '.join(kinds) or 'none'}; expected one Transformer, and then "
            f"some of {', '.join(KINDS[1:])} in this order"
        )
    if kinds.count("Pooling") != 1:
        raise InputError(f"{path}: has {kinds.count('Pooling')} Pooling modules; expected one")
    places: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for kind, below in modules:
        places[kind].append(root / below)
        # Normalize has no files; git and some copies leave its empty folder out.
        if kind != "Normalize" and not (root / below / "config.json").is_file():
            raise InputError(
                f"{root / below / 'config.json'}: no such file, and {MODULES} names the module "
                f"{kind} there; copy the whole folder (cp -r), or fetch it again"
            )
    return Layout(
        root,
        places["Transformer"][0],
        places["Pooling"][0] / "config.json",
        tuple(places["Dense"]),
    )


def read_json(path: Path, kind: type = dict) -> Any:
    """Returns the content of a JSON file of a model's folder.

    Args:
      path: of the file.
      kind: of its content, ``dict`` or ``list``.

    Raises:
      InputError: it is not there, not JSON, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a model's folder holds config.json, tokenizer.json and "
            "model.safetensors"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
        raise InputError(f"{path}: not valid JSON ({error}); fetch the file again") from None
    if not isinstance(value, kind):
        raise InputError(f"{path}: holds {_NAMES[type(value)]}; expected {_NAMES[kind]}")
    return value


def entry(raw: dict[str, Any], key: str, kind: type, *, where: Path | str, default: Any = ...):
    """Returns a checked entry of a JSON object.

    Args:
      raw: the object.
      key: of the entry.
      kind: of its value; ``float`` takes whole numbers too.
      where: the file, for the message.
      default: returned where the key is missing or null; without it the key is required.

    Raises:
      InputError: the key is missing, or its value is of another kind.

    Example:
      >>> entry({"dim": 8}, "dim", int, where="config.json")
      8
    """
    value = raw.get(key)
    if value is None:
        if default is ...:
            raise InputError(f"{where}: key {key!r} is missing; expected {_NAMES[kind]}")
        return default
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where}: {key} is {value!r}; expected {_NAMES[kind]}")
    return value


def _module(path: Path, module: Any) -> tuple[str, str]:
    if not isinstance(module, dict):
        raise InputError(f"{path}: holds {module!r}; expected objects with type and path")
    kind = entry(module, "type", str, where=path).rpartition(".")[2]
    return kind, entry(module, "path", str, where=path)
