"""Finds the columns of a file of training examples by their names.

Several libraries have conventions for such files: sentence-transformers (``anchor``, ``positive``,
``negative_1`` …, or ``sentence1``, ``sentence2``, ``label``), FlagEmbedding (lists ``pos`` and
``neg``) and Tevatron (``positive_passages``, ``negative_passages``). Their names differ but do not
contradict each other, so each name has one role, whatever file it is in.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from selfdistill_jax.errors import InputError, nearest

TEXTS = ("query", "positive", "negative")
IDS = ("query_id", "positive_id", "negative_id")
_OTHER_ROLES = ("positive_score", "negative_score", "label")
# Role -> pattern of its names, in lower case with underscores.
_SCORE_NAMES = {
    "positive_score": r"pos(?:itive)?_scores?",
    "negative_score": r"neg(?:ative)?_scores?(?:_?\d+)?",
}
_TEXT_NAMES = {
    "query": r"query|anchor|question|sentence1",
    "positive": r"positives?|pos|answer|sentence2|positive_passages",
    "negative": r"(?:hard_)?neg(?:s|atives?)?(?:_?\d+)?|negative_passages",
    "label": r"label|score|similarity",
    **_SCORE_NAMES,
}
_ID_NAMES = {
    "query_id": r"query_id",
    "positive_id": r"positive_(?:document_)?ids?",
    "negative_id": r"negative_(?:document_)?ids?(?:_?\d+)?",
    **_SCORE_NAMES,
}
_ANY_NAMES = {**_TEXT_NAMES, **_ID_NAMES}
SCORES = tuple(_SCORE_NAMES)
_SEVERAL = ("negative", "negative_id", "negative_score")
IGNORED = frozenset((
    "id", "_id", "idx", "index", "source", "dataset", "lang", "language", "url", "metadata", "meta",
    "comment", "prompt", "type", "task", "subset", "split",
    "", "unnamed:_0", "__index_level_0__",  # written by pandas
))  # fmt: skip


class Columns(NamedTuple):
    """Holds the names of the columns with each role, as the file spells them.

    Attributes:
      query, positive: texts or ids.
      negatives: texts or ids; several columns, or one with a list.
      positive_score, negative_scores: a teacher's scores.
      label: whether a pair is positive; in rows with negatives, a teacher's scores.
      ignored: columns without a role.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    positive_score: str = ""
    negative_scores: tuple[str, ...] = ()
    label: str = ""
    ignored: tuple[str, ...] = ()

    def describe(self) -> str:
        """Returns the convention and the names of the columns that are used."""
        names = [plain_name(name) for name in (self.query, self.positive)]
        if "positive_passages" in names:
            convention = "Tevatron rows"
        elif "pos" in names:
            convention = "FlagEmbedding rows"
        else:
            convention = "triplets" if self.negatives else "pairs"
            if self.label and not self.negatives:
                convention = "labelled pairs"
            if names[0] in ("anchor", "sentence1"):
                convention = f"sentence-transformers {convention}"
        used = [self.query, self.positive, *_shortened(self.negatives), self.positive_score]
        used += [*_shortened(self.negative_scores), self.label]
        return f"{convention}: {', '.join(filter(None, used))}"


def _shortened(names: Sequence[str]) -> list[str]:
    return list(names) if len(names) < 3 else [f"{names[0]} … {names[-1]}"]


