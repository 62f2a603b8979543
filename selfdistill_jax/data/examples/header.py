"""Tells whether a TSV file of training examples has a header, and names its columns otherwise."""

import re
from collections.abc import Sequence

from selfdistill_jax.data.examples.columns import (
    IDS,
    IGNORED,
    SCORES,
    TEXTS,
    plain_name,
    role_of,
)

# Words in names of columns, here and in other tools' files. A first record of only such names is a
# header, even if the header is then refused: read as data, it would become a training example.
_WORDS = IGNORED | frozenset((
    *TEXTS, "anchor", "hard", "pos", "neg", "q", "p", "n", "d", "qid", "pid", "nid", "did",
    "question", "answer", "passage", "document", "doc", "context", "text", "sentence", "premise",
    "hypothesis", "title", "body", "content", "abstract", "queries", "positives", "negatives",
    "questions", "answers", "passages", "documents", "docs", "texts", "input", "output", "target",
    "response", "instruction", "corpus", "user", "label", "labels", "score", "scores",
    "similarity", "relevance",
))  # fmt: skip
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
# `sentence1` and `negative_1` are names of columns, but `q1` and `doc1` are ids.
_NAME = re.compile(r"([a-z]+(?:[_-][a-z]+)*)(?:_\d+|(?<=[a-z]{4})\d+)?|_id")


def is_header(cells: Sequence[str]) -> bool:
    """Returns whether the first record of a TSV or CSV file holds names of columns."""
    names = [plain_name(cell) for cell in cells]
    roles = [role_of(name) for name in names]
    return (
        # A text may be the single word "query", but hardly "query_id".
        any(role in (*IDS, *SCORES) for role in roles)
        or sum(name in (*TEXTS, "anchor") for name in names) >= 2
        or (any(roles) and all(cell.split() == [cell.strip()] for cell in cells))
        or all(map(_is_name, names))
        or names == [str(i) for i in range(len(names))]  # pandas, for columns without names
    )


def names_without_header(cells: Sequence[str]) -> tuple[str, ...]:
    """Returns the columns of a TSV file without a header, from its first record; () if unknown.

    Three whole numbers are ids, as in MS MARCO's ``qidpidtriples``; with two scores before them,
    the columns are those of the published scores for Margin-MSE (Hofstätter et al. 2020).

    Example:
      >>> names_without_header(["400296", "1540783", "3518497"])
      ('query_id', 'positive_id', 'negative_id')
    """
    of_ids = [cell.strip().isdecimal() for cell in cells]
    if len(cells) in (2, 3):
        return IDS if len(cells) == 3 and all(of_ids) else TEXTS[: len(cells)]
    if len(cells) == 5 and all(of_ids[2:]) and all(map(_NUMBER.fullmatch, cells[:2])):
        return ("positive_score", "negative_score", *IDS)
    return ()


def _is_name(name: str) -> bool:
    found = _NAME.fullmatch(name)
    return bool(found) and all(word in _WORDS for word in re.split("[_-]", found[1] or "id"))
