"""Tests the pydocs collection, on small sources and on the installed packages."""

import sys
from pathlib import Path
from textwrap import indent

import pytest

from selfdistill_jax.data.collection import SPLITS
from selfdistill_jax.data.sources import pydocs
from selfdistill_jax.data.sources.pydocs import PyDocs
from selfdistill_jax.errors import InputError

BODY = "It works on a copy unless told otherwise, and it returns a new array of the same length."


def package(root: Path, files: dict[str, str]) -> PyDocs:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return PyDocs(packages=(root.name,), roots={root.name: root})


def one(tmp_path, source: str):
    """Returns the document and the query's text of a package with the single module ``pkg.mod``."""
    collection = package(tmp_path / "pkg", {"mod.py": source})
    (document,), (query,) = collection.documents(), collection.queries()
    assert query.id == document.id == document.title
    return document, query.text


def titles(collection) -> list[str]:
    return [document.title for document in collection.documents()]


def function(name: str, summary: str | None = None, body: str = BODY) -> str:
    summary = summary or f"Does what {name} is there for."
    return f'def {name}(a):\n    """{summary}\n\n    {body}\n    """\n'


def test_summary_is_the_query_and_not_in_the_document(tmp_path):
    document, query = one(
        tmp_path,
        '''
def sort(a: "Array", /, axis: int = -1, *, key=None, **rest) -> "Array":
    """Return a sorted copy
    of an array.  Works in place on request.

    Equal elements keep their order, see :func:`~numpy.argsort` and ``a.sort`` [1]_.

    Parameters
    ----------
    a : `~pkg.Array`
        What is *sorted*.

    .. versionadded:: 1.2

    >>> sort([2, 1])
    [1, 2]

    Examples
    --------
    This is how an example stands there.
    """
''',
    )
    assert query == "Return a sorted copy of an array."
    assert document.title == "pkg.mod.sort"
    assert document.text == (
        "sort(a, /, axis=-1, *, key=None, **rest) Works in place on request. "
        "Equal elements keep their order, see numpy.argsort and a.sort. "
        "Parameters a : pkg.Array What is sorted."
    )


def test_public_names_only(tmp_path):
    module = (
        f"class Public:\n{indent(function('method') + function('_private_method'), '    ')}"
        f"class _Private:\n{indent(function('lost'), '    ')}"
        f"try:\n{indent(function('guarded'), '    ')}except ImportError:\n    pass\n"
    )
    skipped = ("tests/a", "testing/a", "externals/a", "_vendor/a", "_lib/a", "conftest", "test_mod")
    collection = package(
        tmp_path / "pkg",
        {
            "__init__.py": function("top"),
            "_src/deep/mod.py": function("deep") + function("_hidden"),
            "mod.py": module,
            **{f"{name}.py": function("skipped") for name in skipped},
        },
    )
    # Titles follow the order of the files and leave out private folders.
    names = "pkg.top", "pkg.deep.mod.deep", "pkg.mod.Public.method", "pkg.mod.guarded"
    assert titles(collection) == list(names)


def test_queries_too_short_shared_or_without_a_body_are_left_out(tmp_path):
    functions = (
        ("kept",),
        ("short", "Only three words."),
        ("twin", "Two of them say this."),
        ("other_twin", "two of THEM, say: this"),
        ("bare", None, BODY[: BODY.index(" of the")]),  # 14 words
        ("enough", None, BODY[: BODY.index(" the same")]),
        ("echo", "It works on a copy."),
        ("heading", "Parameters ----------"),
    )
    twice = {"_a.py": function("f"), "_b.py": function("f", "The second one of them.")}
    source = "".join(function(*words) for words in functions)
    collection = package(tmp_path / "pkg", {**twice, "mod.py": source})
    assert titles(collection) == ["pkg.f", "pkg.mod.kept", "pkg.mod.enough"]
    assert next(collection.queries()).text == "Does what f is there for."


@pytest.mark.parametrize(
    ("docstring", "start"),
    [
        ("f(x, *, y=None)\n--\n\nReturns the thing asked about.", "f(x, *, y=None) It works"),
        ("f(\n    x,\n)\n--\n\nf(y)\n\nReturns the thing asked about.", "f( x, ) It works"),
        ("Returns the `.thing` asked about [2]_:", "f It works"),
    ],
)
def test_functions_in_c_are_documented_by_a_call(tmp_path, docstring, start):
    source = f'add_newdoc("pkg.core", "f", """\n{docstring}\n\n{BODY}\n""")\n'
    source += f'add_newdoc("pkg", "_hidden", """Not for anybody to see.\n\n{BODY}""")\n'
    source += "add_newdoc()\nadd_newdoc('alone')\nadd_newdoc('pkg', 'n', 3)\n"
    document, text = one(tmp_path, source)
    assert document.title == "pkg.mod.f"
    assert text.rstrip(".") == "Returns the thing asked about"
    assert document.text.startswith(start)


