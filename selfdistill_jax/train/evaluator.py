"""Evaluates parameters within a run, with the devices of all its processes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import Encode, Params
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.encode_corpus import local_mesh, on_mesh
from selfdistill_jax.retrieval.eval_set import (
    EvalSet,
    encode_over_processes,
    evaluate_bm25,
    evaluate_encoder,
    make_eval_set,
)
from selfdistill_jax.retrieval.evaluation import ScoredRun, write_results
from selfdistill_jax.train.dataset import Data
from selfdistill_jax.train.processes import is_first, on_first
from selfdistill_jax.train.run_log import HINT_LOWER_LR
from selfdistill_jax.train.throughput import RunStats


class Evaluator:
    """Encodes eval sets with given parameters, searches, and scores.

    Args:
      encode: the encoder without dropout.
      encoder: the start encoder, for its limits.
      data: of the run.
      depth: documents retrieved for each query.
      stats: seconds are noted there.

    Attributes:
      test_split: the split of the final evaluation: test, else dev, else empty.
    """

    def __init__(
        self, encode: Encode, encoder: Pretrained, data: Data, *, depth: int, stats: RunStats
    ):
        self._mesh = local_mesh()
        self._encode = on_mesh(encode, self._mesh)
        self._encoder, self._data = encoder, data
        self._depth, self._stats = depth, stats
        splits = data.collection.splits
        self.test_split = next((split for split in ("test", "dev") if split in splits), "")

    def __call__(self, eval_set: EvalSet, params: Params, label: str) -> ScoredRun:
        """Evaluates one encoder.

        Raises:
          InputError: its vectors are not finite.
        """
        with self._stats.timed("evaluation"):
            local = jax.device_put(params, jax.NamedSharding(self._mesh, jax.P()))
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
          folder: for the results.
          read_best: gives the best model's parameters.
          stop: asked before each encoder; True ends the evaluation.

        Returns:
          True when the evaluation is complete, False when it was stopped.
        """
        if not self.test_split:
            return True
        collection = self._data.collection
        eval_set = make_eval_set(collection, self.test_split)
        systems = {"bm25": evaluate_bm25(eval_set, collection, k=self._depth)}
        for name, read in (("start", lambda: self._encoder.params), ("trained", read_best)):
            if stop():
                LOG.info("Stopped before the end of the evaluation; the same command resumes it")
                return False
            systems[name] = self(eval_set, read(), f"Test, {name}")
        texts = list(collection.query_texts())
        rows = dict(zip(eval_set.query_ids, eval_set.query_rows, strict=True))
        queries = {id_: texts[row] for id_, row in rows.items()}
        write = partial(write_results, folder, systems, baseline="start", queries=queries)
        on_first(partial(write, split=self.test_split))
        return True

    def _encode_table(self, params: Params, tokens: TokenTable, label: str) -> np.ndarray:
        vectors = encode_over_processes(
            self._encode,
            params,
            tokens,
            limit=self._encoder.max_length,
            dimensions=self._encoder.dimensions,
            mesh=self._mesh,
            progress=label if is_first() else "",
        )
        if not np.isfinite(vectors).all():
            raise InputError(f"{label}: vectors that are not finite; {HINT_LOWER_LR}")
        return vectors
