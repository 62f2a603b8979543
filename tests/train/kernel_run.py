"""Trains a tiny run on one device, with row lengths for accelerators.

    python -m tests.train.kernel_run ATTENTION ENCODER DATASET WORKDIR

The interpreter of Pallas kernels does not support `jax.shard_map` with its check of which values
vary over devices. Without the check gradients are right on one device only.
"""

import functools
import os
import sys
from pathlib import Path

os.environ["JAX_NUM_CPU_DEVICES"] = "1"

import jax

from configs import base
from selfdistill_jax.fit import train_and_report
from selfdistill_jax.retrieval import encode_corpus
from selfdistill_jax.train import job
from selfdistill_jax.train.data import dataset

if __name__ == "__main__":
    attention, encoder, collection, workdir = sys.argv[1:]
    jax.shard_map = functools.partial(jax.shard_map, check_vma=False)
    for module in (encode_corpus, dataset):
        module.on_accelerator = lambda: True
    job.check_attention = lambda *_, **__: None  # it would refuse the kernel on a CPU
    config = base.get_config("distributed")
    config.data.update({"dataset": collection, "cache": f"{workdir}.cache"})
    config.data.update({"query_length": 8, "document_length": 12})
    config.encoder.update({"init": encoder, "backend": "plain", "max_length": 14})
    config.train.update({"steps": 10, "batch_size": 8, "warmup_steps": 1, "evaluate_every": 5})
    config.train.update({"attention": attention, "dtype": "float32", "learning_rate": 1e-3})
    config.evaluation.retention = ""
    train_and_report(config, Path(workdir))
