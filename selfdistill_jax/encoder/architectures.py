"""Describes the supported architectures: keys of ``config.json``, tensor names and a few sizes.

All consist of layers of attention and feed-forward with a norm each, see `encoder.model`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from selfdistill_jax.errors import InputError
from selfdistill_jax.json_file import entry

Path = tuple[str, ...]


class Architecture(NamedTuple):
    """Describes one ``model_type`` of Hugging Face.

    Attributes:
      name: the common name, for messages.
      prefix: start of its tensor names in a checkpoint with a head for another task.
      keys: field of `EncoderConfig` -> key of ``config.json``.
      fixed: field of `EncoderConfig` -> its value, for fields without such a key.
      only: key of ``config.json`` -> its only supported value, also assumed if the key is absent.
      by_layer: function of a parsed ``config.json`` and its file name that returns the fields with
        one value per layer.
      embeddings: our table -> its tensor name.
      embeddings_norm: name of the embeddings' norm.
      layer: start of the tensor names of layer ``{}``.
      norms: our norm -> its name within a layer.
      dense: our path -> names within a layer; if there are several, our kernel has their outputs
        side by side.
      last_norm: name of the norm of the last hidden states; empty if there is none.
      after_padding: whether the first token has position ``pad_token_id + 1`` instead of 0.
      unused: starts of the names of tensors that no vector depends on.
      dropout: field of `Dropout` -> key of ``config.json`` and its default.
    """

    name: str
    prefix: str
    keys: Mapping[str, str]
    embeddings: Mapping[str, str]
    layer: str
    norms: Mapping[str, str]
    dense: Mapping[Path, tuple[str, ...]]
    fixed: Mapping[str, Any] = {}
    only: Mapping[str, Any] = {}
    by_layer: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda raw, where: {}
    embeddings_norm: str = "embeddings.LayerNorm"
    last_norm: str = ""
    after_padding: bool = False
    unused: tuple[str, ...] = ("pooler.", "embeddings.position_ids")
    dropout: Mapping[str, tuple[str, float]] = {
        "embeddings": ("hidden_dropout_prob", 0.1),
        "attention": ("attention_probs_dropout_prob", 0.1),
        "attended": ("hidden_dropout_prob", 0.1),
        "outer": ("hidden_dropout_prob", 0.1),
    }


_BERT = Architecture(
    name="BERT",
    prefix="bert.",
    keys={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "max_positions": "max_position_embeddings",
        "type_vocab_size": "type_vocab_size",
        "layer_norm_eps": "layer_norm_eps",
        "activation": "hidden_act",
    },
    only={
        "position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False
    },
    embeddings={
        "word": "embeddings.word_embeddings.weight",
        "position": "embeddings.position_embeddings.weight",
        "token_type": "embeddings.token_type_embeddings.weight",
    },
    layer="encoder.layer.{}.",
    norms={"attention_norm": "attention.output.LayerNorm", "output_norm": "output.LayerNorm"},
    dense={
        ("attention", "qkv"): tuple(f"attention.self.{x}" for x in ("query", "key", "value")),
        ("attention", "output"): ("attention.output.dense",),
        ("inner",): ("intermediate.dense",),
        ("outer",): ("output.dense",),
    },
)  # fmt: skip

_ROBERTA = _BERT._replace(name="RoBERTa", prefix="roberta.", after_padding=True)

_ELECTRA = _BERT._replace(
    name="ELECTRA",
    prefix="electra.",
    keys={**_BERT.keys, "embedding_size": "embedding_size"},
)

_DISTILBERT = Architecture(
    name="DistilBERT",
    prefix="distilbert.",
    keys={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_positions": "max_position_embeddings",
        "activation": "activation",
    },
    fixed={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
    embeddings={
        "word": "embeddings.word_embeddings.weight",
        "position": "embeddings.position_embeddings.weight",
    },
    layer="transformer.layer.{}.",
    norms={"attention_norm": "sa_layer_norm", "output_norm": "output_layer_norm"},
    dense={
        ("attention", "qkv"): tuple(f"attention.{x}_lin" for x in "qkv"),
        ("attention", "output"): ("attention.out_lin",),
        ("inner",): ("ffn.lin1",),
        ("outer",): ("ffn.lin2",),
    },
    dropout={
        "embeddings": ("dropout", 0.1),
        "attention": ("attention_dropout", 0.1),
        "outer": ("dropout", 0.1),
    },
)

_MPNET = Architecture(
    name="MPNet",
    prefix="mpnet.",
    keys={
        **{key: name for key, name in _BERT.keys.items() if key != "type_vocab_size"},
        "relative_buckets": "relative_attention_num_buckets",
    },
    fixed={"type_vocab_size": 0},
    embeddings=_DISTILBERT.embeddings,
    layer="encoder.layer.{}.",
    norms={"attention_norm": "attention.LayerNorm", "output_norm": "output.LayerNorm"},
    dense={
        **_BERT.dense,
        ("attention", "qkv"): tuple(f"attention.attn.{x}" for x in "qkv"),
        ("attention", "output"): ("attention.attn.o",),
    },
    after_padding=True,
)


def _modernbert_layers(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the rotary base and the window of each layer.

    Every third layer attends to the whole text, the others to a window; each kind has its own
    rotary base. Files on the hub state this by single numbers, transformers since 5 by layer.
    """
    count, near, far = raw["num_hidden_layers"], "sliding_attention", "full_attention"
    every = entry(raw, "global_attn_every_n_layers", int, where=where, default=3)
    types = entry(raw, "layer_types", list, where=where, default=[]) or [
        near if i % max(every, 1) else far for i in range(count)
    ]
    if len(types) != count or not all(kind in (near, far) for kind in types):
        raise InputError(
            f"{where}: layer_types is {types}; expected {near} or {far} for each of {count} layers"
        )
    bases = {
        far: entry(raw, "global_rope_theta", float, where=where, default=160000.0),
        near: entry(raw, "local_rope_theta", float, where=where, default=1e4),
    }
    given_bases = entry(raw, "rope_parameters", dict, where=where, default={})
    for kind in given_bases:
        given = entry(given_bases, kind, dict, where=where, default={})
        if given.get("rope_type", "default") != "default":
            raise InputError(
                f"{where}: rope_type of {kind} is {given['rope_type']!r}; only 'default' is "
                "supported"
            )
        bases[kind] = entry(given, "rope_theta", float, where=where, default=bases.get(kind, 1e4))
    window = {far: 0, near: entry(raw, "local_attention", int, where=where, default=128) // 2}
    return {
        "rotary": tuple(float(bases[kind]) for kind in types),
        "windows": tuple(window[kind] for kind in types),
    }


_MODERNBERT = Architecture(
    name="ModernBERT",
    prefix="model.",
    keys={
        **{key: name for key, name in _BERT.keys.items() if key != "type_vocab_size"},
        "layer_norm_eps": "norm_eps",
        "activation": "hidden_activation",
    },
    fixed={"type_vocab_size": 0, "pre_norm": True, "gated": True, "biases": False},
    only={"attention_bias": False, "mlp_bias": False, "norm_bias": False},
    by_layer=_modernbert_layers,
    embeddings={"word": "embeddings.tok_embeddings.weight"},
    embeddings_norm="embeddings.norm",
    layer="layers.{}.",
    norms={"attention_norm": "attn_norm", "output_norm": "mlp_norm"},
    dense={
        ("attention", "qkv"): ("attn.Wqkv",),
        ("attention", "output"): ("attn.Wo",),
        ("inner",): ("mlp.Wi",),
        ("outer",): ("mlp.Wo",),
    },
    last_norm="final_norm",
    unused=(),
    dropout={
        "embeddings": ("embedding_dropout", 0.0),
        "attention": ("attention_dropout", 0.0),
        "attended": ("attention_dropout", 0.0),
        "inner": ("mlp_dropout", 0.0),
    },
)

# ``model_type`` -> its description.
ARCHITECTURES = {
    "bert": _BERT,
    "distilbert": _DISTILBERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA._replace(name="XLM-RoBERTa"),
    "camembert": _ROBERTA._replace(name="CamemBERT"),
    "electra": _ELECTRA,
    "mpnet": _MPNET,
    "modernbert": _MODERNBERT,
}
