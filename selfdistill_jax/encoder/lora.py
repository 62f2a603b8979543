"""Computes low-rank adapters (LoRA): two small matrices whose product is added to a frozen kernel.

An adapter is a tree of its own, ``{target: {"a": [n, D, R], "b": [n, R, F]}}``. `apply_lora` adds
it to the frozen parameters; the encoder computes with the sum as with any other parameters.

Shape legend: n layers, D inputs and F outputs of a target, R rank.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from selfdistill_jax.encoder.apply import Params


class Target(NamedTuple):
    """Locates a target's kernel: one of ``parts`` equal parts of a dense layer's outputs."""

    path: tuple[str, ...]
    part: int = 0
    parts: int = 1


# The kernels that can have an adapter, by role in a layer; every architecture has all of them.
TARGETS = {
    "query": Target(("attention", "qkv"), 0, 3),
    "key": Target(("attention", "qkv"), 1, 3),
    "value": Target(("attention", "qkv"), 2, 3),
    "output": Target(("attention", "output")),
    "inner": Target(("inner",)),
    "outer": Target(("outer",)),
}


def init_lora(params: Params, *, rank: int, targets: Sequence[str], key: jax.Array) -> Params:
    """Returns an adapter that changes nothing yet: B is 0, A uniform within 1 / sqrt(D) as in PEFT.

    Args:
      params: the encoder's parameters; only their shapes matter.
      rank: R.
      targets: keys of `TARGETS`.
      key: random key of A; a target's values do not depend on which other targets there are.

    Source:
      Hu et al., LoRA (arXiv 2106.09685).

    Example:
      >>> params = {"layers": {"inner": {"kernel": jnp.ones((2, 8, 32))}}}
      >>> adapter = init_lora(params, rank=4, targets=["inner"], key=jax.random.key(0))
      >>> adapter["inner"]["a"].shape, adapter["inner"]["b"].shape
      ((2, 8, 4), (2, 4, 32))
    """
    adapter = {}
    for name in targets:
        target = TARGETS[name]
        layers, inputs, outputs = at(params["layers"], target.path)["kernel"].shape
        own = jax.random.fold_in(key, list(TARGETS).index(name))
        bound = inputs**-0.5
        adapter[name] = {
            "a": jax.random.uniform(own, (layers, inputs, rank), minval=-bound, maxval=bound),
            "b": jnp.zeros((layers, rank, outputs // target.parts)),
        }
    return adapter


def apply_lora(params: Params, adapter: Params, *, scale: float = 1.0) -> Params:
    """Returns the parameters with ``kernel + scale A B`` in place of each target's kernel.

    If kernels and adapter are numpy arrays, the new kernels are too; an adapter is merged this way.

    Args:
      params: the frozen parameters.
      adapter: a tree as `init_lora` returns it.
      scale: alpha / R in the paper.

    Example:
      >>> params = {"layers": {"inner": {"kernel": np.zeros((1, 2, 2))}}}
      >>> adapter = {"inner": {"a": np.array([[[1.0], [2.0]]]), "b": np.array([[[3.0, 4.0]]])}}
      >>> apply_lora(params, adapter, scale=0.5)["layers"]["inner"]["kernel"]
      array([[[1.5, 2. ],
              [3. , 4. ]]])
    """
    layers = params["layers"]
    for path in dict.fromkeys(TARGETS[name].path for name in adapter):
        own = {TARGETS[name].part: adapter[name] for name in adapter if TARGETS[name].path == path}
        parts = next(target.parts for target in TARGETS.values() if target.path == path)
        dense = at(layers, path)
        layers = _with(
            layers, path, {**dense, "kernel": _added(dense["kernel"], own, parts, scale)}
        )
    return {**params, "layers": layers}


def _added(kernel, own: dict[int, Params], parts: int, scale: float):
    merging = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves((kernel, own)))
    # Full precision on accelerators too, so that training computes with the kernels of a merge.
    xp, multiply = (np, np.matmul) if merging else (jnp, partial(jnp.matmul, precision="highest"))
    pieces: list[Any] = xp.split(kernel, parts, axis=-1)
    for part, pair in own.items():
        pieces[part] = pieces[part] + scale * multiply(pair["a"], pair["b"])
    return xp.concatenate(pieces, axis=-1)


def at(tree: Params, path: tuple[str, ...]) -> Params:
    """Returns the subtree at a path."""
    for key in path:
        tree = tree[key]
    return tree


def _with(tree: Params, path: tuple[str, ...], value: Params) -> Params:
    """Returns a copy of the tree with another value at a path."""
    first, *rest = path
    return {**tree, first: _with(tree[first], tuple(rest), value) if rest else value}
