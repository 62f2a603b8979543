"""Tests that data files of every kind and folders of them are found and read."""

import gzip

import pyarrow
import pyarrow.parquet
import pytest

from selfdistill_jax.data.files.records import data_files, read_records
from selfdistill_jax.errors import InputError


def refusal(call, *args) -> str:
    with pytest.raises(InputError) as caught:
        list(call(*args))
    message = str(caught.value)
    assert "\n" not in message
    return message


def names(cells):
    return "abc"[: len(cells)] if len(cells) in (2, 3) else ""


def records(path):
    return list(read_records(path, is_header=lambda cells: cells[0] == "a", default_names=names))


def test_csv(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('\ufeffa,b\n"one, two", "say ""so"""\n\n"two\nlines",4\r\n  x ,\n', "utf-8")
    assert records(path) == [
        (2, {"a": "one, two", "b": 'say "so"'}),
        (4, {"a": "two\nlines", "b": "4"}),
        (6, {"a": "x ", "b": ""}),
    ]
    path.write_text("x,y\n1,2")  # always with a header, unlike TSV
    assert records(path) == [(2, {"x": "1", "y": "2"})]
    path = tmp_path / "x.tsv"
    path.write_text("x\ty\tz\n")
    assert records(path) == [(1, {"a": "x", "b": "y", "c": "z"})]
    path.write_text("a\ty\n1\t2\n")
    assert records(path) == [(2, {"a": "1", "y": "2"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", ":3: 3 columns; expected 2, separated by commas"),
        ("a,b,a\n", ":1: column 'a' occurs twice; rename or remove one"),
        ('a,b\n1,"2\n3,4\n', ":2: not CSV (unexpected end of data); put texts with commas, quota"),
        ('a,b\n1,"2"3\n', ":2: not CSV ("),
        ("a,b\n1,2\0\n", ": UTF-16 or a binary file"),
    ],
)
def test_faulty_csv(tmp_path, content, message):
    path = tmp_path / "x.csv"
    path.write_text(content)
    assert refusal(records, path).startswith(f"{path}{message}")


def test_long_cells(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f"a,b\n{'long ' * 100_000},2\n")
    assert len(records(path)[0][1]["a"]) == 500_000


ROWS = [{"a": f"text {i}", "b": [i] if i % 2 else None} for i in range(2500)]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".ipc.arrow"])
def test_tables(tmp_path, suffix):
    path, table = tmp_path / f"x{suffix}", pyarrow.Table.from_pylist(ROWS)
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=700, compression="zstd")
    else:
        new = pyarrow.ipc.new_stream if suffix == ".arrow" else pyarrow.ipc.new_file
        with new(path, table.schema) as file:
            file.write_table(table, max_chunksize=300)
    assert records(path) == list(enumerate(ROWS, 1))
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2], whole[:100]):
        path.write_bytes(damaged)
        message = refusal(records, path)
        assert message.startswith(f"{path}: not a")
        assert message.endswith("download or write it again")


def test_texts_of_tables_must_be_utf8(tmp_path):
    path = tmp_path / "x.parquet"
    text = pyarrow.array([b"good", b"caf\xe9"]).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"a": text}), path)
    assert "is not UTF-8" in refusal(records, path)


def test_values_that_python_does_not_have(tmp_path):
    path = tmp_path / "x.parquet"
    times = pyarrow.array([2**40], pyarrow.timestamp("s"))
    pyarrow.parquet.write_table(pyarrow.table({"a": ["b"], "time": times}), path)
    assert "a value after row 0 cannot be read (" in refusal(records, path)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        # As the Hugging Face Hub, save_to_disk, and people name files.
        ("README.md data/train-0-of-2.parquet data/train-1-of-2.parquet data/test-0-of-1.parquet",
         "data/train-0-of-2.parquet data/train-1-of-2.parquet"),
        ("dataset_dict.json train/data-0-of-1.arrow train/state.json validation/data-0-of-1.arrow",
         "train/data-0-of-1.arrow"),
        ("data-0-of-1.arrow dataset_info.json state.json", "data-0-of-1.arrow"),
        ("part1.jsonl.gz part2.jsonl.gz .hidden.jsonl .cache/x.parquet",
         "part1.jsonl.gz part2.jsonl.gz"),
        ("pairs.csv contest.csv", "contest.csv pairs.csv"),  # "contest" is not "test"
        ("mine_dev.tsv mine.tsv held-out.tsv development.tsv", "mine.tsv"),
        ("train/data-0.arrow train/cache-1234.arrow", "train/data-0.arrow"),  # of Dataset.map
        ("test/train_questions.jsonl questions.jsonl", "questions.jsonl"),
    ],
)  # fmt: skip
def test_files_of_a_folder(tmp_path, names, found):
    touch(tmp_path, *names.split())
    assert [str(p.relative_to(tmp_path)) for p in data_files(tmp_path)] == found.split()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "no training data in this folder; expected files .jsonl"),
        ("train.json", "no training data in this folder (.json files are not read in folders; g"),
        ("test.jsonl", "no training data in this folder (only files of other splits: test.jsonl"),
        ("a/train.csv b/train.csv", "training data of several datasets or formats (.csv, a, b)"),
        ("train.csv train.csv.gz", "train.csv and train.csv.gz may be copies of each other; rem"),
        ("train.csv train.parquet", "training data of several datasets or formats (., .csv, .parq"),
        ("corpus.jsonl queries.jsonl", "is a BEIR folder; give it as config.data.dataset"),
    ],
)
def test_folders_without_one_dataset(tmp_path, names, message):
    touch(tmp_path, *names.split())
    assert refusal(data_files, tmp_path).startswith(f"{tmp_path}: {message}")


def test_suffix_in_capitals_and_packed(tmp_path):
    path = tmp_path / "X.CSV.GZ"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert data_files(path) == [path]
    assert records(path) == [(2, {"a": "1", "b": "2"})]
