"""What an evaluation within a run searches for, and in what."""

import numpy as np
import pytest

from selfdistill_jax.data.beir import BeirFolder
from selfdistill_jax.data.tables import open_collection
from selfdistill_jax.train.evaluation import evaluation_set


@pytest.fixture(scope="module")
def collection(tiny):
    return open_collection(BeirFolder(tiny.collection), tiny.root / "cache")


def test_all_documents_and_the_split_s_queries(collection):
    examined = evaluation_set(collection, "test")
    np.testing.assert_array_equal(examined.query_rows, np.arange(32, 40))
    np.testing.assert_array_equal(examined.document_rows, np.arange(40))
    assert examined.query_ids == [f"q{i}" for i in range(32, 40)]
    assert examined.document_ids == [f"c{i}" for i in range(40)]
    assert examined.qrels == {f"q{i}": {f"c{i}": 1} for i in range(32, 40)}


def test_a_part_of_the_documents(collection):
    def rows(limit, seed=0):
        examined = evaluation_set(collection, "dev", max_documents=limit, seed=seed)
        assert examined.document_ids == [f"c{r}" for r in examined.document_rows]
        return examined.document_rows.tolist()

    judged = list(range(24, 32))
    part = rows(20)
    assert len(part) == 20
    assert part == sorted(set(part))
    assert set(judged) < set(part)
    assert rows(20) == part
    assert rows(20, seed=1) != part
    # The judged ones are never left out, and there are no more than all.
    assert rows(3) == judged
    assert rows(41) == rows(0) == list(range(40))
