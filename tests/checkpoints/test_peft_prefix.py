"""Prefixes in PEFT's format against PEFT itself, for every architecture."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.checkpoints.adapter_folder import CONFIG, TENSORS
from selfdistill_jax.checkpoints.peft import with_adapter
from selfdistill_jax.checkpoints.peft_prefix import read_prefix, write_prefix
from selfdistill_jax.checkpoints.safetensors import read_file, write_tensors
from selfdistill_jax.encoder.prefix import PREFIXED, apply_prefix
from selfdistill_jax.errors import InputError
from selfdistill_jax.packed import one_text_a_row
from tests.encoder.settings import SETTINGS

torch = pytest.importorskip("torch", reason="torch is a peer: make peers")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="peft is a peer: make peers")

# peft 0.21 asks transformers 5.23 for it.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

COUNT = 4
LONGEST = 40 - COUNT  # behind the prefix: RoBERTas have 40 positions here, the others 42
LENGTHS = np.array([3, LONGEST, 9], np.int32)
MASK = np.arange(LONGEST)[None] < LENGTHS[:, None]
IDS = np.random.default_rng(0).integers(3, 99, MASK.shape).astype(np.int32)
ROWS = one_text_a_row(IDS, LENGTHS)
TOWARDS = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
with_prefix = [case for case in SETTINGS if case.split()[0] in PREFIXED]
without = [case for case in SETTINGS if case not in with_prefix]


def prefix_of(encoder):
    """As after training: of the size of other keys and values."""
    shape = (2, encoder.config.num_layers, COUNT, encoder.config.hidden_size)
    key, value = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    return {"key": key, "value": value}


def unit_of_torch(model):
    """Mean-pooled unit vectors, with a gradient."""
    ids = torch.tensor(np.where(MASK, IDS, model.config.pad_token_id), dtype=torch.long)
    mask = torch.tensor(MASK)
    hidden = model.eval()(ids, mask.long()).last_hidden_state
    return torch.nn.functional.normalize((hidden * mask[..., None]).sum(1))


def new_by_peft(folder, **options):
    torch.manual_seed(1)
    config = peft.PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=COUNT, **options
    )
    return peft.get_peft_model(transformers.AutoModel.from_pretrained(folder), config)


def written(path, encoder):
    config, base = encoder.config, str(encoder.folder)
    write_prefix(path, prefix_of(encoder), config, base=base, card="Mine.")
    return path


@pytest.mark.parametrize("case", with_prefix)
def test_peft_gives_the_vectors_of_a_prefix_of_ours(bases, tmp_path, case):
    encoder, folder, encode = bases(case)
    path = written(tmp_path / "adapter", encoder)
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(folder), path)
    again = with_adapter(encoder, path)
    assert again.max_length == encoder.config.max_positions - COUNT
    ours = encode(apply_prefix(encoder.params, prefix_of(encoder)), ROWS)
    np.testing.assert_array_equal(encode(again.params, ROWS), ours)
    assert np.abs(ours - encode(encoder.params, ROWS)).max(1).min() > 0.03
    with torch.no_grad():
        np.testing.assert_allclose(unit_of_torch(theirs), ours, atol=5e-6)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("case", with_prefix)
def test_a_prefix_of_peft_gives_the_same_vectors_here(bases, tmp_path, case, projected):
    encoder, folder, encode = bases(case)
    model = new_by_peft(folder, prefix_projection=projected, encoder_hidden_size=8)
    model.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["prefix_projection"] == projected
    ours = encode(with_adapter(encoder, tmp_path / "adapter").params, ROWS)
    assert np.abs(ours - encode(encoder.params, ROWS)).max(1).min() > 0.03
    with torch.no_grad():
        np.testing.assert_allclose(ours, unit_of_torch(model), atol=5e-6)


@pytest.mark.parametrize("case", with_prefix)
def test_a_step_changes_the_prefix_as_in_torch(bases, tmp_path, case):
    """Of size 1, down the gradient; the prefix alone has one there too."""
    encoder, folder, encode = bases(case)
    model = new_by_peft(folder)
    model.save_pretrained(tmp_path / "before")
    before = read_prefix(tmp_path / "before", encoder.config)

    def loss(prefix):
        return jnp.vdot(encode(apply_prefix(encoder.params, prefix), ROWS), TOWARDS)

    gradient = jax.grad(loss)(before)
    trained = [value for value in model.parameters() if value.requires_grad]
    torch.sum(unit_of_torch(model) * torch.tensor(TOWARDS)).backward()
    assert [tuple(value.shape) for value in trained] == [(COUNT, 3 * 2 * 32)]
    with torch.no_grad():
        trained[0] -= trained[0].grad
    model.save_pretrained(tmp_path / "after")
    after = read_prefix(tmp_path / "after", encoder.config)
    for name in ("key", "value"):
        np.testing.assert_allclose(before[name] - gradient[name], after[name], atol=1e-5)
        assert np.abs(gradient[name]).max((1, 2)).min() > 1e-3


@pytest.mark.parametrize("case", without)
def test_peft_has_no_prefix_where_none_is_taken(bases, tmp_path, case):
    """If this fails, transformers has learnt to: take the architecture into `PREFIXED`."""
    encoder, folder, _ = bases(case)
    with pytest.raises((RuntimeError, ValueError), match=r"must match the size|past key values"):
        unit_of_torch(new_by_peft(folder, token_dim=32, num_attention_heads=4))
    if case != "distilbert":
        base = transformers.AutoModel.from_pretrained(folder).eval()
        ids = torch.tensor(IDS, dtype=torch.long)
        with torch.no_grad():
            found = [model(ids).last_hidden_state for model in (base, new_by_peft(folder).eval())]
        assert torch.equal(*found)
    with pytest.raises(InputError, match=r"adapter: a \w+ takes no prefix in transformers.* LoRA"):
        written(tmp_path / "adapter", encoder)
    with pytest.raises(InputError, match="takes no prefix in transformers"):
        with_adapter(encoder, written(tmp_path / "adapter", bases("bert")[0]))


def test_what_is_no_prefix_of_this_encoder_is_named(bases, tmp_path):
    encoder, _, _ = bases("bert")
    path = written(tmp_path / "adapter", encoder)
    raw, whole = json.loads((path / CONFIG).read_text()), read_file(path / TENSORS)
    for change, message in (
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; expected LORA or PREFIX_TUNING"),
        ({"num_layers": 6}, "num_layers is 6 and 3 of this encoder"),
        ({"num_attention_heads": 2}, "num_attention_heads is 2 and 4"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules is 2 and 1"),
        ({"num_virtual_tokens": None}, "num_virtual_tokens is None; expected 1 or more"),
        ({"num_virtual_tokens": 40}, "prefix of 40 leaves 2 of the encoder's 42 positions to a t"),
        ({"modules_to_save": ["pooler"]}, r"modules_to_save is \['pooler'\], which is unknown"),
    ):
        (path / CONFIG).write_text(json.dumps(raw | change))
        with pytest.raises(InputError, match=message):
            with_adapter(encoder, path)
    (path / CONFIG).write_text(json.dumps(raw))
    table = whole["prompt_embeddings"]
    for tensors, message in (
        ({}, "tensors are none; expected 'prompt_embeddings' alone"),
        (whole | {"more": table}, "tensors are more, prompt_embeddings; expected"),
        ({"prompt_embeddings": table[:, :-2]}, r"has shape \[4, 190\]; expected \[4, 192\], keys"),
        ({"prompt_embeddings": table[:3]}, r"has shape \[3, 192\]; expected \[4, 192\], keys"),
    ):
        write_tensors(path / TENSORS, tensors)
        with pytest.raises(InputError, match=message):
            with_adapter(encoder, path)
