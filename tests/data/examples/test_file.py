"""Tests that the formats of other libraries give the examples of our own."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from selfdistill_jax.data.examples.columns import IDS, TEXTS
from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.errors import InputError
from tests.data.sources.test_triplet_file import named, refusal, write

# Rows with two negatives, as each library writes them.
TRIPLETS = [("how, so?", "p a", ("n a", "n b")), ('q "b"', "p b", ("n c", "p a"))]
ROWS = {
    "own": [{"query": q, "positive": p, "negatives": list(n)} for q, p, n in TRIPLETS],
    "numbered": [
        {"anchor": q, "positive": p, "negative_1": n[0], "negative_2": n[1]} for q, p, n in TRIPLETS
    ],
    "FlagEmbedding": [
        {"query": q, "pos": [p], "neg": list(n), "prompt": "find:", "type": "normal"}
        for q, p, n in TRIPLETS
    ],
    "Tevatron": [
        {
            "query_id": f"{i}",
            "query": q,
            "positive_passages": [{"docid": "1", "title": p[0], "text": p[2]}],
            "negative_passages": [{"docid": "2", "title": "", "text": text} for text in n],
        }
        for i, (q, p, n) in enumerate(TRIPLETS)
    ],
}
LABELLED = [
    {"sentence1": q, "sentence2": text, "label": int(text == p)}
    for q, p, n in TRIPLETS
    for text in (p, *n)
]
SUFFIXES = ("jsonl", "csv", "csv.zst", "tsv", "parquet", "arrow")


def save(path, rows):
    """Writes rows of equal columns in the format that the suffix names."""
    table = pyarrow.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    elif path.suffix == ".arrow":
        with pyarrow.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    elif ".jsonl" in path.name:
        write(path, rows)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if ".tsv" in path.name else ",")
            writer.writeheader()
            writer.writerows(rows)
        if path.suffix == ".zst":
            path.write_bytes(pyarrow.compress(path.read_bytes(), codec="zstd", asbytes=True))
    return path


def lists(rows):
    return any(isinstance(value, list) for value in rows[0].values())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("convention", [*ROWS, "labelled"])
def test_all_formats_give_the_same_examples(tmp_path, suffix, convention):
    rows = LABELLED if convention == "labelled" else ROWS[convention]
    path = tmp_path / f"a.{suffix}"
    if lists(rows) and ("csv" in suffix or "tsv" in suffix):
        if convention != "Tevatron":
            assert "holds a list written as text; save" in refusal(save(path, rows))
        return
    assert [found[:4] for found in named(save(path, rows))] == [(q, p, *n) for q, p, n in TRIPLETS]


def test_rows_with_fewer_negatives(tmp_path):
    rows = [
        {"query": "q", "positive": "a", "negatives": ["b", "c", "d"]},
        {"query": "s", "positive": "c", "negatives": []},
        {"query": "t", "positive": "c", "negative": "d"},
    ]
    assert [row[:-1] for row in named(write(tmp_path / "a.jsonl", rows))[:1]] == [
        ("q", "a", "b", "c", "d")
    ]
    found = named(tmp_path / "a.jsonl")[1:]
    assert [row[:3] for row in found] == [("s", "c", None), ("t", "c", "d")]
    path = tmp_path / "a.csv"
    path.write_text("anchor,positive,negative_1,negative_2\nq,a,b,\nr,b,,\n")
    assert [row[:3] for row in named(path)] == [("q", "a", "b"), ("r", "b", None)]


def test_every_positive_of_a_row_becomes_an_example(tmp_path):
    rows = [
        {"query": "q", "pos": ["a", "b"], "neg": ["c"], "pos_scores": [3, 2], "neg_scores": [0.5]}
    ]
    assert named(write(tmp_path / "a.jsonl", rows)) == [
        ("q", "a", "c", 3, 0.5),
        ("q", "b", "c", 2, 0.5),
    ]


def test_negatives_that_repeat_in_a_row_are_used_once(tmp_path, caplog):
    scores = {"positive_score": 3, "negative_scores": [2, 1, 0]}
    rows = [{"query": "q", "positive": "a", "negatives": ["b", "c", "b "], **scores}]
    assert named(write(tmp_path / "a.jsonl", rows)) == [("q", "a", "b", "c", 3, 2, 1)]
    assert "1 negatives that repeat another one of their row are used once (first: " in caplog.text


@pytest.mark.parametrize(
    ("labels", "threshold", "positives"),
    [([0, 0.5, 1], 0.5, "bc"), ([0.2, 0.3, 0.9], 0.3, "bc"), ([True, False, True], 0.5, "ac")],
)
def test_labels_of_pairs(tmp_path, caplog, labels, threshold, positives):
    rows = [{"sentence1": "q", "sentence2": text, "score": label}
            for text, label in zip("abc", labels, strict=True)]  # fmt: skip
    path = save(tmp_path / "a.parquet", rows)
    with caplog.at_level("INFO", logger="selfdistill_jax"):
        found = named(path, positive_from=threshold)
    negative = ({*"abc"} - {*positives}).pop()
    assert [row[:3] for row in found] == [("q", p, negative) for p in positives]
    assert f"2 pairs with a label of at least {threshold:g} (config." in caplog.text
    assert "positive, 1 others are negatives of their query, 0 are not used" in caplog.text


def test_labels_of_several_positives(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"query": "q", "pos": ["a", "b"], "label": [1, 0]}])
    assert [row[:3] for row in named(path)] == [("q", "a", "b")]


def test_no_pair_is_positive(tmp_path):
    path = save(tmp_path / "a.csv", [{"sentence1": "q", "sentence2": "a", "label": 0}])
    assert "no pair has a label of at least 0.5; lower config.data.positive_from" in refusal(path)


def test_numbered_scores_belong_to_negatives_of_their_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "query,positive,negative_10,negative_2,positive_score,negative_score_2,negative_score_10\n"
        "q,a,n10,n2,9,2,10\nr,a,n10,,9,,10\n"
    )
    assert named(path) == [("q", "a", "n2", "n10", 9, 2, 10), ("r", "a", "n10", 9, 10)]
    path = write(tmp_path / "a.jsonl", [
        {"query": "q", "positive": "a", "negative_1": None, "negative_2": "n", "positive_score": 1,
         "negative_score_1": 2, "negative_score_2": 3}
    ])  # fmt: skip
    assert refusal(path).startswith(f"{path}:1: 2 scores for 1 negatives; expected one for each")
    path = save(tmp_path / "b.csv", [{"query": "q", "positive": "a", "negative": ""}])
    assert [row[:3] for row in named(path)] == [("q", "a", None)]  # CSV has no null


@pytest.mark.parametrize("text", ["[]", "['a', 'b']", '["a"]', "[{'text': 'a'}]", "['a' 'b']"])
@pytest.mark.parametrize("name", ["negative", "positive", "neg"])
def test_lists_written_as_text(tmp_path, text, name):
    row = {"query": "q", "positive": "a", name: text}
    assert "holds a list written as text" in refusal(save(tmp_path / "a.tsv", [row]))
    row[name] = "[1] a citation"
    assert named(save(tmp_path / "a.tsv", [row]))


def test_a_pair_without_a_label_among_others(tmp_path):
    rows = [{"sentence1": "q", "sentence2": text, "label": label}
            for text, label in zip("abc", (0, None, 1), strict=True)]  # fmt: skip
    for suffix in ("parquet", "jsonl"):
        path = save(tmp_path / f"a.{suffix}", rows)
        assert refusal(path).startswith(f"{path}:2: a pair without a label, but other pairs")


def test_a_label_of_a_triplet_is_a_teachers_score(tmp_path):
    triplet = {"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c"}
    path = write(tmp_path / "a.jsonl", [{**triplet, "label": [3, 2, 1]}])
    assert named(path) == [("q", "a", "b", "c", 3, 2, 1)]
    write(path, [{**triplet, "label": [1, 2]}])  # margins
    assert named(path) == [("q", "a", "b", "c", 0, -1, -2)]
    write(path, [{**triplet, "label": 1}])
    assert refusal(path).startswith(f"{path}:1: field 'label' has 1 numbers for 1 positives and 2 ")


SCORES = {"positive_score": 2, "negative_scores": [1]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"negatives": ["b", " "]}, "field 'negatives[1]' is empty"),
        ({"negatives": ["b", 7]}, "field 'negatives[1]' is a number; expected a string"),
        ({"negatives": [["b"]]}, "field 'negatives[0]' is a list; expected a string"),
        ({"negatives": [{"docid": "1"}]}, "field 'negatives[0]' is an object with"),
        ({"negatives": {"title": "a", "contents": "b"}}, "field 'negatives' is an object without"),
        ({"negatives": [{"text": " "}]}, "field 'negatives[0]' is empty"),
        ({"negatives": [{"text": 1}]}, "field 'negatives[0].text' is a number; expected a string"),
        ({"positive": []}, "field 'positive' has no items"),
        ({"positive": None}, "field 'positive' is null; expected a string"),
        ({"query": ["a"]}, "field 'query' is a list; expected a string"),
        ({"negatives": ["b"], "positive_score": 1}, "only one of positive_score and"),
        ({"negatives": ["b"], "negative_scores": [1]}, "only one of positive_score and"),
        ({"negatives": ["b", "c"], **SCORES}, "1 scores for 2 negatives; expected one for each"),
        ({**SCORES, "positive_score": [1, 2]}, "2 scores for 1 positives; expected one for each"),
        ({"negatives": ["b"], **SCORES, "negative_scores": ["1"]}, "field 'negative_scores[0]' is"),
        ({"label": 2}, "field 'label' is 2; expected 0 to 1"),
        ({"positive": ["a", "b"], "label": [1]}, "1 labels for 2 positives; expected one for"),
        ({"label": [1, 0]}, "2 labels for 1 positives; expected one for each"),
        ({"label": 1, "positive_score": 1, "negative_score": 0}, "both 'label' and scores are pr"),
        ({"label": "yes"}, "field 'label' is a string; expected a number"),
        ({"label": None, "positive_score": "1"}, "field 'positive_score' is a string; expected a"),
    ],
)
def test_faulty_rows(tmp_path, row, message):
    good = {"query": "q", "positive": "a", "negative": None}
    path = write(tmp_path / "a.jsonl", [good, {**good, **row}])
    assert refusal(path).startswith(f"{path}:2: {message}")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_faulty_rows_of_tables(tmp_path, suffix):
    rows = [{"query": "q", "positive": "a"}, {"query": None, "positive": "a"}]
    path = save(tmp_path / f"a.{suffix}", rows)
    assert refusal(path).startswith(f"{path}:2: column 'query' is null; expected a string")
    save(path, [{"query": b"q", "positive": "a"}])
    assert refusal(path).startswith(f"{path}:1: column 'query' is of type bytes; expected a string")
    save(path, [{"premise": "q", "positive": "a"}])
    assert refusal(path).startswith(f"{path}: unknown column 'premise' (columns present: 'premise'")


def test_numbers_as_ids(tmp_path):
    path = save(tmp_path / "a.parquet", [{"query_id": 7, "positive_id": 8, "negative_ids": [9]}])
    file = ExampleFile(path)
    assert file.has_ids
    assert [row[1:4] for row in file.rows(IDS)] == [("7", "8", ("9",))]
    path = save(tmp_path / "b.parquet", [{"qid": 7, "pid": 8}])
    assert not ExampleFile(path).has_ids
    file = ExampleFile(path, columns="query_id=qid,positive_id=pid")
    assert file.has_ids
    assert [row[1:3] for row in file.rows(IDS)] == [("7", "8")]


def test_fingerprint_depends_on_content_and_settings(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS["own"])
    found = [
        ExampleFile(path).fingerprint("1"),
        ExampleFile(path).fingerprint("2"),
        ExampleFile(path, columns="query=query,positive=positive").fingerprint("1"),
        ExampleFile(path, positive_from=0.4).fingerprint("1"),
    ]
    assert ExampleFile(path).fingerprint("1") == found[0]
    write(path, ROWS["own"][:1])
    assert len({*found, ExampleFile(path).fingerprint("1")}) == 5


def test_rows_of_a_folder(tmp_path):
    for number, row in enumerate(ROWS["numbered"]):
        save(tmp_path / f"train-0000{number}-of-00002.parquet", [row])
    save(tmp_path / "test-00000-of-00001.parquet", ROWS["numbered"][:1])
    assert [found[:4] for found in named(tmp_path)] == [(q, p, *n) for q, p, n in TRIPLETS]
    broken = tmp_path / "train-00001-of-00002.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"^{broken}: not a Parquet file, or damaged"):
        list(ExampleFile(tmp_path).rows(TEXTS))
    assert json.dumps(ExampleFile(tmp_path).describe())
