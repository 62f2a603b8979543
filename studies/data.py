"""Number of examples, and self-distillation against a teacher.

13.5 % and 100 % of the training pairs of a collection of 3,000 documents, from all-MiniLM-L6-v2. In
"1 pass" each pair is seen about once; "as long" means that 13.5 % of the pairs are seen for as
many steps as all of them. The teacher of `margin_mse` and `kl` is all-mpnet-base-v2, whose scores
`studies/score_triplets.py` writes; all losses get the same negatives. The learning rate is tuned
for each method by dev.
"""

COLLECTIONS = ("tldr-3k",)
_LOSSES = ("softmax", "distributed", "margin_mse", "kl")
_PARTS = {
    "13.5 %, 1 pass": ("0.135", 16),
    "13.5 %, as long": ("0.135", 120),
    "100 %": ("1", 120),
}
METHODS = {
    f"{loss}, {part}": {
        "loss.name": loss,
        "data.triplets": f"teacher-{share}.jsonl",
        "train.steps": steps,
        "train.warmup_steps": steps // 10,
        "train.evaluate_every": -(-steps // 3),
    }
    for loss in _LOSSES
    for part, (share, steps) in _PARTS.items()
}
TUNED = {"train.learning_rate": (5e-5, 1e-4, 2e-4)}
SEEDS = (0, 1, 2)
BASELINE = "softmax, 100 %"
