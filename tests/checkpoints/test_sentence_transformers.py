"""Tests that modules and prompts of a sentence-transformers folder act as in that package."""

import json
import shutil

import numpy as np
import pytest

from selfdistill_jax import BiEncoder
from selfdistill_jax.checkpoints.model_folder import read_folder, write_folder
from selfdistill_jax.checkpoints.safetensors import read_tensors
from selfdistill_jax.checkpoints.sentence_transformers import Prompts
from selfdistill_jax.encoder.dense_head import DenseLayer
from selfdistill_jax.errors import InputError
from tests import tiny as helpers
from tests.tiny import WORDS, train
from tests.train.runs import same

torch = pytest.importorskip("torch", reason="torch is a peer: make peers")
transformers = pytest.importorskip("transformers")
peer = pytest.importorskip(
    "sentence_transformers", reason="sentence-transformers is a peer: make peers"
)

TEXTS = ["mabo", "hasit vokel jurad", "mabo tiri lenz the the the of"]
PROMPTS = {"query": "kelu sona ", "document": "gimon ", "other": "the "}
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "cls_token_id": None,
    "sep_token_id": None,
}


def save_transformer(folder, tiny, model_type="bert", **changes):
    """Writes a transformer with tiny's tokenizer and random weights larger than initial ones."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SIZES | changes)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * torch.randn_like(value)
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tiny.encoder / "tokenizer.json"), pad_token="[PAD]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def modular(tiny, tmp_path_factory):
    """Returns a folder with two dense layers and prompts, written by sentence-transformers."""
    folder = tmp_path_factory.mktemp("modular")
    save_transformer(folder / "bert", tiny)
    modules = peer.sentence_transformer.modules
    torch.manual_seed(1)
    model = peer.SentenceTransformer(
        modules=[
            modules.Transformer(str(folder / "bert"), max_seq_length=14),
            modules.Pooling(16, pooling_mode="max"),
            modules.Dense(16, 12, activation_function=torch.nn.Tanh()),
            modules.Dense(12, 6, bias=False, activation_function=torch.nn.Identity()),
            modules.Normalize(),
        ],
        prompts=PROMPTS,
        default_prompt_name="other",
        device="cpu",
    )
    model.save(str(folder / "model"))
    return folder / "model"


def assert_same_vectors(folder, other=None):
    ours, theirs = (
        BiEncoder.load(str(folder)),
        peer.SentenceTransformer(str(other or folder), device="cpu"),
    )
    for function in ("encode", "encode_query", "encode_document"):
        got, want = (getattr(model, function)(TEXTS) for model in (ours, theirs))
        np.testing.assert_allclose(got, want, atol=5e-6, err_msg=function)


def edited(folder, source, file, **changes):
    """Copies a folder with other values in one JSON file; None removes a key."""
    shutil.copytree(source, folder)
    raw = json.loads((folder / file).read_text())
    raw = {key: value for key, value in {**raw, **changes}.items() if value is not None}
    (folder / file).write_text(json.dumps(raw))
    return folder


def test_dense_layers_and_prompts_are_those_of_sentence_transformers(modular, tmp_path):
    encoder = read_folder(str(modular))
    assert encoder.dense == (DenseLayer(12, "Tanh"), DenseLayer(6, "Identity"))
    assert (encoder.dimensions, encoder.max_length) == (6, 14)
    assert encoder.prompts == (PROMPTS, "other")
    assert_same_vectors(modular)
    write_folder(tmp_path / "again", encoder, card="")
    assert_same_vectors(tmp_path / "again", modular)
    assert_same_vectors(modular, tmp_path / "again")
    for name in ("", "2_Dense", "3_Dense"):
        before, after = (read_tensors(f / name) for f in (modular, tmp_path / "again"))
        assert before.keys() == after.keys()
        for tensor, value in before.items():
            np.testing.assert_array_equal(after[tensor], value, err_msg=tensor)
    again, nothing = read_folder(str(tmp_path / "again")), {"params": {}, "extra": {}}
    same_place = {"folder": modular, "root": modular, "raw_config": encoder.raw_config}
    assert again._replace(**nothing, **same_place) == encoder._replace(**nothing)


def test_prompts_make_a_difference(modular):
    model = BiEncoder.load(str(modular))
    kinds = [model.encode(TEXTS), model.encode_query(TEXTS), model.encode_document(TEXTS)]
    kinds += [model.encode(TEXTS, prompt=""), model.encode(TEXTS, prompt="kelu sona ")]
    np.testing.assert_array_equal(kinds[4], kinds[1])
    for i, one in enumerate(kinds[:4]):
        for other in kinds[:i]:
            assert np.abs(one - other).max() > 1e-3


def test_the_pooler_is_a_dense_layer(tiny, tmp_path):
    folder = save_transformer(tmp_path / "bert", tiny)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]"
    )(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        want = model(tokens["input_ids"], tokens["attention_mask"]).pooler_output
    want = torch.nn.functional.normalize(want).numpy()
    encoder = read_folder(str(folder), pooling="pooler")
    np.testing.assert_allclose(BiEncoder(encoder).encode(TEXTS), want, atol=2e-6)
    # A trained pooler is written to both of its places, and read back.
    encoder.params["dense"]["0"]["kernel"] = 2 * encoder.params["dense"]["0"]["kernel"]
    write_folder(tmp_path / "trained", encoder, card="")
    again = read_folder(str(tmp_path / "trained"))
    assert (again.pooling, again.dense) == ("cls", encoder.dense)
    assert_same_vectors(tmp_path / "trained")
    # Asking for the pooler again finds the same layer and does not add a second one.
    assert read_folder(str(tmp_path / "trained"), pooling="pooler").dense == again.dense
    opened = transformers.AutoModel.from_pretrained(tmp_path / "trained")
    torch.testing.assert_close(
        opened.pooler.dense.weight.detach(), 2 * model.pooler.dense.weight.detach()
    )


def test_a_pooler_that_is_not_there(tiny, tmp_path):
    with pytest.raises(InputError, match=r"no tensor 'pooler.dense.weight', .* cls, mean, max"):
        read_folder(str(tiny.encoder), pooling="pooler")


def test_shards_are_one_model(tiny, tmp_path):
    whole = save_transformer(tmp_path / "whole", tiny)
    shards = tmp_path / "shards"
    transformers.AutoModel.from_pretrained(whole).save_pretrained(shards, max_shard_size="10KB")
    files = sorted(shards.glob("*.safetensors"))
    assert len(files) > 2
    tensors, same = read_tensors(shards), read_tensors(whole)
    assert tensors.keys() == same.keys()
    for name, value in same.items():
        np.testing.assert_array_equal(tensors[name], value)
    assert read_folder(str(shards)).config == read_folder(str(whole)).config
    shutil.copy(files[1], files[0])
    with pytest.raises(InputError, match=f"{files[0].name}: no tensor '.*', but .* is there"):
        read_tensors(shards)
    files[2].unlink()
    with pytest.raises(InputError, match=f"{files[2].name}: no such file"):
        read_tensors(shards)
    (shards / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match="not an index of safetensors files"):
        read_tensors(shards)


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(InputError, match=r"can run any code when it is read, .*save_pretrained"):
        read_tensors(tmp_path)


def test_a_tensor_of_no_part_is_named(tiny, tmp_path):
    """A file with one layer more than config.json says must not give wrong vectors silently."""
    folder = save_transformer(tmp_path / "bert", tiny)
    less = edited(tmp_path / "less", folder, "config.json", num_hidden_layers=1)
    message = r"tensor 'encoder.layer.1.\S+' does not belong to a BERT of this size \(1 layers"
    with pytest.raises(InputError, match=message):
        read_folder(str(less))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.ELU"},
         "activation_function .*ELU'; supported: Identity, Tanh"),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual is true"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"},
         "module_input_name is 'token_embeddings'; only 'sentence_embedding'"),
        ("3_Dense/config.json", {"out_features": 7},
         r"tensor 'linear.weight' is \[6, 12\]; config.json asks for \[7, 12\]"),
        ("3_Dense/config.json", {"bias": True},
         r"tensor 'linear.bias' is missing; config.json asks for \[6\]"),
        ("config_sentence_transformers.json", {"default_prompt_name": "nope"},
         r"default_prompt_name is 'nope', but there is no such prompt \(prompts: document"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt is false"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(modular, tmp_path, file, changes, message):
    with pytest.raises(InputError, match=message):
        read_folder(str(edited(tmp_path / "model", modular, file, **changes)))


def test_modules_out_of_order_are_refused(modular, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(modular, folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1], modules[2] = modules[2], modules[1]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="modules are Transformer, Dense, Pooling, Dense, Normal"):
        read_folder(str(folder))


@pytest.mark.parametrize("kind", ["modular", "pooler", "modernbert"])
def test_three_steps_from_folder_to_folder(tiny, modular, tmp_path, kind):
    """sentence-transformers gives the same vectors for a model trained with dropout and remat."""
    settings = {"encoder__dropout": "source", "train__remat": "inputs", "encoder__max_length": 14}
    source, pooling = modular, "source"
    if kind != "modular":
        source = save_transformer(
            tmp_path / "bert", tiny, "bert" if kind == "pooler" else kind,
            **{"local_attention": 4} if kind == "modernbert" else {},
        )  # fmt: skip
        settings["encoder__pooling"] = pooling = "pooler" if kind == "pooler" else "mean"
        settings["encoder__query_prompt"] = "tiri "
    # Without a dev split the last step's model is kept.
    collection = helpers.write_collection(tmp_path / "part", splits={"train": range(24)})
    settings |= {"data__dataset": str(collection), "encoder__init": str(source)}
    config = tiny.config(train__steps=3, train__learning_rate=0.001, **settings)
    assert train(config, tmp_path / "run") is not None
    model = tmp_path / "run" / "model"
    encoder, before = read_folder(str(model)), read_folder(str(source), pooling=pooling)
    want = PROMPTS if kind == "modular" else {"query": "tiri ", "document": ""}
    assert encoder.prompts.named == want
    for part in ("embeddings", "layers", *(["dense"] if encoder.dense else [])):
        assert not same(encoder.params[part], before.params[part])
    assert_same_vectors(model)


def test_a_passages_prompt_is_a_documents(tiny, tmp_path):
    """The prompt "passage" of E5's folders is the document prompt, also in the folders we save."""
    prompts = Prompts({"query": "kelu ", "passage": "gimon "})
    assert [prompts.of(kind) for kind in ("query", "document", "")] == ["kelu ", "gimon ", ""]
    encoder = read_folder(str(tiny.encoder))._replace(prompts=prompts)
    write_folder(tmp_path / "model", encoder, card="")
    assert_same_vectors(tmp_path / "model")
    other = prompts.replaced(document="the ")
    assert other.of("document") == "the "


