"""Random models that transformers wrote, which several files compare with."""

import jax
import pytest

from selfdistill_jax.encoder.encode import make_encode
from selfdistill_jax.encoder.folder import read_folder
from tests.encoder.settings import SETTINGS


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """``models(case)``: torch's model, not to be changed, and the folder it was saved in."""
    import torch
    import transformers

    made = {}

    def make(case):
        if case not in made:
            torch.manual_seed(0)
            config = transformers.AutoConfig.for_model(case.split()[0], **SETTINGS[case])
            model = transformers.AutoModel.from_config(config).eval()
            with torch.no_grad():  # biases and norms, which are zeros and ones at the start, too
                for value in model.parameters():
                    value += 0.1 * torch.randn_like(value)
            folder = tmp_path_factory.mktemp("model") / "model"
            model.save_pretrained(folder)
            made[case] = model, folder
        return made[case]

    return make


@pytest.fixture(scope="session")
def bases(models):
    """``bases(case)``: the encoder, the folder, and the compiled function of its mean vectors."""
    made = {}

    def make(case):
        if case not in made:
            _, folder = models(case)
            encoder = read_folder(str(folder), pooling="mean")
            made[case] = encoder, folder, jax.jit(make_encode(encoder.config, pooling="mean"))
        return made[case]

    return make
