"""A model as the package mteb evaluates it; mteb is imported only when that asks for its types."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from selfdistill_jax.retrieval.bi_encoder import BiEncoder


class MTEBEncoder:
    """What `mteb.evaluate` takes for a model, of the protocol `mteb.models.EncoderProtocol`.

    Queries and documents get the prompts that the model has for them; the prompts of tasks, which
    are for models that follow instructions, are not used.

    Args:
      model: the encoder.
      name: ``owner/model``, under which mteb keeps the results.
      dimensions: see `BiEncoder.encode`.

    Example (needs mteb and the hub):
        model = MTEBEncoder(BiEncoder.load("runs/mine/model"), name="me/mine")
        results = mteb.evaluate(model, mteb.get_tasks(tasks=["SciFact"]))
    """

    def __init__(self, model: BiEncoder, *, name: str, dimensions: int | None = None):
        self.model, self._name, self._dimensions = model, name, dimensions

    @property
    def mteb_model_meta(self):
        """Name and revision: results are kept by these, so that another model's are never taken."""
        from mteb.models import ModelMeta

        cut = f"-{self._dimensions}" if self._dimensions else ""
        prompts = repr([self.model.encoder.prompts.of(kind) for kind in ("query", "document", "")])
        own = hashlib.sha256(f"{self.model.fingerprint} {prompts}".encode()).hexdigest()
        return ModelMeta.create_empty(
            {
                "name": self._name,
                "revision": own + cut,
                "max_tokens": self.model.encoder.max_length,
                "embed_dim": self._dimensions or self.model.encoder.dimensions,
                "framework": ["JAX"],
            }
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        prompt_type: Any = None,
        show_progress_bar: bool = True,
        **_: Any,
    ) -> np.ndarray:
        """Encodes batches as mteb's loader gives them.

        Args:
          inputs: batches with lists of texts as ``text``; a document's title is in it already.
          prompt_type: ``"query"``, ``"document"`` or None for what is neither.
          show_progress_bar: show one.

        Returns:
          ``[n, D]`` float32 unit vectors.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        kind = getattr(prompt_type, "value", prompt_type)
        encode = getattr(self.model, f"encode_{kind}", self.model.encode)
        return encode(
            texts, dimensions=self._dimensions, progress="Encoding" if show_progress_bar else ""
        )

    def similarity(self, embeddings1: Any, embeddings2: Any):
        """Cosines of all pairs, as a torch tensor."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any):
        """Cosines row by row, as a torch tensor."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)
