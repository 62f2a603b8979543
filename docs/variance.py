"""Draws docs/variance.svg: what the variance term of the distributed loss does to free vectors.

    python -m docs.variance

64 triplets of 32 dimensions are moved by Adam down three losses: the whole distributed loss; the
same with its target detached, whose variance is a constant; and the regression of the margin to the
mean similarity alone, without the variance.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from matplotlib import rc_context
from matplotlib.figure import Figure

from selfdistill_jax import losses

ROWS, DIMENSIONS, STEPS, RATE = 64, 32, 300, 0.02


def regression_alone(q: jax.Array, p: jax.Array, n: jax.Array) -> jax.Array:
    """mean_i (m_i − σ(p_i, mean of n))²."""
    q, p, n = map(losses.unit, (q, p, n))
    margins = jnp.sum(q * p, axis=1) - jnp.sum(q * n, axis=1)
    return jnp.mean(jnp.square(margins - losses.sigma(p @ n.mean(axis=0))))


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "distributed": losses.distributed_margin,
    "target detached": lambda q, p, n: losses.distributed_margin(q, p, n, stop_gradient=True),
    "regression alone": regression_alone,
}
SHOWN = {
    "margin": "mean margin",
    "spread": "spread of a positive's targets",
    "cosine": "mean cosine of documents",
}


def start() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Documents that share a direction, as an encoder's do; queries near their positives."""
    keys = jax.random.split(jax.random.key(0), 5)
    common = 0.7 * jax.random.normal(keys[0], (1, DIMENSIONS))
    topics, noise, others = (jax.random.normal(key, (ROWS, DIMENSIONS)) for key in keys[1:4])
    return 0.6 * common + 0.5 * topics + 0.6 * noise, common + topics, common + others


def measured(q: jax.Array, p: jax.Array, n: jax.Array) -> dict[str, jax.Array]:
    found = losses.summaries(q, p, n)
    targets = losses.sigma(losses.unit(p) @ losses.unit(n).T)
    return {
        "margin": found["margin_mean"],
        "spread": jnp.mean(jnp.std(targets, axis=1)),
        "cosine": found["document_cosine"],
    }


def descend(loss: Callable[..., jax.Array]) -> dict[str, jax.Array]:
    """What is measured before each of the steps, ``[STEPS]`` each."""
    optimizer = optax.adam(RATE)

    def step(carry, _):
        x, state = carry
        gradient = jax.grad(lambda x: loss(*x))(x)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(x, updates), state), measured(*x)

    x = start()
    return jax.jit(lambda x: jax.lax.scan(step, (x, optimizer.init(x)), length=STEPS)[1])(x)


def main() -> None:
    curves = {name: descend(loss) for name, loss in LOSSES.items()}
    style = {"svg.fonttype": "none", "svg.hashsalt": "variance", "font.size": 9}
    with rc_context(style):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, (key, label) in zip(panels, SHOWN.items(), strict=True):
            for name, found in curves.items():
                dashes = "--" if name == "regression alone" else "-"
                axes.plot(found[key], dashes, label=name, lw=1.5)
            axes.set(title=label, xlabel="step")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].legend(frameon=False, loc="lower right")
        path = Path(__file__).with_name("variance.svg")
        figure.savefig(path, metadata={"Date": None})
    for name, found in curves.items():
        ends = ", ".join(f"{SHOWN[k]} {v[0]:.3f} -> {v[-1]:.3f}" for k, v in found.items())
        print(f"{name}: {ends}")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
