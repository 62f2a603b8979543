"""The embedded collection "find the function that does this", read from installed packages.

It needs no download and ships nothing: the documentation strings of this package's own dependencies
are read with `ast`, without importing them. A document is one public function, class or method (its
qualified name as title, signature and the body of its docstring as text); the query that should
find it is the docstring's summary sentence, which the document does not contain.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from selfdistill_jax.data.docstrings import BODY_CHARACTERS, shorten, split_docstring
from selfdistill_jax.data.source import SPLITS, Document, Judgement, Query, Triplet
from selfdistill_jax.errors import InputError

PACKAGES = ("numpy", "scipy", "jax", "flax", "optax", "matplotlib")
VERSION = "pydocs-1"  # part of the fingerprint: raise it when the same sources are read differently
_SKIPPED_FOLDERS = {"tests", "testing", "externals", "_vendor", "vendored", "_externals", "f2py"}
_SKIPPED_FILES = {"conftest.py", "setup.py"}
_MIN_QUERY_WORDS, _MIN_BODY_WORDS = 4, 15
_SIGNATURE_CHARACTERS = 160
_DEV, _TEST = 40, 120  # per mille of the modules
_SALT = 28  # of 30 tried, gives 83 / 5 / 12 % of the documents; chosen on these counts alone


class _Entry(NamedTuple):
    name: str
    file: str  # the module it is written in: what the split goes by
    text: str
    summary: str


class PyDocs:
    """Reads the collection from the installed packages.

    Args:
      roots: package name -> folder of its sources, instead of the installed `PACKAGES`.

    Raises:
      InputError: a package is not installed.
    """

    name = "pydocs"
    corpus_size = None

    def __init__(self, roots: Mapping[str, str | Path] | None = None):
        if roots is None:
            self._roots = {package: _installed(package) for package in PACKAGES}
            versions = {p: importlib.metadata.version(p) for p in PACKAGES}
        else:
            self._roots = {package: Path(root) for package, root in roots.items()}
            versions = {p: hashlib.sha256(str(r).encode()).hexdigest() for p, r in roots.items()}
        self._versions = versions

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{VERSION} {sorted(self._versions.items())}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {"format": VERSION, "packages": self._versions}

    def documents(self) -> Iterator[Document]:
        return (Document(e.name, e.name, e.text) for e in self._entries)

    def queries(self) -> Iterator[Query]:
        return (Query(e.name, e.summary) for e in self._entries)

    def judgements(self, split: str) -> Iterator[Judgement]:
        for row, entry in enumerate(self._entries):
            if _split(entry.file) == split:
                yield Judgement(row, row, 1)

    def triplets(self) -> Iterator[Triplet]:
        return (Triplet(j.query, j.document) for j in self.judgements("train"))

    @cached_property
    def _entries(self) -> list[_Entry]:
        found: dict[str, _Entry] = {}
        for package, root in self._roots.items():
            for path in sorted(root.rglob("*.py")):
                inside = path.relative_to(root)
                if _SKIPPED_FOLDERS & set(inside.parts[:-1]) or path.name in _SKIPPED_FILES:
                    continue
                for entry in _read_file(path, [package, *inside.with_suffix("").parts]):
                    found.setdefault(entry.name, entry)
        # A summary that several objects share does not say which of them is meant.
        times = Counter(_key(e.summary) for e in found.values())
        entries = [
            e
            for e in found.values()
            if times[_key(e.summary)] == 1 and _key(e.summary) not in _key(e.text)
        ]
        if not entries:
            raise InputError(
                f"pydocs: no documented functions in {', '.join(map(str, self._roots.values()))}; "
                "the packages' sources must be installed"
            )
        return entries


def _installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"pydocs: package {package!r} is not installed; run `make setup`")
    return Path(spec.submodule_search_locations[0])


def _read_file(path: Path, parts: list[str]) -> Iterator[_Entry]:
    source = path.read_text(encoding="utf-8", errors="replace")
    if '"""' not in source:
        return
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return  # templates and files for a newer Python
    if parts[-1] == "__init__":
        parts = parts[:-1]
    # jax._src.numpy.sorting is where jax.numpy's functions are written: show the public way there.
    module = [part for part in parts if not part.startswith("_")]
    yield from _read_body(tree.body, module, ".".join(parts))


def _read_body(body: list[ast.stmt], owner: list[str], file: str) -> Iterator[_Entry]:
    for node in body:
        if isinstance(node, ast.Expr):
            yield from _read_added(node.value, owner, file)
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        name = [*owner, node.name]
        docstring = ast.get_docstring(node)
        if docstring:
            yield from _entry(name, file, _signature(node), docstring)
        if isinstance(node, ast.ClassDef):
            yield from _read_body(node.body, name, file)


def _read_added(call: ast.expr, owner: list[str], file: str) -> Iterator[_Entry]:
    """Functions written in C: ``add_newdoc([place,] name, docstring)`` gives them their text."""
    if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "add_newdoc":
        return
    texts = [a.value for a in call.args if isinstance(a, ast.Constant)]
    if len(texts) < 2 or len(texts) != len(call.args) or not all(isinstance(t, str) for t in texts):
        return  # built by a program, or the docstring of an attribute
    *_, name, docstring = texts
    if name.startswith("_"):
        return
    lines = inspect.cleandoc(docstring).split("\n\n", 1)
    signature = name
    if re.fullmatch(r"\w+\(.*\)", lines[0].strip(), re.DOTALL) and len(lines) == 2:
        signature, lines = " ".join(lines[0].split()), lines[1:]
    yield from _entry([*owner, name], file, signature, "\n\n".join(lines))


def _entry(name: list[str], file: str, signature: str, docstring: str) -> Iterator[_Entry]:
    summary, body = split_docstring(docstring)
    if len(summary.split()) < _MIN_QUERY_WORDS or len(body.split()) < _MIN_BODY_WORDS:
        return
    yield _Entry(".".join(name), file, f"{signature} {shorten(body, BODY_CHARACTERS)}", summary)


def _signature(node) -> str:
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        arguments = inits[0].args if inits else None
    else:
        arguments = node.args
    if arguments is None:
        return node.name
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [a.arg for a in arguments.kwonlyargs]
    names += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    shown = ", ".join(n for n in names if n not in ("self", "cls"))
    return f"{node.name}({shorten(shown, _SIGNATURE_CHARACTERS)})"


def _key(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def _split(file: str) -> str:
    at = int.from_bytes(hashlib.sha256(f"{_SALT} {file}".encode()).digest()[:8], "big") % 1000
    return SPLITS[1] if at < _DEV else SPLITS[2] if at < _DEV + _TEST else SPLITS[0]
