"""Tests LoRA adapters in PEFT's format against PEFT itself, for every architecture."""

import json

import jax
import numpy as np
import pytest

from selfdistill_jax.checkpoints.adapter_folder import CONFIG, TENSORS, read_settings
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.checkpoints.peft import read_lora, with_adapter, write_lora
from selfdistill_jax.checkpoints.safetensors import read_file, write_tensors
from selfdistill_jax.checkpoints.sentence_transformers import Prompts
from selfdistill_jax.encoder.architectures import ARCHITECTURES
from selfdistill_jax.encoder.lora import TARGETS, apply_lora, init_lora
from selfdistill_jax.errors import InputError
from selfdistill_jax.packed import one_text_a_row
from tests.encoder.settings import SETTINGS

torch = pytest.importorskip("torch", reason="torch is a peer: make peers")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="peft is a peer: make peers")

# peft 0.21 reads this attribute, which transformers 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

LENGTHS = np.array([3, 12, 9], np.int32)
MASK = np.arange(12)[None] < LENGTHS[:, None]
IDS = np.random.default_rng(0).integers(3, 99, (3, 12)).astype(np.int32)
ROWS = one_text_a_row(IDS, LENGTHS)
each = pytest.mark.parametrize("case", SETTINGS)


@pytest.fixture
def based(bases):
    """Returns ``based(case)``: the encoder, transformers' folder, and a function to vectors."""

    def make(case):
        encoder, folder, encode = bases(case)
        return encoder, folder, lambda params: np.asarray(encode(params, ROWS))

    return make


def adapter_of(encoder, targets, *, rank=4):
    """Returns a random adapter whose B is not zero, as after training."""
    adapter = init_lora(encoder.params, rank=rank, targets=targets, key=jax.random.key(1))
    rng = np.random.default_rng(2)
    return {
        name: {**pair, "b": 0.3 * rng.standard_normal(pair["b"].shape, np.float32)}
        for name, pair in jax.device_get(adapter).items()
    }


def by_torch(model):
    ids = torch.tensor(np.where(MASK, IDS, model.config.pad_token_id), dtype=torch.long)
    with torch.no_grad():
        hidden = model.eval()(ids, torch.tensor(MASK, dtype=torch.long)).last_hidden_state.numpy()
    pooled = (hidden * MASK[..., None]).sum(1)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def by_peft(folder, adapter):
    return peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(folder), adapter)


def write(path, encoder, adapter, *, alpha=8):
    write_lora(path, adapter, encoder.config, alpha=alpha, base=str(encoder.folder), card="Mine.")
    return path


@each
@pytest.mark.parametrize("targets", [("query", "value", "outer"), tuple(TARGETS)], ids=len)
def test_peft_gives_the_vectors_of_an_adapter_of_ours(based, tmp_path, case, targets):
    encoder, folder, vectors = based(case)
    adapter = adapter_of(encoder, targets)
    theirs = by_peft(folder, write(tmp_path / "adapter", encoder, adapter, alpha=6))
    # PEFT's model has exactly the adapter tensors that we wrote.
    held = {name for name, _ in theirs.named_parameters() if "lora_" in name}
    written = {name.replace(".weight", ".default.weight") for name in tensors(tmp_path)}
    assert held == written
    ours = vectors(apply_lora(encoder.params, adapter, scale=6 / 4))
    assert np.abs(ours - vectors(encoder.params)).max() > 0.01
    np.testing.assert_allclose(by_torch(theirs), ours, atol=5e-6)
    again = with_adapter(encoder, tmp_path / "adapter")
    np.testing.assert_allclose(vectors(again.params), ours, atol=2e-6)


def tensors(tmp_path):
    return read_file(tmp_path / "adapter" / TENSORS)


@pytest.mark.parametrize(("case", "rslora"), [*((c, False) for c in SETTINGS), ("bert", True)])
def test_an_adapter_of_peft_gives_the_same_vectors_here(based, tmp_path, case, rslora):
    """The adapter has another rank and alpha in some layers, and none in others."""
    encoder, folder, vectors = based(case)
    names = ARCHITECTURES[case.split()[0]]
    modules = [module for parts in names.dense.values() for module in parts]
    last = names.layer.format(encoder.config.num_layers - 1)
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=modules, exclude_modules=[last + modules[-1]],
        rank_pattern={last + modules[0]: 2}, alpha_pattern={modules[1]: 7}, use_rslora=rslora,
        init_lora_weights=False,
    )  # fmt: skip
    model = peft.get_peft_model(transformers.AutoModel.from_pretrained(folder), config)
    model.save_pretrained(tmp_path / "adapter")
    got = vectors(with_adapter(encoder, tmp_path / "adapter").params)
    assert np.abs(got - vectors(encoder.params)).max() > 0.01
    np.testing.assert_allclose(got, by_torch(model), atol=5e-6)


