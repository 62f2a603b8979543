"""Reads several files of training examples as one, each with its weight and prompt."""

import hashlib
import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from selfdistill_jax.data.examples.columns import TEXTS
from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.data.examples.rows import Row
from selfdistill_jax.errors import InputError, nearest

_MOST = 127  # the numbers of the files are stored as int8
_OPTIONS = ("weight", "prompt", "columns")
_EXPECTED = "expected a file and, after it, weight=NUMBER, prompt='TEXT' or columns=…"


class SourceFile(NamedTuple):
    """Describes one of the files.

    Attributes:
      path: the file, folder or dataset, see `ExampleFile`.
      weight: its share of the training examples, relative to the other files'; NaN for its own
        number of examples.
      prompt: text put before its queries.
      columns: see `ExampleFile`.
    """

    path: str
    weight: float = math.nan
    prompt: str = ""
    columns: str = ""


def parse_source(text: str) -> SourceFile:
    """Reads an entry of ``config.data.sources``.

    Raises:
      InputError: the entry is not of that form.

    Example:
      >>> parse_source("faq.jsonl weight=2 prompt='question: '")
      SourceFile(path='faq.jsonl', weight=2.0, prompt='question: ', columns='')
    """
    where = f"config.data.sources: {text!r}"
    try:
        parts = shlex.split(text)
    except ValueError as error:  # a quotation mark that is not closed
        raise InputError(f"{where}: {error}; {_EXPECTED}") from None
    if not parts:
        raise InputError(f"{where}: names no file; {_EXPECTED}")
    path, *options = parts
    given: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name not in _OPTIONS:
            raise InputError(f"{where}: unknown {option!r}; {_EXPECTED}{nearest(name, _OPTIONS)}")
        if name in given:
            raise InputError(f"{where}: {name} is given twice; {_EXPECTED}")
        given[name] = value
    if "weight" in given:
        try:
            given["weight"] = float(given["weight"])
        except ValueError:
            given["weight"] = 0.0
        if not 0 < given["weight"] < math.inf:
            raise InputError(f"{where}: expected a weight above 0")
    return SourceFile(path, **given)


class MixedFiles:
    """Reads several files, one after the other; each row has the number of its file.

    Args:
      sources: the files.
      positive_from: see `ExampleFile`.

    Attributes:
      path, name: names of all files, for messages.

    Raises:
      InputError: as for `ExampleFile`; or some files have ids and others texts.
    """

    def __init__(self, sources: Sequence[SourceFile], *, positive_from: float = 0.5):
        if len(sources) > _MOST:
            raise InputError(
                f"config.data.sources has {len(sources)} entries; expected {_MOST} at most; join "
                "some of the files"
            )
        self._sources = sources
        self._files = [
            ExampleFile(source.path, columns=source.columns, positive_from=positive_from)
            for source in sources
        ]
        self.path = ", ".join(str(file.path) for file in self._files)
        self.name = "+".join(dict.fromkeys(file.name for file in self._files))
        self.has_ids = self._files[0].has_ids
        for file in self._files[1:]:
            if file.has_ids != self.has_ids:
                kinds = ("ids", "texts") if self.has_ids else ("texts", "ids")
                raise InputError(
                    f"config.data.sources: {self._files[0].path} has {kinds[0]}, but {file.path} "
                    f"has {kinds[1]}; give files of one kind"
                )
        for source, file in zip(sources, self._files, strict=True):
            if source.prompt and self.has_ids:
                raise InputError(
                    f"config.data.sources: {file.path} has ids, whose texts are the dataset's, so "
                    "it cannot have a prompt; set config.encoder.query_prompt"
                )

    def fingerprint(self, version: str) -> str:
        """Returns a hex digest of a reader's version, the files and their prompts."""
        parts = [file.fingerprint(version) for file in self._files]
        prompts = [source.prompt for source in self._sources]
        return hashlib.sha256(f"{parts} {prompts}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Returns the origin of the rows, for the record of a run."""
        return {"files": [file.describe() for file in self._files]}

    def rows(self, names: tuple[str, str, str], *, log: bool = True) -> Iterator[Row]:
        """Yields the rows of all files, see `ExampleFile.rows`."""
        for number, (source, file) in enumerate(zip(self._sources, self._files, strict=True)):
            for row in file.rows(names, log=log):
                query = source.prompt + row.query if names == TEXTS else row.query
                yield row._replace(query=query, source=number)