def plain_name(name: str) -> str:
    """Returns the name of a column in lower case, with underscores."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def role_of(plain: str, roles: Mapping[str, str] = _ANY_NAMES) -> str:
    """Returns the role of a column with that plain name, or "" for none."""
    return next((role for role, names in roles.items() if re.fullmatch(names, plain)), "")


def holds_ids(names: Sequence[str], by_hand: Mapping[str, Sequence[str]]) -> bool:
    """Returns whether the columns include ids of queries but no texts of queries.

    Args:
      names: the file's columns.
      by_hand: see `parse_columns`.
    """
    if by_hand:
        return IDS[0] in by_hand
    roles = {role_of(plain_name(name)) for name in names}
    return bool(roles & {*IDS}) and TEXTS[0] not in roles


def parse_columns(text: str) -> dict[str, list[str]]:
    """Returns the columns of each role from the value of ``config.data.columns``.

    Args:
      text: pairs ``role=column`` between commas; several columns may have the role "negative".

    Raises:
      InputError: a pair has no ``=`` or an unknown role, or query or positive is missing.

    Example:
      >>> parse_columns("query=question, positive=context")
      {'query': ['question'], 'positive': ['context']}
    """
    found: dict[str, list[str]] = {}
    where = f"config.data.columns is {text!r}"
    for pair in filter(str.strip, text.split(",")):
        role, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or not column:
            raise InputError(
                f"{where}; expected pairs such as 'query=question,positive=answer', not {pair!r}"
            )
        known = (*TEXTS, *IDS, *_OTHER_ROLES)
        if role not in known:
            raise InputError(
                f"{where}; {role!r} is not a role; expected one of {', '.join(known)}"
                f"{nearest(role, known)}"
            )
        if role in found and role not in _SEVERAL:
            raise InputError(f"{where}; {role} is given twice; remove one")
        if any(column in columns for columns in found.values()):
            raise InputError(f"{where}; column {column!r} has two roles; remove one")
        found.setdefault(role, []).append(column)
    names = IDS if IDS[0] in found else TEXTS
    for role in found:
        if role not in (*names, *_OTHER_ROLES):
            raise InputError(f"{where}; {role} and {names[0]} cannot be mixed")
    for role in names[:2] if found else ():
        if role not in found:
            raise InputError(f"{where}; {role} is missing; add {role}=COLUMN")
    return found


def is_required(name: str, names: tuple[str, str, str]) -> bool:
    """Returns whether a column is found as the query or the positive.

    Args:
      name: the column.
      names: `TEXTS` or `IDS`.
    """
    return role_of(plain_name(name), _TEXT_NAMES if names == TEXTS else _ID_NAMES) in names[:2]


def find_columns(
    fields: Sequence[str],
    names: tuple[str, str, str],
    noun: str,
    where: str,
    *,
    by_hand: Mapping[str, Sequence[str]],
) -> Columns:
    """Returns the columns of each role.

    Args:
      fields: the file's columns, or the fields of a JSONL row.
      names: `TEXTS` or `IDS`.
      noun: "column" or "field", for messages.
      where: file, and line if there is one, for messages.
      by_hand: columns of each role, see `parse_columns`; empty to find them by name.

    Raises:
      InputError: a name is unknown, a role has two columns, or a required one has none.
    """
    shown = ", ".join(repr(_cut(field)) for field in fields)
    present = f"{noun}s present: {shown or 'none'}"
    if by_hand:
        for role, columns in by_hand.items():
            for column in columns:
                # A field may be left out of a JSON row, but a column of a table is misspelt.
                if column not in fields and (role in names[:2] or noun == "column"):
                    raise InputError(
                        f"{where}: no {noun} {column!r}, which config.data.columns names as {role} "
                        f"({present})"
                    )
        found = {
            role: [column for column in columns if column in fields]
            for role, columns in by_hand.items()
        }
        used = {column for columns in found.values() for column in columns}
        return _columns(found, names, tuple(field for field in fields if field not in used))
    roles = _TEXT_NAMES if names == TEXTS else _ID_NAMES
    found, ignored, unknown = {}, [], []
    for given in fields:
        plain = plain_name(given)
        role = role_of(plain, roles)
        if role:
            others = [name for name in found.get(role, ()) if plain_name(name) == plain]
            if others or (role in found and role not in _SEVERAL):
                raise InputError(
                    f"{where}: {noun}s {found[role][0]!r} and {given!r} are both read as {role}; "
                    "remove one of them, or say in config.data.columns which one to read"
                )
            found.setdefault(role, []).append(given)
        elif plain in IGNORED or (names == TEXTS and role_of(plain, _ID_NAMES)):
            ignored.append(given)
        else:
            unknown.append(given)
    if unknown:
        named = ", ".join(repr(_cut(name)) for name in unknown)
        raise InputError(
            f"{where}: unknown {noun}{'s' * (len(unknown) > 1)} {named} ({present}); expected "
            f"{_expected(names)}; {_advice(fields, noun)}"
        )
    for role in names[:2]:
        if role not in found:
            raise InputError(f"{where}: {noun} {role!r} is missing; add it ({present})")
    return _columns(found, names, tuple(ignored))


def _advice(fields: Sequence[str], noun: str) -> str:
    if len(fields) == 1 and ";" in fields[0]:
        return "separate columns with commas, not semicolons"
    return (
        f"rename or remove {noun}s, or name those to be read: "
        "--config.data.columns=query=NAME,positive=NAME,negative=NAME"
    )


def _cut(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"


def _number(name: str) -> int:
    """Returns the number at the end of a column's name, or -1.

    >>> sorted(["negative_10", "negative_2", "negative"], key=_number)
    ['negative', 'negative_2', 'negative_10']
    """
    found = re.search(r"\d+$", name.strip())
    return int(found[0]) if found else -1


def _expected(names: tuple[str, str, str]) -> str:
    if names == IDS:
        return "query_id, positive_id(s), negative_id(s), positive_score, negative_score(s)"
    return (
        "query, positive, negative(s) (or anchor, positive, negative_1 …; query, pos, neg; "
        "sentence1, sentence2, label), positive_score, negative_score(s)"
    )


def _columns(
    found: Mapping[str, Sequence[str]], names: tuple[str, str, str], ignored: tuple[str, ...]
) -> Columns:
    one = {role: columns[0] for role, columns in found.items() if columns}
    return Columns(
        one[names[0]],
        one[names[1]],
        tuple(sorted(found.get(names[2], ()), key=_number)),
        one.get("positive_score", ""),
        tuple(sorted(found.get("negative_score", ()), key=_number)),
        one.get("label", ""),
        ignored,
    )
