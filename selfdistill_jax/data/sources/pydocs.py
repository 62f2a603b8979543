"""Reads the embedded collection "find the function that does this" from installed packages.

It needs no download and no shipped data: the docstrings of this package's own dependencies are read
with `ast`, without importing them. A document is one public function, class or method (its
qualified name as title, signature and the body of its docstring as text). Its query is the
docstring's summary sentence, which the document does not contain.
"""

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import re
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from selfdistill_jax.data.collection import SPLITS, Document, Example, Judgement, Query
from selfdistill_jax.data.sources.docstrings import (
    BODY_CHARACTERS,
    NO_SENTENCE,
    shorten,
    split_docstring,
)
from selfdistill_jax.errors import InputError

PACKAGES = ("numpy", "scipy", "jax", "flax", "optax", "matplotlib")
VERSION = "pydocs-4"  # part of the fingerprint: raise it when the same sources are read differently
_SKIPPED_FOLDERS = {
    *("test", "tests", "testing", "internal_test_util"),
    # Other projects' code; scipy keeps all of its own helpers and vendored packages in _lib.
    *("externals", "_externals", "_vendor", "vendored", "third_party", "_lib"),
    # Installed on Python 3.11 only, so the same numpy would give two collections.
    "distutils",
    "f2py",  # internals of a compiler
}
_SKIPPED_FILES = re.compile(r"(conftest|setup|test_\w+|\w+_test|_?test(util|utils|ing)?)\.py")
_QUERY_WORDS = range(4, 41)
_MIN_BODY_WORDS = 15
_SIGNATURE_CHARACTERS = 160
_DEV, _TEST = 40, 120  # per mille of the modules
# The one of 0..999 whose splits come closest to 84 / 4 / 12 % of every package (chi-square 37, the
# next one 60). Chosen by these counts alone, before any encoder was evaluated on the split.
_SALT = 217

# The call with which the docstring of a C function begins; a line "--" may follow it.
_CALL = re.compile(r"\w[\w.]*\((?:[^()]|\([^()]*\))*\)(?: *-> *[^\n]+)?(?:\n--)?(?:\n|$)")


class _Entry(NamedTuple):
    name: str
    module: str  # defining module, with private parts; a module is in one split as a whole
    text: str
    summary: str


class PyDocs:
    """Reads the collection from the installed packages; document i answers query i.

    The documents of the dev and test modules come first and are never drawn as negatives, so that
    training does not see their texts at all.

    Args:
      packages: names of installed packages.
      roots: package name -> folder of its sources, to read instead of the installed one.

    Raises:
      InputError: a package is not installed, or a root is not a folder.

    Example:
      >>> PyDocs().describe()["packages"]["numpy"]  # doctest: +SKIP
      '2.4.6'
    """

    name = "pydocs"
    splits = SPLITS
    corpus_size = None

    def __init__(
        self, packages: Sequence[str] = PACKAGES, roots: Mapping[str, str | Path] | None = None
    ):
        roots = {package: Path(root) for package, root in (roots or {}).items()}
        self._roots = {package: roots.get(package) or _installed(package) for package in packages}
        self._versions = {}
        for package, root in self._roots.items():
            if not root.is_dir():
                raise InputError(f"pydocs: {root}: no such folder; expected {package}'s sources")
            version = None if package in roots else _installed_version(package)
            self._versions[package] = version or _content_version(root)
        self._unreadable = 0

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{VERSION} {sorted(self._versions.items())}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Returns the versions, and the number of unparsable files, 0 until they are read."""
        return {
            "format": VERSION,
            "packages": dict(self._versions),
            "unreadable_files": self._unreadable,
        }

    @property
    def pool_start(self) -> int:
        return sum(_split(entry.module) != "train" for entry in self._entries)

    def documents(self) -> Iterator[Document]:
        return (Document(e.name, e.name, e.text) for e in self._entries)

    def queries(self) -> Iterator[Query]:
        return (Query(e.name, e.summary) for e in self._entries)

    def judgements(self, split: str) -> Iterator[Judgement]:
        for row, entry in enumerate(self._entries):
            if _split(entry.module) == split:
                yield Judgement(row, row, 1)

    def examples(self) -> Iterator[Example]:
        return (Example(j.query, int(j.document)) for j in self.judgements("train"))

    @cached_property
    def _entries(self) -> list[_Entry]:
        found: dict[str, _Entry] = {}
        with _undisturbed():
            for package, root in self._roots.items():
                for path in _files(root):
                    tree = _parse(path)
                    if tree is None:  # a template, or a file for a newer Python
                        self._unreadable += 1
                        continue
                    parts = [package, *path.relative_to(root).with_suffix("").parts]
                    for entry in _read_module(tree, parts):
                        found.setdefault(entry.name, entry)
        # A summary that several objects share identifies none of them.
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
        return sorted(entries, key=lambda e: _split(e.module) == "train")  # stable


@contextmanager
def _undisturbed() -> Generator[None]:
    """Pauses the garbage collector and silences the parser's warnings.

    While syntax trees are made, the collector would walk all objects of jax again and again:
    reading takes 5 s without it and 10 s with it. The warnings are about the packages' own code,
    such as a stray backslash.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if collecting:
            gc.enable()


