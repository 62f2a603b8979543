"""Losses at equal steps.

Every loss gets the same batches: 40 steps of 64 examples from all-MiniLM-L6-v2, one random negative
for each query, and no document that is known to answer a query as its negative. The learning rate
is tuned for each loss and collection by dev.
"""

SETTINGS = {
    "train.steps": 40,
    "train.warmup_steps": 4,
    "train.evaluate_every": 20,
}
COLLECTIONS = ("tldr", "medquad-short", "pydocs", "debian-slice", "arxiv-titles-slice")
METHODS = {
    "softmax": {"loss.name": "softmax"},
    "distributed": {"loss.name": "distributed"},
    "adaptive": {"loss.name": "adaptive"},
    "adaptive, in batch": {"loss.name": "adaptive", "loss.in_batch": True},
    "static .2, in batch": {"loss.name": "static", "loss.in_batch": True},
    "triplet": {"loss.name": "triplet"},
    "pairwise logistic": {"loss.name": "pairwise_logistic"},
}
TUNED = {"train.learning_rate": (2e-5, 5e-5, 1e-4, 2e-4)}
SEEDS = (0, 1, 2)
BASELINE = "softmax"
