"""Learning rate and number of steps.

The contrastive loss at five learning rates in runs of 10, 30 and 100 steps of 64 examples from
all-MiniLM-L6-v2, with a warm-up of a tenth of the steps and a cosine decay. `choose` tries recipes
in short runs, so it needs to know how the best rate changes with the number of steps.
"""

SETTINGS = {
    "loss.name": "softmax",
}
COLLECTIONS = ("tldr-3k", "pydocs")
METHODS = {
    f"{steps} steps": {
        "train.steps": steps,
        "train.warmup_steps": steps // 10,
        "train.evaluate_every": steps,
    }
    for steps in (10, 30, 100)
}
TUNED = {"train.learning_rate": (2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4)}
SEEDS = (0, 1, 2)
BASELINE = "30 steps"
