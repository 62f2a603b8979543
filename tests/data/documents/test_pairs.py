"""Tests the queries and passages made from documents, and the collection folder."""

import random
import subprocess
import sys

import pytest

from selfdistill_jax.data.documents.near_duplicates import first_of_each
from selfdistill_jax.data.documents.pairs import make_pairs
from selfdistill_jax.data.documents.sections import Link, Section, read_sections
from selfdistill_jax.data.documents.write import write_collection
from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.errors import InputError
from tests.data.documents.test_sections import write


def words(seed, count=40):
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(count))


def section(file, heading, *blocks, title="", anchors=(), links=()):
    links = tuple(Link(*link) for link in links)
    return Section(file, title, heading, frozenset(anchors), blocks, links)


OTHERS = [section(f"{name}.md", f"Other page {name}", words(name)) for name in "xyz"]


def made(*sections):
    """Returns query -> (kind, passage) of the given sections, beside those of three pages."""
    found = make_pairs([*sections, *OTHERS])
    return {
        pair.query: (pair.kind, found.passages[pair.passage].text)
        for pair in found.pairs
        if "Other page" not in pair.query
    }


def test_a_heading_asks_for_its_first_passage():
    long = [words(i, 100) for i in range(3)]
    found = made(section("a.md", "How to install", *long))
    assert found == {"How to install": ("heading", long[0])}


def test_a_passage_without_a_heading_loses_its_first_sentence():
    text = f"The first sentence says it. {words(1)}"
    assert made(section("a.md", "", text)) == {
        "The first sentence says it.": ("sentence", words(1))
    }
    # These sentences are no queries.
    for start_ in ("Too short. ", f"{words(2, 50)}. ", "It has no end "):
        assert made(section("a.md", "", start_ + words(1))) == {}
    # The heading belongs to the first passage, the sentence to the second.
    found = made(section("a.md", "How to install", words(1, 170), f"Then run it again. {words(2)}"))
    assert found["Then run it again."] == ("sentence", words(2))


def test_vague_headings_get_the_title():
    found = made(
        section("a.md", "Usage", words(1), title="Sorting"),
        section("a.md", "Known problems", words(2), title="Sorting"),
        section("b.md", "Known problems", words(3), title="Searching"),
        section("b.md", "Table of contents", words(4), title="Searching"),
    )
    assert {query: text for query, (_, text) in found.items()} == {
        "Sorting: Usage": words(1),
        "Sorting: Known problems": words(2),
        "Searching: Known problems": words(3),
    }


def test_texts_of_links_ask_for_their_targets():
    found = made(
        section("guide/a.md", "First steps here", words(1), links=[
            ("change the “order”", "../ref/b.md#all"), ("here", "../ref/b.md#all"),
            ("a whole page", "../ref/b.md"), ("outside of it", "https://x.org/b.md"),
            ("in this page", "#all"), ("nothing is there", "../ref/c.md"),
        ]),
        section("ref/b.md", "Introduction to it", words(2)),
        section("ref/b.md", "Every single setting", words(3), anchors=["all"]),
    )  # fmt: skip
    assert {query: text for query, (kind, text) in found.items() if kind == "link"} == {
        "change the “order": words(3),
        "a whole page": words(2),
    }


def test_queries_for_several_passages_are_left_out():
    found = made(
        section("a.md", "How to install", words(1)),
        section("b.md", "how to install", words(2)),  # neither has a title
        section("b.md", "How to remove", words(3)),
    )
    assert found.keys() == {"How to remove"}


def test_of_nearly_equal_passages_the_one_in_the_shorter_page_remains():
    text = words(1, 100)
    found = make_pairs([
        *(section("all.md", f"Everything about {i}", words(10 + i)) for i in range(5)),
        section("all.md", "How to install", text),
        section("own.md", "How to install", f"{text} more"),
        *OTHERS,
    ])  # fmt: skip
    assert found.left_out == 1
    assert [p.file for p in found.passages if text in p.text] == ["own.md"]


def test_near_duplicates():
    texts = [words(i, 200) for i in range(50)]
    changed = [text.replace(text.split()[100], "other") for text in texts]
    assert first_of_each(texts) == [True] * 50
    assert first_of_each(texts + changed) == [True] * 50 + [False] * 50
    halves = [f"{text[: len(text) // 2]} {words(100 + i, 100)}" for i, text in enumerate(texts)]
    assert first_of_each(texts + halves) == [True] * 100
    assert first_of_each(["", "", "one word", "one  WORD!"]) == [True, False, True, False]


def test_splits_hold_out_whole_documents():
    sections = [
        section(f"{i}.md", f"Heading number {i} of {j}", words(100 * i + j))
        for i in range(30)
        for j in range(4)
    ]
    found = make_pairs(sections)
    files = {name: {f for f, s in found.split.items() if s == name} for name in ("dev", "test")}
    assert len(found.pairs) == 120
    assert len(files["dev"]) == len(files["test"]) == 3  # a tenth of the queries each
    again = make_pairs(reversed(sections))
    assert again.split == found.split
    with pytest.raises(InputError, match=r"2 documents have queries .* expected at least 3"):
        make_pairs(sections[:8])


def test_the_folder_is_a_collection(tmp_path):
    documents = tmp_path / "docs"
    for i in range(20):
        write(documents, f"page {i}.md", f"# How to do {i}\n\n{words(i)}\n")
    text = write_collection(documents, tmp_path / "out")
    assert text.startswith(f"{documents}: 20 documents, 20 passages (0 more nearly equal")
    assert "20 queries: 20 headings, 0 texts of links, 0 first sentences" in text
    source = BeirFolder(tmp_path / "out")
    ids = [document.id for document in source.documents()]
    assert "page%207.md#0" in ids
    asked = [query.text for query in source.queries()]
    count = 0
    for split in ("train", "dev", "test"):
        for query, document, relevance in source.judgements(split):
            number = asked[query].removeprefix("How to do ")
            assert (ids[document], relevance) == (f"page%20{number}.md#0", 1)
            count += 1
    assert count == 20
    with pytest.raises(InputError, match="out: exists already; give the name of a new folder"):
        write_collection(documents, tmp_path / "out")


def test_the_command(tmp_path):
    for i in range(4):
        write(tmp_path / "docs", f"{i}.md", f"# How to do {i}\n\n{words(i)}\n")
    flags = [f"--documents={tmp_path / 'docs'}", f"--output={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "selfdistill_jax.prepare"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    assert f"--config.data.dataset={tmp_path / 'out'}" in done.stdout
    assert done.stderr == ""
    done = subprocess.run([*command, flags[0]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --documents takes only --output")


def test_sections_of_a_folder_become_pairs(tmp_path):
    for i in range(3):
        body = f"See [the page of {i}]({(i + 1) % 3}.md). {words(i)}"
        write(tmp_path, f"{i}.md", f"# How to do {i}\n\n{body}\n")
    found = make_pairs(read_sections(tmp_path))
    assert sorted(pair.kind for pair in found.pairs) == ["heading"] * 3 + ["link"] * 3
