"""Reads the records of data files: JSONL, TSV, CSV, Parquet and Arrow files, or folders of them.

A record is a dict from column to value: texts in TSV and CSV files, and values of any JSON type in
the others. Errors name the file and the line (the row number in Parquet, Arrow and tfds files).
"""

import csv
import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfdistill_jax.data.files import tfds
from selfdistill_jax.data.files.hub import PREFIX, dataset_folder
from selfdistill_jax.data.files.jsonl import read_jsonl
from selfdistill_jax.data.files.text import decoded_lines, read_lines
from selfdistill_jax.data.files.tfds import read_array_records
from selfdistill_jax.data.files.tsv import read_tsv
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand, reason
from selfdistill_jax.progress import LOG

_TFDS = ".array_record"
_LINES = (".jsonl", ".json", ".ndjson", ".tsv", ".csv")  # may be packed
_TABLES = (".parquet", ".arrow", _TFDS)
PACKED = (".gz", ".zst")
_EXPECTED = ".jsonl, .json, .tsv, .csv (also with .gz or .zst), .parquet or .arrow"
_SPLIT_WORD = re.compile(
    r"(?<![a-z])(?:(train)|dev|development|val|valid|validation|test|testing|eval|held.?out)(?![a-z])"
)
# MS MARCO's triples of texts. Their quotation marks are text, which 27 GB need not be read for.
_UNQUOTED = re.compile(r"triples\.train\.(small|full)\b")
_ROWS_AT_ONCE = 1_000  # of a Parquet file


def data_files(path: str | Path) -> list[Path]:
    """Returns the data files that a path names, after checking that their kind is known.

    A folder is read as all data files in it and its subfolders, such as a downloaded dataset of the
    Hugging Face Hub or one that `datasets.Dataset.save_to_disk` wrote. If names of files or folders
    contain "train", only those files are returned, and never those of other splits.

    Args:
      path: a file, a folder, a dataset of the hub, see `dataset_folder`, or one that
        tensorflow-datasets has prepared, see `tfds.prepared_folder`.

    Raises:
      InputError: the path does not exist, a suffix is unknown, or a folder has no data files or
        those of several datasets.

    Example:
      >>> data_files("train.csv.gz")  # doctest: +SKIP
      [PosixPath('train.csv.gz')]
    """
    if str(path).startswith(PREFIX):
        suffixes = tuple(f"{suffix}{packed}" for suffix in _LINES for packed in ("", *PACKED))
        local = dataset_folder(str(path), (*suffixes, *_TABLES))
        return [local] if local.is_file() else _files_of_folder(local)
    if str(path).startswith(tfds.PREFIX):
        return _files_of_folder(tfds.prepared_folder(str(path)))
    found = expand(path)
    try:
        is_folder, is_file = found.is_dir(), found.is_file()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None
    if is_folder:
        return _files_of_folder(found)
    if kind(found) not in (*_LINES, *_TABLES):
        raise InputError(f"{path}: unknown suffix {kind(found)!r}; expected {_EXPECTED}")
    if not is_file:
        raise InputError(f"{path}: no such file; expected a data file: {_EXPECTED}")
    return [found]


def kind(path: Path) -> str:
    """Returns the suffix that names a file's format, in lower case, such as ".csv"."""
    if f"{_TFDS}-" in path.name:  # followed by the number of the file
        return _TFDS
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED]
    return suffixes[-1] if suffixes else ""


def _files_of_folder(folder: Path) -> list[Path]:
    if (folder / "corpus.jsonl").exists():
        raise InputError(f"{folder}: is a BEIR folder; give it as config.data.dataset")
    files = sorted(
        path
        for path in folder.rglob("*")
        # .json files of such folders describe the dataset, and cache-*.arrow are copies.
        if kind(path) in (*_LINES, *_TABLES) and kind(path) != ".json" and path.is_file()
        and not any(part.startswith((".", "cache-")) for part in path.relative_to(folder).parts)
    )  # fmt: skip
    splits = [_split(path.relative_to(folder)) for path in files]
    wanted = "train" if "train" in splits else ""
    used = [path for path, split in zip(files, splits, strict=True) if split == wanted]
    if not used:
        if list(folder.glob("*.tfrecord*")):
            raise InputError(
                f"{folder}: prepared as tfrecord, which only TensorFlow reads; prepare the dataset "
                "with file_format='array_record'"
            )
        others = f" (only files of other splits: {files[0].name}, …)" if files else ""
        if not files and any(path.suffix == ".json" for path in folder.iterdir()):
            others = " (.json files are not read in folders; give the file itself)"
        raise InputError(
            f"{folder}: no training data in this folder{others}; expected files {_EXPECTED}"
        )
    parents, kinds = {path.parent for path in used}, {kind(path) for path in used}
    if len(parents) > 1 or len(kinds) > 1:
        names = sorted({str(path.parent.relative_to(folder)) for path in used} | kinds)
        raise InputError(
            f"{folder}: training data of several datasets or formats ({', '.join(names)}); give "
            "one of these folders or one file"
        )
    # Files of tensorflow-datasets differ in the number at the end.
    stems = [path.name if kind(path) == _TFDS else path.name.split(".")[0] for path in used]
    for stem in stems:
        if stems.count(stem) > 1:
            twice = " and ".join(path.name for path in used if path.name.split(".")[0] == stem)
            raise InputError(f"{folder}: {twice} may be copies of each other; remove one")
    if len(used) < len(files):
        LOG.info("%s: %d files of other splits are not used", folder, len(files) - len(used))
    return used


