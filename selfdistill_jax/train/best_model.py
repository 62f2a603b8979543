"""The best model of a run: how it is written while the run goes on, and read at its end."""

from pathlib import Path

import ml_collections

from selfdistill_jax.checkpoints.model_card import adapter_card, model_card
from selfdistill_jax.checkpoints.model_folder import Pretrained, read_folder, write_folder
from selfdistill_jax.data.store import Collection
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.train.run_folder import flatten
from selfdistill_jax.train.trainable import ADAPTER, MODEL, TrainableParams


class BestModel:
    """Writes and reads ``model/`` of a run's folder and, of a LoRA run, ``adapter/``.

    Args:
      config: of the run.
      workdir: its folder.
      encoder: that it started from.
      trained: what of it is trained.
      collection: that it is trained on.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        encoder: Pretrained,
        trained: TrainableParams,
        collection: Collection,
    ):
        self._config, self._workdir, self._encoder = config, workdir, encoder
        self._trained, self._collection = trained, collection

    def write(self, own: Params, params: Params, note: str) -> None:
        """Writes it in place of what was the best before.

        Args:
          own: the trained part.
          params: the whole encoder's.
          note: what is known of its quality.
        """
        card = model_card(
            flatten(self._config.to_dict()),
            collection=self._collection.name,
            encoder=self._encoder,
            note=note,
        )
        write_folder(self._workdir / MODEL, self._encoder._replace(params=params), card=card)
        if self._trained.write is not None:
            card = adapter_card(self._config.encoder.init, note)
            self._trained.write(self._workdir / ADAPTER, own, card)

    def exists(self) -> bool:
        """Whether anything was written."""
        return (self._workdir / MODEL).is_dir()

    def read(self) -> Pretrained:
        """Returns the model as it was written."""
        return read_folder(str(self._workdir / MODEL), pooling=self._encoder.pooling)
