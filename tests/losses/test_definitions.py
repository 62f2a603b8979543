"""Tests values and gradients against the definitions, as loops over i and j in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax import losses
from tests.losses.reference import (
    CASES,
    IDS,
    bound,
    cosine,
    expected,
    from_teacher,
    triplets,
)
from tests.losses.together import every_teacher, float32, values, values_and_gradients

in_every_case = pytest.mark.parametrize(
    ("case", "name", "options"), [(i, *case) for i, case in enumerate(CASES)], ids=IDS
)


def test_every_loss_has_a_case():
    assert {name for name, _ in CASES} == losses.LOSSES.keys()


@functools.cache
def values_in_float32(size):
    """Returns each case's value, computed by one program."""
    return jax.jit(values(CASES))(*float32((triplets(size), None, every_teacher(size))))


@in_every_case
def test_value_in_float32(case, name, options):
    size = 64
    arrays, teacher = triplets(size), from_teacher(name, size)
    got = values_in_float32(size)[case]
    assert got.dtype == jnp.float32
    assert got.shape == ()
    # A softmax term in float32 is the difference of two numbers near 20.
    want = expected(name, arrays, options, **teacher)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=3e-6)


@functools.cache
def all_in_float64(size):
    """Returns each case's value and gradient, computed by one program."""
    with jax.enable_x64(True):
        every = jax.jit(values_and_gradients(CASES))
        return jax.device_get(every(triplets(size, dim=5), None, every_teacher(size)))


@in_every_case
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_value_and_gradient_in_float64(case, name, options, size):
    """Gradients match the loops' central differences, accurate to 1e-8, in random directions."""
    arrays, teacher = triplets(size, dim=5), from_teacher(name, size)
    value, gradient = all_in_float64(size)[case]
    assert value.dtype == np.float64
    # In a batch of one, softmax's value of 4e-9 is a difference of logits of up to 20, which
    # float64 rounds at 4e-15.
    want = expected(name, arrays, options, **teacher)
    np.testing.assert_allclose(value, want, rtol=1e-12, atol=1e-14)
    rng, h = np.random.default_rng(1), 1e-5
    for _ in range(3 if size < 64 else 1):
        direction = [rng.standard_normal(x.shape) for x in arrays]
        up, down = (
            expected(
                name,
                [x + sign * h * v for x, v in zip(arrays, direction, strict=True)],
                options,
                constant=arrays,
                **teacher,
            )
            for sign in (1, -1)
        )
        along = sum(float(np.sum(g * v)) for g, v in zip(gradient, direction, strict=True))
        size_of = np.sqrt(sum(float(np.sum(np.square(g))) for g in gradient))
        np.testing.assert_allclose(along, (up - down) / (2 * h), atol=1e-6 * size_of + 1e-9)


@functools.cache
def all_of_three_rows():
    """Returns each case's value and gradient in float32, computed by one program."""
    x, teachers = np.stack(triplets(3, dim=4)), every_teacher(3)
    return jax.jit(values_and_gradients(CASES))(*float32((x, None, teachers)))


@in_every_case
def test_gradient_of_every_coordinate(case, name, options):
    x, teacher = np.stack(triplets(3, dim=4)), from_teacher(name, 3)
    _, got = all_of_three_rows()[case]
    h = 1e-6
    want = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        both = []
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * h
            both.append(expected(name, moved, options, constant=x, **teacher))
        want[at] = (both[0] - both[1]) / (2 * h)
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("negatives", [1, 3])
def test_many_negatives(name, options, negatives):
    arrays = triplets(5, negatives=negatives)
    teacher = from_teacher(name, 5, negatives=negatives)
    got = bound(name, options)(*float32(arrays), **float32(teacher))
    want = expected(name, arrays, options, **teacher)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_no_negatives():
    arrays = triplets(5, negatives=0)
    got = bound("softmax")(*float32(arrays))
    np.testing.assert_allclose(got, expected("softmax", arrays, {}), rtol=1e-5, atol=1e-6)
    for name in losses.LOSSES.keys() - {"softmax"}:
        with pytest.raises(ValueError, match="this loss needs 1 or more"):
            bound(name)(*float32(arrays), **float32(from_teacher(name, 5, negatives=0)))


