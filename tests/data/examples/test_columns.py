"""Tests that columns of training examples are found by name, and unknown ones refused."""

import itertools
import random

import pytest

from selfdistill_jax.data.examples.columns import TEXTS, find_columns, parse_columns
from selfdistill_jax.errors import InputError
from tests.data.sources.test_triplet_file import ROWS, named, refusal, write

COLUMNS = {
    "query": ["q a", "q b"],
    "positive": ["p a", "p b"],
    "negative": ["n a", "p a"],
    "positive_score": [1.5, 2],
    "negative_score": [-1, 0.25],
}
WANTED = list(zip(*COLUMNS.values(), strict=True))
# Columns that are ignored, among them query ids in a file of texts.
BESIDE = {"id": ["1", "2"], "URL": ["", "x"], "query_id": ["q1", "q2"]}


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_any_order_of_columns(tmp_path, kind):
    path = tmp_path / f"a.{kind.replace('csv', 'tsv')}"
    draw = random.Random(0)
    for names in itertools.permutations(COLUMNS):
        # Adds an unused column and other spellings of names at random.
        beside = draw.choice([*BESIDE, None])
        columns = {**COLUMNS, **({beside: BESIDE[beside]} if beside else {})}
        names = list(names)
        if beside:
            names.insert(draw.randrange(6), beside)
        spelt = {"query": draw.choice(["query", "Query", "anchor"])}
        spelt["negative"] = draw.choice(["negative", "NEGATIVE", "negative "])
        header = [spelt.get(name, name) for name in names]
        rows = list(zip(*(columns[name] for name in names), strict=True))
        if kind == "jsonl":
            write(path, [dict(zip(header, row, strict=True)) for row in rows])
        else:
            mark = '"' if kind == "csv" else ""
            lines = ["\t".join(f"{mark}{cell}{mark}" for cell in row) for row in (header, *rows)]
            path.write_text("".join(f"{line}\n" for line in lines))
        assert named(path) == WANTED, names


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_log_says_once_how_columns_are_read(tmp_path, caplog, kind):
    path = tmp_path / f"a.{kind}"
    row = {"query": "a", "id": "1", "positive": "b", "URL": "c"}
    if kind == "tsv":
        path.write_text("\t".join(row) + 3 * ("\n" + "\t".join(row.values())))
    else:
        write(path, [row] * 3)
    with caplog.at_level("INFO", logger="selfdistill_jax"):
        assert [t[:3] for t in named(path)] == [("a", "b", None)] * 3
    noun = "columns" if kind == "tsv" else "fields"
    assert caplog.messages == [
        f"{path}: read as pairs: query, positive",
        f"{path}: {noun} that are not used: id, URL",
    ]


@pytest.mark.parametrize(
    ("names", "described"),
    [
        ("anchor positive", "sentence-transformers pairs: anchor, positive"),
        ("anchor positive negative", "sentence-transformers triplets: anchor, positive, negative"),
        (
            "anchor positive negative_1 negative_2 negative_3",
            "sentence-transformers triplets: anchor, positive, negative_1 … negative_3",
        ),
        (
            "sentence1 sentence2 label",
            "sentence-transformers labelled pairs: sentence1, sentence2, label",
        ),
        ("query pos neg", "FlagEmbedding rows: query, pos, neg"),
        (
            "query positive_passages negative_passages",
            "Tevatron rows: query, positive_passages, negative_passages",
        ),
        ("question answer", "pairs: question, answer"),
        ("Query POSITIVE Hard-Negatives", "triplets: Query, POSITIVE, Hard-Negatives"),
    ],
)
def test_conventions_of_other_libraries(names, described):
    found = find_columns(names.split(), TEXTS, "column", "a", by_hand={})
    assert found.describe() == described


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        ("query positive remark", "remark"),
        ("query positive_text negative_text", "positive_text negative_text"),
        ("query passage", "passage"),
        ("premise hypothesis", "premise hypothesis"),
        ("0 1 2", "0 1 2"),
    ],
)
def test_names_that_are_not_understood(tmp_path, kind, names, unknown):
    path = tmp_path / f"a.{kind}"
    names = names.split()
    if kind == "tsv":
        path.write_text("\t".join(names) + "\n" + "\t".join(f"some {name}" for name in names))
    else:
        write(path, [{name: f"some {name}" for name in names}])
    noun = {"tsv": "column", "jsonl": "field"}[kind]
    message = refusal(path)
    listed = ", ".join(map(repr, unknown.split()))
    where = f"{path}:1" if kind == "jsonl" else str(path)
    unknown_names = f"{noun}{'s' * (' ' in unknown)} {listed}"
    assert message.startswith(f"{where}: unknown {unknown_names} ({noun}s pr")
    assert f"present: {', '.join(map(repr, names))}); expected query, positive, negative" in message
    assert "--config.data.columns=query=NAME" in message


