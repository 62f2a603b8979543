"""The embedded collection: what is taken from sources, and what the installed packages give."""

import importlib.util
import sys
import textwrap
from pathlib import Path

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
    """The only document of a package with the one module ``pkg.mod``, and its query's text."""
    collection = package(tmp_path / "pkg", {"mod.py": source})
    (document,) = collection.documents()
    (query,) = collection.queries()
    assert query.id == document.id == document.title
    return document, query.text


def indented(source: str) -> str:
    return textwrap.indent(source, "    ")


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
       Since then also along an axis.

    >>> sort([2, 1])
    [1, 2]

    Notes
    -----
    The result of a __sort__ method is taken where there is one.

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
        "Parameters a : pkg.Array What is sorted. "
        "Notes The result of a __sort__ method is taken where there is one."
    )


def test_long_signature_and_body_are_cut_at_a_word(tmp_path):
    arguments = ", ".join(f"argument_{i}=None" for i in range(30))
    body = " ".join(f"word{i}" for i in range(400))
    source = f'def f({arguments}):\n    """Does what it is for.\n\n    {body}\n    """\n'
    document, _ = one(tmp_path, source)
    signature, _, rest = document.text.partition(" word0 ")
    assert 120 < len(signature) <= 160
    assert signature.startswith("f(argument_0=None, ")
    assert 800 < len(rest) <= 900
    assert rest.split()[-1] in body.split()


def test_public_names_only(tmp_path):
    module = (
        f"class Public:\n{indented(function('method') + function('_private_method'))}"
        f"class _Private:\n{indented(function('lost'))}"
        f"try:\n{indented(function('guarded'))}except ImportError:\n    pass\n"
    )
    collection = package(
        tmp_path / "pkg",
        {
            "__init__.py": function("top"),
            "_src/deep/mod.py": function("deep") + function("_hidden"),
            "mod.py": module,
            **{
                f"{folder}/mod.py": function("skipped")
                for folder in ("tests", "testing", "externals", "_vendor", "_lib", "distutils")
            },
            "conftest.py": function("fixture"),
            "test_mod.py": function("tested"),
        },
    )
    # In the order of the files; private folders are left out of the name.
    assert titles(collection) == [
        "pkg.top",
        "pkg.deep.mod.deep",
        "pkg.mod.Public.method",
        "pkg.mod.guarded",
    ]


def test_classes_show_their_constructor_and_properties_no_call(tmp_path):
    collection = package(
        tmp_path / "pkg",
        {
            "mod.py": f'''
class Box:
    """A box of numbers with a lid.

    {BODY}
    """

    def __init__(self, size, lid=True): ...

    @property
    def lid(self):
        """The lid that closes it.

        {BODY}
        """

    @classmethod
    def of(cls, size):
        """A box made of a size.

        {BODY}
        """


def register(cls):
    """Makes a class known here.

    {BODY}
    """
'''
        },
    )
    assert [d.text for d in collection.documents()] == [
        f"Box(size, lid=True) {BODY}",
        f"lid {BODY}",
        f"of(size) {BODY}",
        f"register(cls) {BODY}",
    ]


def test_queries_too_short_shared_or_without_a_body_are_left_out(tmp_path):
    collection = package(
        tmp_path / "pkg",
        {
            "mod.py": function("kept")
            + function("short", "Only three words.")
            + function("twin", "Two of them say this.")
            + function("other_twin", "two of THEM, say: this")
            + function(
                "bare", body="Fourteen words are one too few, so this is not kept by it, no."
            )
            + function(
                "enough", body="Fifteen words are just enough for this one to be kept by it, I say."
            )
            + function("echo", "It works on a copy.")
            + function("heading", "Parameters ----------")
            + function("formula", "The matrix is defined as")
            + 'def silent(a):\n    return ""\n',
        },
    )
    assert titles(collection) == ["pkg.mod.kept", "pkg.mod.enough"]


def test_the_first_of_two_with_one_title_counts(tmp_path):
    collection = package(
        tmp_path / "pkg",
        {
            "_a.py": function("f", "The first one of them."),
            "_b.py": function("f", "The second one of them."),
        },
    )
    assert titles(collection) == ["pkg.f"]
    assert [q.text for q in collection.queries()] == ["The first one of them."]


@pytest.mark.parametrize(
    ("docstring", "query", "start"),
    [
        ("f(x, *, y=None)\n--\n\nReturns the thing asked about.", None, "f(x, *, y=None) It works"),
        ("f(x)\n\nReturns the thing asked about.", None, "f(x) It works"),
        ("f(\n    x,\n)\n--\n\nf(y)\n\nReturns the thing asked about.", None, "f( x, ) It works"),
        ("Returns the thing asked about.", None, "f It works"),
        (
            "Returns the `~a.b.thing` asked about:",
            "Returns the a.b.thing asked about",
            "f It works",
        ),
        (
            "Returns the `.thing`\\\\s asked about [2]_.",
            "Returns the things asked about.",
            "f It works",
        ),
    ],
)
def test_functions_in_c_are_documented_by_a_call(tmp_path, docstring, query, start):
    source = f'add_newdoc("pkg.core", "f", """\n{docstring}\n\n{BODY}\n""")\n'
    document, text = one(tmp_path, source)
    assert document.title == "pkg.mod.f"
    assert text == (query or "Returns the thing asked about.")
    assert document.text.startswith(start)


