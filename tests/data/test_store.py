"""Tests that a source comes back from disk unchanged, and that a build is complete or absent."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from selfdistill_jax import io
from selfdistill_jax.data import store, stored_texts
from selfdistill_jax.data.cache import cache_folder, new_folder
from selfdistill_jax.data.collection import Document, Example, Judgement, Query
from selfdistill_jax.data.store import open_collection
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG
from tests.tiny import content

DOCUMENTS = [
    Document("d/1:ä", "Grüße", "aus 東京 🗼"),
    Document("d2", "", "no title, a\nline\u2028end, a\ttab and a \0"),
    Document("d3", "Only a title", ""),
    Document("d4", "Grüße", "aus 東京 🗼"),
    Document("d5", " spaces ", " in\u0301 front "),
    Document("d6", "", "x" * 70_000),
]
CONTENTS = [
    "Grüße aus 東京 🗼",
    "no title, a\nline\u2028end, a\ttab and a \0",
    "Only a title",
    "Grüße aus 東京 🗼",
    "spaces   in\u0301 front",
    "x" * 70_000,
]
QUERIES = [Query("q1", "wo?"), Query("q2", "где"), Query("q3", "wo?"), Query("q4", " 👋 ")]
JUDGEMENTS = {
    "train": [(0, 0, 1), (0, 2, 0), (2, 0, 1), (2, 0, 1)],
    "dev": [(1, 5, -1), (0, 1, 2**31 - 1), (1, 4, -(2**31))],
    "test": [(3, 1, 2), (3, 0, 1), (1, 2, 3)],
}
EXAMPLES = [
    Example(0, 5, (1,), 0.1, (-1e30,)),
    Example(3, 0),
    Example(0, 5, (1,), 0.1, (-1e30,)),
    Example(2, 1, (4, 0, 5), 0.0, (3.0, 2.0, 1.0)),
    Example(1, 2, (3, 4)),
]


def source(**changes):
    """Returns a source of the rows above or of others; a function may replace a list of rows."""
    rows = {"documents": DOCUMENTS, "queries": QUERIES, "examples": EXAMPLES}
    parts = {
        "name": "mine",
        "splits": ("train", "dev", "test"),
        "corpus_size": None,
        "pool_start": 0,
        "fingerprint": lambda: "ab" * 32,
        "describe": lambda: {"files": ["größe"]},
        "judgements": lambda split: (Judgement(*row) for row in JUDGEMENTS[split]),
    }
    for name, value in (parts | rows | changes).items():
        parts[name] = partial(iter, value) if isinstance(value, list) else value
    return SimpleNamespace(**parts)


@pytest.mark.parametrize("chunk", [1, 4, 4096])
def test_rows_come_back(tmp_path, monkeypatch, capfd, chunk):
    for module in (store, stored_texts):
        monkeypatch.setattr(module, "_AT_ONCE", chunk)
    for _ in range(2):  # built, then opened
        found = open_collection(source(), tmp_path)
        assert list(found.documents) == CONTENTS
        assert list(found.queries) == [q.text for q in QUERIES]
        assert list(found.document_ids) == [d.id for d in DOCUMENTS]
        assert list(found.query_ids) == [q.id for q in QUERIES]
        assert found.splits == ("train", "dev", "test")
        assert {split: found.judgements(split) for split in found.splits} == JUDGEMENTS
        assert_equal(found.examples(), EXAMPLES)
        assert (found.name, found.fingerprint) == ("mine", "ab" * 32)
        assert found.description == {"files": ["größe"]}
    out, err = capfd.readouterr()
    assert out == ""
    assert "%|" not in err  # no progress bar


def assert_equal(arrays, examples):
    """Checks that the arrays hold the examples in order."""
    assert len(arrays) == len(examples)
    most = max(len(example.negatives) for example in examples)
    assert arrays.negatives.shape == (len(examples), most)
    assert arrays.scores.shape == (len(examples), 1 + most)
    assert arrays.query.dtype == arrays.positive.dtype == arrays.negatives.dtype == np.int32
    for i, (query, positive, negatives, score, scores, _) in enumerate(examples):
        assert (arrays.query[i], arrays.positive[i]) == (query, positive)
        assert arrays.negatives[i].tolist() == [*negatives, *[-1] * (most - len(negatives))]
        want = [score, *scores, *[np.nan] * (most - len(scores))]
        np.testing.assert_array_equal(arrays.scores[i], np.array(want, np.float32))


def read_all(cache):
    found = open_collection(source(), cache)
    texts = list(found.documents), list(found.queries)
    return texts, found.examples(), *map(found.judgements, found.splits)


@pytest.mark.parametrize("keep", [None, 0, 0.5, 0.95])
def test_damaged_tables_are_named(tmp_path, keep):
    folder = open_collection(source(), tmp_path).folder
    paths = sorted(folder.iterdir())
    # Two of each table of texts and of each table of ids; judgements of three splits, examples,
    # scores, sources, own documents; and collection.json.
    assert len(paths) == 4 * 2 + 3 + 4 + 1
    for path in paths:
        whole = path.read_bytes()
        path.unlink()
        if keep is not None:
            path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(InputError, match=rf"^{folder}: damaged \(.*; delete the folder"):
            read_all(tmp_path)
        path.write_bytes(whole)


@pytest.mark.parametrize("splits", [(), ("dev",), ("test", "train")])
def test_what_is_empty_stays_empty(tmp_path, splits):
    judged = {split: JUDGEMENTS[split] for split in splits}
    given = source(
        judgements=lambda split: (Judgement(*row) for row in judged.get(split, [])), examples=[]
    )
    found = open_collection(given, tmp_path)
    assert set(found.splits) == set(splits)
    for split in ("train", "dev", "test"):
        assert found.judgements(split) == judged.get(split, [])
        assert len(found.qrels(split)) == len({q for q, _, _ in judged.get(split, [])})
    assert len(found.examples()) == 0
    assert found.examples().query.dtype == np.int32


def test_qrels_name_ids(tmp_path):
    found = open_collection(source(), tmp_path)
    assert found.qrels("test") == {"q4": {"d2": 2, "d/1:ä": 1}, "q2": {"d3": 3}}


def test_documents_that_are_absent_keep_their_ids(tmp_path):
    judged = {
        "train": [(0, "gone", 1), (1, 2, 1)],
        "dev": [(1, "the other one", -1), (1, "gone", 2)],
        "test": [(3, 1, 2)],
    }
    given = source(judgements=lambda split: (Judgement(*row) for row in judged[split]))
    for _ in range(2):  # built, then opened
        found = open_collection(given, tmp_path)
        assert {split: found.judgements(split) for split in judged} == judged
        assert found.qrels("train") == {"q1": {"gone": 1}, "q2": {"d3": 1}}
        assert found.qrels("dev") == {"q2": {"the other one": -1, "gone": 2}}


def test_documents_without_text_are_counted_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(LOG, "propagate", True)
    documents = [*DOCUMENTS, Document("d7", "", ""), Document("d8", " ", "\n")]
    for _ in range(2):  # built, then opened
        found = open_collection(source(documents=documents), tmp_path)
        assert list(found.documents) == [*CONTENTS, "", ""]
    (message,) = caplog.messages
    assert message.startswith("mine: 2 of 8 documents have neither title nor text")


def test_own_documents_are_queries_by_id(tmp_path):
    documents = [Document(id_, "", "x") for id_ in ("d0", "q4", "q1", "d3", "q2", "d5")]
    found = open_collection(source(documents=documents, corpus_size=4), tmp_path)
    assert found.own_documents.tolist() == [[3, 1], [0, 2]]  # q2's is outside the corpus
    assert open_collection(source(fingerprint=lambda: "cd"), tmp_path).own_documents.shape == (0, 2)


@pytest.mark.parametrize(("size", "start"), [(None, 0), (6, 0), (None, 2), (4, 4)])
def test_evaluation_and_training_have_their_own_documents(tmp_path, size, start):
    found = open_collection(source(corpus_size=size, pool_start=start), tmp_path)
    assert found.corpus_size == len(found.document_ids) == (size or 6)
    assert len(found.documents) == 6
    assert found.training_pool == range(start, 6)


def test_reused_while_the_fingerprint_is_the_same(tmp_path):
    def unread(*_):
        raise AssertionError("read again")

    open_collection(source(), tmp_path)
    before = content(tmp_path)
    again = source(**dict.fromkeys(("documents", "queries", "examples", "judgements"), unread))
    assert list(open_collection(again, tmp_path).documents) == CONTENTS
    assert content(tmp_path) == before

    changed = source(queries=QUERIES[::-1], fingerprint=lambda: "cd" * 32)
    assert list(open_collection(changed, tmp_path).query_ids) == ["q4", "q3", "q2", "q1"]
    assert list(open_collection(again, tmp_path).query_ids) == ["q1", "q2", "q3", "q4"]


def failing(table, error):
    """Returns a source that raises an error after one row of a table."""
    first = {"documents": DOCUMENTS, "queries": QUERIES, "examples": EXAMPLES}

    def rows(*_):
        yield first[table][0] if table in first else Judgement(0, 0, 1)
        raise error

    return source(**{table: rows})


@pytest.mark.parametrize("error", [InputError, KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("table", ["documents", "queries", "judgements", "examples"])
def test_an_error_leaves_nothing_behind(tmp_path, table, error):
    with pytest.raises(error) as caught:
        open_collection(failing(table, error("a.tsv:2: wrong")), tmp_path)
    if error is InputError:  # users see the source's message unchanged
        assert str(caught.value) == "a.tsv:2: wrong"
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "collections"])
    assert list(open_collection(source(), tmp_path).documents) == CONTENTS


def test_what_a_killed_build_leaves_is_not_opened(tmp_path, monkeypatch):
    # A killed process does not clean up.
    monkeypatch.setattr(io, "shutil", SimpleNamespace(rmtree=lambda *_, **__: None))
    with pytest.raises(KeyboardInterrupt):
        open_collection(failing("examples", KeyboardInterrupt()), tmp_path)
    assert any("documents" in name for name in content(tmp_path))
    monkeypatch.undo()
    found = open_collection(source(), tmp_path)
    assert list(found.documents) == CONTENTS
    assert len(found.examples()) == len(EXAMPLES)


def test_of_two_that_build_the_first_to_finish_wins(tmp_path):
    path = tmp_path / "a" / "b.c"
    with new_folder(path) as slow:
        (slow / "file").write_text("slow")
        with new_folder(path) as quick:
            (quick / "file").write_text("quick")
        assert content(tmp_path / "a").keys() == {"b.c/file", f"{slow.name}/file"}
    assert content(tmp_path / "a") == {"b.c/file": b"quick"}


def test_a_file_in_the_way_is_not_overwritten(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(InputError, match=f"^{tmp_path}/a: "), new_folder(tmp_path / "a") as new:
        (new / "file").write_text("new")
    assert content(tmp_path) == {"a": b"mine"}


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    assert cache_folder("~/own") == tmp_path / "home" / "own"
    assert cache_folder("own") == tmp_path / "own"
    assert cache_folder() == tmp_path / "xdg" / "selfdistill_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / "home" / ".cache" / "selfdistill_jax"
