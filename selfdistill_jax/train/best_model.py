"""The best model of a run: how it is written while the run goes on, and read at its end."""

from pathlib import Path

import ml_collections

from selfdistill_jax.checkpoints.model_card import adapter_card, model_card
from selfdistill_jax.checkpoints.model_folder import Pretrained, read_folder, write_folder
from selfdistill_jax.checkpoints.peft import with_adapter
from selfdistill_jax.data.store import Collection
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.train.run_folder import flatten
from selfdistill_jax.train.trainable import ADAPTERS, MODEL, TrainableParams
from selfdistill_jax.train.trainable import FOLDER as ADAPTER


class BestModel:
    """In a run's folder: ``model/``, ``adapter/``, or both.

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
        self._whole = ADAPTERS[config.encoder.adapter] == MODEL

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
            is_prefix=not self._whole,
        )
        if self._whole:
            model = self._encoder._replace(params=params)
            write_folder(self._workdir / MODEL, model, card=card)
        if self._trained.write is not None:
            if self._whole:
                card = adapter_card(self._config.encoder.init, note)
            self._trained.write(self._workdir / ADAPTER, own, card)

    def exists(self) -> bool:
        """Whether anything was written."""
        return (self._workdir / (MODEL if self._whole else ADAPTER)).is_dir()

    def read(self) -> Pretrained:
        """As it was written."""
        if self._whole:
            return read_folder(str(self._workdir / MODEL), pooling=self._encoder.pooling)
        return with_adapter(self._encoder, self._workdir / ADAPTER)