def _installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"pydocs: package {package!r} is not installed; run `make setup`")
    return Path(next(iter(spec.submodule_search_locations)))


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # on the path, but not installed by pip
        return None


def _files(root: Path) -> Generator[Path]:
    for path in sorted(root.rglob("*.py")):
        folders = path.relative_to(root).parts[:-1]
        if not _SKIPPED_FOLDERS.intersection(folders) and not _SKIPPED_FILES.fullmatch(path.name):
            yield path


def _content_version(root: Path) -> str:
    total = hashlib.sha256()
    for path in _files(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return total.hexdigest()


def _parse(path: Path) -> ast.Module | None:
    source = path.read_text(encoding="utf-8", errors="replace")
    try:
        # Only files with docstrings are parsed: half of the files, half of the time.
        return ast.parse(source if '"""' in source else "")
    except (SyntaxError, ValueError):
        return None


def _read_module(tree: ast.Module, parts: list[str]) -> Iterator[_Entry]:
    if parts[-1] == "__init__":
        parts = parts[:-1]
    # jax.numpy's functions are defined in jax._src.numpy.sorting: names leave out private parts.
    public = [part for part in parts if not part.startswith("_")]
    yield from _read_body(tree.body, public, ".".join(parts))


def _read_body(body: list[ast.stmt], owner: list[str], module: str) -> Iterator[_Entry]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _read_body([*node.body, *node.orelse], owner, module)
        if isinstance(node, ast.Expr):
            yield from _read_added(node.value, owner, module)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        name = [*owner, node.name]
        yield from _entry(name, module, _signature(node), ast.get_docstring(node) or "")
        if isinstance(node, ast.ClassDef):
            yield from _read_body(node.body, name, module)


def _read_added(call: ast.expr, owner: list[str], module: str) -> Iterator[_Entry]:
    """Yields the object, written in C, whose docstring is added by a call of ``add_newdoc``.

    A call has the form ``add_newdoc([place,] name, text)``, or ``(attribute, text)`` for the text.
    """
    if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "add_newdoc":
        return
    try:
        arguments = [ast.literal_eval(argument) for argument in call.args]
    except ValueError:
        return  # arguments that are not literals
    match arguments:
        case [*_, str(last), str(text)]:
            name = [last]
        case [*_, str(last), (str(attribute), str(text))]:
            name = [last, attribute]
        case _:
            return
    if all(part.isidentifier() and not part.startswith("_") for part in name):
        yield from _entry([*owner, *name], module, name[-1], inspect.cleandoc(text))


def _entry(name: list[str], module: str, signature: str, docstring: str) -> Iterator[_Entry]:
    while call := _CALL.match(docstring):
        if "(" not in signature:
            signature = " ".join(call[0].removesuffix("\n").removesuffix("--").split())
        docstring = docstring[call.end() :].lstrip()
    if not docstring.strip():
        return
    summary, body = split_docstring(docstring)
    summary = summary.rstrip(" :")
    if NO_SENTENCE.match(summary) or len(summary.split()) not in _QUERY_WORDS:
        return
    if len(body.split()) >= _MIN_BODY_WORDS:
        text = f"{shorten(signature, _SIGNATURE_CHARACTERS)} {shorten(body, BODY_CHARACTERS)}"
        yield _Entry(".".join(name), module, text, summary)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """Returns name and arguments with defaults; annotations would fill the line with types."""
    init = [n for n in getattr(node, "body", []) if getattr(n, "name", "") == "__init__"]
    function = node if not isinstance(node, ast.ClassDef) else init[0] if init else None
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    decorators = " ".join(map(ast.unparse, node.decorator_list))
    if "property" in decorators:
        return node.name
    hidden = ("self", "cls") if "classmethod" in decorators else ("self",)
    arguments = function.args
    for group in (arguments.posonlyargs, arguments.args):
        group[:] = [a for a in group if a.arg not in hidden]
    everything = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    for argument in (*everything, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    return f"{node.name}({' '.join(ast.unparse(arguments).split())})"


def _key(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def _split(module: str) -> str:
    at = int.from_bytes(hashlib.sha256(f"{_SALT} {module}".encode()).digest()[:8], "big") % 1000
    return SPLITS[1] if at < _DEV else SPLITS[2] if at < _DEV + _TEST else SPLITS[0]
