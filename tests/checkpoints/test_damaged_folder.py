"""Tests that loading a model's folder names a damaged file, unless the file is not needed."""

import shutil

import numpy as np
import pytest

from selfdistill_jax import BiEncoder, encode, evaluate, search
from selfdistill_jax.errors import InputError
from tests.checkpoints.test_round_trip import change
from tests.tiny import ROWS, content, fails, write_rows

DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a list": lambda path: path.write_bytes(b"[]" if path.name != "modules.json" else b"{}"),
    "null": lambda path: path.write_bytes(b"null"),
    "an archive": lambda path: path.write_bytes(b"\x1f\x8b\x08\x00" + bytes(60)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
# Without these, a folder holds a plain transformer with default pooling, limit and prompts.
OPTIONAL = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
            "tokenizer_config.json"}  # fmt: skip


@pytest.fixture
def folder(tiny, tmp_path):
    folder = shutil.copytree(tiny.encoder, tmp_path / "model")
    change(folder / "tokenizer_config.json", model_max_length=16)
    return folder


def refusal(folder):
    try:
        BiEncoder.load(str(folder))
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file(folder, damage):
    """A folder opens to the same vectors, or is refused in a line that names the file."""
    texts = ["mabo tiri", "the kelu"]
    expected = BiEncoder.load(str(folder)).encode(texts)
    for name in content(folder):
        broken = shutil.copytree(folder, folder.with_name(f"broken-{name.replace('/', '-')}"))
        DAMAGES[damage](broken / name)
        if name == "README.md" or (damage == "missing" and name in OPTIONAL):
            np.testing.assert_array_equal(BiEncoder.load(str(broken)).encode(texts), expected)
            continue
        message = refusal(broken) or f"{name}: not refused"
        assert message.startswith(str(broken)), message
        # transformers does not say which of the tokenizer's files it could not read.
        assert name in message or name.startswith("tokenizer"), message
        assert "\n" not in message


@pytest.mark.parametrize("command", [encode, search, evaluate])
def test_every_command(start, tiny, folder, tmp_path, command):
    texts = write_rows(tmp_path / "texts.jsonl", ROWS)
    arguments = {
        encode: [f"--input={texts}", f"--output={tmp_path}/v.npy"],
        search: [f"--corpus={texts}", f"--queries={texts}", f"--run={tmp_path}/r.trec"],
        evaluate: [f"--dataset={tiny.collection}", f"--output={tmp_path}/e"],
    }[command]
    (folder / "model.safetensors").write_bytes(b"")
    before = content(tmp_path)
    result = start(command, f"--model={folder}", *arguments)
    last = result[2].splitlines()[-1] + "\n"  # evaluate reads the collection first
    assert fails((*result[:2], last), f"{folder}/model.safetensors: ")
    assert content(tmp_path) == before
