"""Sources of negatives, for two losses.

The negative of each example is a random document, one of the top 20 of BM25, or one of the top 20
of the start encoder. 40 steps of 64 examples from all-MiniLM-L6-v2. Collections that end in "-3k"
are slices of 3,000 documents (`studies/make_slice.py --documents=3000 --dev=250 --test=500`). The
learning rate is tuned for each method and collection by dev.
"""

SETTINGS = {
    "train.steps": 40,
    "train.warmup_steps": 4,
    "train.evaluate_every": 20,
}
COLLECTIONS = ("tldr-3k", "pydocs", "medquad-short-3k", "debian-3k", "arxiv-titles-3k")
METHODS = {
    f"{loss}, {negatives}": {"loss.name": loss, "data.negatives": negatives}
    for loss in ("softmax", "distributed")
    for negatives in ("random", "bm25", "mined")
}
TUNED = {"train.learning_rate": (5e-5, 1e-4)}
SEEDS = (0, 1, 2)
BASELINE = "softmax, random"
