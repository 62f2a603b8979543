"""Batch sizes at equal numbers of examples.

2,560 examples in batches of 16, 64, 256 and 1,024, from all-MiniLM-L6-v2 with random negatives. The
learning rate is tuned for each method and collection by dev.
"""

COLLECTIONS = ("tldr-3k", "pydocs", "medquad-short-3k")
EXAMPLES = 2560
METHODS = {
    f"{loss}, {size}": {
        "loss.name": loss,
        "train.batch_size": size,
        "train.steps": -(-EXAMPLES // size),
        "train.warmup_steps": -(-EXAMPLES // size // 10),
        "train.evaluate_every": -(-EXAMPLES // size // 2),
    }
    for loss in ("softmax", "distributed")
    for size in (16, 64, 256, 1024)
}
TUNED = {"train.learning_rate": (2.5e-5, 5e-5, 1e-4, 2e-4)}
SEEDS = (0, 1, 2)
BASELINE = "softmax, 64"
