"""Tests that every error about a JSONL file names the file and the line."""

import bz2
import errno
import gzip
import lzma
import os
import re
import threading
from pathlib import Path

import pyarrow
import pytest

from selfdistill_jax.data.files.jsonl import check_lookalikes, field, read_jsonl
from selfdistill_jax.data.files.text import digest, read_lines
from selfdistill_jax.errors import InputError


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


PACKERS = {".gz": gzip.compress, ".zst": zstd}


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        list(call(*args, **kwargs))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_numbers_count_blank_lines_and_both_line_ends(tmp_path):
    path = tmp_path / "a.tsv"
    # U+2028 ends a line for str.splitlines, but not in JSONL.
    path.write_bytes("\ufeffone\r\n\n  \nfo\u2028ur\n".encode())
    assert list(read_lines(path)) == [(1, "one"), (4, "fo\u2028ur")]


@pytest.mark.parametrize(("suffix", "pack"), PACKERS.items())
def test_packed_files_read_like_plain_ones(tmp_path, suffix, pack):
    plain, packed = tmp_path / "a.jsonl", tmp_path / f"b.jsonl{suffix}"
    plain.write_text('{"a": "ä"}\n\n{"a": "b"}\n', encoding="utf-8")
    packed.write_bytes(pack(plain.read_bytes()))
    assert list(read_jsonl(packed)) == list(read_jsonl(plain)) == [(1, {"a": "ä"}), (3, {"a": "b"})]
    assert digest("v", packed) == digest("v", plain)
    packed.write_bytes(pack(plain.read_bytes()) + pack(b'{"a": "d"}\n'))  # as `cat` joins files
    assert [row["a"] for _, row in read_jsonl(packed)] == ["ä", "b", "d"]
    packed.write_bytes(b"")
    assert list(read_jsonl(packed)) == []


PACKED = gzip.compress(b'{"a": "b"}\n' * 50, mtime=0)
ZSTD = zstd(b'{"a": "b"}\n' * 50)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((PACKED[:keep], "not a whole gzip file") for keep in (8, 20, -9)),
        (PACKED[:10] + b"\xff" + PACKED[11:], "not a whole gzip file"),  # an invalid type of block
        (b"plain text", "not a gzip file; remove .gz from its name"),
        (b"p", "not a gzip file"),
        (b"\x28\xb5\x2f\xfd", "not a gzip file"),
        *((ZSTD[:keep], "not a whole zstd file") for keep in (5, 20, -1)),
        (ZSTD[:9] + bytes([ZSTD[9] ^ 255]) + ZSTD[10:], "not a whole zstd file"),
        (b"plain text", "not a zstd file; remove .zst from its name"),
        (PACKED, "not a zstd file"),
    ],
)
def test_damaged_packed_file_is_refused(tmp_path, content, message):
    path = tmp_path / f"a.jsonl{'.zst' if 'zstd' in message else '.gz'}"
    path.write_bytes(content)
    for read in (read_jsonl, lambda p: digest("v", p)):
        assert refusal(read, path).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"a", mtime=0), "a gzip file"),
        ("a".encode("utf-16"), "UTF-16 text"),
        (b"\xfe\xff" + "a".encode("utf-16-be"), "UTF-16 text"),
        ("a".encode("utf-16-le"), "UTF-16 or a binary file"),
        ("a".encode("utf-32"), "UTF-32 text"),
        (b"\x00\x00\xfe\xff" + b"\x00\x00\x00a", "UTF-32 text"),
        (bz2.compress(b"a"), "a bzip2 file"),
        (lzma.compress(b"a"), "an xz file"),
        (b"PK\x03\x04\x14\x00", "a zip file"),
        (b"\x28\xb5\x2f\xfd\x04", "a zstd file"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, content, message):
    path = tmp_path / "a.tsv"
    path.write_bytes(content)
    assert refusal(read_lines, path).startswith(f"{path}: {message}")
    packed = tmp_path / "b.tsv.gz"
    packed.write_bytes(gzip.compress(content, mtime=0))
    assert refusal(read_lines, packed).startswith(f"{packed}: {message}")
    digest("v", path)  # accepts any content


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_pipe(tmp_path, suffix):
    path = tmp_path / f"pipe{suffix}"
    os.mkfifo(path)
    content = "".join(f"line {i}\n" for i in range(20_000)).encode()
    written = PACKERS[suffix](content) if suffix else content
    writer = threading.Thread(target=path.write_bytes, args=[written])
    writer.start()
    assert [line for _, line in read_lines(path)] == content.decode().splitlines()
    writer.join()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP])
