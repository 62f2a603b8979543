"""Caches the token ids of texts, as one flat memory-mapped array for each table."""

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from selfdistill_jax.data.cache import new_cache_file, new_folder, reports_damaged_cache
from selfdistill_jax.data.tokenizer import Edges, Tokenizer
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import Progress

_CHUNK = 2048
_VERSION = "2"
_SHARD = 2**16  # texts: 7 s of work on two cores, the most that an interruption loses
_AT_ONCE = 2**15  # texts whose tokens are compared at one time: 100 MB for texts of 100 tokens


class TokenTable:
    """Holds rows of token ids; row i is ``ids[offsets[i]:offsets[i + 1]]``.

    Args:
      ids: ``[total]`` int32, may be memory-mapped.
      offsets: ``[rows + 1]`` int64.
      edges: the tokenizer's `Edges`, which determine how long rows are cut.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, edges: Edges = Edges()):  # noqa: B008
        self._ids, self._offsets, self._edges = ids, offsets, edges

    @classmethod
    def from_texts(
        cls,
        tokenizer: Tokenizer,
        texts: Iterable[str],
        *,
        limit: int,
        prompt: str = "",
        progress: Progress | None = None,
    ) -> "TokenTable":
        rows: list[np.ndarray] = []
        texts = iter(texts)
        while chunk := list(islice(texts, _CHUNK)):
            rows += tokenizer.encode(chunk, limit=limit, prompt=prompt)
            if progress is not None:
                progress.update(len(chunk))
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return cls(np.concatenate([*rows, np.zeros(0, np.int32)]), offsets, tokenizer.edges)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def lengths(self, limit: int) -> np.ndarray:
        """Returns the number of tokens of each row when cut at ``limit``, ``[rows]`` int32."""
        return np.minimum(np.diff(self._offsets), limit).astype(np.int32)

    def take(self, rows: Sequence[int] | np.ndarray) -> "TokenTable":
        """Returns an in-memory table of the given rows; for all rows in order, this table."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        parts = [self._ids[self._offsets[r] : self._offsets[r + 1]] for r in rows]
        offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts], dtype=np.int64)])
        return TokenTable(np.concatenate([*parts, np.zeros(0, np.int32)]), offsets, self._edges)

    def flat(
        self, rows: Sequence[int] | np.ndarray, *, limit: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of the given rows, each cut at ``limit`` as `Edges.cut` does.

        Returns:
          ``[total]`` int32 ids, row after row, and ``[n]`` int32 lengths.
        """
        rows = np.asarray(rows, np.int64)
        begin, end = self._offsets[rows], self._offsets[rows + 1]
        lengths = np.minimum(end - begin, limit)
        at = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        # Tokens before the cut are counted from the row's start, those after it from its end.
        begin, end = np.repeat(begin, lengths), np.repeat(end - lengths, lengths)
        place = at + np.where(at < self._edges.kept_in_front(limit), begin, end)
        return self._ids[place].astype(np.int32), lengths.astype(np.int32)


def first_copies(table: TokenTable, *, limit: int) -> np.ndarray:
    """Returns for each text the first row whose tokens are equal, ``[rows]`` int32.

    Args:
      table: the texts.
      limit: number of tokens at which they are cut.

    Example:
      >>> table = TokenTable(np.array([7, 1, 2, 1, 2]), np.array([0, 1, 3, 5]))
      >>> first_copies(table, limit=8).tolist()
      [0, 1, 1]
    """
    parts = [
        _content(*table.flat(np.arange(start, min(start + _AT_ONCE, len(table))), limit=limit))
        for start in range(0, len(table), _AT_ONCE)
    ]
    content = np.concatenate([np.zeros(0, np.uint64), *parts])
    _, first, inverse = np.unique(content, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int32)


def _content(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns a 64-bit number for each text, the same for equal tokens.

    It is a sum of pseudorandom numbers, one for each (token, place). Two of 100,000 different texts
    have the same sum with a probability of 3e-10.
    """
    ends = np.cumsum(lengths)
    place = np.arange(len(ids)) - np.repeat(ends - lengths, lengths)
    mixed = (ids.astype(np.uint64) << np.uint64(32)) | place.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed ^ (mixed >> np.uint64(31)))])
    return sums[ends] - sums[ends - lengths]


