"""Tests examples/emoji on pictures of one colour each, without the packages it reads emoji with."""

import numpy as np
import pytest

from examples.emoji import batches as emoji_batches
from examples.emoji import emoji_data, train
from selfdistill_jax.errors import InputError

OPTIONS = {"batch_size": 8, "learning_rate": 3e-3, "seed": 0, "evaluate_every": 5}


@pytest.fixture(scope="module")
def data():
    """Returns splits whose names describe the colour of a picture, which can be learned."""
    rng = np.random.default_rng(0)
    found = {}
    for split, count in (("train", 96), ("dev", 24), ("test", 32)):
        colours = rng.integers(256, size=(count, 3))
        names = [f"{split} {i}" for i in range(count)] + [f"{split} first"]
        relevant = [[i] for i in range(count)] + [[0, 1]]
        emoji = [emoji_data.Emoji(chr(65 + i), (names[i],)) for i in range(count)]
        pairs = emoji_data.Pairs(emoji, names, relevant)
        vectors = np.concatenate([colours, colours[:1]]).astype(np.float32) / 128 - 1
        pictures = np.broadcast_to(colours[:, None, None], (count, 8, 8, 3)).astype(np.uint8)
        found[split] = train.Split(pairs, vectors, pictures)
    return found


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("emoji")
    return folder, train.run(data, workdir=folder, loss="softmax", steps=20, **OPTIONS)


def test_pictures_that_were_not_trained_are_found(whole, data):
    _, found = whole
    start, trained = (found[name].mean("nDCG@10") for name in ("start", "trained"))
    chance = np.mean([1 / np.log2(2 + rank) for rank in range(10)]) * 10 / 32
    assert start < 2 * chance < trained


def test_self_distillation_of_pictures(data, tmp_path):
    found = train.run(data, workdir=tmp_path, loss="distributed", steps=20, **OPTIONS)
    assert found["trained"].mean("nDCG@10") > found["start"].mean("nDCG@10")


def test_a_run_resumes_to_the_bit(data, whole, tmp_path):
    folder, found = whole

    for stopped_at in (13, 0):
        again = train.run(
            data,
            workdir=tmp_path,
            loss="softmax",
            steps=20,
            stop=lambda number, last=stopped_at: number == last,
            **OPTIONS,
        )
    assert again["trained"].values == found["trained"].values
    with pytest.raises(InputError, match="expected 1 or more, and a batch of 2 to 98 pairs"):
        train.run(data, workdir=tmp_path, loss="softmax", steps=0, **OPTIONS)
    with pytest.raises(InputError, match="loss is 'softmax' there and 'distributed' here"):
        train.run(data, workdir=tmp_path, loss="distributed", steps=20, **OPTIONS)
    one, other = (np.load(path / "best.npz") for path in (folder, tmp_path))
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_frozen_image_encoder_stays_as_it_was(data, tmp_path):
    train.run(data, workdir=tmp_path, loss="softmax", steps=10, freeze_image=True, **OPTIONS)
    start = train.init_params(train.jax.random.key(0), size=train.SIZE, name_size=3)
    with np.load(tmp_path / "best.npz") as best:
        for path, leaf in train.jax.tree.leaves_with_path(start):
            equal = np.array_equal(best[train.jax.tree_util.keystr(path)], leaf)
            assert equal == (path[0].key == "image"), path


def test_batches_depend_on_their_step_alone_and_hold_no_known_positive(data):
    pairs, split = data["train"].pairs, data["train"]
    make = emoji_batches.EmojiBatches
    options = {"batch_size": 16, "seed": 3}
    for parts in (1, 4):
        batches, others = (
            make(pairs, split.pictures, split.names, parts=parts, **options) for _ in range(2)
        )
        rows = batches.iterate(5)
        for step in (5, 6, 7):
            batch, again = next(rows), others[step]
            for a, b in zip(*map(train_leaves, (batch, again)), strict=True):
                np.testing.assert_array_equal(a, b)
            assert batch.inputs.pictures.shape == (parts, 32 // parts, 8, 8, 3)
            assert not (batch.positive_ids == batch.negative_ids).any()
            colours = batch.inputs.pictures[:, :, 0, 0].reshape(parts, 2, -1, 3)
            ids = np.stack([batch.positive_ids[:, 0], batch.negative_ids[:, 0]])
            want = split.pictures[ids, 0, 0].reshape(2, parts, -1, 3).transpose(1, 0, 2, 3)
            np.testing.assert_array_equal(colours, want)


def test_an_emoji_is_in_one_split_with_all_its_names():
    emoji = [emoji_data.Emoji(chr(0x1F300 + i), (f"name {i}", f"kind {i % 7}")) for i in range(300)]
    splits = emoji_data.split(emoji)
    assert sorted(one for pairs in splits.values() for one in pairs.emoji) == emoji
    assert [len(splits[name].emoji) for name in splits] == [
        pytest.approx(n, rel=0.35) for n in (210, 30, 60)
    ]
    for pairs in splits.values():
        for name, rows in zip(pairs.names, pairs.relevant, strict=True):
            assert rows == [row for row, one in enumerate(pairs.emoji) if name in one.names]
        assert len(pairs.examples()) == 2 * len(pairs.emoji)
        assert pairs.qrels()["kind 3"] == {
            str(row): 1 for row in pairs.relevant[pairs.names.index("kind 3")]
        }
    # Adding an emoji leaves all others in their splits.
    more = emoji_data.split([*emoji, emoji_data.Emoji("z", ("last",))])
    assert all(set(splits[name].emoji) <= set(more[name].emoji) for name in splits)


def train_leaves(batch):
    return [batch.inputs.names, batch.inputs.pictures, batch.positive_ids, batch.negative_ids]
