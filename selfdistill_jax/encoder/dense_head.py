"""Applies the dense layers between pooling and the unit vector.

They come from a sentence-transformers folder, or are a BERT's own pooler, which has the same form.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Keys are the last part of the class name that a folder's config.json gives.
ACTIVATIONS = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "SiLU": jax.nn.silu,
    "Sigmoid": jax.nn.sigmoid,
}


class DenseLayer(NamedTuple):
    """Describes one dense layer.

    Attributes:
      size: number of outputs.
      activation: a key of `ACTIVATIONS`.
      also: name of the transformer's own layer (a BERT's pooler) with the same parameters, which
        is written together with this one; empty if there is none.
    """

    size: int
    activation: str = "Identity"
    also: str = ""


def apply_head(params: dict, layers: tuple[DenseLayer, ...], x_MxD: jax.Array) -> jax.Array:
    """Applies ``activation(x @ kernel + bias)`` of each layer in turn, in float32.

    Args:
      params: parameters of layer i under ``str(i)``: "kernel", and "bias" if it has one.
      layers: the layers in order.
      x_MxD: float32 vectors.
    """
    for number, layer in enumerate(layers):
        own = params[str(number)]
        x_MxD = jnp.matmul(x_MxD, own["kernel"], precision="highest")
        if "bias" in own:
            x_MxD = x_MxD + own["bias"][None, :]
        x_MxD = ACTIVATIONS[layer.activation](x_MxD)
    return x_MxD


def identity_layer(size: int) -> tuple[DenseLayer, dict]:
    """Returns a dense layer that changes nothing, and its parameters.

    Example:
      >>> layer, params = identity_layer(2)
      >>> apply_head({"0": params}, (layer,), jnp.array([[3.0, 4.0]])).tolist()
      [[3.0, 4.0]]
    """
    return DenseLayer(size), {"kernel": np.eye(size, dtype=np.float32)}
