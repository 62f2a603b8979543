"""Explains the outcome of a run in words: what hindered training, and what to change.

Every sentence is derived from recorded numbers. The start encoder's view of the data is read from
the first step, whose metrics are computed before the first update.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfdistill_jax.report.finished_run import FinishedRun
from selfdistill_jax.retrieval.evaluation import MEASURES

# Shares and similarities from which a finding is worth a sentence.
_CONTRADICTIONS = 0.02  # given negatives that are positives of their query, per example
_LIKE_POSITIVES = 0.9  # mean s(q, n) as a share of mean s(q, p), and
_NEAR_POSITIVES = 0.7  # the same, both above the mean similarity to other queries' positives
_FEW_POSITIVES = 0.8  # different positives as a share of the batch
_CUT = 0.25  # share of tokens that training does not see
_ANSWERED = 0.9  # the start encoder's value on dev
_FALL = 0.05  # fall of dev at the first evaluation
_RISE = 0.005  # gain between the last two evaluations


def diagnose(run: FinishedRun) -> list[str]:
    """Returns sentences on a run's data and training, the most important ones first."""
    train = [record for record in run.records if record["kind"] == "train"]
    dev = [record for record in run.records if record["kind"] == "dev"]
    data: dict[str, Any] = next((r for r in run.records if r["kind"] == "data"), {})
    found = [*_examples(run.config, train, data), *_texts(run.config, data)]
    found += _training(run, dev, blame_rate=not _is_unrelated(run.config, train))
    forgetting = [finding for facts in run.retention for finding in _forgetting(facts)]
    return [*found, *_dev(run, dev), *forgetting]


def _first(records: Sequence[Mapping[str, Any]], key: str, default: float) -> float:
    """Returns a metric of the first step."""
    return records[0].get(key, default) if records else default


def _is_unrelated(config: Mapping[str, Any], train: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether queries are no closer to their positives than chance explains.

    The share of queries that are closer to their own positive than to the others is 0.5 by chance,
    with a standard error of 0.5 / √batch; the bound is two of them.
    """
    bound = 0.5 + 1 / config["train"]["batch_size"] ** 0.5
    return _first(train, "own_above_mean", 1.0) < bound


def _examples(
    config: Mapping[str, Any], train: Sequence[Mapping[str, Any]], data: Mapping[str, Any]
) -> list[str]:
    found = []
    unrelated = _is_unrelated(config, train)
    if unrelated:
        related = train[0]["own_above_mean"]
        found.append(
            "The positives look unrelated to their queries: to the start encoder, only "
            f"{related:.0%} of the queries are closer to their own positive than, on average, to "
            "those of other queries (50 % by chance). Are the pairs shuffled, or are the texts in "
            "a language that the encoder does not know?"
        )
    positive, negative, other = (
        _first(train, f"{kind}_mean", 0.0) for kind in ("positive", "negative", "other")
    )
    # To an encoder that was never trained for similarity all texts are alike, and then the ratio
    # of the means alone is near 1 for any negatives.
    near = negative - other > _NEAR_POSITIVES * (positive - other)
    count, examples = data.get("contradictions", 0), data.get("examples", 1)
    if count > _CONTRADICTIONS * examples:
        found.append(
            f"{count:,} negatives, in a file of {examples:,} examples, are known positives of "
            "their own query, or copies of one. They were left out, and others drawn "
            f"({config['data']['negatives']}). Does the file repeat the positive as the negative?"
        )
    if negative > _LIKE_POSITIVES * positive > 0 and near and not unrelated:
        source = {"mined": "Mined", "bm25": "BM25's"}.get(config["data"]["negatives"], "The")
        found.append(
            f"{source} negatives look like right answers: their mean similarity to "
            f"the query is {negative / positive:.2f} of the positives' ({negative:.3f} and "
            f"{positive:.3f}). With unjudged right answers among them, training teaches errors; "
            "try config.data.negatives=random, or a lower config.data.mined_ceiling."
        )
    distinct = _first(train, "distinct_positives", 1.0)
    size = config["train"]["batch_size"]
    if distinct < _FEW_POSITIVES:
        found.append(
            f"The first batch of {size} has only {distinct * size:.0f} different positives. "
            "Further examples of the same documents teach little, and so would a larger batch."
        )
    return found


def _texts(config: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    found = []
    for kind, plural in (("document", "documents"), ("query", "queries")):
        share = data.get(f"{kind}_tokens_cut", 0.0)
        if share > _CUT:
            length = config["data"][f"{kind}_length"]
            found.append(
                f"{share:.0%} of the {plural}' tokens are cut off in training, at "
                f"config.data.{kind}_length={length}; a higher value costs time and shows more."
            )
    return found


def _training(run: FinishedRun, dev: Sequence[Mapping[str, Any]], *, blame_rate: bool) -> list[str]:
    rate = run.config["train"]["learning_rate"]
    if run.diverged:
        return [
            f"Training diverged ({run.ended}). The learning rate, {rate:g}, is too high, or "
            f"config.train.clip_norm is 0; try config.train.learning_rate={rate / 10:g}."
        ]
    if len(dev) < 2:
        return []
    values = [record[MEASURES[0]] for record in dev]
    if values[1] < values[0] - _FALL and max(values[1:]) <= values[0] and blame_rate:
        return [
            f"Dev fell from {values[0]:.4f} to {values[1]:.4f} in the first {dev[1]['step']} "
            f"steps: the learning rate, {rate:g}, is probably too high; try "
            f"config.train.learning_rate={rate / 10:g}."
        ]
    if np.argmax(values) == len(values) - 1 and values[-1] > values[-2] + _RISE:
        return [
            f"Dev still rose at the end, from {values[-2]:.4f} to {values[-1]:.4f}: more steps may "
            "help (config.train.steps)."
        ]
    return []


def _dev(run: FinishedRun, dev: Sequence[Mapping[str, Any]]) -> list[str]:
    if not dev:
        return [
            "The collection has no dev split, so nothing shows whether training helped; add "
            "qrels/dev.tsv."
        ]
    found = []
    kept = run.best_step == 0 or run.choice.get("alpha") == 0
    start = run.choice["start"][MEASURES[0]] if run.choice else dev[0][MEASURES[0]]
    if kept and start > _ANSWERED:
        found.append(
            f"Dev did not move: the start encoder already answers its queries ({MEASURES[0]} "
            f"{start:.4f})."
        )
    errors = [row["standard_error"] for row in run.choice.get("candidates", ())]
    if errors and kept:
        least = max(errors) * run.choice["needed_errors"]
        found.append(
            f"Dev has {run.choice['queries']:,} queries, so gains below {least:.4f} cannot be told "
            "from luck. More dev queries would show smaller gains."
        )
    return found


def _forgetting(retention: Mapping[str, Any]) -> list[str]:
    if retention["test"]["ci_high"] >= 0:
        return []
    return [
        f"The encoder forgets: {MEASURES[0]} on {retention['collection']} fell by "
        f"{-retention['test']['mean_difference']:.4f}. A lower learning rate, fewer steps, or "
        "smaller values in config.evaluation.interpolation forget less."
    ]
