"""Searches a corpus exactly and writes the results as a TREC run.

    python -m selfdistill_jax.search --model=runs/distributed/model --corpus=corpus.jsonl \\
        --queries=queries.jsonl --k=1000 --run=out.trec

Corpus and queries are JSONL files as in BEIR: objects with "_id", "text" and optionally "title".
"""

from pathlib import Path

from absl import flags

from selfdistill_jax import BiEncoder, io
from selfdistill_jax.cli import options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.encode import stream_texts
from selfdistill_jax.progress import show_log
from selfdistill_jax.retrieval.evaluation import dense_run
from selfdistill_jax.retrieval.trec import write_run

_FLAGS = flags.FlagValues()
options.define_model(_FLAGS)
options.define_adapter(_FLAGS)
options.define_dimensions(_FLAGS)
options.define_path("corpus", "JSONL file of documents.", _FLAGS)
options.define_path("queries", "JSONL file of queries.", _FLAGS)
options.define_path("run", "TREC run file to write.", _FLAGS)
flags.DEFINE_integer(
    "k", 1000, "Documents to retrieve per query.", lower_bound=1, flag_values=_FLAGS
)


def main(argv: list[str]) -> None:
    show_log()
    options.refuse_rest(argv)
    options.required(_FLAGS, "model", "corpus", "queries", "run")
    out = _FLAGS.run
    options.refuse_existing(out)
    io.try_output(out, "--run")
    documents, queries = (list(stream_texts(path)) for path in (_FLAGS.corpus, _FLAGS.queries))
    model = BiEncoder.load(_FLAGS.model, adapter=_FLAGS.adapter or "")
    cut = {"dimensions": _FLAGS.dimensions}
    run = dense_run(
        model.encode_query([row.content for row in queries], progress="Queries", **cut),
        model.encode_document([row.content for row in documents], progress="Documents", **cut),
        query_ids=[row.id for row in queries],
        document_ids=[row.id for row in documents],
        k=_FLAGS.k,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    names = [Path(name).absolute().name for name in (_FLAGS.model, _FLAGS.adapter) if name]
    write_run(out, run, tag="_".join("+".join(names).split()))
    print(f"{len(queries):,} queries, {len(documents):,} documents: {out}")


if __name__ == "__main__":
    run_command(main, flag_values=_FLAGS)
