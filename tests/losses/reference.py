"""Definitions of all losses in float64, written as loops over entries, and the cases to test."""

import inspect
import math
from functools import partial

import numpy as np

from selfdistill_jax import losses

ERRORS = {
    "l2": lambda x: x * x,
    "l1": abs,
    "soft": lambda x: math.log1p(math.exp(-x)),
    "hinge": lambda x: max(0.0, -x),
    "hinge2": lambda x: max(0.0, -x) ** 2,
}
NEEDED = {"static": {"margin": 0.2}}  # options that have no default


def cosine(a, b):
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / lengths if lengths else 0.0


def reference(
    name,
    q,
    p,
    n,
    *,
    error="l2",
    over="negatives",
    in_batch=False,
    broadcast="triplet",
    margin=None,
    temperature=None,
    symmetric=False,
    joint=False,
    scale=None,
    document_margin=0.0,
    hardness=0.0,
    smoothing=0.0,
    privileged=0.0,
    document_temperature=0.05,
    mask_above=1.0,
    guide=2.0,
    stop_gradient=False,
    constant=None,
    target_from=None,
    positive_ids=None,
    negative_ids=None,
    teacher_margin=None,
    teacher_scores=None,
    method="auto",
    similarity=cosine,
):
    """Computes a loss by its definition, from the loss's arrays and the options of all losses.

    ``constant`` holds the arrays for terms that have no gradient, by default the same arrays.
    """
    q_fixed, p_fixed, n_fixed = (q, p, n) if constant is None else constant
    n_fixed = n_fixed if n_fixed.ndim == 3 else n_fixed[:, None, :]
    del method, stop_gradient  # these do not change the value
    size, rho = len(q), ERRORS[error]
    many = n if n.ndim == 3 else n[:, None, :]
    p_target, n_target = (p, n) if target_from is None else target_from
    n_target = n_target if n_target.ndim == 3 else n_target[:, None, :]
    count = many.shape[1]
    answers = [{*ids} - {-1} for ids in ([()] * size if positive_ids is None else positive_ids)]
    every = set().union(*answers)
    # The batch's negatives, without those that answer one of its queries.
    among = [
        (j, k)
        for j in range(size)
        for k in range(count)
        if negative_ids is None or negative_ids[j][k] not in every
    ]
    terms = []
    for i in range(size):
        own = [similarity(q[i], d) for d in (p[i], *many[i])]
        if name in ("static", "adaptive", "distributed"):
            across = in_batch or name == "distributed"
            for j, k in among if across else [(i, k) for k in range(count)]:
                target = (1 + similarity(p_target[i], n_target[j][k])) / 2
                if name == "distributed" and over == "negatives":
                    terms += [rho(own[0] - s - target) for s in own[1:]]
                elif name == "distributed":
                    margin_jk = similarity(q[j], p[j]) - similarity(q[j], many[j][k])
                    terms.append(rho(margin_jk - target))
                else:
                    c = i if broadcast == "triplet" else j
                    target = margin if name == "static" else target
                    margin_ix = similarity(q[c], p[c]) - similarity(q[i], many[j][k])
                    terms.append(rho(margin_ix - target))
        elif name == "softmax":
            t = 0.05 if temperature is None else temperature
            documents = [(j, k) for j in range(size) for k in range(-1, count)]
            if positive_ids is not None:
                ids = [
                    (row[0], *more) for row, more in zip(positive_ids, negative_ids, strict=True)
                ]
                documents = [
                    (j, k)
                    for j, k in documents
                    if (j, k) == (i, -1) or ids[j][1 + k] not in answers[i]
                ]
            others = []  # similarity to the query, to the positive, to the constant query
            own_fixed = similarity(q_fixed[i], p_fixed[i])
            for j, k in documents:
                if (j, k) == (i, -1):
                    continue
                s = similarity(q[i], p[j] if k < 0 else many[j][k])
                d = similarity(p_target[i], p_target[j] if k < 0 else n_target[j][k])
                fixed = similarity(q_fixed[i], p_fixed[j] if k < 0 else n_fixed[j][k])
                if (guide >= 2 or fixed <= own_fixed + guide) and (
                    mask_above >= 1 or d <= mask_above
                ):
                    others.append((s, d, fixed))
            counts = [math.exp(hardness * fixed) for _, _, fixed in others]
            logits = [
                (s + (margin or 0.0) + document_margin * (1 + d) / 2) / t
                + math.log(count / (sum(counts) / len(counts)))
                for (s, d, _), count in zip(others, counts, strict=True)
            ]
            term = log_sum([own[0] / t, *logits]) - own[0] / t
            if others and (smoothing or privileged):
                by = log_sum([d / document_temperature for _, d, _ in others])
                w = [math.exp(d / document_temperature - by) for _, d, _ in others]
                mean = sum(x * logit for x, logit in zip(w, logits, strict=True))
                term += smoothing * (own[0] / t - mean)
                plain = log_sum([s / t for s, _, _ in others])
                term += privileged * sum(
                    x * (math.log(x) - (s / t - plain))
                    for x, (s, _, _) in zip(w, others, strict=True)
                )
            queries = [
                similarity(q[j], p[i]) / t
                for j in range(size)
                if i == j or positive_ids is None or positive_ids[i][0] not in answers[j]
            ]
            if joint:
                queries += [
                    similarity(q[i], q[j]) / t
                    for j in range(size)
                    if i != j and (positive_ids is None or positive_ids[j][0] not in answers[i])
                ]
                queries += [
                    similarity(p[i], p[j] if k < 0 else many[j][k]) / t
                    for j, k in documents
                    if j != i
                ]
                term = log_sum([own[0] / t, *logits, *queries]) - own[0] / t
            if symmetric:
                term = (term + log_sum(queries) - own[0] / t) / 2
            terms.append(term)
        elif name == "triplet":
            terms += [max(0.0, (0.2 if margin is None else margin) - own[0] + s) for s in own[1:]]
        elif name == "pairwise_logistic":
            t = 0.05 if temperature is None else temperature
            terms += [math.log1p(math.exp((s - own[0]) / t)) for s in own[1:]]
        elif name == "margin_mse":
            by = 1.0 if scale is None else scale
            teacher = np.reshape(teacher_margin[i], -1)
            terms += [(by * (own[0] - s) - t) ** 2 for s, t in zip(own[1:], teacher, strict=True)]
        elif name == "kl":
            t, by = 1.0 if temperature is None else temperature, 20.0 if scale is None else scale
            student = [by * s / t for s in own]
            teacher = [s / t for s in teacher_scores[i]]
            terms.append(
                t**2
                * sum(
                    math.exp(a - log_sum(teacher))
                    * ((a - log_sum(teacher)) - (b - log_sum(student)))
                    for a, b in zip(teacher, student, strict=True)
                )
            )
        else:
            raise ValueError(name)
    return sum(terms) / max(len(terms), 1)


