"""Finds the columns of a triplet file by their names."""

import re
from collections.abc import Sequence

from selfdistill_jax.errors import InputError

TEXTS = ("query", "positive", "negative")
IDS = ("query_id", "positive_id", "negative_id")
# JSONL fields that hold a list instead of one negative, or instead of its score.
LISTS = {
    "negative": "negatives",
    "negative_id": "negative_ids",
    "negative_score": "negative_scores",
}
SCORES = ("positive_score", "negative_score")
_ALIASES = {"anchor": "query"}  # the name that sentence-transformers uses
_IGNORED = frozenset((
    "id", "_id", "idx", "index", "source", "dataset", "lang", "language", "url", "metadata", "meta",
    "comment",
))  # fmt: skip
_LABELS = frozenset(("label", "labels", "score", "scores", "similarity", "relevance"))
# Words in names of columns, here and in other tools' files. A first record of only such names is a
# header, even if the header is then refused: read as data, it would become a triplet.
_WORDS = _IGNORED | _LABELS | frozenset((
    *TEXTS, *_ALIASES, "hard", "pos", "neg", "q", "p", "n", "d", "qid", "pid", "nid", "did",
    "question", "answer", "passage", "document", "doc", "context", "text", "sentence", "premise",
    "hypothesis", "title", "body", "content", "abstract", "queries", "positives", "negatives",
    "questions", "answers", "passages", "documents", "docs", "texts", "input", "output", "target",
    "response", "prompt", "instruction", "corpus", "user",
))  # fmt: skip
# `sentence1` and `negative_1` are names of columns, but `q1` and `doc1` are ids.
_NAME = re.compile(r"([a-z]+(?:[_-][a-z]+)*)(?:_\d+|(?<=[a-z]{4})\d+)?|_id")
_SEVERAL = re.compile(r".*neg(?:s|atives)?|.*neg.*\d")  # negatives, neg, negative_1, hard_neg2
_LABEL_ADVICE = "rows with labels are not trained on: keep the positive pairs as query and positive"
_SEVERAL_ADVICE = (
    "several negatives for a query: give a JSONL file with a list named 'negatives' in each row"
)


def known_name(name: str) -> str:
    name = name.strip().lower()
    return _ALIASES.get(name, name)


def is_header(cells: Sequence[str]) -> bool:
    names = [known_name(cell) for cell in cells]
    return (
        # A text may be the single word "query", but hardly "query_id".
        not {*IDS, *SCORES}.isdisjoint(names)
        or sum(name in TEXTS for name in names) >= 2
        or all(map(_is_name, names))
        or names == [str(i) for i in range(len(names))]  # pandas, for columns without names
    )


def _is_name(name: str) -> bool:
    found = _NAME.fullmatch(name)
    return bool(found) and all(word in _WORDS for word in re.split("[_-]", found[1] or "id"))


def find_columns(
    fields: Sequence[str], names: Sequence[str], kind: str, where: str
) -> tuple[dict[str, str], list[str]]:
    """Returns the file's own spelling of each known name, and the fields to ignore.

    Args:
      fields: cells of a TSV header or fields of a JSONL row.
      names: `TEXTS` or `IDS`.
      kind: "column" or "field", for messages.
      where: file and line, for messages.

    Raises:
      InputError: a name is unknown, occurs twice, or is required and missing.
    """
    single = (*names, *SCORES)
    lists = {name: LISTS[name] for name in single if name in LISTS and kind == "field"}
    found, ignored, unknown = {}, [], []
    for given in fields:
        name = known_name(given)
        if name in single or name in lists.values():
            if name in found:
                raise InputError(
                    f"{where}: {kind}s {found[name]!r} and {given!r} are both read as {name}; "
                    "remove one of them"
                )
            found[name] = given
        elif name in _IGNORED or (name in (*IDS, LISTS[IDS[2]]) and names == TEXTS):
            ignored.append(given)
        else:
            unknown.append(given)
    spelt = (f"{name} or {lists[name]}" if name in lists else name for name in single)
    expected = f"expected {', '.join(spelt)}"
    if unknown:
        raise InputError(
            f"{where}: unknown {kind}{'s' * (len(unknown) > 1)} "
            f"{', '.join(map(repr, unknown))}; {expected}; {_advice(unknown, kind)}"
        )
    for name in names[:2]:
        if name not in found:
            present = ", ".join(map(repr, fields)) or "none"
            raise InputError(
                f"{where}: {kind} {name!r} is missing; add it ({kind}s present: {present})"
            )
    return found, ignored


def _advice(unknown: Sequence[str], kind: str) -> str:
    names = {name.strip().lower() for name in unknown}
    several = {name for name in names if _SEVERAL.fullmatch(name)}
    advice = []
    # `neg` holds a list in some tools' files and one text in others'.
    if names - several - _LABELS or "neg" in names:
        advice.append(f"rename the {kind}s to be read, and remove the rest")
    if several:
        advice.append(_SEVERAL_ADVICE)
    if names & _LABELS:
        advice.append(_LABEL_ADVICE)
    return "; ".join(advice)
