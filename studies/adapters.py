"""All weights, LoRA, one layer, or only the query encoder.

The contrastive loss from all-MiniLM-L6-v2 in 40 steps of 64 examples with random negatives. LoRA
has rank 16 on queries and values; "head" is one dense layer on the frozen encoder. "Queries" means
that documents keep the start encoder's vectors. The learning rate is tuned for each method and
collection by dev, over three values that fit the method.
"""

SETTINGS = {
    "loss.name": "softmax",
    "train.steps": 40,
    "train.warmup_steps": 4,
    "train.evaluate_every": 20,
}
COLLECTIONS = ("tldr-3k", "medquad-short-3k", "pydocs")
METHODS = {
    "all weights": {},
    "LoRA": {"encoder.adapter": "lora"},
    "head": {"encoder.adapter": "head"},
    "queries": {"train.side": "query"},
    "queries, head": {"train.side": "query", "encoder.adapter": "head"},
}
TUNED = {"train.learning_rate": (2.5e-5, 5e-5, 1e-4)}
OWN_TUNED = {
    method: {"train.learning_rate": (5e-4, 1e-3, 2e-3)}
    for method in ("LoRA", "head", "queries, head")
}
SEEDS = (0, 1, 2)
BASELINE = "all weights"
