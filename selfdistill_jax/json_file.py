"""Reads JSON files with checks of their keys and types."""

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


def entry(raw: Mapping[str, Any], key: str, kind: type, *, where: Path | str, default: Any = ...):
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
