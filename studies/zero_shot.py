"""Quality on collections that an encoder was not trained on.

40 steps of 64 examples from all-MiniLM-L6-v2 at the default learning rate with random negatives.
"""

COLLECTIONS = ("tldr-3k", "pydocs", "medquad-short-3k", "debian-3k", "arxiv-titles-3k")
SETTINGS = {
    "train.steps": 40,
    "train.warmup_steps": 4,
    "train.evaluate_every": 20,
    "evaluation.retention": ",".join(COLLECTIONS),
    "evaluation.retention_documents": 0,
}
METHODS = {"softmax": {"loss.name": "softmax"}, "distributed": {"loss.name": "distributed"}}
SEEDS = (0, 1, 2)
BASELINE = "softmax"
