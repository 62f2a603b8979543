"""Tests where an encoder is looked for, with a stand-in for the hub and its cache."""

from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from selfdistill_jax.checkpoints import hub as module
from selfdistill_jax.checkpoints.hub import locate
from selfdistill_jax.errors import InputError

WHOLE = ("model.safetensors", "modules.json")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Returns ``hub(cached=files, online=...)``, which sets up the cache and returns its folder."""

    def set_up(cached: tuple[str, ...] | None, *, online: bool) -> Path:
        folder = tmp_path / "cached"
        if cached is not None:
            folder.mkdir()
            for name in cached:
                (folder / name).write_text("x")

        def snapshot_download(name, local_files_only=False, **_):
            if local_files_only and cached is None:
                raise module.LocalEntryNotFoundError("not cached")
            if local_files_only:
                return str(folder)
            if not online:
                raise OSError("no network")
            return str(tmp_path / "downloaded")

        monkeypatch.setattr(module.huggingface_hub, "snapshot_download", snapshot_download)
        return folder

    return set_up


@pytest.mark.parametrize(
    ("files", "online", "taken"),
    [
        (WHOLE, True, "cached"),
        *((files, True, "downloaded") for files in ((), WHOLE[:1], WHOLE[1:])),
        (WHOLE[:1], False, "cached"),  # better than nothing
    ],
)
def test_a_partial_cache_is_taken_last(hub, files, online, taken):
    folder = hub(files, online=online)
    assert locate("some/model") == folder.with_name(taken)


def test_a_download_without_the_document_encoder_is_not_enough(hub):
    folder = hub(WHOLE, online=True)
    (folder / "config.json").write_text('{"selfdistill_jax_encodes": "queries"}')
    assert locate("some/model") == folder.with_name("downloaded")
    (folder / "document_encoder").mkdir()
    assert locate("some/model") == folder


def test_nowhere(hub):
    hub(None, online=False)
    with pytest.raises(InputError, match=r"^some/model: no such folder, not in the Hugging Face"):
        locate("some/model")


def test_what_is_fetched_of_a_hub_repository():
    """Our patterns, applied by the hub's own client, select exactly the files that are needed."""
    wanted = [
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json",
        "model.safetensors.index.json", "vocab.txt", "sentencepiece.bpe.model", "modules.json",
        "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "README.md",
        "LICENSE", "LICENSE.txt", "NOTICE",
    ]  # fmt: skip
    others = [
        "pytorch_model.bin", "2_Dense/pytorch_model.bin", "onnx/model.onnx", "onnx/config.json",
        "openvino/openvino_model.bin", "openvino/config.json", "tf_model.h5", "train_script.py",
    ]  # fmt: skip
    assert list(filter_repo_objects([*wanted, *others], **module._FILES)) == wanted
