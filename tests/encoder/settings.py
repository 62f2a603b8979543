"""A small ``config.json`` of every architecture, some in two forms."""

_SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 42,
}
SETTINGS = {
    "bert": _SIZES,
    "distilbert": {
        "vocab_size": 99, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64,
        "max_position_embeddings": 40,
    },
    "roberta": {**_SIZES, "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {**_SIZES, "type_vocab_size": 1, "pad_token_id": 1},
    "camembert": {**_SIZES, "type_vocab_size": 1, "pad_token_id": 1},
    "electra": {**_SIZES, "embedding_size": 16},
    "electra of one size": {**_SIZES, "embedding_size": 32},
    "mpnet": {**_SIZES, "pad_token_id": 1},
    "modernbert": {
        **_SIZES, "max_position_embeddings": 40, "pad_token_id": 0, "local_attention": 14,
        "num_hidden_layers": 4,
    },
}  # fmt: skip