def test_unreadable_file(tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_lines, lambda p: digest("v", p)):
        assert refusal(read, tmp_path).startswith(f"{tmp_path}: cannot be read (")


def test_missing_file_and_folder(tmp_path):
    assert refusal(read_lines, tmp_path / "none") == f"{tmp_path / 'none'}: no such file"
    assert refusal(digest, "v", tmp_path / "none") == f"{tmp_path / 'none'}: no such file"
    assert refusal(read_lines, tmp_path) == f"{tmp_path}: is a folder; expected a file"


def test_not_utf8_names_the_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": "b"}\n{"a": "caf\xe9"}\n')
    assert re.match(re.escape(f"{path}:2: not UTF-8 ("), refusal(read_jsonl, path))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"a": }', "malformed JSON at column 7"),
        ("[", "the beginning of a JSON array; expected one JSON object per line"),
        ('{"a": "b"} {"a": "c"}', "malformed JSON at column 12"),
        ("[1, 2]", "a list"),
        ('"text"', "a string"),
        ("null", "null"),
        ("true", "true or false"),
        ('{"a": ' + "9" * 5000 + "}", "JSON that cannot be read"),
        ("[" * 100_000, "JSON that cannot be read"),
    ],
)
def test_line_that_is_no_object(tmp_path, line, problem):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": "b"}}\n{line}\n')
    message = refusal(read_jsonl, path)
    assert message.startswith(f"{path}:2: {problem}")
    assert message.endswith("expected one JSON object per line")


def test_field_returns_value_or_default(tmp_path):
    row = {"text": "a", "score": 2, "empty": "", "null": None}
    at = {"path": tmp_path / "f", "line": 7}
    assert field(row, "text", str, **at) == "a"
    assert field(row, "score", float, **at) == 2
    assert field(row, "none", str, default="d", **at) == "d"
    assert field(row, "null", str, default="d", **at) == "d"
    assert field(row, "empty", str, default="d", **at) == ""


@pytest.mark.parametrize(
    ("row", "expected", "message"),
    [
        ({"b": 1}, str, "field 'x' is missing; add it (fields present: 'b')"),
        ({"x": 3}, str, "field 'x' is a number; expected a string"),
        ({"x": None}, str, "field 'x' is null; expected a string"),
        ({"x": {}}, str, "field 'x' is an object; expected a string"),
        ({"x": " \t"}, str, "field 'x' is empty; remove the row or fill it"),
        ({"x": "3"}, float, "field 'x' is a string; expected a number"),
        ({"x": True}, float, "field 'x' is true or false; expected a number"),
        ({"x": float("nan")}, float, "field 'x' is nan; expected a finite number"),
        ({"x": "a\ud83d"}, str, "field 'x' has half a surrogate pair at character 1; "),
    ],
)
def test_field_that_does_not_fit(tmp_path, row, expected, message):
    path = tmp_path / "f.jsonl"
    got = refusal(field, row, "x", expected, path=path, line=7)
    assert got.startswith(f"{path}:7: {message}")


KNOWN = ("_id", "title", "text", "metadata")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Title", "title"), ("text ", "text"), ("ID", "_id"), ("Meta-Data", "metadata")],
)
def test_misspelt_field_is_refused(tmp_path, name, expected):
    path = tmp_path / "f.jsonl"
    row = dict.fromkeys([*(known for known in KNOWN if known != expected), name], "a")
    got = refusal(check_lookalikes, row, KNOWN, path=path, line=7)
    assert got.startswith(f"{path}:7: field {name!r} is not read; expected {expected!r}")


@pytest.mark.parametrize("name", ["_id", "url", "subtitle", "text_2", "", "id", "Title"])
def test_other_fields_are_none_of_its_business(tmp_path, name):
    """Unknown fields are allowed, and so is `id` beside `_id`, which is common."""
    row = dict.fromkeys([*KNOWN, name], "a")
    check_lookalikes(row, KNOWN, path=tmp_path / "f.jsonl", line=7)


def test_digest_changes_with_version_content_and_order(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    digests = [digest("v", a, b), digest("w", a, b), digest("v", b, a), digest("v", a)]
    assert len(set(digests)) == 4
    assert digest("v", a, b) == digests[0]
    a.write_text("3")
    assert digest("v", a, b) != digests[0]
