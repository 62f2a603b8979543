"""Applies the paper's settings for MS MARCO passages, for each of its encoders and losses.

Sources: the authors' released code (docs/data.md lists where it differs from the paper's text).
"""

from configs import base

# Set-up -> start encoder, its pooling, and the constant margin of the static loss without
# in-batch negatives. With in-batch negatives, MPNet's is 0.6 and the others are the same.
SETUPS = {
    "msmarco": ("distilbert-base-uncased", "cls", 0.2),
    "msmarco-roberta": ("roberta-base", "pooler", 0.1),
    "msmarco-mpnet": ("microsoft/mpnet-base", "cls", 0.3),
}
FOLDER = "msmarco"  # of the official files, in the folder where the command runs


def get_config(loss: str = "distributed", setup: str = ""):
    """Returns the default settings of a loss, or those of one of the paper's set-ups.

    Args:
      loss: name of the loss.
      setup: a key of `SETUPS`; "" for the default settings.
    """
    config = base.get_config(loss)
    if not setup:
        return config
    if setup not in SETUPS:
        raise ValueError(f"no set-up {setup!r}; there are {', '.join(SETUPS)}")
    config.encoder.init, config.encoder.pooling, margin = SETUPS[setup]
    if loss == "static":
        config.loss.margin = margin
    if loss == "distributed":
        config.loss.over = "positives"
    config.data.dataset = FOLDER
    if loss == "margin_mse":  # Hofstätter et al.'s scores, https://zenodo.org/record/4068216
        scores = "bert_cat_ensemble_msmarcopassage_train_scores_ids.tsv"
        config.data.triplets = f"{FOLDER}/{scores}"
    else:
        config.data.triplets = f"{FOLDER}/qidpidtriples.train.full.2.tsv.gz"
        config.data.first_examples = 128
    config.data.query_length, config.data.document_length = 20, 200
    config.encoder.max_length = 200
    config.encoder.dropout = "source"
    config.train.steps = 20_000
    config.train.batch_size = 128
    config.train.learning_rate = 5e-7
    config.train.warmup_steps = 0
    config.train.decay = "exponential"
    config.train.weight_decay = 1e-6
    config.train.clip_norm = 0.0
    config.train.dtype = "bfloat16"
    config.train.checkpoint_every = config.train.evaluate_every = 500
    config.train.patience = 16
    config.evaluation.dev_documents = 100_000  # the 7,400 that dev judges are too easy alone
    config.evaluation.interpolation = ()  # the paper keeps the best step
    return config
