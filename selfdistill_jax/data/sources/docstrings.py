"""Splits a reStructuredText docstring into a summary sentence and a plain body."""

import re

BODY_CHARACTERS = 900
# Sections that hold code or lists of names: they say little about what the object is for.
_CUT_SECTIONS = {"examples", "example", "references", "see also", "notes and references"}
_UNDERLINE = re.compile(r"^\s*([-=~^*])\1{2,}\s*$")
_GOOGLE_SECTION = re.compile(r"^(Examples?|References?|See Also|Usage)\s*:+\s*$", re.IGNORECASE)
_DIRECTIVE = re.compile(r"^\s*\.\.( |$)")
_ROLE = re.compile(r":[\w:+.-]+:`([^`]*)`")
_TARGET = re.compile(r"\s*<[^<>`]*>(?=`)")
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!cf)(?<!vs)\.(?=\s+[A-Z(])")
# Not a summary: the heading of a section, or a sentence that ended in a formula.
NO_SENTENCE = re.compile(
    r"(Parameters|Attributes|Arguments|Args|Returns)( -{3}|:)|.* \.\. \w"
    r"|.*\b(as|by|is|are|of|the|to|with|for|via|where|and|or)$"
)
_RESIDUE = (  # markup that `plain` does not remove
    (r"(?m)^\s*(%\([\w:]+\)s|%s|\$\{\w+\})\s*$", ""),  # a placeholder filled in at import
    (r"(?m)^\s*(\+[-=+]+\+|=+( +=+)+)\s*$", ""),  # a table's rules
    (r"\s*\[[\w.+-]+\]_", ""),  # a citation
    (r"(?<!`)`[~!]?\.?(?=[A-Za-z_])", "`"),  # `~pkg.name` and `.name`: shown as name
    (r"`{1,2}(__\w+)`{1,2}", r"\1"),  # else `plain` would take the underscores for markup
    (r"`\\(?=\w)", "`"),  # the plural's s, as in `.Tick`\s
)


def plain(text: str) -> str:
    """Returns a text without inline markup and with white space folded.

    >>> plain("Like :func:`~jax.numpy.sin`, but ``x`` is *small*.")
    'Like jax.numpy.sin, but x is small.'
    """
    text = _TARGET.sub("", text)
    text = _ROLE.sub(lambda m: m[1].lstrip("~!"), text)
    text = re.sub(r"`+_{0,2}|\|(?=\w)|(?<=\w)\|", "", text)
    text = re.sub(r"(?<!\w)\*{1,2}(\S(?:[^*]*\S)?)\*{1,2}(?!\w)", r"\1", text)
    return " ".join(text.replace("\\", " ").split())


def split_docstring(docstring: str) -> tuple[str, str]:
    """Returns the summary sentence and the rest, both as plain text.

    Args:
      docstring: docstring as cleaned by `ast.get_docstring`.

    >>> split_docstring("Sorts an array. Stable.\\n\\nExamples\\n--------\\n>>> sort([2, 1])")
    ('Sorts an array.', 'Stable.')
    """
    for pattern, replacement in _RESIDUE:
        docstring = re.sub(pattern, replacement, docstring)
    paragraphs = re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)
    first = plain(paragraphs[0])
    end = _SENTENCE_END.search(first)
    summary, rest = (first[: end.end()], first[end.end() :]) if end else (first, "")
    body = plain(f"{rest}\n{_prose(paragraphs[1]) if len(paragraphs) > 1 else ''}")
    return summary, body


def shorten(text: str, characters: int) -> str:
    """Returns a text cut to at most ``characters``, at the end of a word."""
    if len(text) <= characters:
        return text
    return text[:characters].rsplit(" ", 1)[0]


def _prose(text: str) -> str:
    """Removes doctests, directives with their blocks, heading underlines and sections of code."""
    kept: list[str] = []
    lines = text.splitlines()
    block_indent = None  # indent of a directive or section that is being dropped
    skipping_section = in_doctest = False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        heading = i + 1 < len(lines) and line.strip() and _UNDERLINE.match(lines[i + 1])
        if heading:
            skipping_section = line.strip().lower().rstrip(":") in _CUT_SECTIONS
            block_indent = None
        if skipping_section or _UNDERLINE.match(line):
            continue
        if block_indent is not None:
            if not line.strip() or indent > block_indent:
                continue
            block_indent = None
        if _DIRECTIVE.match(line) or _GOOGLE_SECTION.match(line.strip()):
            block_indent = indent
            continue
        if line.lstrip().startswith(">>>"):
            in_doctest = True
        if in_doctest:
            in_doctest = bool(line.strip())
            continue
        if line.rstrip().endswith("::"):
            block_indent = indent  # a literal block follows
            line = line.rstrip()[:-1]
        kept.append(line)
    return "\n".join(kept)
