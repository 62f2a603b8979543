"""Evaluates an encoder and BM25 on collections in BEIR format.

    python -m selfdistill_jax.evaluate --model=runs/distributed/model --dataset=DIR[,DIR...] \\
        --output=DIR [--split=test] [--baseline=MODEL]

Prints one table per collection, and writes TREC runs, the values of every query and the tests into
OUTPUT/<collection>/. The encoder is tested against BM25, or, with --baseline, against another
encoder, which is evaluated too. The collection "pydocs" is built in. With --dimensions, vectors
are truncated before the search, which shows the loss in quality.

The values follow BEIR's rules: a document with the query's own id is left out of the results
(unless the split judges such a document relevant), and judged documents that the corpus lacks count
as not found. Unlike in BEIR, queries without a relevant document are left out of the mean.
"""

import numpy as np
from absl import flags

from selfdistill_jax import BiEncoder, io, locks
from selfdistill_jax.cli import options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.data.sources.registry import open_source
from selfdistill_jax.data.store import Collection, open_collection
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import Progress, show_log
from selfdistill_jax.retrieval.eval_set import (
    EvalSet,
    evaluate_bm25,
    evaluate_vectors,
    make_eval_set,
)
from selfdistill_jax.retrieval.evaluation import ScoredRun, write_results
from selfdistill_jax.retrieval.quantize import check_dimensions
from selfdistill_jax.retrieval.search import search_blocks
from selfdistill_jax.retrieval.text_table import results_table

_FLAGS = flags.FlagValues()
options.define_model(_FLAGS)
options.define_adapter(_FLAGS)
options.define_dimensions(_FLAGS)
flags.DEFINE_string(
    "dataset", None, "BEIR folders or pydocs, separated by commas.", flag_values=_FLAGS
)
options.define_path("output", "Folder for runs and values; one subfolder per collection.", _FLAGS)
flags.DEFINE_string("split", "test", "Split to evaluate: train, dev, test.", flag_values=_FLAGS)
flags.DEFINE_string(
    "baseline",
    None,
    "Another encoder to test --model against, instead of BM25.",
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    "k", 1000, "Documents to retrieve per query.", lower_bound=1, flag_values=_FLAGS
)


def main(argv: list[str]) -> None:
    show_log()
    options.refuse_rest(argv)
    options.required(_FLAGS, "model", "dataset", "output")
    collections = []
    for dataset in options.split_datasets(_FLAGS.dataset):  # checks all before hours of encoding
        collection = open_collection(open_source(dataset=dataset), cache_folder())
        if _FLAGS.split not in collection.splits:
            raise InputError(
                f"{dataset}: no split {_FLAGS.split!r}; its splits: {', '.join(collection.splits)}"
            )
        folder = _FLAGS.output / collection.name
        if (folder / f"results.{_FLAGS.split}.json").exists():
            raise InputError(f"{folder}: already contains results; give another --output")
        if folder in [other for _, other in collections]:
            raise InputError(
                f"{dataset}: another given dataset has the same name, and both would be written to "
                f"{folder}; evaluate this one separately, with another --output"
            )
        io.try_output(folder / f"results.{_FLAGS.split}.json", "--output")
        collections.append((collection, folder))
    models = {"model": BiEncoder.load(_FLAGS.model, adapter=_FLAGS.adapter or "")}
    if _FLAGS.baseline:
        models = {"baseline": BiEncoder.load(_FLAGS.baseline), **models}
    for model in models.values():
        check_dimensions(_FLAGS.dimensions, model.encoder.dimensions)
    cut = f", cut to {_FLAGS.dimensions} dimensions" if _FLAGS.dimensions else ""
    # Recorded to distinguish these results from others with the same names.
    facts = {
        name: {
            "dimensions": _FLAGS.dimensions or model.encoder.dimensions,
            "query_prompt": model.encoder.prompts.of("query"),
            "document_prompt": model.of("document").encoder.prompts.of("document"),
            "fingerprint": model.fingerprint,
        }
        for name, model in models.items()
    }
    for collection, folder in collections:
        baseline = "baseline" if _FLAGS.baseline else "bm25"
        with locks.locked_folder(folder, "--output", "give another --output"):
            systems = _evaluate(collection, models)
            results = write_results(
                folder, systems, baseline=baseline, split=_FLAGS.split, models=facts
            )
        print(
            f"{collection.name}, {_FLAGS.split}: {results['queries']:,} queries, "
            f"{len(collection.document_ids):,} documents{cut}\n"
        )
        values = {name: system.values for name, system in systems.items()}
        print(results_table(values, baseline=baseline), f"\n\nruns and values: {folder}\n")


def _evaluate(collection: Collection, models: dict[str, BiEncoder]) -> dict[str, ScoredRun]:
    eval_set = make_eval_set(collection, _FLAGS.split)
    systems = {"bm25": evaluate_bm25(eval_set, collection, k=_FLAGS.k)}
    for name, model in models.items():
        systems[name] = _evaluate_encoder(eval_set, collection, name, model)
    return systems


def _evaluate_encoder(
    eval_set: EvalSet, collection: Collection, name: str, model: BiEncoder
) -> ScoredRun:
    label, cut = f"{collection.name}, {name}", {"dimensions": _FLAGS.dimensions}
    queries = model.encode_query(
        list(collection.queries.take(eval_set.query_rows)),
        progress=f"{label}: query texts",
        **cut,
    )
    documents = eval_set.document_rows

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        with Progress(f"{label}: document texts", len(documents), unit="texts") as bar:
            texts = collection.documents.take(documents)
            blocks = model.document_blocks(texts, progress=bar, **cut)
            return search_blocks(queries, blocks, k=k)

    return evaluate_vectors(eval_set, queries, search, k=_FLAGS.k)


if __name__ == "__main__":
    run_command(main, flag_values=_FLAGS)
