"""Tests that texts and ids are found again, by row and by id."""

import random

import numpy as np
import pytest

from selfdistill_jax.data import stored_texts
from selfdistill_jax.data.id_rows import IdRows
from selfdistill_jax.data.stored_texts import StoredTexts, TextWriter
from selfdistill_jax.errors import InputError

TEXTS = ["", "aus 東京 🗼", "a\nb\r\n", "", "x" * 5000, " in\u0301 \0", "last"]


def write(path, texts):
    with TextWriter(path) as writer:
        for text in texts:
            writer.add(text)
    return StoredTexts(path)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_texts_are_read_like_a_list(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(stored_texts, "_AT_ONCE", at_once)
    found = write(tmp_path / "a", TEXTS)
    assert list(found) == TEXTS
    size = len(found)
    assert size == len(TEXTS)
    assert [found[i] for i in range(-size, size)] == TEXTS + TEXTS
    for start in (None, 0, 2, -3, 9):
        for stop in (None, 0, 1, 5, -1, 99):
            assert found[start:stop] == TEXTS[start:stop]
    assert found[::-2] == TEXTS[::-2]
    for rows in ([], [3], [2, 3, 4, 5], [0, 2, 1, 1], list(range(size))):
        assert list(found.take(np.array(rows, int))) == [TEXTS[row] for row in rows]
    for row in (size, -size - 1):
        with pytest.raises(IndexError):
            found[row]


def test_a_view_of_the_first_texts(tmp_path):
    write(tmp_path / "a", TEXTS)
    found = StoredTexts(tmp_path / "a", 2)
    assert list(found) == TEXTS[:2] == found[:5]
    assert found[-1] == TEXTS[1]
    assert list(write(tmp_path / "b", [])) == []


def test_a_file_that_becomes_shorter_is_named(tmp_path):
    found = write(tmp_path / "a", TEXTS)
    (tmp_path / "a.txt").write_bytes(b"short")
    with pytest.raises(InputError, match=rf"^{tmp_path}: damaged \(.*a\.txt became shorter"):
        list(found)


def test_nothing_is_completed_after_an_error(tmp_path):
    def failing():
        yield "one"
        raise KeyError

    with pytest.raises(KeyError):
        write(tmp_path / "a", failing())
    with pytest.raises(FileNotFoundError):
        StoredTexts(tmp_path / "a")


def test_ids_are_found_like_in_a_dict():
    draw = random.Random(0)
    ids = [f"d{draw.randrange(10**6)}" for _ in range(500)]
    ids = list(dict.fromkeys(ids))
    rows = IdRows(ids[:100])
    assert rows.find(ids[:1]).tolist() == [0]  # ids may be added after a search
    for id_ in ids[100:]:
        rows.add(id_)
    expected = {id_: row for row, id_ in enumerate(ids)}
    asked = [*draw.sample(ids, 50), "d", "", "D1", "東京"]
    assert rows.find(asked).tolist() == [expected.get(id_, -1) for id_ in asked]
    assert rows.first_repetition() is None
    rows.add(ids[7])
    rows.add(ids[3])
    assert rows.first_repetition() == (7, len(ids))
    assert IdRows().find(["a"]).tolist() == [-1]
    others = IdRows(["d", ids[9], ids[2]])
    assert others.shared_with(IdRows(ids)).tolist() == [[2, 2], [1, 9]]