def test_unreadable_files_are_skipped_and_counted(tmp_path):
    collection = package(
        tmp_path / "pkg",
        {
            "good.py": function("good"),
            "bad.py": 'def f(:\n    """Broken."""\n',
            "nul.py": '"""\0"""',
            # An invalid escape warns, an error in this test run, but the file stays readable.
            "odd.py": function("odd", body=BODY + r" See \d."),
        },
    )
    assert collection.describe()["unreadable_files"] == 0
    assert titles(collection) == ["pkg.good.good", "pkg.odd.odd"]
    assert collection.describe()["unreadable_files"] == 2


def test_fingerprint_follows_sources_and_reader(tmp_path, monkeypatch):
    first = package(tmp_path / "a" / "pkg", {"mod.py": function("f")}).fingerprint()
    int(first, 16)
    assert package(tmp_path / "b" / "pkg", {"mod.py": function("f")}).fingerprint() == first
    other = package(tmp_path / "b" / "pkg", {"mod.py": function("g")}).fingerprint()
    monkeypatch.setattr(pydocs, "VERSION", "pydocs-next")
    newer = package(tmp_path / "a" / "pkg", {"mod.py": function("f")}).fingerprint()
    assert len({first, other, newer}) == 3


def test_missing_package_and_folder(tmp_path):
    with pytest.raises(InputError, match="'no_such_package' is not installed"):
        PyDocs(packages=("no_such_package",))
    with pytest.raises(InputError, match=r"no such folder; expected pkg's sources"):
        PyDocs(packages=("pkg",), roots={"pkg": tmp_path / "none"})
    with pytest.raises(InputError, match="no documented functions"):
        list(package(tmp_path / "pkg", {"mod.py": "x = 1\n"}).documents())


def test_packages_are_found_without_importing_them(tmp_path, monkeypatch):
    folder = tmp_path / "selfdistill_found"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"raise RuntimeError\n{function('f')}")
    monkeypatch.syspath_prepend(tmp_path)
    collection = PyDocs(packages=(folder.name,))
    assert titles(collection) == ["selfdistill_found.f"]
    assert folder.name not in sys.modules


@pytest.fixture(scope="module")
def real():
    """Returns the collection of the installed packages, and its documents."""
    collection = PyDocs()
    return collection, list(collection.documents())


def test_installed_packages_give_a_collection_of_the_expected_size(real):
    collection, documents = real
    assert 4500 < len(documents) < 6500
    shares = {s: sum(1 for _ in collection.judgements(s)) / len(documents) for s in SPLITS}
    assert sum(shares.values()) == pytest.approx(1)
    assert 0.03 < shares["dev"] < 0.06
    assert 0.09 < shares["test"] < 0.15
    assert {d.title.split(".")[0] for d in documents} == set(pydocs.PACKAGES)
    assert len({d.id for d in documents}) == len(documents)
    assert collection.describe()["unreadable_files"] == 0


def test_no_query_of_installed_packages_is_in_its_document(real):
    collection, documents = real
    queries = list(collection.queries())
    assert len({q.text.lower() for q in queries}) == len(queries) == len(documents)
    for query, document in zip(queries, documents, strict=True):
        assert query.text.rstrip(".").lower() not in document.content.lower(), document.title
        assert len(query.text.split()) >= 4
        assert len(document.text) <= 160 + 1 + 900  # signature and body are cut
        assert not {"`", "\n"} & set(query.text + document.text)
        assert ">>>" not in document.text


def test_splits_share_no_module_and_negatives_are_of_training(real):
    collection, documents = real
    # Titles lack the private parts of a module's name; entries have the full name.
    modules = [entry.module for entry in collection._entries]
    split = {s: {modules[j.document] for j in collection.judgements(s)} for s in SPLITS}
    assert not split["train"] & split["dev"]
    assert not (split["train"] | split["dev"]) & split["test"]
    assert min(map(len, split.values())) >= 10
    pool = list(range(collection.pool_start, len(documents)))
    assert pool == [j.document for j in collection.judgements("train")]
    examples = list(collection.examples())
    assert [example.positive for example in examples] == pool
    assert all(e.query == e.positive and e.negatives == () for e in examples)


def test_installed_packages_give_the_same_twice(real):
    collection, documents = real
    again = PyDocs()
    assert again.fingerprint() == collection.fingerprint()
    assert list(again.documents()) == documents
    assert list(again.queries()) == list(collection.queries())
    assert list(again.judgements("test")) == list(collection.judgements("test"))
