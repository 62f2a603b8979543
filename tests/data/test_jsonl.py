"""Every complaint about a file names the file and the line."""

import gzip
import re

import pytest

from selfdistill_jax.data.jsonl import digest, field, read_jsonl, read_lines
from selfdistill_jax.errors import InputError


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        list(call(*args, **kwargs))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_numbers_count_blank_lines_and_both_line_ends(tmp_path):
    path = tmp_path / "a.tsv"
    # U+2028 is a line's end to str.splitlines, not to JSONL.
    path.write_bytes("\ufeffone\r\n\n  \nfo\u2028ur\n".encode())
    assert list(read_lines(path)) == [(1, "one"), (4, "fo\u2028ur")]


def test_gzip_reads_like_plain(tmp_path):
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    plain.write_text('{"a": "ä"}\n\n{"a": "b"}\n', encoding="utf-8")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_jsonl(packed)) == list(read_jsonl(plain)) == [(1, {"a": "ä"}), (3, {"a": "b"})]
    assert digest("v", packed) == digest("v", plain)


@pytest.mark.parametrize("keep", [8, 20, -9])
def test_cut_gzip_is_refused(tmp_path, keep):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": "b"}\n' * 50)[:keep])
    for read in (read_jsonl, lambda p: digest("v", p)):
        assert refusal(read, path).startswith(f"{path}: not a whole gzip file")


def test_corrupt_gzip_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    whole = bytearray(gzip.compress(b'{"a": "b"}\n'))
    whole[10] = 0xFF  # behind the header: no such kind of block
    path.write_bytes(whole)
    assert "not a whole gzip file" in refusal(read_lines, path)
    path.write_text("plain text")
    assert "not a whole gzip file" in refusal(read_lines, path)


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
    assert message.endswith("expected one JSON object a line")


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
        ({"b": 1}, str, "field 'x' is missing; add it (fields there: 'b')"),
        ({}, str, "field 'x' is missing; add it (fields there: none)"),
        ({"x": 3}, str, "field 'x' is a number; expected a string"),
        ({"x": None}, str, "field 'x' is null; expected a string"),
        ({"x": ["a"]}, str, "field 'x' is a list; expected a string"),
        ({"x": {}}, str, "field 'x' is an object; expected a string"),
        ({"x": " \t"}, str, "field 'x' is empty; remove the row or fill it"),
        ({"x": "3"}, float, "field 'x' is a string; expected a number"),
        ({"x": True}, float, "field 'x' is true or false; expected a number"),
        ({"x": float("nan")}, float, "field 'x' is nan; expected a finite number"),
        ({"x": "a\ud83d"}, str, "field 'x' holds half a surrogate pair at character 1; "),
    ],
)
def test_field_that_does_not_fit(tmp_path, row, expected, message):
    path = tmp_path / "f.jsonl"
    got = refusal(field, row, "x", expected, path=path, line=7)
    assert got.startswith(f"{path}:7: {message}")


def test_digest_changes_with_version_content_and_order(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    digests = [digest("v", a, b), digest("w", a, b), digest("v", b, a), digest("v", a)]
    assert len(set(digests)) == 4
    assert digest("v", a, b) == digests[0]
    a.write_text("3")
    assert digest("v", a, b) != digests[0]
