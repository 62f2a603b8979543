"""Options of the contrastive loss.

Each option of `softmax` alone against its defaults, with random negatives and, for those that are
meant for hard or doubtful negatives, with mined ones. 40 steps of 64 examples from
all-MiniLM-L6-v2. The learning rate is tuned for each method and collection by dev.
"""

SETTINGS = {
    "loss.name": "softmax",
    "train.steps": 40,
    "train.warmup_steps": 4,
    "train.evaluate_every": 20,
}
COLLECTIONS = ("tldr-3k", "medquad-short-3k", "pydocs")
_MINED = {"data.negatives": "mined", "data.mined_ceiling": 0.0}
METHODS = {
    "defaults": {},
    "temperature .02": {"loss.temperature": 0.02},
    "temperature .1": {"loss.temperature": 0.1},
    "symmetric": {"loss.symmetric": True},
    "joint": {"loss.joint": True},
    "margin .1": {"loss.margin": 0.1},
    "document margin .1": {"loss.document_margin": 0.1},
    "hardness 2": {"loss.hardness": 2.0},
    "smoothing .1": {"loss.smoothing": 0.1},
    "privileged .3": {"loss.privileged": 0.3},
    "mined": _MINED,
    "mined, ceiling .95": {"data.negatives": "mined", "data.mined_ceiling": 0.95},
    "mined, mask above .9": _MINED | {"loss.mask_above": 0.9},
    "mined, guide 0": _MINED | {"loss.guide": 0.0},
    "mined, smoothing .1": _MINED | {"loss.smoothing": 0.1},
}
TUNED = {"train.learning_rate": (5e-5, 1e-4)}
SEEDS = (0, 1, 2)
BASELINE = "defaults"
