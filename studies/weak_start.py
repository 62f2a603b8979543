"""Losses from a weak start.

The start encoder has the first three layers of all-MiniLM-L6-v2, without further training
(`python -m studies.cut_encoder sentence-transformers/all-MiniLM-L6-v2 data/minilm-3 --layers=3`).
The cut encoder ranks poorly, like the masked language model at the start of the paper's runs. 100
steps of 64 examples with random negatives; the learning rate is tuned for each loss and collection
by dev.
"""

SETTINGS = {
    "encoder.init": "minilm-3",
    "train.steps": 100,
    "train.warmup_steps": 10,
    "train.evaluate_every": 25,
}
COLLECTIONS = ("tldr-3k", "medquad-short-3k", "pydocs")
METHODS = {
    "softmax": {"loss.name": "softmax"},
    "distributed": {"loss.name": "distributed"},
    "adaptive": {"loss.name": "adaptive"},
    "adaptive, in batch": {"loss.name": "adaptive", "loss.in_batch": True},
    "static .6, in batch": {"loss.name": "static", "loss.in_batch": True, "loss.margin": 0.6},
}
TUNED = {"train.learning_rate": (1e-4, 2e-4, 4e-4)}
SEEDS = (0, 1, 2)
BASELINE = "softmax"
