"""Counts the floating-point operations that an encoder needs, to relate measured speed to them."""

import numpy as np

from selfdistill_jax.encoder.config import EncoderConfig


def forward_flops(config: EncoderConfig, lengths: np.ndarray) -> float:
    """Returns the operations of one forward pass; a multiply-add counts as two.

    Definition: for a text of L tokens, in each layer of hidden size D and feed-forward size F,

        2 L D (3 D)     queries, keys, values
      + 2 L² D          scores, all heads together
      + 2 L² D          mixing of values
      + 2 L D D         output of attention
      + 4 L D F         feed-forward, in and out (6 L D F where it is gated)

    In a layer with a window w < L, the L (2 w + 1) − w (w + 1) pairs of tokens that attend to each
    other replace L². Only matrix products are counted; embeddings, norms, softmax, activation and
    pooling are a few per cent of them or less. Given the texts' own lengths, the result is the
    useful work; given the widths that texts are padded to, it is the work actually done.

    Args:
      config: the encoder's sizes.
      lengths: ``[N]`` number of tokens of each text; texts of length 0 do not count.

    Source:
      Kaplan et al. (arXiv 2001.08361, table 1), without the causal mask.

    Example:
      >>> minilm = EncoderConfig(30522, 384, 6, 12, 1536, 512)
      >>> f"{forward_flops(minilm, np.array([128, 64])):.3g}"
      '4.27e+09'
    """
    return sum(_of_kernels_and_attention(config, lengths))


def _of_kernels_and_attention(config: EncoderConfig, lengths: np.ndarray) -> tuple[float, float]:
    lengths = np.asarray(lengths, np.float64)  # an int32 square overflows from 46,341 on
    d, f = config.hidden_size, config.intermediate_size
    by_token, by_pair = 8 * d * d + (6 if config.gated else 4) * d * f, 4 * d
    windows = config.windows or (0,) * config.num_layers
    # A window of 0 stands for the whole text; no window reaches beyond the text.
    reach = [np.minimum(window or np.inf, np.maximum(lengths - 1, 0)) for window in windows]
    pairs = sum((lengths * (2 * w + 1) - w * (w + 1)).sum() for w in reach)
    return float(config.num_layers * by_token * lengths.sum()), float(by_pair * pairs)


def training_flops(
    config: EncoderConfig,
    lengths: np.ndarray,
    *,
    frozen: bool = False,
    backward: bool = True,
    target: bool = False,
) -> float:
    """Returns the operations of a forward and a backward pass: three times `forward_flops`.

    The backward pass costs two forward passes: each product has a gradient for each factor. Per
    token, and with P parameters in the layers' products, this is ``6 P + 12 layers L D``, the
    numerator of model FLOPs utilization. Recomputation to save memory (rematerialisation, the
    second forward pass of micro-batches) does not count: these are operations of the model, not of
    the hardware, so a step that recomputes less shows a higher utilization.

    Args:
      config: the encoder's sizes.
      lengths: ``[N]`` number of tokens of each text that training differentiates through.
      frozen: whether kernels have no gradient, which saves a third of their products; the
        operations of a small adapter beside them do not count.
      backward: whether there is a backward pass through the layers.
      target: whether a second encoder computes targets, which costs one more forward pass.

    Source:
      Chowdhery et al., PaLM (arXiv 2204.02311), appendix B.

    Example:
      >>> tiny = EncoderConfig(99, 4, 1, 2, 8, 16)
      >>> forward_flops(tiny, np.array([1])), training_flops(tiny, np.array([1]))
      (272.0, 816.0)
    """
    of_kernels, of_attention = _of_kernels_and_attention(config, lengths)
    of_target = of_kernels + of_attention if target else 0.0
    if not backward:
        return of_kernels + of_attention + of_target
    return (2 if frozen else 3) * of_kernels + 3 * of_attention + of_target
