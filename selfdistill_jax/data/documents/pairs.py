"""Makes queries, and passages that answer them, from the sections of documents."""

import hashlib
import posixpath
import re
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from selfdistill_jax.data.documents.near_duplicates import first_of_each
from selfdistill_jax.data.documents.sections import Section
from selfdistill_jax.errors import InputError

_PASSAGE_WORDS = 180  # about 256 tokens, which many encoders read
_FEWEST_WORDS = 15  # of a passage
_QUERY_WORDS = range(2, 41)
_SENTENCE_WORDS = range(4, 41)  # of a sentence that becomes a query
_SHARE, _MOST_QUERIES = 0.1, 300  # of dev, and of test
_SENTENCE = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.!?](?=\s+\S)")
# Texts of links that do not describe their target.
_VAGUE = frozenset((
    "here", "click here", "this page", "this", "link", "read more", "more", "see", "see here",
    "next", "previous", "next page", "previous page", "back to top", "table of contents", "edit",
    "source", "view source", "learn more", "top", "home", "index", "the documentation",
))  # fmt: skip
_CONTENTS = ("contents", "table of contents", "on this page")  # headings of lists of headings


class Passage(NamedTuple):
    """Holds a part of a document.

    Attributes:
      id: path of the document, quoted as in a URL, and number of the passage in it.
      file: path of the document.
      text: the text, without its first sentence if that is the query.
    """

    id: str
    file: str
    text: str


class Pair(NamedTuple):
    """Holds a query and the passage that answers it.

    Attributes:
      query: the text.
      passage: index of the passage.
      kind: "heading", "link" or "sentence".
    """

    query: str
    passage: int
    kind: str


class Pairs(NamedTuple):
    """Holds the passages and pairs of a folder of documents.

    Attributes:
      passages: the passages.
      pairs: the pairs; queries are all different.
      split: split of each file: "train", "dev" or "test".
      left_out: number of passages that are not used because they nearly equal another one.
    """

    passages: list[Passage]
    pairs: list[Pair]
    split: dict[str, str]
    left_out: int


def make_pairs(sections: Iterable[Section]) -> Pairs:
    """Makes passages, and queries for them.

    A section's heading is a query for its first passage; headings that occur several times, or
    have a single word, are preceded by the document's title. The text of a link is a query for the
    section that it leads to. The first sentence of a passage without a heading becomes its query,
    and is removed from the passage. If passages are nearly equal, only one is used. A query that
    belongs to several passages is not used. All passages of a file are in the same split.

    Raises:
      InputError: fewer than three files have queries, which are needed for the three splits.
    """
    drafts, anchors = _drafts(list(sections))
    first = first_of_each([draft.text for draft in drafts])
    index = {old: new for new, old in enumerate(i for i, one in enumerate(first) if one)}
    passages = [
        Passage(f"{urllib.parse.quote(draft.file)}#{draft.number}", draft.file, draft.text)
        for draft, one in zip(drafts, first, strict=True)
        if one
    ]
    headings = Counter(drafts[i].section.heading.lower() for i in index if drafts[i].leads)
    pairs = []
    for i, draft in enumerate(drafts):
        if i in index:
            if draft.leads:
                query = _heading_query(draft.section, headings)
                pairs.append(Pair(query, index[i], "heading"))
            elif draft.sentence:
                pairs.append(Pair(draft.sentence, index[i], "sentence"))
    pairs += _link_pairs({draft.section for draft in drafts}, anchors, index)
    by_query: dict[str, set[int]] = defaultdict(set)
    for pair in pairs:
        by_query[pair.query.lower()].add(pair.passage)
    unique = {}
    for pair in pairs:
        if len(by_query[pair.query.lower()]) == 1 and len(pair.query.split()) in _QUERY_WORDS:
            unique.setdefault(pair.query.lower(), pair)
    found = list(unique.values())
    return Pairs(passages, found, _splits(passages, found), len(drafts) - len(passages))


