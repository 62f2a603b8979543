"""Fine-tuning text encoders for retrieval by self-distillation with adaptive relevance margins."""

__version__ = "0.1.0"
__all__ = ["BiEncoder"]


def __getattr__(name: str):
    # Lazily: `from selfdistill_jax import losses` must not wait for tokenizers and hub clients.
    if name == "BiEncoder":
        from selfdistill_jax.retrieval.bi_encoder import BiEncoder

        return BiEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