def test_a_later_row_with_other_fields(tmp_path):
    path = write(tmp_path / "a.jsonl", [*ROWS, {**ROWS[0], "remark": 0}])
    assert refusal(path).startswith(f"{path}:5: unknown field 'remark' (fields present: ")
    # A null in an unknown field is allowed, but a later row must not have a value there.
    row = {"query": "a", "positive": "b", "note": None, "label": None, "positive_score": None}
    assert [t[:3] for t in named(write(path, [row] * 2))] == [("a", "b", None)] * 2
    write(path, [row, {**row, "note": []}])
    assert refusal(path).startswith(f"{path}:2: unknown field 'note'")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("query positive negative Negative", "s 'negative' and 'Negative' are both read as nega"),
        ("query positive anchor", "s 'query' and 'anchor' are both read as query; remove one of"),
        ("query negative", " 'positive' is missing; add it ("),
        ("positive negative", " 'query' is missing; add it ("),
    ],
)
@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_names_given_twice_or_not_at_all(tmp_path, kind, names, message):
    path = tmp_path / f"a.{kind}"
    names = names.split()
    if kind == "tsv":
        path.write_text("\t".join(names) + "\n" + "\t".join("abcd"[: len(names)]))
    else:
        write(path, [dict(zip(names, "abcd", strict=False))])
    noun = {"tsv": "column", "jsonl": "field"}[kind]
    where = f"{path}:1" if kind == "jsonl" else path
    assert refusal(path).startswith(f"{where}: {noun}{message}")


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_columns_named_by_hand(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    row = {"premise": "a", "query": "x", "hypothesis": "b", "d1": "c", "d2": "d"}
    if kind == "tsv":
        path.write_text("\t".join(row) + "\n" + "\t".join(row.values()))
    else:
        write(path, [row])
    columns = "query=premise, positive=hypothesis,negative=d1,negative=d2"
    assert [t[:4] for t in named(path, columns=columns)] == [("a", "b", "c", "d")]
    message = refusal(path, columns="query=premise,positive=conclusion")
    assert "'conclusion', which config.data.columns names as positive" in message
    assert "'premise', 'query', 'hypothesis'" in message
    message = refusal(path, columns="query=premise,positive=hypothesis,label=labell")
    if kind == "tsv":
        assert "no column 'labell', which config.data.columns names as label" in message
    else:
        assert "no row has 'labell', which config.data.columns names" in message


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("question,positive=a", "expected pairs such as 'query=question,positive=answer', not 'qu"),
        ("query=", "expected pairs such as"),
        ("queri=a,positive=b", "'queri' is not a role; expected one of query, positive, "),
        ("query=a", "positive is missing; add positive=COLUMN"),
        ("query_id=a", "positive_id is missing"),
        ("query_id=a,positive_id=b,negative=c", "negative and query_id cannot be mixed"),
        ("query=a,positive=b,negative_id=c", "negative_id and query cannot be mixed"),
        ("query=a,positive=a", "column 'a' has two roles"),
        ("query=a,query=b,positive=c", "query is given twice"),
    ],
)
def test_faulty_setting_of_columns(columns, message):
    with pytest.raises(InputError) as caught:
        parse_columns(columns)
    assert str(caught.value).startswith(f"config.data.columns is {columns!r}; {message}")


def test_columns_between_semicolons(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("query;positive\na;b\n")
    assert refusal(path).endswith("; separate columns with commas, not semicolons")


def test_a_header_with_one_known_name(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("anchor\tgood\tbad\na\tb\tc\n")
    assert refusal(path).startswith(f"{path}: unknown columns 'good', 'bad' (columns present: ")


def test_a_null_in_a_required_field(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"anchor": None, "positive": "a"}])
    assert refusal(path) == f"{path}:1: field 'anchor' is null; expected a string"


@pytest.mark.parametrize("first", ["query\tpassage of a text", "q1\td1\td2", "doc7\tdoc8", "1\t2"])
def test_first_row_that_is_no_header(tmp_path, first):
    path = tmp_path / "a.tsv"
    path.write_text(f"{first}\n")
    assert [cell for cell in named(path)[0][:3] if cell] == first.split("\t")
