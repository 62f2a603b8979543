"""Chooses the examples of each batch, from one file or a mixture of several."""

import math
from collections.abc import Sequence

import grain
import numpy as np

from selfdistill_jax.data.store import Examples

MIXES = ("examples", "batches")


def order_of_examples(
    examples: Examples, *, seed: int, batch_size: int, weights: Sequence[float], mix: str
) -> grain.MapDataset:
    """Returns the examples of each batch, a pure function of the seed and the step.

    Each file has its own epochs, each in a new order.

    Args:
      examples: training examples.
      seed: seed of the order.
      batch_size: examples of a batch.
      weights: relative share of each file's examples; NaN for its number of examples.
      mix: "examples" mixes the files within each batch; "batches" takes each batch from one file,
        so that all negatives of a batch are of one kind.

    Returns:
      A dataset whose element i is the ``[batch_size]`` int64 numbers of the examples of batch i.
    """
    if examples.source is None:
        return _shuffled(np.arange(len(examples)), seed).batch(batch_size)
    parts = [np.flatnonzero(examples.source == number) for number in range(len(weights))]
    used = [number for number, part in enumerate(parts) if len(part)]
    shares = [len(parts[n]) if math.isnan(weights[n]) else weights[n] for n in used]
    files = [_shuffled(parts[number], seed + number) for number in used]
    if mix == "batches":
        return grain.MapDataset.mix([file.batch(batch_size) for file in files], shares)
    return grain.MapDataset.mix(files, shares).batch(batch_size)


def mean_and_variance(
    values: np.ndarray, examples: Examples, *, weights: Sequence[float], mix: str
) -> tuple[float, float]:
    """Returns mean and variance of a value per example, over the examples of a batch.

    Args:
      values: ``[n]``, one for each example.
      examples, weights, mix: see `order_of_examples`. If each batch is from one file, the figures
        are those of the file with the largest mean.
    """
    if examples.source is None:
        return float(values.mean()), float(values.var())
    found = []
    for number, weight in enumerate(weights):
        of_file = values[examples.source == number]
        if len(of_file):
            share = len(of_file) if math.isnan(weight) else weight
            found.append((of_file.mean(), of_file.var(), share))
    if mix == "batches":
        mean, variance, _ = max(found)
        return float(mean), float(variance)
    means, variances, shares = np.array(found).T
    mean = np.average(means, weights=shares)
    variance = np.average(variances + (means - mean) ** 2, weights=shares)
    return float(mean), float(variance)


def _shuffled(numbers: np.ndarray, seed: int) -> grain.MapDataset:
    order = grain.MapDataset.range(len(numbers)).seed(seed).shuffle().repeat()
    return order.map(lambda i: numbers[i])