def _split(path: Path) -> str:
    """Returns "train", "other", or "" for a path without the name of a split."""
    *folders, name = (
        [found[1] or "other" for found in _SPLIT_WORD.finditer(part)]
        for part in path.as_posix().lower().split("/")
    )
    if any("other" in words for words in folders):
        return "other"
    return (name or [word for words in folders for word in words] or [""])[-1]


def read_records(
    path: Path,
    *,
    is_header: Callable[[Sequence[str]], bool],
    default_names: Callable[[Sequence[str]], Sequence[str]],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields ``(line, record)`` of a file; rows of Parquet and Arrow files are counted from 1.

    Args:
      path: as returned by `data_files`.
      is_header: whether the first record of a TSV file is a header; a CSV file always has one.
      default_names: returns the columns of a TSV file without a header from its first record; none
        if it cannot be such a file.

    Raises:
      InputError: the file is damaged or not of the format that its suffix names.

    Example:
      >>> next(read_records(path, is_header=is_header, default_names=names))  # doctest: +SKIP
      (2, {'query': 'sort an array', 'positive': 'np.sort'})
    """
    if kind(path) == ".parquet":
        yield from _parquet(path)
    elif kind(path) == _TFDS:
        yield from read_array_records(path)
    elif kind(path) == ".arrow":
        yield from _arrow(path)
    elif is_text_table(path):
        if kind(path) == ".tsv":
            yield from _with_names(path, _tsv_rows(path), is_header, default_names)
        else:
            yield from _with_names(path, _csv_rows(path), lambda cells: True, lambda cells: ())
    else:
        yield from read_jsonl(path)


def column_noun(path: Path) -> str:
    """Returns the word for a record's part: "field" of JSON, "column" elsewhere."""
    return "column" if kind(path) in (".tsv", ".csv", *_TABLES) else "field"


def is_text_table(path: Path) -> bool:
    """Returns whether all values of a file are texts."""
    return kind(path) in (".tsv", ".csv")


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    if not _UNQUOTED.match(path.name):
        yield from read_tsv(path)
        return
    for line, text in read_lines(path):
        yield line, text.split("\t")


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)  # 131,072 by default
    texts = (text for _, text in decoded_lines(path))
    lines = csv.reader(texts, strict=True, skipinitialspace=True)
    start = 1
    try:
        for cells in lines:
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = lines.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}:{start}: not CSV ({error}); put texts with commas, quotation marks or line "
            "breaks in quotation marks, and double the marks inside"
        ) from None


def _with_names(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    is_header: Callable[[Sequence[str]], bool],
    default_names: Callable[[Sequence[str]], Sequence[str]],
) -> Iterator[tuple[int, dict[str, Any]]]:
    names: Sequence[str] = ()
    separator = "tabs" if kind(path) == ".tsv" else "commas"
    for line, cells in rows:
        if not names:
            if is_header(cells):
                names = cells
                _check_names(f"{path}:{line}", names)
                continue
            names = default_names(cells)
            if not names:
                raise InputError(
                    f"{path}:{line}: {len(cells)} columns; expected 3 (or 2, without the "
                    f"negative), separated by {separator}, or a header"
                )
        if len(cells) != len(names):
            raise InputError(
                f"{path}:{line}: {len(cells)} columns; expected {len(names)}, separated by "
                f"{separator}"
            )
        yield line, dict(zip(names, cells, strict=True))


def _check_names(where: str, names: Sequence[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise InputError(f"{where}: column {name!r} occurs twice; rename or remove one")


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.parquet

    with _explained(path, "a Parquet file"):
        file = pyarrow.parquet.ParquetFile(path)
        _check_names(str(path), file.schema_arrow.names)
        yield from _rows(path, file.iter_batches(_ROWS_AT_ONCE))


def _arrow(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow

    with _explained(path, "an Arrow file"), pyarrow.memory_map(str(path)) as file:
        try:
            batches: Any = pyarrow.ipc.open_stream(file)
            names = batches.schema.names
        except pyarrow.ArrowInvalid:
            whole = pyarrow.ipc.open_file(file)
            names = whole.schema.names
            batches = (whole.get_batch(i) for i in range(whole.num_record_batches))
        _check_names(str(path), names)
        yield from _rows(path, batches)


def _rows(path: Path, batches: Iterator[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: a text after row {number} is not UTF-8 ({error.reason}); write the file "
                "again with valid texts"
            ) from None
        except (ValueError, OverflowError) as error:  # a date that Python does not have
            raise InputError(
                f"{path}: a value after row {number} cannot be read ({error}); remove its column"
            ) from None
        for row in rows:
            number += 1
            yield number, row


@contextmanager
def _explained(path: Path, format_name: str) -> Generator[None]:
    """Replaces errors of pyarrow by an `InputError`."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        said = reason(error) if isinstance(error, OSError) and error.errno else str(error)
        raise InputError(
            f"{path}: not {format_name}, or damaged ({said.splitlines()[0].rstrip('.')}); "
            "download or write it again"
        ) from None
