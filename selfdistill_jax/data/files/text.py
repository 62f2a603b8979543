"""Reads the lines of text files, also of packed ones; every error names the file and the line."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import reason

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PACKED = {".gz": ("gzip", _GZIP), ".zst": ("zstd", _ZSTD)}
_SAVE = "save it as UTF-8"
# First bytes of files that are not UTF-8 text, the file's format, and advice. UTF-32's mark begins
# with UTF-16's, so it comes first.
_NOT_TEXT = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", _SAVE),
    (b"\x00\x00\xfe\xff", "UTF-32 text", _SAVE),
    (b"\xff\xfe", "UTF-16 text", _SAVE),
    (b"\xfe\xff", "UTF-16 text", _SAVE),
    (b"PK\x03\x04", "a zip file", "unpack it"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it"),
    (b"BZh91AY&SY", "a bzip2 file", "unpack it"),
)


def decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields ``(line number, line with its line end)`` of a UTF-8 file.

    A file whose name ends in ``.gz`` or ``.zst`` is unpacked. The file is read once and without
    seeking, so it may be a pipe.

    Raises:
      InputError: the file is missing, unreadable, not UTF-8 or a broken gzip or zstd file.
    """
    with _opened(path) as file:
        _check_text(path, file.peek(16)[:16])
        for number, raw in enumerate(file, 1):
            try:
                # A byte order mark is not part of the first field.
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); {_SAVE}"
                ) from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields ``(line number, line)`` of the lines that are not blank, without their line ends.

    Raises:
      InputError: as for `decoded_lines`.

    Example:
      >>> list(read_lines(Path("queries.tsv")))  # doctest: +SKIP
      [(1, 'q1\\tsort an array'), (3, 'q2\\topen a file')]
    """
    for number, line in decoded_lines(path):
        line = line.rstrip("\r\n")
        if line.strip():
            yield number, line


def digest(version: str, *paths: Path) -> str:
    """Returns the SHA-256 of a reader's version and of the unpacked content of files.

    Raises:
      InputError: a file is missing, unreadable or a broken gzip or zstd file.

    Example:
      >>> len(digest("reader-1"))
      64
    """
    total = hashlib.sha256(version.encode())
    for path in paths:
        with _opened(path) as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@contextmanager
def _opened(path: Path) -> Generator[io.BufferedReader | gzip.GzipFile]:
    """Opens a file for reading bytes, unpacked if its name ends in ``.gz`` or ``.zst``."""
    name, start = _PACKED.get(path.suffix.lower(), ("", b""))
    try:
        with path.open("rb") as file:
            head = file.peek(4)[: len(start)]  # a pipe cannot go back to its start
            if head and not start.startswith(head):
                raise InputError(
                    f"{path}: not a {name} file; remove {path.suffix} from its name, or pack it "
                    f"with {name}"
                )
            if name == "gzip":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield unpacked
            else:
                yield io.BufferedReader(_Zstd(file)) if name else file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected a file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole {name} file ({error}); pack it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None


class _Zstd(io.RawIOBase):
    """Unpacks a zstd file.

    Raises:
      EOFError: the file is truncated or damaged.
    """

    def __init__(self, file: io.BufferedReader):
        import pyarrow  # takes 0.1 s

        packed = pyarrow.PythonFile(file, mode="r")
        self._unpacked = pyarrow.CompressedInputStream(packed, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            found = self._unpacked.read(len(buffer))
        except OSError as error:
            if error.errno:
                raise
            raise EOFError(str(error)) from None
        buffer[: len(found)] = found
        return len(found)


def _check_text(path: Path, head: bytes) -> None:
    """Rejects a file that does not begin like UTF-8 text; the error names its format."""
    packed, _ = _PACKED.get(path.suffix.lower(), ("", b""))
    for suffix, (name, start) in _PACKED.items():
        if head.startswith(start):
            inside = f" in a {packed} file" if packed else ""
            advice = "unpack it once" if inside else f"rename it to {path.name}{suffix}"
            raise InputError(f"{path}: a {name} file{inside}; {advice}")
    for start, kind, advice in _NOT_TEXT:
        if head.startswith(start):
            raise InputError(f"{path}: {kind}, not UTF-8; {advice}")
    if b"\0" in head:  # UTF-16 without its mark, which would decode as UTF-8
        raise InputError(f"{path}: UTF-16 or a binary file, not UTF-8 text; {_SAVE}")
