"""Tests that tab-separated files are read back unchanged, with and without CSV quotes."""

import csv
import io
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill_jax.data.files.tsv import read_tsv
from selfdistill_jax.errors import InputError

# Few characters, so that special ones often meet. U+2028 ends a line for str only. "\r" occurs only
# in "\r\n": csv does not quote it alone, so at a line's end it would become part of the line end.
TEXT = st.lists(st.sampled_from([*'ab" \t\n\u2028é', "\r\n"]), max_size=12).map("".join)
SETTINGS = settings(max_examples=300, deadline=None)


def columns_of(content: str) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tsv"
        path.write_bytes(content.encode())
        return [columns for _, columns in read_tsv(path)]


def as_csv(rows, quoting, end="\n") -> str:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t", quoting=quoting, lineterminator=end).writerows(rows)
    return file.getvalue()


@SETTINGS
@given(
    width=st.integers(2, 4),
    texts=st.lists(TEXT.map(lambda text: f"x{text}"), min_size=4, max_size=24),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_round_trip(width, texts, quoting, end):
    # The first row proves that the file is quoted; a test below covers files without such a row.
    rows = [["query", *['a "name"'] * (width - 1)]]
    rows += [texts[i : i + width] for i in range(0, len(texts) - width + 1, width)]
    assert columns_of("\ufeff" + as_csv(rows, quoting, end)) == rows


@SETTINGS
@given(
    rows=st.lists(
        st.tuples(*[st.text('ab" \u2028é', max_size=9).map(lambda text: f"x{text}")] * 3),
        min_size=1,
        max_size=9,
    ),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_plain_round_trip(rows, end):
    """A quotation mark inside a field is text as long as no field is quoted."""
    rows = [list(row) for row in rows]
    assert columns_of("".join("\t".join(row) + end for row in rows)) == rows


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        # Quoted: all records with quotation marks fit CSV.
        ('a\t"b"\n', [["a", "b"]]),
        ('"a"\t""\n', [["a", ""]]),
        ('q\tp\nx\t"1 ""2"" 3"\n', [["q", "p"], ["x", '1 "2" 3']]),
        ('q\tp\nx\t"1\n\n2"\ny\tz\n', [["q", "p"], ["x", "1\n\n2"], ["y", "z"]]),
        ('q\tp\nx\t"1\t2"', [["q", "p"], ["x", "1\t2"]]),
        # Plain: the quotation mark is text.
        ('x\t5" pipe\n', [["x", '5" pipe']]),
        ('x\tsay "a"\ny\t"b"\n', [["x", 'say "a"'], ["y", '"b"']]),
        ('x\t"open\ny\tz\n', [["x", '"open'], ["y", "z"]]),
        ('x\t"a" b\n', [["x", '"a" b']]),
        # A docstring; CSV would write the text "a", marks included, the same way.
        ('x\t"""a"""\ny\tf("b")\n', [["x", '"""a"""'], ["y", 'f("b")']]),
        # A quotation that begins in one row and ends in the next.
        ('x\t"a\ny\tb"\nz\t"c"\n', [["x", '"a'], ["y", 'b"'], ["z", '"c"']]),
        ('q\tp\tn\n"a\tb"\ty\n', [["q", "p", "n"], ['"a', 'b"', "y"]]),
        ('x\t"a\ty\nx\tb"\ty\n', [["x", '"a', "y"], ["x", 'b"', "y"]]),
    ],
)
def test_decides_for_the_whole_file(content, rows):
    assert columns_of(content) == rows


SURE = ['x\t"1 ""2"" 3"\n', 'x\t"1\t2"\n', 'x\t"1\n2"\n']


@pytest.mark.parametrize("sure", SURE)
@pytest.mark.parametrize("stray", ['y\t5" pipe\n', 'y\t"a" b\n', 'y\t"open\n'])
@pytest.mark.parametrize("order", [1, -1])
def test_stray_mark_in_a_quoted_file(tmp_path, sure, stray, order):
    path = tmp_path / "a.tsv"
    records = ["q\tp\n", *[sure, stray][::order]]
    path.write_text("".join(records))
    place = {record: 1 + "".join(records[:i]).count("\n") for i, record in enumerate(records)}
    with pytest.raises(InputError) as caught:
        list(read_tsv(path))
    message = str(caught.value)
    assert message.startswith(f"{path}:{place[stray]}: a quotation mark that does not fit CSV")
    assert f"line {place[sure]} is quoted as CSV" in message
    assert "\n" not in message


def test_header_in_marks_is_proof_enough(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('"q"\t"p"\nx\ty\nx\t5" pipe\n')
    with pytest.raises(InputError, match=r"a\.tsv:3: a quotation mark .* line 1 is quoted as CSV"):
        list(read_tsv(path))


def test_numbers_are_those_of_first_lines(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('q\tp\n\nx\t"1\n\n2"\n \ny\tz\n')
    assert [number for number, _ in read_tsv(path)] == [1, 3, 7]


@pytest.mark.parametrize("opened", ['"x\ty\n', 'x\t"y\n'])
@pytest.mark.parametrize("line", ["a\tb\n", f"a\t{'b' * 999_999}\n", '"a\tb\n'])
def test_open_mark_is_not_followed_to_the_end(tmp_path, opened, line):
    """An open mark must not load the rest of the file, nor read it once for each such line."""
    path = tmp_path / "a.tsv"
    count = 40 if len(line) > 99 else 60_000
    path.write_text(opened + line * count)
    tracemalloc.start()
    start = time.process_time()
    rows = sum(len(columns) == 2 for _, columns in read_tsv(path))
    seconds, (_, most) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == count + 1
    assert most < 10e6
    assert seconds < 20
