"""Adapter of `BiEncoder` to the package mteb, which is imported only where its types are needed."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from selfdistill_jax.retrieval.bi_encoder import BiEncoder


class MTEBEncoder:
    """Wraps a model for `mteb.evaluate`, by the protocol `mteb.models.EncoderProtocol`.

    Queries and documents get the model's own prompts. The prompts of mteb's tasks are not used:
    they are meant for models that follow instructions.

    Args:
      model: the encoder.
      name: ``owner/model``, the name under which mteb stores the results.
      dimensions: see `BiEncoder.encode`.

    Example (needs mteb and the hub):
        model = MTEBEncoder(BiEncoder.load("runs/mine/model"), name="me/mine")
        results = mteb.evaluate(model, mteb.get_tasks(tasks=["SciFact"]))
    """

    def __init__(self, model: BiEncoder, *, name: str, dimensions: int | None = None):
        self.model, self._name, self._dimensions = model, name, dimensions

    @property
    def mteb_model_meta(self):
        """Metadata whose name and revision identify the stored results.

        The revision changes with the model, its prompts and the dimensions, so that mteb never
        takes the stored results of another model.
        """
        from mteb.models import ModelMeta

        cut = f"-{self._dimensions}" if self._dimensions else ""
        kinds = ("query", "document", "")
        prompts = repr([self.model.of(kind).encoder.prompts.of(kind) for kind in kinds])
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
        """Encodes batches from mteb's data loader.

        Args:
          inputs: batches with a list of texts under ``text``; a document's text includes its title.
          prompt_type: ``"query"``, ``"document"``, or None for other texts.
          show_progress_bar: whether to show a progress bar.

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
        """Returns the cosines of all pairs, as a torch tensor."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any):
        """Returns the cosines of corresponding rows, as a torch tensor."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)
