"""Tests that datasets which tensorflow-datasets prepared are training files."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.data.files.records import data_files
from selfdistill_jax.data.sources.triplet_file import TripletFile
from selfdistill_jax.errors import InputError

SPLITS = {"train": 5, "test": 2}


class Questions(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        text = tfds.features.Text()
        features = {"question": text, "answer": text, "negatives": tfds.features.Sequence(text)}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({**features, "id": np.int32}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for i in range(SPLITS[split]):
            negatives = [f"no {n}" for n in range(i % 3)]
            yield (
                i,
                {"question": f"{split} {i}?", "answer": f"ä {i}", "negatives": negatives, "id": i},
            )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tfds.disable_progress_bar()
    folder = tmp_path_factory.mktemp("tfds")
    Questions(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.parametrize("name", ["tfds://questions", "tfds://questions:1.2.0", "folder"])
def test_the_train_split_is_read(folder, monkeypatch, name):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    path = folder / "questions" / "1.2.0" if name == "folder" else name
    source = TripletFile(ExampleFile(path), held_out=False)
    assert [query.text for query in source.queries()] == [f"train {i}?" for i in range(5)]
    texts = [document.text for document in source.documents()]
    found = [(texts[e.positive], [texts[row] for row in e.negatives]) for e in source.examples()]
    assert found == [(f"ä {i}", [f"no {n}" for n in range(i % 3)]) for i in range(5)]
    assert source.fingerprint() == TripletFile(ExampleFile(path), held_out=False).fingerprint()


def test_the_latest_version_is_taken(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (whole,) = data_files(folder / "questions" / "1.2.0")
    for version in ("1.2.0", "1.10.0", "1.11.0.incompleteAB12"):
        copy = tmp_path / "questions" / version
        copy.mkdir(parents=True)
        for path in whole.parent.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
    assert data_files("tfds://questions") == [tmp_path / "questions" / "1.10.0" / whole.name]


def test_a_split_of_several_files_is_read_whole(folder, tmp_path):
    (whole,) = data_files(folder / "questions" / "1.2.0")
    (tmp_path / "features.json").write_bytes((whole.parent / "features.json").read_bytes())
    for number in range(2):
        name = f"questions-train.array_record-0000{number}-of-00002"
        (tmp_path / name).write_bytes(whole.read_bytes())
    source = TripletFile(ExampleFile(tmp_path), held_out=False)
    assert len(list(source.examples())) == 10


def refusal(name) -> str:
    with pytest.raises(InputError) as caught:
        list(TripletFile(ExampleFile(name)).queries())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_cannot_be_read_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert refusal("tfds://questions").startswith(f"tfds://questions: not prepared in {tmp_path}; ")
    assert refusal("tfds://a b").startswith("tfds://a b: expected tfds://NAME, ")
    (whole,) = data_files(folder / "questions" / "1.2.0")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / whole.name).write_bytes(whole.read_bytes()[:200])
    assert refusal(copy).startswith(f"{copy / whole.name}: not a readable file of tensorflow-")
    for name in ("features.json", "dataset_info.json"):
        (copy / name).write_bytes((whole.parent / name).read_bytes())
    assert refusal(copy).startswith(f"{copy / whole.name}: not a readable file of tensorflow-")
    (copy / whole.name).rename(copy / "questions-train.tfrecord-00000-of-00001")
    assert refusal(copy).startswith(f"{copy}: prepared as tfrecord, which only TensorFlow reads")