class _Draft(NamedTuple):
    section: Section
    file: str
    number: int
    text: str
    sentence: str  # the first one, if it was taken out of the text
    leads: bool  # whether this is the first passage below a heading


def _drafts(sections: Sequence[Section]) -> tuple[list[_Draft], dict[tuple[str, str], int]]:
    """Returns passages, and (file, anchor) -> passage."""
    sizes = Counter(section.file for section in sections)
    drafts: list[_Draft] = []
    anchors: dict[tuple[str, str], int] = {}
    numbers: Counter[str] = Counter()
    # A page for printing repeats all other pages. It is the longest, so it comes last, and the
    # passages of the separate pages are used.
    for section in sorted(sections, key=lambda section: sizes[section.file]):
        if section.heading.lower() in _CONTENTS:
            continue
        for part, text in enumerate(_passages(section.blocks)):
            leads, sentence = part == 0 and bool(section.heading), ""
            if not leads:
                sentence, text = _without_first_sentence(text)
            if len(text.split()) < _FEWEST_WORDS:
                continue
            for anchor in ("", *section.anchors) if part == 0 else ():
                anchors.setdefault((section.file, anchor), len(drafts))
            number = numbers[section.file]
            numbers[section.file] += 1
            drafts.append(_Draft(section, section.file, number, text, sentence, leads))
    return drafts, anchors


def _passages(blocks: Sequence[str]) -> list[str]:
    """Joins blocks to passages of about `_PASSAGE_WORDS`; a longer block is one passage."""
    parts: list[list[str]] = [[]]
    words = 0
    for block in blocks:
        count = len(block.split())
        if parts[-1] and words + count > _PASSAGE_WORDS:
            parts.append([])
            words = 0
        parts[-1].append(block)
        words += count
    return ["\n".join(part) for part in parts if part]


def _without_first_sentence(text: str) -> tuple[str, str]:
    """Returns the first sentence and the rest, or "" and the text if it cannot be a query."""
    end = _SENTENCE.search(text)
    if not end:
        return "", text
    sentence, rest = text[: end.end()], text[end.end() :].strip()
    if len(sentence.split()) not in _SENTENCE_WORDS or "\n" in sentence or sentence in rest:
        return "", text
    return sentence, rest


def _heading_query(section: Section, counts: Counter[str]) -> str:
    heading, title = section.heading, section.title
    short = len(heading.split()) < 2 or counts[heading.lower()] > 1
    if short and title and title.lower() != heading.lower():
        return f"{title}: {heading}"
    return heading


def _link_pairs(
    sections: Iterable[Section], anchors: dict[tuple[str, str], int], index: dict[int, int]
) -> list[Pair]:
    pairs = []
    for section in sorted(sections, key=lambda section: (section.file, section.heading)):
        for text, target in section.links:
            path, _, anchor = target.partition("#")
            if not path or "://" in path or text.lower() in _VAGUE:
                continue  # links within a page mostly repeat its headings
            file = posixpath.normpath(posixpath.join(posixpath.dirname(section.file), path))
            place = anchors.get((file, anchor))
            if place in index:
                pairs.append(Pair(text.strip("“”\"'"), index[place], "link"))
    return pairs


def _splits(passages: Sequence[Passage], pairs: Sequence[Pair]) -> dict[str, str]:
    """Assigns files to dev, then test, in the order of a hash of their paths; the rest is train."""
    counts = Counter(passages[pair.passage].file for pair in pairs)
    if len(counts) < 3:
        raise InputError(
            f"{len(counts)} documents have queries (headings, links, or several sentences); "
            "expected at least 3, since dev and test hold out whole documents; split the documents "
            "into more files"
        )
    order = sorted(counts, key=lambda file: hashlib.sha256(file.encode()).digest())
    wanted = min(_SHARE * len(pairs), _MOST_QUERIES)
    split = {passage.file: "train" for passage in passages}
    for name in ("dev", "test"):
        held = 0
        while held < wanted and len(order) > (2 if name == "dev" else 1):
            file = order.pop(0)
            split[file] = name
            held += counts[file]
    return split