# Queries 0 and 2 share their positive; query 1's positives include query 3's two documents 4 and 8.
POSITIVE_IDS = np.array([[7, -1], [8, 4], [7, -1], [4, -1], [9, 6]])
NEGATIVE_IDS = np.array([[1, 2], [3, 5], [6, 2], [8, 1], [0, 7]])
COMPARED = [case for case in CASES if case[0] in ("softmax", "static", "adaptive", "distributed")]


@pytest.mark.parametrize(("name", "options"), COMPARED)
def test_what_answers_a_query_is_not_its_negative(name, options):
    arrays = triplets(5, negatives=2)
    ids = {"positive_ids": POSITIVE_IDS, "negative_ids": NEGATIVE_IDS}
    loss = bound(name, options)
    got = loss(*float32(arrays), **ids)
    np.testing.assert_allclose(got, expected(name, arrays, options, **ids), rtol=1e-5, atol=1e-6)
    compares = name in ("softmax", "distributed") or options.get("in_batch")
    assert (abs(got - loss(*float32(arrays))) > 1e-6) == bool(compares)
    # Ids that all differ do not change a single bit.
    other = {"positive_ids": np.arange(5), "negative_ids": 5 + np.arange(10).reshape(5, 2)}
    assert loss(*float32(arrays), **other) == loss(*float32(arrays))


def test_a_batch_in_which_every_negative_answers_a_query_has_no_loss():
    q, p, n = float32(triplets(2))
    ids = {"positive_ids": np.array([0, 1]), "negative_ids": np.array([1, 0])}
    for method in ("gather", "moments"):
        assert losses.distributed_margin(q, p, n, method=method, **ids) == 0


@pytest.mark.parametrize("name", ["distributed", "adaptive"])
@pytest.mark.parametrize("options", [{}, {"in_batch": True}, {"error": "l1", "in_batch": True}])
@pytest.mark.parametrize("method", ["gather", "moments"])
def test_target_from_another_encoder_is_a_constant(name, options, method):
    if name == "distributed":
        options = {key: value for key, value in options.items() if key != "in_batch"}
    if options.get("error") == "l1" and method == "moments":
        method = "auto"
    q, p, n = arrays = triplets(6)
    other = [np.random.default_rng(9).standard_normal((6, 7)) for _ in range(2)]
    other[1] += 0.3
    loss = bound(name, options | {"method": method})
    x = float32((q, p, n, *other))
    got, gradient = jax.device_get(jax.value_and_grad(lambda x: loss(*x[:3], target_from=x[3:]))(x))
    want = expected(name, arrays, options, target_from=other)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert not any(g.any() for g in gradient[3:])
    # The gradient also follows the definition with constant target vectors.
    h, direction = 1e-5, [np.random.default_rng(2).standard_normal(v.shape) for v in arrays]
    up, down = (
        expected(
            name,
            [a + sign * h * v for a, v in zip(arrays, direction, strict=True)],
            options,
            target_from=other,
        )
        for sign in (1, -1)
    )
    along = sum(float(np.sum(g * v)) for g, v in zip(gradient, direction, strict=False))
    np.testing.assert_allclose(along, (up - down) / (2 * h), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["distributed", "adaptive"])
@pytest.mark.parametrize("options", [{}, {"in_batch": True}])
@pytest.mark.parametrize("method", ["gather", "moments"])
def test_detached_target_is_that_of_a_frozen_copy(name, options, method):
    if name == "distributed":
        options = {}
    q, p, n = float32(triplets(4))
    loss = bound(name, options | {"method": method})
    gradient = jax.grad(lambda x, **how: loss(*x, **how))
    got = gradient((q, p, n), stop_gradient=True)
    for a, b in zip(got, gradient((q, p, n), target_from=(p, n)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    moved = gradient((q, p, n))
    assert max(np.abs(a - b).max() for a, b in zip(got, moved, strict=True)) > 1e-3


@functools.cache
def values_of_products():
    """Returns each case's value without normalising, computed by one program."""
    every = jax.jit(values(CASES, normalize=False))
    return every(*float32((triplets(4, dim=3), None, every_teacher(4))))


@in_every_case
def test_without_normalising_products_are_what_they_are(case, name, options):
    arrays, teacher = triplets(4, dim=3), from_teacher(name, 4)
    got = values_of_products()[case]
    want = expected(name, arrays, options, **teacher, similarity=lambda a, b: float(a @ b))
    np.testing.assert_allclose(got, want, rtol=1e-4)


@in_every_case
def test_bfloat16_is_computed_in_float32(case, name, options):
    arrays, teacher = triplets(7), from_teacher(name, 7)
    low = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), arrays)
    got = bound(name, options)(*low, **float32(teacher))
    assert got.dtype == jnp.float32
    again = bound(name, options)(*float32(low), **float32(teacher))
    np.testing.assert_array_equal(got, again)


