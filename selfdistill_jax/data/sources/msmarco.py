"""Reads MS MARCO's passage collection from its official files, with the topics of TREC DL."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from selfdistill_jax.data.collection import Document, Query
from selfdistill_jax.data.files.text import read_lines
from selfdistill_jax.data.sources.beir import find_packed
from selfdistill_jax.data.sources.judged_files import JudgedFiles, Placed
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand
from selfdistill_jax.progress import LOG

_VERSION = "msmarco-passage-1"  # part of the fingerprint: raise it when files are read differently
CORPUS = "collection.tsv"
_PASSAGES = 8_841_823  # of the official corpus
# Split -> names of its queries and of its judgements; the first pair that exists is used.
_SPLITS = {
    "train": [("queries.train.tsv", "qrels.train.tsv")],
    "dev": [
        ("queries.dev.small.tsv", "qrels.dev.small.tsv"),
        ("queries.dev.tsv", "qrels.dev.small.tsv"),
        ("queries.dev.tsv", "qrels.dev.tsv"),
    ],
    "dl19": [("msmarco-test2019-queries.tsv", "2019qrels-pass.txt")],
    "dl20": [("msmarco-test2020-queries.tsv", "2020qrels-pass.txt")],
}
_MSMARCO = "https://msmarco.z22.web.core.windows.net/msmarcoranking/"
_TREC = "https://trec.nist.gov/data/deep/"


class Download(NamedTuple):
    url: str
    size: str
    md5: str  # "" if none is published
    holds: str

    def __str__(self) -> str:
        md5 = f", md5 {self.md5}" if self.md5 else ""
        return f"{self.url} ({self.size}{md5}): {self.holds}"


# Sizes and checksums as ir_datasets and Anserini publish them.
DOWNLOADS = (
    Download(
        f"{_MSMARCO}collectionandqueries.tar.gz", "1.1 GB", "31644046b18952c1386cd4564ba2ae69",
        "collection.tsv, queries.train.tsv, queries.dev.small.tsv, qrels.dev.small.tsv",
    ),
    Download(
        f"{_MSMARCO}qrels.train.tsv", "11 MB", "733fb9fe12d93e497f7289409316eccf", "qrels.train.tsv"
    ),
    Download(
        f"{_MSMARCO}msmarco-test2019-queries.tsv.gz", "4 KB", "eda71eccbe4d251af83150abe065368c",
        "topics of TREC DL 2019",
    ),
    Download(
        f"{_TREC}2019qrels-pass.txt", "0.2 MB", "2f4be390198da108f6845c822e5ada14",
        "judgements of TREC DL 2019",
    ),
    Download(
        f"{_MSMARCO}msmarco-test2020-queries.tsv.gz", "4 KB", "00a406fb0d14ed3752d70d1e4eb98600",
        "topics of TREC DL 2020",
    ),
    Download(
        f"{_TREC}2020qrels-pass.txt", "0.2 MB", "0355ccee7509ac0463e8278186cdd8d1",
        "judgements of TREC DL 2020",
    ),
    Download(
        f"{_MSMARCO}qidpidtriples.train.full.2.tsv.gz", "5.7 GB", "",
        "ids of triples, for config.data.triplets; leave it packed",
    ),
)  # fmt: skip


# MD5 of the files that are read as they were downloaded, without unpacking an archive first.
_CHECKSUMS = {
    **{Path(d.url).name: d.md5 for d in DOWNLOADS if d.md5 and not d.url.endswith(".tar.gz")},
    "qrels.dev.small.tsv": "38a80559a561707ac2ec0f150ecd1e8a",
    "qrels.dev.tsv": "9157ccaeaa8227f91722ba5770787b16",
}


class MsMarcoFolder(JudgedFiles):
    """Reads a folder of MS MARCO's official passage files; they may end in ``.gz``.

    ``collection.tsv`` and at least one pair of queries and judgements must be there. The splits
    are train, dev (the small one if it is there), dl19 and dl20 (TREC Deep Learning 2019 and 2020),
    and test, which has the queries of both years. For the training examples, see `JudgedFiles`; the
    official triples are given as ``config.data.triplets``.

    Raises:
      InputError: a file is missing; the message lists the downloads. The content is checked when
        it is read.

    Example:
      >>> MsMarcoFolder("/data/msmarco")  # doctest: +SKIP
    """

    _trec_qrels = True

    def __init__(self, path: str | Path):
        folder = expand(path)
        corpus = find_packed(folder / CORPUS)
        found = {split: _pair(folder, names) for split, names in _SPLITS.items()}
        pairs = {split: pair for split, pair in found.items() if pair}
        if corpus is None or not pairs:
            missing = CORPUS if corpus is None else "queries with their judgements"
            raise InputError(f"{folder}: no {missing}; {how_to_get()}")
        skipped = [split for split in _SPLITS if split not in pairs and _has_any(folder, split)]
        if skipped:
            LOG.warning(
                "%s: no %s, since their queries or their judgements are missing",
                folder, ", ".join(skipped),
            )  # fmt: skip
        # A query of a smaller file may be in a larger one too, and is then taken from the smaller.
        queries = [queries for queries, _ in reversed(pairs.values())]
        qrels = {split: [judged] for split, (_, judged) in pairs.items()}
        topics = [pairs[split][1] for split in ("dl19", "dl20") if split in pairs]
        if topics:
            qrels["test"] = topics
        super().__init__(
            folder, corpus=corpus, queries=queries, qrels=qrels, version=_VERSION,
            layout=how_to_get(),
        )  # fmt: skip

    def _read_documents(self) -> Iterator[Placed]:
        for path in self._files():
            expected = _CHECKSUMS.get(path.name)
            if expected and (found := _md5(path)) != expected:
                LOG.warning(
                    "%s: not the official file (md5 %s, expected %s); download it again if it "
                    "should be", path, found, expected,
                )  # fmt: skip
        number = 0
        for line, id_, text in _rows(self._corpus):
            number += 1
            yield self._corpus, line, Document(id_, "", text)
        if number != _PASSAGES:
            LOG.warning(
                "%s: %s passages, but the official file has %s; measures are not comparable with "
                "published ones", self._corpus, f"{number:,}", f"{_PASSAGES:,}",
            )  # fmt: skip

    def _read_queries(self) -> Iterator[Placed]:
        seen: dict[str, str] = {}
        for path in self._queries:
            new: dict[str, str] = {}
            for line, id_, text in _rows(path):
                if not text.strip():
                    raise InputError(f"{path}:{line}: query {id_!r} is empty; remove the line")
                if id_ not in seen:
                    new[id_] = text
                    yield path, line, Query(id_, text)
                elif seen[id_].strip() != text.strip():
                    raise InputError(
                        f"{path}:{line}: query {id_!r} has another text than in another file of "
                        "queries; give files of one release"
                    )
            seen |= new


def is_msmarco(folder: Path) -> bool:
    """Returns whether a folder has a file that only MS MARCO's collection has."""
    names = [CORPUS, *(name for pairs in _SPLITS.values() for pair in pairs for name in pair)]
    return any(find_packed(folder / name) for name in names)


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yields the line number, id and text of a file of two columns; quotation marks are text."""
    for line, row in read_lines(path):
        id_, tab, text = row.partition("\t")
        if not tab or "\t" in text:
            count = row.count("\t") + 1
            raise InputError(
                f"{path}:{line}: {count} column{'s' * (count != 1)}; expected 2, an id and a text, "
                "separated by a tab"
            )
        yield line, id_, text


def _has_any(folder: Path, split: str) -> bool:
    return any(find_packed(folder / name) for pair in _SPLITS[split] for name in pair)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _pair(folder: Path, names: list[tuple[str, str]]) -> tuple[Path, Path] | None:
    for queries, judged in names:
        paths = find_packed(folder / queries), find_packed(folder / judged)
        if paths[0] and paths[1]:
            return paths[0], paths[1]
    return None


def how_to_get() -> str:
    """Returns a sentence that lists the downloads."""
    return f"download and unpack into this folder: {'; '.join(map(str, DOWNLOADS))}"