def test_lower_case_is_sentence_transformers_switch(modular, tmp_path):
    """do_lower_case in a folder applies to a tokenizer that keeps capitals, also after saving."""
    folder = edited(tmp_path / "model", modular, "tokenizer.json", normalizer=None)
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    capitals = [text.upper() for text in TEXTS]
    got = BiEncoder.load(str(folder))
    np.testing.assert_array_equal(got.encode(capitals), got.encode(TEXTS))
    write_folder(tmp_path / "again", got.encoder, card="")
    again = BiEncoder.load(str(tmp_path / "again"))
    np.testing.assert_array_equal(again.encode(capitals), got.encode(TEXTS))
    plain = BiEncoder.load(str(edited(tmp_path / "plain", folder, "sentence_bert_config.json",
                                      do_lower_case=False)))  # fmt: skip
    assert np.abs(plain.encode(capitals) - got.encode(TEXTS)).max() > 1e-3


def test_no_prompt_is_an_empty_one(modular, tmp_path):
    named = {**PROMPTS, "query": None}
    file = "config_sentence_transformers.json"
    model = BiEncoder.load(str(edited(tmp_path / "model", modular, file, prompts=named)))
    np.testing.assert_array_equal(model.encode_query(TEXTS), model.encode(TEXTS, prompt=""))


def test_another_similarity_is_said(modular, tmp_path, caplog):
    file = "config_sentence_transformers.json"
    read_folder(str(edited(tmp_path / "model", modular, file, similarity_fn_name="dot")))
    assert "ignoring similarity_fn_name 'dot'; vectors have unit length" in caplog.text
