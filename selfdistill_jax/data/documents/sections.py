"""Splits documents into sections: Markdown, reStructuredText, HTML, plain text, and JSONL rows.

Markdown and reStructuredText are converted to HTML by markdown-it and docutils, so that one
function finds the headings, texts and links of all of them.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from selfdistill_jax.data.files.jsonl import field, read_jsonl
from selfdistill_jax.data.files.text import decoded_lines
from selfdistill_jax.errors import InputError

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_LEFT_OUT = ("script", "style", "nav", "header", "footer", "aside", "template", "form", "button")
_BLOCKS = (
    "p", "li", "pre", "td", "th", "dt", "dd", "blockquote", "div", "tr", "br", "section", "table",
)  # fmt: skip
_SIGNS = ("#", "¶", "§", "🔗")  # texts of a heading's link to itself
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
_TITLE = re.compile(r"^title:\s*[\"']?(.*?)[\"']?\s*$", re.MULTILINE)


class Link(NamedTuple):
    """Holds a link's text and target, as written in the document."""

    text: str
    target: str


class Section(NamedTuple):
    """Holds the text between a heading and the next one.

    Attributes:
      file: path of the document, relative to the folder.
      title: title of the document; empty if it has none.
      heading: empty before the first heading.
      anchors: names that links use to refer to the section.
      blocks: paragraphs, items of lists and cells of tables.
      links: links in the section.
    """

    file: str
    title: str
    heading: str
    anchors: frozenset[str]
    blocks: tuple[str, ...]
    links: tuple[Link, ...]


def read_sections(path: Path) -> Iterator[Section]:
    """Yields the sections of all documents of a folder, or of one file, in a fixed order.

    Args:
      path: a folder, whose files with unknown suffixes are left out, or a file.

    Raises:
      InputError: there is no document, a file is not UTF-8, or a JSONL row has no text.

    Example:
      >>> next(read_sections(Path("docs"))).heading  # doctest: +SKIP
      'Getting started'
    """
    if path.is_file():
        root, files = path.parent, [path]
        if _reader(path) is None:
            raise InputError(f"{path}: unknown suffix {path.suffix!r}; expected {_expected()}")
    elif path.is_dir():
        root = path
        files = sorted(
            file
            for file in path.rglob("*")
            if _reader(file)
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
    else:
        raise InputError(f"{path}: no such file or folder; expected documents: {_expected()}")
    if not files:
        raise InputError(f"{path}: no documents in this folder; expected files {_expected()}")
    for file in files:
        reader = _reader(file)
        assert reader
        yield from reader(file, file.relative_to(root).as_posix())


def _reader(path: Path) -> Callable[[Path, str], Iterator[Section]] | None:
    return _READERS.get(path.suffix.lower())


def _expected() -> str:
    return ", ".join(_READERS)


def _text(path: Path) -> str:
    return "".join(line for _, line in decoded_lines(path))


def _markdown(path: Path, name: str) -> Iterator[Section]:
    import markdown_it

    text, title = _text(path), ""
    if front := _FRONT_MATTER.match(text):
        found = _TITLE.search(front[1])
        text, title = text[front.end() :], found[1] if found else ""
    html = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(text)
    return html_sections(html, name, title=title)


def _rst(path: Path, name: str) -> Iterator[Section]:
    import docutils.core

    settings = {
        "report_level": 5,  # silent: other tools' directives are errors for docutils
        "halt_level": 5,
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "doctitle_xform": False,
        "input_encoding": "unicode",
        "_disable_config": True,
    }
    parts = docutils.core.publish_parts(_text(path), writer="html5", settings_overrides=settings)
    return html_sections(parts["html_body"], name)


def _html(path: Path, name: str) -> Iterator[Section]:
    return html_sections(_text(path), name)


def _plain(path: Path, name: str) -> Iterator[Section]:
    yield Section(name, "", "", frozenset(), _paragraphs(_text(path)), ())


def _jsonl(path: Path, name: str) -> Iterator[Section]:
    """Reads rows with a text and possibly a title."""
    for line, row in read_jsonl(path):
        text = field(row, "text", str, path=path, line=line)
        title = field(row, "title", str, path=path, line=line, default="")
        yield Section(f"{name}:{line}", title, title, frozenset(), _paragraphs(text), ())


def _paragraphs(text: str) -> tuple[str, ...]:
    return tuple(_folded(block) for block in re.split(r"\n\s*\n", text) if block.strip())


_READERS = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".rst": _rst,
    ".html": _html,
    ".htm": _html,
    ".txt": _plain,
    ".jsonl": _jsonl,
}


def html_sections(html: str, name: str, *, title: str = "") -> Iterator[Section]:
    """Yields the sections of an HTML page, without its navigation, headers and footers.

    Args:
      html: the page, or a part of one.
      name: the document's path.
      title: the document's title; empty for its first heading, or the title of the page.

    Example:
      >>> [s.heading for s in html_sections("<h1>A</h1><p>b</p><h2>C</h2><p>d</p>", "x.html")]
      ['A', 'C']
    """
    import bs4

    page = bs4.BeautifulSoup(html, "html.parser")
    name_of_page = page.find("title")
    for tag in page.find_all(_LEFT_OUT):
        tag.decompose()
    for heading_tag in page.find_all(_HEADINGS):
        for link in heading_tag.find_all("a"):
            if link.get_text().strip() in _SIGNS:
                link.replace_with("")
    root = page.find("main") or page.find("article") or page.body or page
    first = root.find("h1") or root.find(_HEADINGS) or name_of_page
    title = title or (_folded(first.get_text()) if first else "")
    heading, anchors, blocks, links = "", set(), [""], []

    def section() -> Section:
        found = tuple(filter(None, map(_folded, blocks)))
        return Section(name, title, heading, frozenset(anchors), found, tuple(links))

    for node in root.descendants:
        if isinstance(node, bs4.Tag):
            if node.name in _HEADINGS:
                if heading or "".join(blocks).strip():
                    yield section()
                heading, blocks, links = _folded(node.get_text()), [""], []
                anchors = {slug(heading)}
            if node.name in _BLOCKS:
                blocks.append("")
            if isinstance(node.get("id"), str):
                anchors.add(str(node["id"]))
            if node.name == "a" and isinstance(node.get("href"), str):
                links.append(Link(_folded(node.get_text()), str(node["href"])))
        elif type(node) is bs4.NavigableString and not node.find_parent(_HEADINGS):
            blocks[-1] += node
    yield section()


def slug(heading: str) -> str:
    """Returns the anchor that renderers of Markdown give a heading.

    >>> slug("Getting started: the API")
    'getting-started-the-api'
    """
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def _folded(text: str) -> str:
    return " ".join(text.split())
