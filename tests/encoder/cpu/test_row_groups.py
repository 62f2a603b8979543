"""Tests attention over a few rows at a time against attention over all rows at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.encoder.cpu import row_groups
from selfdistill_jax.encoder.cpu.attention import (
    LayerMask,
    TokenInfo,
    attend,
    attend_backward,
)
from selfdistill_jax.encoder.cpu.row_groups import by_rows, groups

HEADS, SIZE, LENGTH, ROWS = 2, 4, 8, 6
TOKENS = ROWS * LENGTH
RNG = np.random.default_rng(0)
# Each row has two texts, of 5 and 3 tokens.
BLOCK = TokenInfo(
    jnp.array([2 * row + (place >= 5) for row in range(ROWS) for place in range(LENGTH)]),
    jnp.array([*range(5), *range(3)] * ROWS),
    jnp.int32(0),
)
SEEDS = jnp.arange(TOKENS, dtype=jnp.uint32) * 77
BIAS = RNG.standard_normal((2 * LENGTH - 1, HEADS)).astype(np.float32)


def both_ways(qkv, g, **options):
    """Returns attention's results and its gradients."""
    options |= {"row_lengths": (LENGTH,)}
    out, log_sum = attend(qkv, BLOCK, heads=HEADS, **options)
    return out, log_sum, attend_backward(qkv, BLOCK, out, log_sum, g, **options)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias_OxH": BIAS},
        {"sight": LayerMask(window=jnp.int32(2))},
        {"sight": LayerMask(seeds=SEEDS), "drop": 0.3},
    ],
    ids=["plain", "bias", "window", "dropout"],
)
def test_a_few_rows_at_a_time_are_all_rows_at_once(monkeypatch, dtype, options):
    qkv = jnp.asarray(RNG.standard_normal((TOKENS, 3 * HEADS * SIZE)), dtype)
    g = jnp.asarray(RNG.standard_normal((TOKENS, HEADS * SIZE)), dtype)
    of_a_row = 4 * HEADS * LENGTH**2
    found = {}
    for count in (1, 2, ROWS):
        monkeypatch.setattr(row_groups, "_CACHED", of_a_row * ROWS // count)
        assert groups(ROWS, HEADS, LENGTH) == count
        compute = partial(both_ways, **options)
        text = str(jax.make_jaxpr(compute)(qkv, g))
        assert ("scan" in text) == (count > 1), "rows are gone through, or they are not"
        found[count] = jax.tree.map(np.asarray, jax.jit(compute)(qkv, g))
    # Sums over rows (of the bias) are taken in another order; nothing else differs.
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    for count in (2, ROWS):
        wide = jax.tree.map(lambda x: x.astype(np.float32), (found[count], found[1]))
        jax.tree.map(close, *wide)
        assert jax.tree.map(lambda x: x.dtype, found[count]) == jax.tree.map(
            lambda x: x.dtype, found[1]
        )


def test_sums_over_rows_are_of_all_rows():
    x = jnp.arange(48.0).reshape(12, 4, 1)  # 6 rows of 2 heads, 4 tokens

    def core(of_heads, of_tokens):
        return of_heads * 2, of_tokens.sum()

    doubled, total = by_rows(core, x, jnp.arange(24.0), heads=2)
    np.testing.assert_array_equal(doubled, x * 2)
    assert total == np.arange(24).sum()


@pytest.mark.parametrize("heads", [1, 12, 16])
@pytest.mark.parametrize(("count", "length"), [(1, 512), (2, 216), (3, 144), (6, 72), (7, 500)])
def test_groups_are_equal_and_as_large_as_the_cache_lets_them(count, heads, length):
    found = groups(count, heads, length)
    assert count % found == 0

    def fits(parts):
        return 4 * (count // parts) * heads * length**2 <= row_groups._CACHED

    assert fits(found) or found == count
    assert not any(count % fewer == 0 and fits(fewer) for fewer in range(1, found))
