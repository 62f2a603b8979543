"""Finds the parts of a sentence-transformers folder."""

from pathlib import Path
from typing import Any, NamedTuple

from selfdistill_jax.errors import InputError
from selfdistill_jax.json_file import entry, read_json

MODULES = "modules.json"
# Folder inside a model's folder: the document encoder, if the model encodes only queries. A key of
# config.json says so too, since programs that copy a model often leave unknown subfolders out.
DOCUMENT_ENCODER = "document_encoder"
ENCODES, QUERIES = "selfdistill_jax_encodes", "queries"
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")  # in the order they are applied


class Layout(NamedTuple):
    """Lists the folders and files of a model's parts.

    Attributes:
      root: the model's folder, with ``modules.json``, prompts and model card.
      transformer: folder of ``config.json``, weights and tokenizer; the root, or
        ``0_Transformer`` in folders of sentence-transformers before 1.0.
      pooling: the pooling's ``config.json``; None in a plain transformer's folder.
      dense: folders of the dense layers, in order.
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
      InputError: the file is damaged or names an unsupported module, or a module's folder is
        missing.
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
                f"{path}: the module {kind} is not supported, and ignoring it would change the "
                f"vectors; supported: {', '.join(KINDS)}"
            )
    if kinds != sorted(kinds, key=KINDS.index) or kinds.count("Transformer") != 1:
        raise InputError(
            f"{path}: modules are {', '.join(kinds) or 'none'}; expected one Transformer, then "
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
                f"{root / below / 'config.json'}: no such file, but {MODULES} names the module "
                f"{kind} there; copy the whole folder (cp -r), or fetch it again"
            )
    return Layout(
        root,
        places["Transformer"][0],
        places["Pooling"][0] / "config.json",
        tuple(places["Dense"]),
    )


def _module(path: Path, module: Any) -> tuple[str, str]:
    if not isinstance(module, dict):
        raise InputError(f"{path}: holds {module!r}; expected an object with type and path")
    kind = entry(module, "type", str, where=path).rpartition(".")[2]
    return kind, entry(module, "path", str, where=path)
