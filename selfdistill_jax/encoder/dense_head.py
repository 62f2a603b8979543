"""What may stand between pooling and the unit vector: dense layers of a sentence-transformers
folder, or a BERT's own pooler, which is one of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# By the last part of the class name that a folder's config.json gives.
ACTIVATIONS = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "SiLU": jax.nn.silu,
    "Sigmoid": jax.nn.sigmoid,
}


class DenseLayer(NamedTuple):
    """One layer.

    Attributes:
      size: of its result.
      activation: a key of `ACTIVATIONS`.
      also: the transformer's own tensors that it is as well (a BERT's pooler), and stays.
    """

    size: int
    activation: str = "Identity"
    also: str = ""


def apply_head(params: dict, layers: tuple[DenseLayer, ...], x_MxD: jax.Array) -> jax.Array:
    """``activation(x @ kernel + bias)``, layer after layer, in float32.

    Args:
      params: of layer number i under ``str(i)``: "kernel", and "bias" where it has one.
      layers: one after the other.
      x_MxD: float32.
    """
    for number, layer in enumerate(layers):
        own = params[str(number)]
        x_MxD = jnp.matmul(x_MxD, own["kernel"], precision="highest")
        if "bias" in own:
            x_MxD = x_MxD + own["bias"][None, :]
        x_MxD = ACTIVATIONS[layer.activation](x_MxD)
    return x_MxD
