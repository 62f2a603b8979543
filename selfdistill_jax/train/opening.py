"""A run's folder as it begins: its config, and what the run is made of."""

from pathlib import Path

import ml_collections

from selfdistill_jax.encoder.folder import Encoder, fingerprint
from selfdistill_jax.io import write_json
from selfdistill_jax.train.loading import Data
from selfdistill_jax.train.run_folder import (
    ENVIRONMENT,
    check_start,
    environment,
    open_run,
)


def open_whole(
    workdir: Path,
    config: ml_collections.ConfigDict,
    encoder: Encoder,
    data: Data,
    *,
    restart: bool,
) -> None:
    """Opens the folder, and writes into it what the run is made of.

    Args:
      workdir: the folder.
      config: of the run.
      encoder: that it starts from.
      data: that it is trained on.
      restart: see `run_folder.open_run`.

    Raises:
      InputError: the folder is of another run.
    """
    of_data = data.collection.fingerprint
    start = fingerprint(encoder, encoder.prompts, data.tokenizer.fingerprint)
    if not restart:
        check_start(workdir, start)
    open_run(workdir, config.to_dict(), data=of_data, restart=restart)
    facts = environment(
        seed=config.seed,
        collection=data.collection.name,
        collection_fingerprint=of_data,
        collection_source=data.collection.description,
        tokenizer_fingerprint=data.tokenizer.fingerprint,
        encoder_fingerprint=start,
    )
    write_json(workdir / ENVIRONMENT, facts)