class TokenCache:
    """Makes and opens the cached token table of some texts.

    The table is made in shards of `_SHARD` texts, so it takes memory for one shard only. A shard
    that is made stays, so an interrupted preparation continues where it was, and several processes
    that share the cache can each make some.

    Args:
      folder: path that identifies the texts; the tokenizer, limit and prompt are added to its name.
      tokenizer: the encoder's tokenizer.
      texts: the texts; read only if the table has to be made.
      limit: maximum number of tokens stored of a text, the size of the encoder's position table:
        for shorter limits, rows of the same table are cut.
      prompt: string to prepend to each text.
      progress: label of the progress bar while the table is made; if empty, no bar is shown.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        texts: Sequence[str],
        *,
        limit: int,
        prompt: str = "",
        progress: str = "",
    ):
        own = f"{tokenizer.fingerprint[:16]}-{limit}-v{_VERSION}"
        if prompt:
            own += f"-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"
        self._folder = folder.with_name(f"{folder.name}-{own}")
        self._parts = self._folder.with_name(f"{self._folder.name}.parts")
        self._tokenizer, self._texts = tokenizer, texts
        self._limit, self._prompt, self._progress = limit, prompt, progress

    def make_share(self, process: int, processes: int) -> None:
        """Makes every n-th shard that is missing, where n is the number of processes.

        Raises:
          InputError: the cache cannot be written.
        """
        if self._folder.is_dir():
            return
        shards = range(0, len(self._texts), _SHARD)[process::processes]
        made = [start for start in shards if self._shard(start).exists()]
        total = sum(self._size(start) for start in shards)
        done = sum(self._size(start) for start in made)
        with Progress(self._progress, total, unit="texts", start=done) as bar:
            for start in shards:
                if start in made or self._folder.is_dir():  # another run may have made it
                    continue
                table = TokenTable.from_texts(
                    self._tokenizer,
                    self._texts[start : start + _SHARD],
                    limit=self._limit,
                    prompt=self._prompt,
                    progress=bar,
                )
                try:
                    with new_cache_file(self._shard(start)) as file:
                        np.savez(file, ids=table._ids, lengths=np.diff(table._offsets))
                except InputError:  # another run may have removed the folder of the shards
                    if not self._folder.is_dir():
                        raise
        if self._folder.is_dir():
            shutil.rmtree(self._parts, ignore_errors=True)

    def open(self) -> TokenTable:
        """Returns the table; makes it first if it is missing.

        Raises:
          InputError: the cached table is damaged, or the cache cannot be written.
        """
        if not self._folder.is_dir():
            self.make_share(0, 1)
            try:
                self._join()
            except InputError:  # another run may have joined and removed the shards meanwhile
                if not self._folder.is_dir():
                    raise
        with reports_damaged_cache(self._folder):
            ids = np.load(self._folder / "ids.npy", mmap_mode="r")
            offsets = np.load(self._folder / "offsets.npy", mmap_mode="r")
            # As plain arrays, memory-mapped ones are read faster.
            return TokenTable(np.asarray(ids), np.asarray(offsets), self._tokenizer.edges)

    def _size(self, start: int) -> int:
        return min(_SHARD, len(self._texts) - start)

    def _shard(self, start: int) -> Path:
        return self._parts / f"{start:012}.npz"

    def _join(self) -> None:
        """Joins the shards to a table, and removes them."""
        shards = [self._shard(start) for start in range(0, len(self._texts), _SHARD)]
        with reports_damaged_cache(self._parts):
            lengths = [_read_array(path, "lengths") for path in shards]
        offsets = np.concatenate([[0], *lengths]).cumsum(dtype=np.int64)
        with new_folder(self._folder) as new:
            np.save(new / "offsets.npy", offsets)
            with (new / "ids.npy").open("wb") as file:
                header = {"descr": "<i4", "fortran_order": False, "shape": (int(offsets[-1]),)}
                np.lib.format.write_array_header_1_0(file, header)
                for path in shards:
                    with reports_damaged_cache(self._parts):
                        ids = _read_array(path, "ids")
                    file.write(ids.astype("<i4").tobytes())
        shutil.rmtree(self._parts, ignore_errors=True)


def _read_array(path: Path, name: str) -> np.ndarray:
    with path.open("rb") as file, np.load(file) as arrays:
        return arrays[name]