def test_summaries_are_what_they_say():
    q, p, n = triplets(9)
    where = np.arange(9) % 4 != 1
    q[1] = np.nan  # a masked row may hold anything
    found = losses.summaries(*float32((q, p, n)), where=jnp.asarray(where))
    rows = np.flatnonzero(where)
    margins = np.array([cosine(q[i], p[i]) - cosine(q[i], n[i]) for i in rows])
    targets = np.array([(1 + cosine(p[i], n[i])) / 2 for i in rows])
    documents = [d[i] for d in (p, n) for i in rows]
    pairs = [cosine(a, b) for k, a in enumerate(documents) for b in documents[:k]]
    want = {"past_target": np.mean(margins >= targets), "document_cosine": np.mean(pairs)}
    want["positive_mean"] = np.mean([cosine(q[i], p[i]) for i in rows])
    want["negative_mean"] = np.mean([cosine(q[i], n[i]) for i in rows])
    others = [np.mean([cosine(q[i], p[j]) for j in rows if j != i]) for i in rows]
    own = [cosine(q[i], p[i]) for i in rows]
    want["other_mean"] = np.mean(others)
    want["own_above_mean"] = np.mean(np.array(own) > others)
    for name, numbers in (("margin", margins), ("target", targets)):
        want |= {f"{name}_mean": numbers.mean(), f"{name}_std": numbers.std()}
        want[f"{name}_quantiles"] = np.quantile(numbers, losses.QUANTILES)
    assert found.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_allclose(found[key], value, atol=1e-6, err_msg=key)


def test_summaries_of_another_encoders_target():
    q, p, n = triplets(5)
    other = triplets(5, seed=3)[:2]
    found = losses.summaries(*float32((q, p, n)), target_from=float32(other))
    want = np.mean([(1 + cosine(a, b)) / 2 for a, b in zip(*other, strict=True)])
    np.testing.assert_allclose(found["target_mean"], want, atol=1e-6)
    own = losses.summaries(*float32((q, p, n)))
    np.testing.assert_array_equal(found["document_cosine"], own["document_cosine"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: losses.adaptive_margin(x, x, x[:1]), "the same shape"),
        (lambda x: losses.adaptive_margin(x, x, x[:, None, :-1]), "the same shape"),
        (lambda x: losses.adaptive_margin(x, x, x[:, None][:, :0]), "this loss needs 1 or more"),
        (lambda x: losses.adaptive_margin(x, x, x, error="l3"), "error is 'l3'"),
        (lambda x: losses.static_margin(x, x, x, margin=0, broadcast="b"), "broadcast is 'b'"),
        (lambda x: losses.distributed_margin(x, x, x, over="all"), "over is 'all'"),
        (lambda x: losses.distributed_margin(x, x, x, method="m"), "method is 'm'"),
        (lambda x: losses.distributed_margin(x, x, x, error="l1", method="moments"), "closed form"),
        (lambda x: losses.distributed_margin(x, x, x, target_from=(x, x[:1])), "target_from must"),
        (lambda x: losses.softmax(x, x, x, where=jnp.ones(1, bool)), "where must have shape"),
        (lambda x: losses.softmax(x, x, jnp.ones((2, 1, 5))), "negatives, dimensions"),
        (lambda x: losses.margin_mse(x, x, x, teacher_margin=x), "teacher_margin must have shape"),
        (lambda x: losses.softmax(x, x, x, temperature=0), "temperature is 0; expected"),
        (lambda x: losses.pairwise_logistic(x, x, x, temperature=-1.0), "temperature is -1.0"),
        (lambda x: losses.kl(x, x, x, teacher_scores=x, temperature=0.0), "temperature is 0.0"),
        (lambda x: losses.softmax(x[:0], x[:0], x[:0]), "no rows"),
        (lambda x: losses.kl(x, x, x, teacher_scores=jnp.ones((2, 3))), "teacher_scores must"),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.ones((2, 4)))
