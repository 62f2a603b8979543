"""A collection and an encoder small enough to train in a second, and helpers to inspect runs."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import tokenizers

from configs import base
from selfdistill_jax.checkpoints.model_folder import Pretrained, write_folder
from selfdistill_jax.data.batches import TrainingBatches
from selfdistill_jax.encoder.apply import init_params
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.fit import train_and_report
from selfdistill_jax.prepare import prepare as prepare_job
from selfdistill_jax.train.data.dataset import load_data
from selfdistill_jax.train.job import make_job
from selfdistill_jax.train.model import Model
from selfdistill_jax.train.monitoring.run_log import METRICS

train = train_and_report


def load_model(config: ml_collections.ConfigDict) -> Model:
    """Returns the encoder of a run."""
    return make_job(config).load_model()


def prepare(config: ml_collections.ConfigDict) -> str:
    """Returns the summary of a run's prepared data."""
    return prepare_job(make_job(config))


def load_batches(config: ml_collections.ConfigDict) -> TrainingBatches:
    """Returns the batches of a run."""
    job = make_job(config)
    return load_data(job.data, job.load_model())[1]


# Every subject has one word in queries and another in documents: an encoder has to learn the pairs.
ASKED = ["mabo", "tiri", "kelu", "sona", "pevi", "duga", "lofe", "zamu", "beki", "noru"]
SAID = ["hasit", "vokel", "jurad", "gimon", "wepak", "cudel", "tafir", "yosub", "qined", "rulom"]
PLACES = ["pavo", "lenz", "tirgu", "omsk", "brno"]
SPLITS = {"train": range(24), "dev": range(24, 32), "test": range(32, 40)}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ASKED, *SAID, *PLACES, "the"]
SIZES = EncoderConfig(len(WORDS), 16, 2, 2, 32, 16)

# Rows of a file of texts, and the content of each that is encoded.
ROWS = [
    {"_id": "one", "title": "Hasit", "text": "vokel pavo"},
    {"text": "the"},
    {"_id": "three", "title": "", "text": "mabo tiri lenz the the the of"},
]
CONTENTS = ["Hasit vokel pavo", "the", "mabo tiri lenz the the the of"]


def pairs() -> list[tuple[int, int]]:
    """Returns all pairs of subjects in a fixed random order."""
    every = list(itertools.combinations(range(len(ASKED)), 2))
    return [every[i] for i in np.random.default_rng(0).permutation(len(every))]


def texts(number: int, place: int) -> tuple[str, str, str]:
    """Returns query, title and text on one pair of subjects; they share only the place."""
    a, b = pairs()[number]
    tail = " the" * (number % 3)
    query = f"{ASKED[a]} {ASKED[b]} {PLACES[place]}"
    return query, SAID[a].title(), f"{SAID[b]} {PLACES[place]}{tail} of"


def write_collection(folder: Path, *, splits=SPLITS) -> Path:
    """Writes a BEIR folder of 40 queries with one document each."""
    (folder / "qrels").mkdir(parents=True)
    rows = [texts(i, i % len(PLACES)) for i in range(40)]
    write_rows(
        folder / "queries.jsonl", [{"_id": f"q{i}", "text": r[0]} for i, r in enumerate(rows)]
    )
    write_rows(
        folder / "corpus.jsonl",
        [{"_id": f"c{i}", "title": r[1], "text": r[2]} for i, r in enumerate(rows)],
    )
    for split, numbers in splits.items():
        qrels = [f"q{i}\tc{i}\t1\n" for i in numbers]
        head = "query-id\tcorpus-id\tscore\n"
        (folder / "qrels" / f"{split}.tsv").write_text(head + "".join(qrels))
    return folder


def write_rows(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_encoder(folder: Path, sizes: EncoderConfig = SIZES) -> Path:
    """Writes a random BERT with a WordPiece tokenizer of the collection's words."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    source = folder.with_name(f"{folder.name}.tokenizer")
    source.mkdir(parents=True)
    tokenizer.save(str(source / "tokenizer.json"))
    raw = {
        "model_type": "bert",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.intermediate_size,
        "max_position_embeddings": sizes.max_positions,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    # With this key, runs of all weights and runs of LoRA both gain on dev.
    params = jax.tree.map(np.asarray, init_params(sizes, jax.random.key(1)))
    write_folder(folder, Pretrained(source, sizes, raw, params, {}, "mean", 16), card="Random.")
    return folder


class Tiny:
    """The collection and the encoder on disk, and the configs of runs with them."""

    def __init__(self, root: Path):
        self.root = root
        self.collection = write_collection(root / "tiny")
        self.encoder = write_encoder(root / "encoder")
        self.settings: dict[str, Any] = {
            "data.dataset": str(self.collection),
            "data.cache": str(root / "cache"),
            "data.query_length": 8,
            "data.document_length": 12,
            "encoder.max_length": 14,
            "encoder.init": str(self.encoder),
            "train.dtype": "float32",
            "train.steps": 12,
            "train.batch_size": 8,
            "train.learning_rate": 0.02,
            "train.warmup_steps": 2,
            "train.decay": "constant",  # so that runs of all lengths share one compiled step
            "train.checkpoint_every": 5,
            "train.evaluate_every": 4,
            "evaluation.dev_documents": 0,
            "evaluation.retention": "",
            "data.dev_queries": 0,
            "evaluation.interpolation": (),
        }

    def config(self, loss: str = "distributed", **settings: Any) -> ml_collections.ConfigDict:
        """Returns the config of a loss; ``train__steps=4`` sets ``config.train.steps``."""
        config = base.get_config(loss)
        changed = {key.replace("__", "."): value for key, value in settings.items()}
        config.update_from_flattened_dict(self.settings | changed)
        return config

    def flags(self, **settings: Any) -> list[str]:
        """Returns the same settings as arguments of the command."""
        changed = {key.replace("__", "."): value for key, value in settings.items()}
        return [f"--config.{key}={value}" for key, value in (self.settings | changed).items()]


def metrics(workdir: Path, kind: str = "") -> list[dict[str, Any]]:
    """Returns a run's records without figures that depend on the clock or on packing."""
    lines = (workdir / METRICS).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    clock = ("time", "triplets_per_second", "useful_tokens_per_second", "padding_share")
    return [
        {key: value for key, value in record.items() if key not in clock}
        for record in records
        if kind in ("", record["kind"]) and record["kind"] != "account"
    ]


def content(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fails(result: tuple[int, str, str], message: str) -> bool:
    """Returns whether a result of ``start`` is a one-line error that begins with the message."""
    status, out, err = result
    return (status, out) == (2, "") and err.startswith(f"error: {message}") and err.count("\n") == 1
