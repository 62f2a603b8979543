"""Defines the two encoders: a small convolutional network for pictures, a matrix for names."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = Any
DIMENSIONS = 128


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inputs:
    """Holds B names and M − B pictures: the batch that `encode` takes, instead of `PackedTexts`.

    Attributes:
      names: ``[B, W]`` float32 vectors of names by a frozen text encoder.
      pictures: ``[M − B, H, W, 3]`` uint8; the positives of all names, then the negatives.
      lengths: ``[M]`` int32, 1 for each name and picture.
      seeds: None: there is no dropout.
    """

    names: Array
    pictures: Array
    lengths: Array
    seeds: None = None

    @property
    def computed_tokens(self) -> int:
        """Returns the number of inputs that the encoder computes."""
        return self.lengths.size


class ImageEncoder(nn.Module):
    """Encodes pictures ``[M, H, W, 3]`` uint8 as ``[M, 256]``: four blocks of convolutions."""

    @nn.compact
    def __call__(self, pictures: Array) -> jax.Array:
        x = pictures.astype(jnp.float32) / 127.5 - 1
        for width, stride in ((32, 2), (64, 2), (128, 2), (256, 2)):
            x = nn.Conv(width, (3, 3), strides=stride, use_bias=False)(x)
            x = nn.gelu(nn.GroupNorm(8)(x))
            x += nn.gelu(nn.GroupNorm(8)(nn.Conv(width, (3, 3), use_bias=False)(x)))
        return x.mean(axis=(1, 2))


def init_params(key: jax.Array, *, size: int, name_size: int) -> dict[str, Any]:
    """Returns random parameters: ``image``, and the matrices ``head`` and ``name``.

    Args:
      key: seed.
      size: pixels, width and height of a picture.
      name_size: size of a name's vector.
    """
    keys = jax.random.split(key, 3)
    picture = jnp.zeros((1, size, size, 3), jnp.uint8)
    init = nn.initializers.lecun_normal()
    return {
        "image": ImageEncoder().init(keys[0], picture)["params"],
        "head": {"kernel": init(keys[1], (256, DIMENSIONS))},
        "name": {"kernel": init(keys[2], (name_size, DIMENSIONS))},
    }


def encode(params: dict[str, Any], inputs: Inputs) -> jax.Array:
    """Returns unit vectors ``[M, DIMENSIONS]`` of names, then of pictures."""
    names = inputs.names @ params["name"]["kernel"]
    pictures = ImageEncoder().apply({"params": params["image"]}, inputs.pictures)
    vectors = jnp.concatenate([names, pictures @ params["head"]["kernel"]])
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-6)
