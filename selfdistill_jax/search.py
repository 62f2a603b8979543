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
from selfdistill_jax.progress import Progress, show_log
from selfdistill_jax.retrieval.search import search_blocks
from selfdistill_jax.retrieval.trec import run_from_rows, write_run

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
    options.refuse_pipe("corpus", _FLAGS.corpus)
    options.refuse_existing(out)
    io.try_output(out, "--run")
    queries, corpus = list(stream_texts(_FLAGS.queries)), _FLAGS.corpus
    ids = [row.id for row in stream_texts(corpus)]  # checks all rows before encoding
    model = BiEncoder.load(_FLAGS.model, adapter=_FLAGS.adapter or "")
    cut = {"dimensions": _FLAGS.dimensions}
    of_queries = model.encode_query([row.content for row in queries], progress="Queries", **cut)

    with Progress("Documents", len(ids), unit="texts") as bar:
        texts = (row.content for row in stream_texts(corpus))
        blocks = model.document_blocks(texts, progress=bar, **cut)
        found = search_blocks(of_queries, blocks, k=_FLAGS.k)
    run = run_from_rows([row.id for row in queries], ids, *found)
    out.parent.mkdir(parents=True, exist_ok=True)
    names = [Path(name).absolute().name for name in (_FLAGS.model, _FLAGS.adapter) if name]
    write_run(out, run, tag="_".join("+".join(names).split()))
    print(f"{len(queries):,} queries, {len(ids):,} documents: {out}")


if __name__ == "__main__":
    run_command(main, flag_values=_FLAGS)
