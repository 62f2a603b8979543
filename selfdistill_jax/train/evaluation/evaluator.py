"""Evaluates parameters during a run, on the devices of all its processes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.eval_set import (
    EvalSet,
    evaluate_bm25,
    evaluate_encoder,
    make_eval_set,
)
from selfdistill_jax.retrieval.evaluation import ScoredRun, write_results
from selfdistill_jax.train.data.tokenized_collection import TokenizedCollection
from selfdistill_jax.train.model import Model
from selfdistill_jax.train.monitoring.run_log import HINT_LOWER_LR
from selfdistill_jax.train.monitoring.throughput import RunStats
from selfdistill_jax.train.processes import on_first


class Evaluator:
    """Encodes eval sets with given parameters, searches, and scores.

    Args:
      model: the run's encoder.
      data: the run's data.
      depth: documents retrieved for each query.
      stats: records the seconds spent.

    Attributes:
      test_split: the split of the final evaluation: test, else dev, else empty.
    """

    def __init__(self, model: Model, data: TokenizedCollection, *, depth: int, stats: RunStats):
        self._model, self._data = model, data
        self._depth, self._stats = depth, stats
        splits = data.collection.splits
        self.test_split = next((split for split in ("test", "dev") if split in splits), "")

    def __call__(self, eval_set: EvalSet, params: Params, label: str) -> ScoredRun:
        """Evaluates one encoder.

        Raises:
          InputError: the encoder's vectors are not finite.
        """
        with self._stats.timed("evaluation"):
            local = self._model.encode_table.on_devices(params)
            return evaluate_encoder(
                eval_set,
                lambda tokens, what: self._encode_table(local, tokens, what),
                queries=self._data.queries,
                documents=self._data.documents,
                k=self._depth,
                label=label,
            )

    def write_test(self, folder: Path, read_best: Callable[[], Params], stop) -> bool:
        """Evaluates BM25, the start encoder and the best model, and writes the results.

        Args:
          folder: the folder for the results.
          read_best: returns the best model's parameters.
          stop: called before each encoder; True ends the evaluation.

        Returns:
          True when the evaluation is complete, False when it was stopped.
        """
        if not self.test_split:
            return True
        collection = self._data.collection
        eval_set = make_eval_set(collection, self.test_split)
        systems = {"bm25": evaluate_bm25(eval_set, collection, k=self._depth)}
        start = self._model.pretrained.params
        for name, read in (("start", lambda: start), ("trained", read_best)):
            if stop():
                LOG.info("Stopped during the final evaluation; the same command resumes it")
                return False
            systems[name] = self(eval_set, read(), f"Test, {name}")
        texts = list(collection.query_texts())
        rows = dict(zip(eval_set.query_ids, eval_set.query_rows, strict=True))
        queries = {id_: texts[row] for id_, row in rows.items()}
        write = partial(write_results, folder, systems, baseline="start", queries=queries)
        on_first(partial(write, split=self.test_split))
        return True

    def _encode_table(self, params: Params, tokens: TokenTable, label: str) -> np.ndarray:
        limit = self._model.pretrained.max_length
        vectors = self._model.encode_table(params, tokens, limit=limit, progress=label)
        if not np.isfinite(vectors).all():
            raise InputError(f"{label}: the encoder's vectors are not finite; {HINT_LOWER_LR}")
        return vectors
