"""Reads JSON files and checks their keys and types."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import reason

_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def read_json(path: Path, kind: type = dict) -> Any:
    """Returns the content of a JSON file in a model's folder.

    Args:
      path: path of the file.
      kind: expected type of the content, ``dict`` or ``list``.

    Raises:
      InputError: the file is missing, unreadable or not JSON, or its content has another type.
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
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise InputError(f"{path}: not valid JSON ({error}); fetch the file again") from None
    if not isinstance(value, kind):
        raise InputError(f"{path}: holds {_NAMES[type(value)]}; expected {_NAMES[kind]}")
    return value


def entry(raw: Mapping[str, Any], key: str, kind: type, *, where: Path | str, default: Any = ...):
    """Returns the value of a key of a JSON object after checking its type.

    Args:
      raw: JSON object.
      key: key to look up.
      kind: expected type of the value; ``float`` accepts whole numbers too.
      where: file of the object, for the message.
      default: value to return if the key is missing or null; without it the key is required.

    Raises:
      InputError: the key is missing, or its value has another type.

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
