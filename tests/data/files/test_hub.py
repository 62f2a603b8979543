"""Tests datasets of the hub with a cache on disk as the hub's client writes it, and no network."""

import json

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.data.files import hub
from selfdistill_jax.data.files.records import data_files
from selfdistill_jax.errors import InputError
from tests.data.sources.test_triplet_file import ROWS, named

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Puts a dataset into an empty cache, and returns its folder there."""
    root = tmp_path / "datasets--me--mine"
    folder = root / "snapshots" / COMMIT
    (folder / "triplets").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "triplets" / "train.jsonl").write_text(rows)
    (folder / "triplets" / "test.jsonl").write_text("not read")
    real = huggingface_hub.snapshot_download

    def download(*args, local_files_only=False, **options):
        if not local_files_only:
            raise OSError("no network")
        return real(*args, local_files_only=True, cache_dir=tmp_path, **options)

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
    return folder


@pytest.mark.parametrize(
    "name",
    ["me/mine", "me/mine/triplets/", f"me/mine@{COMMIT}/triplets", "me/mine/triplets/train.jsonl"],
)
def test_a_dataset_in_the_cache(cached, caplog, name):
    name = f"hf://datasets/{name}"
    assert data_files(name) == [cached / "triplets" / "train.jsonl"]
    assert "the hub cannot be reached; using the cached copy" in caplog.text
    assert len(named(name)) == len(ROWS)
    assert ExampleFile(name).describe()["file"] == name
    assert ExampleFile("hf://datasets/me/mine").name == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("me/other", "not in the Hugging Face cache, and the hub cannot be reached"),
        ("me", "expected hf://datasets/OWNER/NAME, "),
        ("", "expected hf://datasets/OWNER/NAME, "),
        ("a--b/c", "not in the Hugging Face cache"),
        ("me/mine@refs/convert/parquet/x", "not in the Hugging Face cache"),
        ("me/mine@", "expected hf://datasets/OWNER/NAME, "),
    ],
)
def test_datasets_that_are_not_there(cached, name, message):
    with pytest.raises(InputError) as caught:
        data_files(f"hf://datasets/{name}")
    assert str(caught.value).startswith(f"hf://datasets/{name}: {message}")


def test_files_that_are_downloaded(cached, monkeypatch):
    asked = {}

    def download(repository, **options):
        asked.update(options, repository=repository)
        return str(cached)

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
    data_files("hf://datasets/me/mine/triplets")
    files = ["triplets/train.jsonl", "triplets/a/train-0.parquet", "triplets/x.csv.gz"]
    others = ["README.md", "pairs/train.jsonl", "triplets/image.png", "triplets/train.py"]
    patterns = asked["allow_patterns"]
    assert list(filter_repo_objects([*files, *others], allow_patterns=patterns)) == files
    assert (asked["repository"], asked["repo_type"]) == ("me/mine", "dataset")
