"""The best model of a run: how it is written while the run goes on, and read at its end."""

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
    """Writes and reads ``model/`` of a run's folder and, of a LoRA run, ``adapter/``.

    Args:
      settings: the run's config as plain values.
      workdir: its folder.
      model: the run's encoder.
      collection: that it is trained on.
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
        """Writes it in place of what was the best before.

        Args:
          own: the trained part.
          params: the whole encoder's.
          note: what is known of its quality.
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
        """Whether anything was written."""
        return (self._workdir / MODEL).is_dir()

    def read(self) -> Pretrained:
        """Returns the model as it was written."""
        return read_folder(str(self._workdir / MODEL), pooling=self._model.pretrained.pooling)