def test_methods_in_c_and_what_no_call_documents(tmp_path):
    collection = package(
        tmp_path / "pkg",
        {
            "mod.py": 'add_newdoc("pkg", "Box", ("fill", """\nfill(value)\n\n'
            f'Fills it with a value.\n\n{BODY}\n"""))\n'
            f'add_newdoc("pkg", "_hidden", """Not for anybody to see.\n\n{BODY}""")\n'
            f'add_newdoc("pkg", "built", """Made by a program here.\n\n{BODY}""" + tail)\n'
            f'add_newdoc("Alias", "Union[...]", """No name of a function.\n\n{BODY}""")\n'
            "add_newdoc()\nadd_newdoc('alone')\nadd_newdoc('pkg', 'n', 3)\n"
        },
    )
    assert titles(collection) == ["pkg.mod.Box.fill"]
    assert next(collection.documents()).text == f"fill(value) {BODY}"


def test_placeholders_and_table_rules_are_left_out(tmp_path):
    source = (
        'def f(a):\n    """Draws the thing asked for.\n\n'
        f"    {BODY}\n\n    %(Line:kwdoc)s\n    ${{LIKE}}\n"
        "    ==== ====\n    a    b\n    ==== ====\n"
        '    """\n'
    )
    document, _ = one(tmp_path, source)
    assert document.text == f"f(a) {BODY} a b"


def test_unreadable_files_are_skipped_and_counted(tmp_path):
    collection = package(
        tmp_path / "pkg",
        {
            "good.py": function("good"),
            "bad.py": 'def f(:\n    """Broken."""\n',
            "nul.py": '"""\0"""',
            # An invalid escape is a warning, an error in this test run, but no unreadable file.
            "odd.py": function("odd", body=BODY + r" See \d."),
        },
    )
    assert collection.describe()["unreadable_files"] == 0
    assert titles(collection) == ["pkg.good.good", "pkg.odd.odd"]
    assert collection.describe()["unreadable_files"] == 2


def test_one_module_is_in_one_split(tmp_path):
    files = {
        f"part{i}/sub{j}.py": function(f"f{i}_{j}") + function(f"g{i}_{j}")
        for i in range(20)
        for j in range(8)
    }
    collection = package(tmp_path / "pkg", files)
    documents = titles(collection)
    split = {s: [documents[j.document] for j in collection.judgements(s)] for s in SPLITS}
    assert sum(map(len, split.values())) == len(documents) == 320
    modules = {s: {name.rsplit(".", 1)[0] for name in split[s]} for s in SPLITS}
    assert all(modules.values())
    assert not modules["train"] & modules["dev"]
    assert not (modules["train"] | modules["dev"]) & modules["test"]
    trained = [documents[t.positive] for t in collection.examples()]
    assert trained == split["train"]
    assert all(t.query == t.positive and t.negatives == () for t in collection.examples())


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
    return PyDocs()


@pytest.fixture(scope="module")
def real_documents(real):
    return list(real.documents())


def test_installed_packages_give_a_collection_of_the_expected_size(real, real_documents):
    assert 4500 < len(real_documents) < 6500
    shares = {s: sum(1 for _ in real.judgements(s)) / len(real_documents) for s in SPLITS}
    assert sum(shares.values()) == pytest.approx(1)
    assert 0.03 < shares["dev"] < 0.06
    assert 0.09 < shares["test"] < 0.15
    assert {d.title.split(".")[0] for d in real_documents} == set(pydocs.PACKAGES)
    assert len({d.id for d in real_documents}) == len(real_documents)
    assert real.describe()["unreadable_files"] == 0
    assert importlib.util.find_spec("numpy").name in real.describe()["packages"]


def test_installed_packages_no_query_is_in_its_document(real, real_documents):
    queries = list(real.queries())
    assert len({q.text.lower() for q in queries}) == len(queries) == len(real_documents)
    for query, document in zip(queries, real_documents, strict=True):
        assert query.text.rstrip(".").lower() not in document.content.lower(), document.title
        assert len(query.text.split()) >= 4
        assert "`" not in query.text + document.text
        assert "\n" not in query.text + document.text
        assert ">>>" not in document.text


def test_installed_packages_only_training_modules_give_negatives(real, real_documents):
    pool = set(range(real.pool_start, len(real_documents)))
    assert pool == {j.document for j in real.judgements("train")}


def test_installed_packages_splits_share_no_module(real, real_documents):
    # Titles lack the private parts of a module's name; the entries know where they were read.
    modules = [entry.module for entry in real._entries]
    split = {s: {modules[j.document] for j in real.judgements(s)} for s in SPLITS}
    assert not split["train"] & split["dev"]
    assert not (split["train"] | split["dev"]) & split["test"]
    assert min(map(len, split.values())) >= 10


def test_installed_packages_give_the_same_twice(real, real_documents):
    again = PyDocs()
    assert again.fingerprint() == real.fingerprint()
    assert list(again.documents()) == real_documents
    assert list(again.queries()) == list(real.queries())
    assert list(again.judgements("test")) == list(real.judgements("test"))
