"""Fine-tunes text encoders for retrieval by self-distillation with adaptive relevance margins."""

__version__ = "0.1.0"
__all__ = ["BiEncoder"]


def __getattr__(name: str):
    # Imported on demand: `from selfdistill_jax import losses` needs no tokenizers or hub clients.
    if name == "BiEncoder":
        from selfdistill_jax.retrieval.bi_encoder import BiEncoder

        return BiEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
