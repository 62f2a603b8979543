"""Tests that every setting is defined once, explained, and read."""

import inspect
from pathlib import Path

import ml_collections
import pytest

from configs import adaptive, base, contrastive, distributed, paper, static, teacher
from selfdistill_jax import config
from selfdistill_jax.train.run_folder import flatten
from tests.test_imports import imports
from tests.tiny import train

FILES = sorted(Path(base.__file__).parent.glob("*.py"))


class Recorder:
    """A config that records which leaves are read by name, as in ``config.train.steps``.

    Checks read many keys in turn by subscript, ``config.train[key]``. That does not count as a use
    of a setting.
    """

    def __init__(self, config, read, prefix=""):
        self._config, self._read, self._prefix = config, read, prefix

    def __getitem__(self, key):
        value = self._config[key]
        if isinstance(value, ml_collections.ConfigDict):
            return Recorder(value, self._read, f"{self._prefix}{key}.")
        return value

    def __getattr__(self, key):
        if key not in self._config:
            raise AttributeError(key)
        self._read.add(self._prefix + key)
        return self[key]

    def items(self):
        # Only the loss's options are passed on as a group, to the loss function.
        assert self._prefix == "loss."
        return [(key, getattr(self, key)) for key in self._config]

    def to_dict(self):
        return self._config.to_dict()  # for the record only: its values are not used


def unread(config, workdir):
    read = set()
    assert train(Recorder(config, read), workdir, stop=lambda step: step == 1) is None
    # The same command resumes the run and finishes it.
    assert train(Recorder(config, read), workdir) is not None
    return flatten(config.to_dict()).keys() - read


def test_every_setting_is_read(tiny, tmp_path):
    config = tiny.config(data__negatives="mined", encoder__adapter="lora", train__steps=2)
    with config.unlocked():
        config.train.dropout = 0.1  # proves that this test can fail
    assert unread(config, tmp_path / "run") == {"train.dropout"}


# Known settings of the paper's released code.
PAPER = {
    "data.dataset": "msmarco", "data.triplets": "msmarco/qidpidtriples.train.full.2.tsv.gz",
    "data.first_examples": 128, "data.query_length": 20, "data.document_length": 200,
    "encoder.init": "distilbert-base-uncased", "encoder.pooling": "cls", "encoder.max_length": 200,
    "encoder.dropout": "source", "loss.over": "positives", "train.steps": 20_000,
    "train.batch_size": 128, "train.learning_rate": 5e-7, "train.warmup_steps": 0,
    "train.decay": "exponential", "train.decay_rate": 0.99999, "train.weight_decay": 1e-6,
    "train.clip_norm": 0.0, "train.dtype": "bfloat16", "train.checkpoint_every": 500,
    "train.evaluate_every": 500, "train.patience": 16, "evaluation.dev_documents": 100_000,
    "evaluation.interpolation": [],
}  # fmt: skip


ENCODERS = {
    "distilbert": "distilbert-base-uncased",
    "roberta": "roberta-base",
    "mpnet": "microsoft/mpnet-base",
}


def test_the_papers_setup(tiny, tmp_path):
    default, config = distributed.get_config(), distributed.get_config("msmarco")
    assert flatten(config.to_dict()) == flatten(default.to_dict()) | PAPER
    own = {k: v for k, v in tiny.settings.items() if k.startswith(("data.", "encoder."))}
    own |= {"data.triplets": "", "data.first_examples": 0}
    config.update_from_flattened_dict({**own, "train.steps": 2, "train.batch_size": 8})
    assert train(config, tmp_path / "run", stop=lambda step: step == 1) is None
    with pytest.raises(ValueError, match="no set-up 'marco'; there are msmarco, msmarco-"):
        distributed.get_config("marco")


@pytest.mark.parametrize("setup", paper.SETUPS)
@pytest.mark.parametrize(
    ("module", "own"),
    [
        (adaptive, {}),
        (contrastive, {}),
        (static, {"loss.margin": {"distilbert": 0.2, "roberta": 0.1, "mpnet": 0.3}}),
        (teacher, {"data.first_examples": 0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_papers_setups_of_other_losses_and_encoders(module, own, setup):
    default, config = (flatten(module.get_config(name).to_dict()) for name in ("", setup))
    changed = {key: value for key, value in config.items() if value != default[key]}
    kind = setup.partition("-")[2] or "distilbert"
    expected = {key: value for key, value in PAPER.items() if not key.startswith("loss.")}
    pooling = {"roberta": "pooler"}.get(kind, "cls")
    expected |= {"encoder.init": ENCODERS[kind], "encoder.pooling": pooling}
    for key, value in own.items():
        expected[key] = value[kind] if isinstance(value, dict) else value
    if module is teacher:
        scores = "bert_cat_ensemble_msmarcopassage_train_scores_ids.tsv"
        expected["data.triplets"] = f"msmarco/{scores}"
    assert changed == {key: value for key, value in expected.items() if value != default[key]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_configs_import_only_the_settings(path):
    imported = set(imports(path, f"configs.{path.stem}"))
    assert imported <= {"ml_collections", "configs", "selfdistill_jax.config"}


def test_the_settings_import_neither_jax_nor_the_package():
    assert set(imports(Path(config.__file__), "selfdistill_jax.config")) == {"ml_collections"}


@pytest.mark.parametrize("loss", base.LOSSES)
def test_a_config_of_every_loss(loss):
    found = base.get_config(loss)
    assert found.loss.to_dict() == {"name": loss, **base.LOSSES[loss]}
    # No other setting depends on the loss.
    assert {**found.to_dict(), "loss": 0} == {**base.get_config().to_dict(), "loss": 0}


def test_every_setting_is_explained():
    lines = inspect.getsource(config).splitlines()
    function = next(i for i, line in enumerate(lines) if line.startswith("def get_config"))
    leaves, bare = 0, []
    for line in lines[function:]:
        target, equals, _ = line.strip().partition(" = ")
        if equals and "." in target and "ConfigDict" not in line:
            leaves += 1
            _, _, comment = line.partition("  # ")
            if len(comment) < 5:
                bare.append(target)
    everything = flatten(base.get_config().to_dict())
    assert leaves == sum(not key.startswith("loss.") for key in everything)
    assert bare == []
