"""Compares TREC runs by the mean of each measure, and by paired tests against the first run.

    python -m selfdistill_jax.compare --qrels=test.tsv a.trec b.trec ...

The qrels are in TREC's format (query-id 0 document-id relevance) or BEIR's (query-id, corpus-id and
score, separated by tabs). Files may end in .gz. Every query with a relevant document counts; a run
without results for it scores 0. As in evaluate, a document with the query's own id is left out,
unless the qrels judge such a document relevant. The p values are two-sided and not corrected for
the number of runs.
"""

from collections import Counter
from pathlib import Path

from absl import flags

from selfdistill_jax.cli import options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand
from selfdistill_jax.retrieval.metrics import evaluate
from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.retrieval.text_table import format_table, results_table
from selfdistill_jax.retrieval.trec import count_own_relevant, read_qrels, read_run, without_own

_FLAGS = flags.FlagValues()
options.define_path("qrels", "File of relevance judgements.", _FLAGS)
_MEASURES = flags.DEFINE_list(
    "measures",
    "nDCG@10,MRR@10,Recall@100",
    "Measures to compute, separated by commas: nDCG@k, MRR@k, Recall@k, P@k, MAP@k.",
    flag_values=_FLAGS,
)
_MARKDOWN = flags.DEFINE_bool("markdown", False, "Print Markdown tables.", flag_values=_FLAGS)


def main(argv: list[str]) -> None:
    paths = [str(expand(path)) for path in argv[1:]]
    if not _FLAGS.qrels:
        raise InputError("--qrels is missing; give the file of relevance judgements")
    if not _MEASURES.value:
        raise InputError("--measures is empty; give one or more, such as nDCG@10")
    if not paths:
        raise InputError("no runs given; name at least one TREC run file after the flags")
    qrels = read_qrels(_FLAGS.qrels)
    systems = {}
    for name, path in _names(paths).items():
        run = read_run(path)
        own = sum(query in found for query, found in run.items())
        if own and not count_own_relevant(qrels):
            run = without_own(run)
            print(
                f"{name}: {own:,} of {len(run):,} queries found the document with their own id; "
                "these results are left out, as in BEIR."
            )
        systems[name] = evaluate(qrels, run, _MEASURES.value)
        judged = next(iter(systems[name].values())).keys()
        missing = len(judged - run.keys())
        if missing == len(judged):
            raise InputError(
                f"{path}: none of its queries has a relevant document in {_FLAGS.qrels}; "
                "expected a run of the same queries, with the same ids"
            )
        if missing:
            print(f"{name} has no results for {missing} of {len(judged)} queries, which score 0.")
    first, *others = systems
    print(f"{len(judged)} of {len(qrels)} judged queries have a relevant document and count.\n")
    print(results_table(systems, baseline=first if others else None, markdown=_MARKDOWN.value))
    if others:
        print(f"\nDifference of each run to {first}, query by query:\n")
        print(_tests_table(systems, first, others, markdown=_MARKDOWN.value))


def _names(paths: list[str]) -> dict[str, str]:
    """Returns the path of each run by a short name: its file name, or its path if names clash."""
    short = {path: Path(path).name.removesuffix(".gz").removesuffix(".trec") for path in paths}
    if len(short) < len(paths):
        twice = next(path for path, count in Counter(paths).items() if count > 1)
        raise InputError(f"{twice}: given twice; name each run once")
    counts = Counter(short.values())
    return {name if counts[name] == 1 else path: path for path, name in short.items()}


def _tests_table(systems, first: str, others: list[str], *, markdown: bool) -> str:
    columns = ["run", "measure", "diff", "95% interval", "p (flips)", "p (t)", "+", "-", "="]
    rows = []
    for name in others:
        for measure, values in systems[name].items():
            t = paired_test(systems[first][measure], values)
            interval = f"[{t.ci_low:+.4f}, {t.ci_high:+.4f}]"
            p = t.p_randomization, t.p_t
            rows.append([name, measure, f"{t.mean_difference:+.4f}", interval, *p])
            rows[-1] += [t.wins, t.losses, t.ties]
    return format_table(rows, columns, markdown=markdown)


if __name__ == "__main__":
    run_command(main, flag_values=_FLAGS)