def test_one_tensor_for_three_targets_has_one_adapter_of_their_ranks(based, tmp_path):
    encoder, _, _ = based("modernbert")
    write(tmp_path / "adapter", encoder, adapter_of(encoder, ("query", "value", "inner")))
    sizes = {name: value.shape for name, value in tensors(tmp_path).items() if ".0." in name}
    at = "base_model.model.layers.0."
    assert sizes == {
        f"{at}attn.Wqkv.lora_A.weight": (8, 32), f"{at}attn.Wqkv.lora_B.weight": (96, 8),
        f"{at}mlp.Wi.lora_A.weight": (4, 32), f"{at}mlp.Wi.lora_B.weight": (128, 4),
    }  # fmt: skip


def test_an_adapter_of_a_model_with_a_head_is_read(based, tmp_path):
    encoder, folder, vectors = based("bert")
    torch.manual_seed(1)
    headed = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    # The pooler, which no vector depends on, and the head also have layers named "dense".
    targets = r"bert\..*(query|dense)"
    config = peft.LoraConfig(
        target_modules=targets,
        init_lora_weights=False,
        alpha_pattern={"bert.encoder.layer.0.attention.self.query": 64},
    )
    model = peft.get_peft_model(headed, config)
    model.save_pretrained(tmp_path / "adapter")
    assert all(name.startswith("base_model.model.bert.") for name in tensors(tmp_path))
    got = vectors(with_adapter(encoder, tmp_path / "adapter").params)
    np.testing.assert_allclose(got, by_torch(headed.bert), atol=5e-6)


def test_an_adapter_of_the_pooler_counts_where_it_pools(based, tmp_path):
    encoder, folder, _ = based("bert")
    write(tmp_path / "adapter", encoder, adapter_of(encoder, ("query",)))
    more = {f"base_model.model.pooler.dense.lora_{x}.weight": np.ones((1, 32)) for x in "AB"}
    write_tensors(tmp_path / "adapter" / TENSORS, tensors(tmp_path) | more)
    assert read_lora(tmp_path / "adapter", encoder).keys() == {"query"}
    pooler = read_folder(str(folder), pooling="pooler")
    with pytest.raises(InputError, match=r"'base_model\.model\.pooler.* is not an adapter"):
        read_lora(tmp_path / "adapter", pooler)


def test_what_else_of_the_base_was_other_is_written_and_read(based, tmp_path):
    encoder, folder, _ = based("bert")
    settings = {"pooling": "max", "max_length": 9, "document_prompt": ""}
    options = {"alpha": 8, "base": str(folder), "card": "", "settings": settings}
    write_lora(tmp_path / "adapter", adapter_of(encoder, ("query",)), encoder.config, **options)
    assert read_settings(tmp_path / "adapter") == settings
    by_peft(folder, tmp_path / "adapter")
    prompted = encoder._replace(prompts=Prompts({"query": "a", "passage": "b"}))
    found = with_adapter(prompted, tmp_path / "adapter")
    assert found.max_length == 9
    assert [found.prompts.of(kind) for kind in ("query", "document")] == ["a", ""]
    write(tmp_path / "adapter", encoder, adapter_of(encoder, ("query",)))
    assert read_settings(tmp_path / "adapter") == {}
    assert with_adapter(prompted, tmp_path / "adapter").prompts == prompted.prompts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING'; expected LORA"),
        ({"use_dora": True}, r"use_dora is True, .* merge the adapter with PEFT"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"invented_since": {"a": 1}}, "invented_since is {'a': 1}"),
    ],
)
def test_settings_that_would_give_other_vectors_are_refused(based, tmp_path, change, message):
    encoder, _, _ = based("bert")
    folder = write(tmp_path / "adapter", encoder, adapter_of(encoder, ("query",)))
    raw = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(raw | change))
    with pytest.raises(InputError, match=message):
        read_lora(folder, encoder)


def test_every_setting_of_pefts_own_defaults_is_read(based, tmp_path):
    encoder, folder, _ = based("bert")
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["query"])
    model = peft.get_peft_model(transformers.AutoModel.from_pretrained(folder), config)
    model.save_pretrained(tmp_path / "adapter")
    assert read_lora(tmp_path / "adapter", encoder).keys() == {"query"}


def test_tensors_that_do_not_fit_are_named(based, tmp_path):
    encoder, _, _ = based("bert")
    other = based("distilbert")[0]
    folder = write(tmp_path / "adapter", other, adapter_of(other, ("query",)))
    with pytest.raises(InputError, match=r"transformer\.layer\.0.* not an adapter of .* BERT"):
        read_lora(folder, encoder)
    folder = write(tmp_path / "adapter", encoder, adapter_of(encoder, ("query",)))
    whole = tensors(tmp_path)
    name = next(name for name in whole if "lora_B" in name)
    write_tensors(folder / TENSORS, whole | {name: whole[name][:-1]})
    with pytest.raises(InputError, match=r"has shape \[4, 32\] and B \[31, 4\]; expected"):
        read_lora(folder, encoder)
    write_tensors(folder / TENSORS, {k: v for k, v in whole.items() if k != name})
    with pytest.raises(InputError, match=r"and B \[0, 0\]; expected"):
        read_lora(folder, encoder)
    write_tensors(folder / TENSORS, {})
    with pytest.raises(InputError, match="no adapter of any layer"):
        read_lora(folder, encoder)
    with pytest.raises(InputError, match=r"adapter_config\.json: no such file; expected an adapt"):
        read_lora(tmp_path, encoder)
