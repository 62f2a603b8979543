"""Prepares the data of a run in advance, and summarizes it.

    python -m selfdistill_jax.prepare --config=configs/distributed.py [--config.data.dataset=DIR]

Takes the settings of selfdistill_jax.main, checks them, and writes tables, tokens, hard negatives
and, with config.train.side=query, vectors of documents to the cache, where the run finds them. It
neither trains nor touches a run's folder.

With --output=mined.jsonl it also writes the training examples with all their candidate negatives
(config.data.candidates of them, with config.data.negatives=mined or bm25), and their
scores by the start encoder or by --teacher. --config.data.triplets=mined.jsonl trains on the file.

    python -m selfdistill_jax.prepare --documents=FOLDER --output=COLLECTION

makes a collection from documents without labels (Markdown, reStructuredText, HTML, text, JSONL):
headings, texts of links and first sentences become queries for the passages that they belong to.
Whole documents are held out for dev and test. --config.data.dataset=COLLECTION trains on it.
"""

import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.cli import config_flag, options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.data.batches import TrainingBatches
from selfdistill_jax.data.documents.write import write_collection
from selfdistill_jax.data.sources.external_triplets import TripletsOver
from selfdistill_jax.data.sources.triplet_file import TripletFile
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import try_output
from selfdistill_jax.progress import show_log
from selfdistill_jax.retrieval.bi_encoder import BiEncoder
from selfdistill_jax.retrieval.text_table import format_table
from selfdistill_jax.train.data.dataset import load_data
from selfdistill_jax.train.data.mined_examples import write_mined
from selfdistill_jax.train.data.tokenized_collection import TokenizedCollection
from selfdistill_jax.train.job import Job, make_job, split_devices

_LOOKED_AT = 10  # batches, from which tokens and padding are estimated


def main(argv: list[str]) -> None:
    options.refuse_rest(argv)
    show_log()
    config, output, teacher = flags.FLAGS.config, flags.FLAGS.output, flags.FLAGS.teacher
    if flags.FLAGS.documents:
        if config or teacher or not output:
            raise InputError(
                "--documents takes only --output, the folder of the new collection; train on it "
                "with --config and --config.data.dataset"
            )
        print(write_collection(flags.FLAGS.documents, output))
        return
    if teacher and not output:
        raise InputError("--teacher needs --output, the file for its scores")
    if output:
        if output.suffix != ".jsonl":
            raise InputError(f"--output={output}: expected a file that ends in .jsonl")
        try_output(output, "--output")
    split_devices(config)
    print(prepare(make_job(config), output=output, teacher=teacher))


def prepare(job: Job, *, output: Path | None = None, teacher: str = "") -> str:
    """Builds or opens the tables, tokens, negatives and fixed vectors that a run reads.

    Args:
      job: job from `make_job`.
      output: file for the training examples with their candidates and scores; None for none.
      teacher: folder or hub id of the encoder that scores; empty for the start encoder.

    Returns:
      A text summary of the run's training data.

    Raises:
      InputError: a setting or the data is wrong.
    """
    model = job.load_model()
    data, batches, _ = load_data(job.data, model)
    texts = _texts(job, data, model.pretrained)
    parts = [_summary(job, data), texts, _batches(job, batches, len(data.examples))]
    if output:
        began = time.monotonic()
        scorer = BiEncoder.load(teacher) if teacher else BiEncoder(model.pretrained)
        ids = not isinstance(job.data.source, TripletFile | TripletsOver)
        count = write_mined(
            output, data, batches.candidates, scorer,
            count=job.data.negatives_per_query, seed=job.data.seed, ids=ids,
        )  # fmt: skip
        parts.append(
            f"{output}: {len(data.examples):,} examples with {count:,} negatives, scored by "
            f"{teacher or model.name} in {time.monotonic() - began:.0f} s"
        )
    return "\n\n".join(parts)


def _summary(job: Job, data: TokenizedCollection) -> str:
    collection, count = data.collection, job.data.negatives_per_query
    own = np.minimum((data.examples.negatives >= 0).sum(axis=1), count)
    judged = {
        split: len({judgement.query for judgement in collection.judgements(split)})
        for split in collection.splits
    }
    lines = (
        f"{collection.name}: {len(own):,} training examples with {count} "
        f"negative{'s' * (count != 1)} each: {own.sum():,} given with the data, "
        f"{count * len(own) - own.sum():,} drawn ({job.data.negatives})",
        f"judged queries: {', '.join(f'{s} {n:,}' for s, n in judged.items()) or 'none'}",
        f"cache folder: {job.data.cache}",
    )
    return "\n".join(lines)


def _texts(job: Job, data: TokenizedCollection, encoder: Pretrained) -> str:
    rows = []
    for name, table, used, limit in (
        ("queries", data.queries, np.unique(data.examples.query), job.data.query_length),
        (
            "documents",
            data.documents,
            np.array(data.collection.training_pool),
            encoder.max_length if job.data.frozen_documents else job.data.document_length,
        ),
    ):
        tokens = table.lengths(np.iinfo(np.int32).max)[used]
        spread = f"{tokens.mean():.0f}", f"{np.quantile(tokens, 0.95):.0f}", int(tokens.max())
        rows.append([name, f"{len(used):,}", *spread, limit, f"{(tokens > limit).mean():.1%}"])
    columns = ("in training", "texts", "mean tokens", "95 %", "longest", "limit", "truncated")
    return format_table(rows, columns)


def _batches(job: Job, made: TrainingBatches, examples: int) -> str:
    batches = [made[step] for step in range(min(_LOOKED_AT, job.loop.steps))]
    useful = sum(batch.useful_tokens for batch in batches)
    padding = 1 - useful / sum(batch.computed_tokens for batch in batches)
    size, devices = job.data.batch_size, jax.device_count()
    epochs = job.loop.steps * size / examples
    return (
        f"{job.loop.steps:,} steps of {size:,} triplets, {epochs:.2f} epochs; a batch has "
        f"{useful / len(batches):,.0f} tokens and {padding:.1%} padding, on {devices} "
        f"{jax.default_backend()} device{'s' * (devices > 1)}"
    )


def _parse(argv: list[str]) -> list[str]:
    if any(argument.lstrip("-").partition("=")[0] == "documents" for argument in argv[1:]):
        return flags.FLAGS(argv)  # needs no --config
    return config_flag.parse(argv)


if __name__ == "__main__":
    config_flag.define()
    options.define_path("documents", "Folder of documents to make a collection of; or one file.")
    options.define_path(
        "output", "File for the examples with their scores; with --documents: folder to make."
    )
    flags.DEFINE_string(
        "teacher", "", "Bi-encoder that scores --output: folder or hub id; else the start encoder."
    )
    run_command(main, parse=_parse)
