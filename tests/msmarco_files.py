"""Writes files in MS MARCO's exact formats, of any size, with questions that can be learned.

    python -m tests.msmarco_files FOLDER --passages=1000000 --queries=100000 --triples=1000000

A passage has 56 words on average: common English words, and five rare words that only its subject
has. A question has common words and three of the rare words of its passage, so lexical and dense
retrieval can both find it.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

_COMMON_WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have "
    "from or had an they which one you were all her she there would their we him been has when "
    "who will no more if out so up said what its about than into them can only other time new "
    "some could these two may first then do any like my now over such our man me even most made "
    "after also well did many before must years back through much where your way down should "
    "because long each just state people those too mister how little good world make very year "
    "still see own work men day get here old life both between being under three never know "
    "same last another while us off might great go come since against right came take used "
    "himself few house use place during high without again home around small however found part "
    "school thought went say general once upon every war does got united left number course "
    "until always away something water fact less public put thing almost hand enough far took "
    "head yet government system better set told nothing night end why called eyes find going "
    "look asked later point knew city next program business group give days toward young let "
    "room side social present given several order national second possible rather per face "
    "among form often things early white case large become"
)
COMMON = _COMMON_WORDS.split()
_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "il")]
_RARE = 50_000  # distinct rare words
_PER_SUBJECT = 5
_BLOCK = 10_000  # passages that are made together


def rare_word(number: int) -> str:
    size = len(_SYLLABLES)
    return (
        _SYLLABLES[number % size]
        + _SYLLABLES[number // size % size]
        + _SYLLABLES[number // size**2 % size]
    )


def write_files(
    folder: Path, *, passages: int, queries: int, triples: int, topics: int = 43, seed: int = 0
) -> None:
    """Writes the files of a collection; the same arguments give the same files.

    Args:
      folder: folder to make.
      passages, queries, triples: their numbers; the queries are those of train. A twentieth as
        many, at most 6,980, are dev's, and 200 for each year are those of TREC DL.
      topics: number of judged queries of TREC DL 2019; 2020 has 11 more.
      seed: seed of all texts.
    """
    folder.mkdir(parents=True)
    subjects = _write_passages(folder / "collection.tsv", passages, seed)
    draw = np.random.default_rng((seed, 1))
    dev = min(max(queries // 20, 10), 6980)
    asked = draw.integers(passages, size=queries + dev + 400)  # the passage of each query
    rare = subjects[asked]
    texts = [
        " ".join([*(COMMON[i] for i in common), *map(rare_word, words[order[:3]])])
        for words, common, order in zip(
            rare,
            draw.integers(len(COMMON), size=(len(asked), 3)),
            draw.permuted(np.tile(np.arange(_PER_SUBJECT), (len(asked), 1)), axis=1),
            strict=True,
        )
    ]
    ids = draw.permutation(10 * len(asked))[: len(asked)]
    ends = np.cumsum([queries, dev, 200, 200])
    parts = np.split(np.arange(len(asked)), ends[:-1])
    names = ("queries.train", "queries.dev.small", "msmarco-test2019-queries")
    for part, name in zip(parts, (*names, "msmarco-test2020-queries"), strict=True):
        rows = "".join(f"{ids[i]}\t{texts[i]}\n" for i in part)
        if "test" in name:
            (folder / f"{name}.tsv.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))
        else:
            (folder / f"{name}.tsv").write_text(rows)
    for part, name in zip(parts, ("qrels.train.tsv", "qrels.dev.small.tsv"), strict=False):
        rows = "".join(f"{ids[i]}\t0\t{asked[i]}\t1\n" for i in part)
        (folder / name).write_text(rows)
    for part, year, judged in zip(parts[2:], (2019, 2020), (topics, topics + 11), strict=True):
        rows = [
            f"{ids[i]} Q0 {passage} {grade}\n"
            for i in part[:judged]
            for passage in [asked[i], *draw.integers(passages, size=9)]
            for grade in [3 * (passage == asked[i])]
        ]
        (folder / f"{year}qrels-pass.txt").write_text("".join(dict.fromkeys(rows)))
    with gzip.open(folder / "qidpidtriples.train.full.2.tsv.gz", "wt", compresslevel=1) as file:
        picked = np.sort(draw.integers(queries, size=triples))
        negatives = draw.integers(passages, size=triples)
        negatives = np.where(negatives == asked[picked], (negatives + 1) % passages, negatives)
        for i, negative in zip(picked, negatives, strict=True):
            file.write(f"{ids[i]}\t{asked[i]}\t{negative}\n")


def _write_passages(path: Path, passages: int, seed: int) -> np.ndarray:
    """Writes the passages and returns the rare words of each, ``[passages, 5]``."""
    draw = np.random.default_rng((seed, 0))
    weights = 1 / np.arange(1, len(COMMON) + 1)
    weights /= weights.sum()
    every = []
    with path.open("w") as file:
        for start in range(0, passages, _BLOCK):
            count = min(_BLOCK, passages - start)
            rare = draw.integers(_RARE, size=(count, _PER_SUBJECT))
            every.append(rare)
            lengths = draw.integers(25, 72, size=count)
            common = iter(draw.choice(len(COMMON), size=lengths.sum(), p=weights))
            for row in range(count):
                words = [COMMON[next(common)] for _ in range(lengths[row])]
                for at, number in enumerate(rare[row]):
                    words.insert(7 * at % len(words), rare_word(number))
                file.write(f"{start + row}\t{' '.join(words).capitalize()}.\n")
    return np.concatenate(every)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("passages", "queries", "triples"):
        parser.add_argument(f"--{name}", type=int, required=True)
    write_files(**vars(parser.parse_args()))