def log_sum(values):
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def triplets(size, *, seed=0, dim=12, negatives=None):
    """Returns random vectors q, p, n, with ``negatives`` negatives for each query if given."""
    rng = np.random.default_rng(seed)
    q, p = rng.standard_normal((2, size, dim))
    shape = (size, dim) if negatives is None else (size, negatives, dim)
    return q, p, rng.standard_normal(shape)


def from_teacher(name, size, *, seed=0, negatives=1):
    """Returns the teacher arguments that a loss takes, by name."""
    scores = 3 * np.random.default_rng((seed, 1)).standard_normal((size, 1 + negatives))
    margins = scores[:, :1] - scores[:, 1:]
    margins = margins[:, 0] if negatives == 1 else margins
    given = {"teacher_margin": margins, "teacher_scores": scores}
    wanted = inspect.signature(losses.LOSSES[name]).parameters
    return {key: value for key, value in given.items() if key in wanted}


def bound(name, options=None):
    """Binds a loss to its options; those without a default get the values used in `expected`.

    The option ``dimensions`` wraps the loss in `losses.matryoshka`.
    """
    options = dict(options or {})
    dimensions = options.pop("dimensions", None)
    loss = partial(losses.LOSSES[name], **NEEDED.get(name, {}), **options)
    return partial(losses.matryoshka, loss, dimensions=dimensions) if dimensions else loss


def expected(name, arrays, options, **given):
    return reference(name, *arrays, **NEEDED.get(name, {}), **options, **given)


CASES = [
    *(
        ("distributed", {"error": e, "over": o, "method": m})
        for e, m in (
            ("l2", "gather"),
            ("l2", "moments"),
            ("l1", "gather"),
            ("soft", "gather"),
            ("hinge2", "gather"),
        )
        for o in ("negatives", "positives")
    ),
    *(
        (name, {"error": e, **options})
        for name in ("static", "adaptive")
        for e in ("l2", "l1", "soft")
        for options in (
            {},
            {"in_batch": True},
            {"in_batch": True, "broadcast": "released"},
        )
    ),
    *(
        (name, {"in_batch": True, "broadcast": b, "method": "moments"})
        for name in ("static", "adaptive")
        for b in ("triplet", "released")
    ),
    ("adaptive", {"error": "hinge2"}),
    ("adaptive", {"error": "hinge2", "in_batch": True}),
    ("static", {"error": "hinge"}),
    ("softmax", {}),
    ("softmax", {"symmetric": True, "temperature": 0.2}),
    ("softmax", {"joint": True, "temperature": 0.3}),
    ("softmax", {"margin": 0.1, "document_margin": -0.3}),
    ("softmax", {"hardness": 2.0, "guide": 0.1}),
    ("softmax", {"smoothing": 0.2, "privileged": 0.5, "document_temperature": 0.3}),
    ("softmax", {"mask_above": 0.3, "document_margin": 0.2}),
    ("triplet", {"margin": 0.5}),
    ("pairwise_logistic", {"temperature": 0.3}),
    ("margin_mse", {"scale": 2.0}),
    ("kl", {"temperature": 2.0, "scale": 5.0}),
]
IDS = ["-".join([name, *map(str, options.values())]) for name, options in CASES]
