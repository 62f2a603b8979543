"""Writes the best model of a run during training, and reads it at the end."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from selfdistill_jax.checkpoints.adapter_folder import TENSORS
from selfdistill_jax.checkpoints.model_card import adapter_card, model_card
from selfdistill_jax.checkpoints.model_folder import Pretrained, read_folder, write_folder
from selfdistill_jax.checkpoints.peft import scale_lora
from selfdistill_jax.data.store import Collection
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.train.model import ADAPTER, MODEL, Model
from selfdistill_jax.train.run_folder import flatten

_ADAPTER_WEIGHTS = f"{ADAPTER}/{TENSORS}"


def interpolate(start: Params, trained: Params, alpha: float) -> Params:
    """Returns ``start + alpha (trained − start)``, exactly ``start`` for 0 and ``trained`` for 1.

    Example:
      >>> start, trained = {"w": np.float32([0, 1])}, {"w": np.float32([1, 3])}
      >>> interpolate(start, trained, 0.5)["w"].tolist()
      [0.5, 2.0]
    """
    if alpha in (0, 1):
        return trained if alpha else start
    return jax.tree.map(lambda a, b: a + np.float32(alpha) * (b - a), start, trained)


class BestModel:
    """Writes and reads ``model/`` in a run's folder and, in a LoRA run, ``adapter/``.

    Args:
      settings: the run's config as plain values.
      workdir: the run's folder.
      model: the run's encoder.
      collection: the collection that it is trained on.
      frozen_documents: whether only the query encoder is trained; the start encoder is then also
        written, as the document encoder.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        workdir: Path,
        model: Model,
        collection: Collection,
        *,
        frozen_documents: bool = False,
    ):
        self._documents = model.pretrained if frozen_documents else None
        self._settings, self._workdir = settings, workdir
        self._model, self._collection = model, collection

    def write(self, own: Params, params: Params, note: str) -> None:
        """Writes the model, replacing the previous best.

        Args:
          own: the trained parameters.
          params: the whole encoder's parameters.
          note: a note on its quality, for the model card.
        """
        self._write_model(params, note)
        if self._model.trained.write is not None:
            only_queries = self._documents is not None
            card = adapter_card(self._model.name, note, only_queries=only_queries)
            self._model.trained.write(self._workdir / ADAPTER, own, card)

    def digests(self) -> dict[str, str]:
        """Returns the SHA-256 digests of the files that hold the model's weights."""
        found = {}
        for folder in (MODEL, ADAPTER):
            for path in sorted((self._workdir / folder).rglob("*.safetensors")):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[path.relative_to(self._workdir).as_posix()] = digest
        return found

    def blend(self, alpha: float, replaces: Mapping[str, str]) -> None:
        """Replaces the model by ``start + alpha (model − start)``, once.

        Args:
          alpha: share of the change that stays.
          replaces: `digests` of the model that the choice was made for; files with other content
            were replaced before, by a run that was stopped right after, and stay as they are.
        """
        if alpha == 1:
            return
        now = self.digests()
        changed = {name for name, digest in replaces.items() if now.get(name) != digest}
        if not any(name.startswith(f"{MODEL}/") for name in changed):
            params = interpolate(self._model.pretrained.params, self.read().params, alpha)
            self._write_model(params, f"start + {alpha:g} (best step on dev − start)")
        if _ADAPTER_WEIGHTS in replaces and _ADAPTER_WEIGHTS not in changed:
            scale_lora(self._workdir / ADAPTER, alpha)

    def exists(self) -> bool:
        """Returns whether a model has been written."""
        return (self._workdir / MODEL).is_dir()

    def read(self) -> Pretrained:
        """Returns the model that was written last."""
        return read_folder(str(self._workdir / MODEL), pooling=self._model.pretrained.pooling)

    def _write_model(self, params: Params, note: str) -> None:
        card = model_card(
            flatten(self._settings),
            collection=self._collection.name,
            encoder=self._model.pretrained,
            note=note,
        )
        best = self._model.pretrained._replace(params=params)
        write_folder(self._workdir / MODEL, best, card=card, documents=self._documents)
