"""Tests that saving a model keeps its vectors, in this package and in sentence-transformers.

The folders differ as users' folders do: in tokenizer settings, layout, limits and precision.
"""

import io
import json
import shutil
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from selfdistill_jax import BiEncoder
from selfdistill_jax.errors import InputError
from tests.tiny import WORDS

TEXTS = [
    "Mabo TIRI kelu",
    "the the hasit vokel jurad gimon wepak cudel tafir yosub qined rulom mabo tiri kelu sona pevi",
    "grüße, vokel [MASK] lenz",
    "x",
]


def change(path, **settings):
    raw = json.loads(path.read_text()) if path.is_file() else {}
    raw = {key: value for key, value in (raw | settings).items() if value is not ...}
    path.write_text(json.dumps(raw))


def tokenizer_settings(**settings):
    def vary(folder):
        change(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer", **settings)

    return vary


def no_special_tokens(folder):
    change(folder / "tokenizer.json", post_processor=None)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    change(folder / "tokenizer_config.json", **settings)


def added_token(folder):
    raw = json.loads((folder / "tokenizer.json").read_text())
    facts = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    raw["added_tokens"].append(
        {"id": WORDS.index("the"), "content": "the", "special": True, **facts}
    )
    (folder / "tokenizer.json").write_text(json.dumps(raw))


def vocabulary_alone(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")


def half_precision(folder):
    tensors = load_file(folder / "model.safetensors")
    halved = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
    save_file(halved, folder / "model.safetensors", {"format": "pt"})


def sharded(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for number, some in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in some}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(some, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )


def old_layout(folder):
    inside = folder / "0_Transformer"
    inside.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "README.md"):
            path.rename(inside / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config.json").write_text('{"__version__": "0.3.9"}')


def no_normalize(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:-1]))


def no_limit(folder):
    (folder / "sentence_bert_config.json").unlink()


def infinite_limit(folder):
    no_limit(folder)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": Infinity}')


def sentencepiece(folder):
    """Replaces the tokenizer with a sentencepiece model, as in XLM-RoBERTa's folders."""
    peer = pytest.importorskip("sentencepiece")
    trained, lines = io.BytesIO(), [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    peer.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=trained, vocab_size=60,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "sentencepiece.bpe.model").write_bytes(trained.getvalue())
    (folder / "tokenizer.json").unlink()
    change(folder / "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    tensors = load_file(folder / "model.safetensors")
    (name,) = [name for name in tensors if name.endswith("word_embeddings.weight")]
    table = np.random.default_rng(0).normal(size=(80, tensors[name].shape[1])).astype(np.float32)
    save_file({**tensors, name: table}, folder / "model.safetensors", {"format": "pt"})
    change(folder / "config.json", vocab_size=len(table), pad_token_id=1)


def sentencepiece_and_tokenizer_json(folder):
    sentencepiece(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()


VARIATIONS = {
    "as it is": lambda folder: None,
    "not lower case": tokenizer_settings(do_lower_case=False),
    "accents kept": tokenizer_settings(strip_accents=False),
    "beginning cut": tokenizer_settings(truncation_side="left"),
    "no special tokens": no_special_tokens,
    "added token": added_token,
    "vocabulary alone": vocabulary_alone,
    "half precision": half_precision,
    "sharded": sharded,
    "old layout": old_layout,
    "no Normalize": no_normalize,
    "no limit": no_limit,
    "infinite limit": infinite_limit,
    "sentencepiece": sentencepiece,
    "sentencepiece and tokenizer.json": sentencepiece_and_tokenizer_json,
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_the_same_vectors(tiny, tmp_path, name):
    peer = pytest.importorskip("sentence_transformers")
    folder = shutil.copytree(tiny.encoder, tmp_path / "model")
    VARIATIONS[name](folder)
    model = BiEncoder.load(str(folder))
    texts = TEXTS if name == "no special tokens" else [text.replace("[MASK]", "") for text in TEXTS]
    ours = model.encode(texts)
    model.save(tmp_path / "again")
    np.testing.assert_allclose(
        BiEncoder.load(str(tmp_path / "again")).encode(texts), ours, atol=1e-6
    )
    options = {"device": "cpu", "model_kwargs": {"dtype": "float32"}}
    for place in (folder, tmp_path / "again"):
        theirs = peer.SentenceTransformer(str(place), **options)
        np.testing.assert_allclose(theirs.encode(texts, normalize_embeddings=True), ours, atol=1e-4)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (tokenizer_settings(padding_side="left"), r"padding_side is 'left', but this architecture"),
        (lambda folder: shutil.rmtree(folder / "1_Pooling"), r"1_Pooling/config\.json: no such"),
        (lambda folder: (folder / "modules.json").write_text("{}"), "holds an object; expected"),
        (lambda folder: change(folder / "config.json", model_type=...), "has no model_type, so"),
        (lambda folder: change(folder / "config.json", hidden_size="16"), "hidden_size is '16'"),
    ],
)  # fmt: skip
def test_a_folder_with_other_vectors_elsewhere_is_refused(tiny, tmp_path, vary, message):
    folder = shutil.copytree(tiny.encoder, tmp_path / "model")
    vary(folder)
    with pytest.raises(InputError, match=message):
        BiEncoder.load(str(folder))


def test_an_unusable_sentencepiece_model_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(tiny.encoder, tmp_path / "model")
    sentencepiece(folder)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(InputError, match=r"bpe\.model: .* run `pip install sentencepiece`, or"):
        BiEncoder.load(str(folder))
    monkeypatch.undo()
    (folder / "sentencepiece.bpe.model").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"bpe\.model: not a usable sentencepiece model; fetch"):
        BiEncoder.load(str(folder))


def test_a_token_without_an_embedding_is_refused(tiny):
    """The tokenizer knows [MASK], but the tiny encoder's embedding table has no row for it."""
    model = BiEncoder.load(str(tiny.encoder))
    with pytest.raises(InputError, match=rf"token '\[MASK\]' the id {len(WORDS)}, but the embeddi"):
        model.encode(["mabo", "tiri [MASK]"])
