"""Tests that headings, texts and links of all kinds of documents are found."""

import pytest

from selfdistill_jax.data.documents.sections import Link, read_sections
from selfdistill_jax.errors import InputError

MARKDOWN = """---
title: "The guide"
---
Before any heading.

# Install it

Run `make`,
then *wait*. See [the settings](../set.md#all-of-them).

- one
- two

## Settings ##

| a | b |
|---|---|
| c | d |

```python
code = 1
```
"""
RST = """
Install it
==========

Run ``make``, then *wait*. See `the settings <../set.html#all>`_.

.. unknown-directive:: x

* one
* two

Settings
--------

.. code:: python

   code = 1
"""
HTML = """<!doctype html><html><head><title>Site - Install it</title><style>p {}</style></head>
<body><nav><a href="x.html">Menu</a></nav><header><h1>Site</h1></header><main>
<h1 id="start">Install it<a href="#start">¶</a></h1><p>Run <code>make</code>,
then <em>wait</em>. See <a href="../set.html#all">the settings</a>.<ul><li>one<li>two</ul>
<script>alert(1)</script><h2><a name="s" id="s2"></a>Settings</h2><pre>code = 1</pre></main>
<footer>Imprint</footer></body></html>"""


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"), [("a.md", MARKDOWN), ("b/a.rst", RST), ("c/a.HTML", HTML)]
)
def test_headings_texts_and_links(tmp_path, name, text):
    write(tmp_path, name, text)
    install, settings = [s for s in read_sections(tmp_path) if s.heading]
    assert (install.file, install.heading, settings.heading) == (name, "Install it", "Settings")
    assert install.title == ("The guide" if name == "a.md" else "Install it")
    assert install.blocks == ("Run make, then wait. See the settings.", "one", "two")
    (link,) = install.links
    assert link.text == "the settings"
    assert link.target.startswith("../set.")
    assert "settings" in settings.anchors
    assert settings.blocks[-1] == "code = 1"
    assert "c" in settings.blocks or name != "a.md"


def test_text_before_the_first_heading_has_none(tmp_path):
    write(tmp_path, "a.md", MARKDOWN)
    first = next(read_sections(tmp_path))
    assert (first.heading, first.blocks) == ("", ("Before any heading.",))


def test_anchors_of_html(tmp_path):
    write(tmp_path, "a.html", HTML)
    *_, install, settings = read_sections(tmp_path)
    assert {"start", "install-it"} <= install.anchors
    assert "s2" in settings.anchors
    assert Link("the settings", "../set.html#all") in install.links


def test_only_signs_of_links_are_left_out_of_headings(tmp_path):
    write(tmp_path, "a.html", "<h1>Learn C# <a href='#c'>#</a></h1>b<h2><a href='x'>C#</a></h2>d")
    assert [s.heading for s in read_sections(tmp_path)] == ["Learn C#", "C#"]


def test_plain_text_and_rows(tmp_path):
    write(tmp_path, "a.txt", "One\nparagraph.\n\n\nAnother.\n")
    write(tmp_path, "b.jsonl", '{"title": "T", "text": "x\\n\\ny"}\n{"text": "z"}\n')
    write(tmp_path, "c.png", "not read")
    write(tmp_path, ".hidden/d.md", "not read")
    text, first, second = read_sections(tmp_path)
    assert text.blocks == ("One paragraph.", "Another.")
    assert first[:3] == ("b.jsonl:1", "T", "T")
    assert (second.file, second.heading, second.blocks) == ("b.jsonl:2", "", ("z",))


def test_one_file(tmp_path):
    path = write(tmp_path, "a.md", "# A\n\ntext")
    assert [s.file for s in read_sections(path)] == ["a.md"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, "", "no such file or folder; expected documents: .md, "),
        ("a.docx", "", "unknown suffix '.docx'; expected .md, "),
        ("a.jsonl", '{"title": "a"}', ":1: field 'text' is missing"),
    ],
)
def test_faulty_input(tmp_path, name, content, message):
    path = write(tmp_path, name, content) if name else tmp_path / "none"
    with pytest.raises(InputError) as caught:
        list(read_sections(path))
    assert str(caught.value).removeprefix(str(path)).lstrip(": ").startswith(message.lstrip(": "))


def test_folder_without_documents(tmp_path):
    write(tmp_path, "a.png", "")
    with pytest.raises(InputError, match=r"no documents in this folder; expected files \.md"):
        list(read_sections(tmp_path))


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "a.md").write_bytes(b"# A\n\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"a\.md:3: not UTF-8"):
        list(read_sections(tmp_path))


def test_directives_of_rst_read_no_other_files(tmp_path):
    secret = write(tmp_path, "secret", "the password")
    write(tmp_path, "a.rst", f"A\n=\n\n.. include:: {secret}\n\n.. raw:: html\n\n   <b>x</b>\n")
    assert "password" not in str(list(read_sections(tmp_path)))
