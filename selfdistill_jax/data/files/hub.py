"""Finds datasets of the Hugging Face hub in its cache, or downloads them."""

import re
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG

PREFIX = "hf://datasets/"
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@(refs/(?:convert|pr)/[\w.-]+|[\w.-]+))?(?:/([\w./ -]*))?")
_HUB_ERRORS = (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RuntimeError)


def dataset_folder(name: str, suffixes: tuple[str, ...]) -> Path:
    """Returns the local folder of a dataset, after downloading its data files if necessary.

    Args:
      name: ``hf://datasets/OWNER/NAME[@REVISION][/FOLDER]``, as `huggingface_hub` writes it; a
        file may take the place of the folder.
      suffixes: suffixes of the files to download.

    Raises:
      InputError: the name is not of this form, or the dataset is not in the cache and cannot be
        downloaded.

    Example:
      >>> dataset_folder("hf://datasets/owner/name/triplets", (".parquet",))  # doctest: +SKIP
      PosixPath('/home/me/.cache/huggingface/hub/datasets--owner--name/snapshots/…/triplets')
    """
    found = _NAME.fullmatch(name.removeprefix(PREFIX).rstrip("/"))
    if not found:
        raise InputError(f"{name}: expected {PREFIX}OWNER/NAME, {PREFIX}OWNER/NAME/FOLDER, or "
                         f"{PREFIX}OWNER/NAME@REVISION/FOLDER")  # fmt: skip
    repository, revision, inside = found.groups()
    # With huggingface_hub, * in a pattern matches slashes too.
    start = f"{inside}/*" if inside else "*"
    is_file = bool(inside) and inside.endswith(suffixes)
    options: dict[str, Any] = {
        "repo_type": "dataset",
        "revision": revision,
        "allow_patterns": inside if is_file else [f"{start}{suffix}" for suffix in suffixes],
    }
    try:
        LOG.info("%s: looking for the dataset on the Hugging Face hub", name)
        folder = Path(huggingface_hub.snapshot_download(repository, etag_timeout=5, **options))
    except _HUB_ERRORS as error:
        # Only the hub can tell whether a download is complete, so the cache is used only if the
        # hub cannot be reached.
        try:
            folder = Path(
                huggingface_hub.snapshot_download(repository, local_files_only=True, **options)
            )
        except _HUB_ERRORS:
            raise InputError(
                f"{name}: not in the Hugging Face cache, and the hub cannot be reached or has no "
                f"such dataset ({type(error).__name__}); give the path of a downloaded folder"
            ) from None
        LOG.warning("%s: the hub cannot be reached; using the cached copy in %s", name, folder)
    return folder / inside if inside else folder
