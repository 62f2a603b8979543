"""Runs the code in documentation: blocks of docs/ and the README, and examples in docstrings."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import selfdistill_jax
from configs import base
from selfdistill_jax import BiEncoder, fit, losses
from selfdistill_jax.data.tokenizer import Tokenizer
from tests.tiny import metrics, texts

ROOT = Path(selfdistill_jax.__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(Path(selfdistill_jax.__file__).parent.rglob("*.py"))
    if re.search(r"^ *>>> (?!.*\+SKIP)", path.read_text(), re.M)
]


def blocks(page):
    """Returns the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name):
    failed, tried = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert tried
    assert not failed


def test_every_public_loss_has_what_a_docstring_needs():
    for name in losses.__all__:
        function = getattr(losses, name)
        if not callable(function):
            continue
        text = inspect.getdoc(function)
        wanted = ["Example:", ">>> "]
        if function in losses.LOSSES.values():
            wanted += ["Definition:", "Source:", "Args:", "Returns:", "Raises:", "[B, D]"]
            arguments = inspect.signature(function).parameters
            documented = " ".join(re.findall(r"^  ([\w, ]+):", text, re.M)).replace(",", " ")
            assert arguments.keys() <= set(documented.split()), name
        assert [word for word in wanted if word not in text] == [], name


@pytest.mark.filterwarnings("ignore")  # of sentence-transformers
def test_the_readmes_blocks(tiny, finished, tmp_path, monkeypatch):
    """The README's blocks run unchanged beside a run at the path that they name."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    _, theirs, ours, loss = blocks("README.md")
    found = {}
    exec(ours, found)
    vectors = found["vectors"]
    assert (vectors.dtype, vectors.shape) == (np.float32, (1, 16))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    exec(loss, found)
    assert found["loss"] > 0
    assert found["gradient"].shape == found["q"].shape
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is a peer")
    exec(theirs, found)
    np.testing.assert_allclose(found["vectors"], vectors, atol=1e-5)


def test_the_readmes_training_in_python(tiny, tmp_path, monkeypatch, capsys):
    """The README's block runs unchanged but for the encoder."""
    code = blocks("README.md")[0]
    name = "sentence-transformers/all-MiniLM-L6-v2"
    assert name in code
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit, "show_log", lambda: None)  # outlasts this test
    monkeypatch.setattr(fit, "get_config", lambda loss: tiny.config(loss, data__dataset=""))
    pairs = [(row[0], f"{row[1]} {row[2]}") for row in (texts(i, i % 5) for i in range(45))]
    exec(code.replace(name, str(tiny.encoder)), {"pairs": pairs})
    assert "trained − start:" in capsys.readouterr().out
    model = BiEncoder.load(str(tmp_path / "my-model"))
    saved = BiEncoder.load(str(tmp_path / "runs" / "pairs" / "model"))
    np.testing.assert_array_equal(model.encode("mabo"), saved.encode("mabo"))


def test_gradient_over_devices():
    code, _ = blocks("docs/losses.md")
    found = {}
    exec(code, found)
    q, p, n, w = (found[name] for name in "qpnw")
    np.testing.assert_allclose(
        found["value"], losses.distributed_margin(q @ w, p @ w, n @ w), rtol=1e-5
    )
    assert found["gradient"].shape == w.shape


def test_an_encoder_in_ones_own_code(tiny):
    """The page's code gives BiEncoder's vectors, here with the tiny encoder."""
    (code,) = blocks("docs/encoders.md")
    texts = ["mabo hasit", "mabo"]
    both, one = (t.tolist() for t in Tokenizer(tiny.encoder).encode(texts, limit=9))
    ids = [both, [*one, 0]]
    code = re.sub(r"ids = .*", f"ids = {ids}", code)
    code = code.replace("sentence-transformers/all-MiniLM-L6-v2", str(tiny.encoder))
    found = {}
    exec(code, found)
    np.testing.assert_allclose(
        found["vectors"], BiEncoder.load(str(tiny.encoder)).encode(texts), atol=2e-6
    )


def test_first_dimensions():
    code, _ = blocks("docs/vectors.md")
    found = {}
    exec(code, found)
    q, p, n = (found[name] for name in "qpn")
    at = [losses.distributed_margin(*(v[:, :size] for v in (q, p, n))) for size in (384, 128)]
    np.testing.assert_allclose(found["loss"], at[0] + 0.5 * at[1], rtol=1e-5)


def test_a_loss_of_ones_own(tiny, finished, tmp_path, monkeypatch, capsys):
    """The page's script runs unchanged on a collection that trains in a second."""
    _, code = blocks("docs/losses.md")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("selfdistill_jax.progress.show_log", lambda: None)  # outlasts this test
    config = tiny.config(train__steps=2)
    monkeypatch.setattr(base, "get_config", lambda: config)
    known = dict(losses.LOSSES)
    try:
        exec(code, {})
    finally:
        losses.LOSSES.clear()
        losses.LOSSES.update(known)
    assert "trained" in capsys.readouterr().out
    records = metrics(tmp_path / "runs" / "squared_hinge", "train")
    assert [r["step"] for r in records] == [1, 2]
    # A convex loss is at least the loss of the mean margin, which is below 0.4 here.
    assert records[0]["loss"] >= (0.4 - records[0]["margin_mean"]) ** 2 > 0
