"""Writes the best model of a run during training, and reads it at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfdistill_jax.checkpoints.model_card import adapter_card, model_card
from selfdistill_jax.checkpoints.model_folder import Pretrained, read_folder, write_folder
from selfdistill_jax.data.store import Collection
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.train.model import ADAPTER, MODEL, Model
from selfdistill_jax.train.run_folder import flatten


class BestModel:
    """Writes and reads ``model/`` in a run's folder and, in a LoRA run, ``adapter/``.

    Args:
      settings: the run's config as plain values.
      workdir: the run's folder.
      model: the run's encoder.
      collection: the collection that it is trained on.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        workdir: Path,
        model: Model,
        collection: Collection,
    ):
        self._settings, self._workdir = settings, workdir
        self._model, self._collection = model, collection

    def write(self, own: Params, params: Params, note: str) -> None:
        """Writes the model, replacing the previous best.

        Args:
          own: the trained parameters.
          params: the whole encoder's parameters.
          note: a note on its quality, for the model card.
        """
        card = model_card(
            flatten(self._settings),
            collection=self._collection.name,
            encoder=self._model.pretrained,
            note=note,
        )
        best = self._model.pretrained._replace(params=params)
        write_folder(self._workdir / MODEL, best, card=card)
        if self._model.trained.write is not None:
            card = adapter_card(self._model.name, note)
            self._model.trained.write(self._workdir / ADAPTER, own, card)

    def exists(self) -> bool:
        """Returns whether a model has been written."""
        return (self._workdir / MODEL).is_dir()

    def read(self) -> Pretrained:
        """Returns the model that was written last."""
        return read_folder(str(self._workdir / MODEL), pooling=self._model.pretrained.pooling)
