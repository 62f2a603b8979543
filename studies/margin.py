"""The margin: its constant, its error, and the encoder behind the targets.

Static margins over a grid against self-distilled ones; errors that also punish margins above the
target (l2) against those that do not (hinge2); targets from the trained encoder with and without
gradients, from its moving average, and from the start encoder. 40 steps of 64 examples from
all-MiniLM-L6-v2 with random negatives; every loss compares with the negatives of the whole batch.
"""

SETTINGS = {
    "train.steps": 40,
    "train.warmup_steps": 4,
    "train.evaluate_every": 20,
}
COLLECTIONS = ("tldr-3k", "medquad-short-3k", "pydocs")
_STATIC = {"loss.name": "static", "loss.in_batch": True}
_DISTRIBUTED = {"loss.name": "distributed"}
METHODS = {
    "distributed": _DISTRIBUTED,
    "distributed, hinge2": _DISTRIBUTED | {"loss.error": "hinge2"},
    "distributed, no gradient": _DISTRIBUTED | {"loss.stop_gradient": True},
    "distributed, moving average": _DISTRIBUTED | {"train.target": "ema"},
    "distributed, start encoder": _DISTRIBUTED | {"train.target": "start"},
    "static .2": _STATIC | {"loss.margin": 0.2},
    "static .4": _STATIC | {"loss.margin": 0.4},
    "static .6": _STATIC | {"loss.margin": 0.6},
    "static .8": _STATIC | {"loss.margin": 0.8},
    "static .6, hinge2": _STATIC | {"loss.margin": 0.6, "loss.error": "hinge2"},
    "softmax": {"loss.name": "softmax"},
}
TUNED = {"train.learning_rate": (5e-5, 1e-4)}
SEEDS = (0, 1, 2)
BASELINE = "distributed"
