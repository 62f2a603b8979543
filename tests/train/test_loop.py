"""A run from start to end, cut short in every way, and what it leaves behind."""

import contextlib
import json
import shutil
from importlib import import_module

import jax
import numpy as np
import pytest

from configs import base
from selfdistill_jax.data.beir import BeirFolder
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.encoder.encode import make_encode
from selfdistill_jax.encoder.folder import read_folder
from selfdistill_jax.errors import InputError
from selfdistill_jax.losses import LOSSES
from selfdistill_jax.retrieval.evaluation import MEASURES, System
from selfdistill_jax.train import loop, result
from selfdistill_jax.train.checkpoint import Checkpoints
from selfdistill_jax.train.loop import train
from selfdistill_jax.train.optimizer import make_optimizer, make_schedule
from selfdistill_jax.train.setup import load_data, load_encoder
from selfdistill_jax.train.step import TrainState, make_mesh, put_state
from tests import tiny as helpers
from tests.tiny import content, metrics

WEIGHTS = "model/model.safetensors"


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop catches it."""


def killed(*args, **kwargs):
    raise Killed


def kill_at(step):
    def stop(number):
        if number == step:
            raise Killed
        return False

    return stop


def stop_at(step):
    return lambda number: number == step


def checkpointed(config, workdir, step):
    """The parameters that a checkpoint holds."""
    encoder = load_encoder(config)
    schedule = make_schedule(
        learning_rate=0.1, steps=1, warmup_steps=0, decay="constant", decay_rate=1.0
    )
    optimizer = make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
    like = put_state(TrainState(encoder.params, optimizer.init(encoder.params)), make_mesh())
    checkpoints = Checkpoints(workdir / "checkpoints")
    state, _ = checkpoints.restore(step, like)
    checkpoints.close()
    return jax.device_get(state.params)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture(autouse=True)
def undrawn(finished, monkeypatch):
    """Leaves out the report, a third of a short run; ``finished`` has one."""
    monkeypatch.setattr(result, "write_report", lambda workdir, **_: None)


@pytest.fixture
def on_dev(monkeypatch):
    """Scripts what the dev evaluations find: ``on_dev([0.1, 0.3])``; the test split stays true."""

    def script(values):
        values = iter(values)

        def evaluate(examined, encode_table, *, label, **rest):
            if not label.startswith("Dev"):
                return real(examined, encode_table, label=label, **rest)
            value = next(values)
            return System({}, {measure: {"q": value} for measure in MEASURES})

        monkeypatch.setattr(loop, "evaluate_encoder", evaluate)

    real = loop.evaluate_encoder
    return script


def test_run_folder_is_whole(tiny, finished):
    names = {name.split("/")[0] for name in content(finished)}
    assert names == {
        "config.json", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "model",
        "eval", "report.html", "result.txt",
    }  # fmt: skip
    config = tiny.config()
    assert json.loads((finished / "config.json").read_text()) == json.loads(config.to_json())
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    assert None not in environment["versions"].values()
    assert environment["devices"] == ["cpu: cpu"] * 8
    assert environment["seed"] == config.seed
    source = BeirFolder(tiny.collection)
    assert environment["collection_fingerprint"] == source.fingerprint()
    assert environment["collection_source"] == source.describe()
    assert environment["tokenizer_fingerprint"] == Tokenizer(tiny.encoder).fingerprint
    assert {"python", "platform", "cpus", "processes", "commit"} <= environment.keys()
    assert [r["step"] for r in metrics(finished, "train")] == list(range(1, 13))
    assert [r["step"] for r in metrics(finished, "dev")] == [0, 4, 8, 12]
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == ["10", "12"]
    assert sorted(p.name for p in (finished / "eval").iterdir()) == [
        "bm25.test.trec", "per_query.test.tsv", "results.test.json", "start.test.trec",
        "trained.test.trec",
    ]  # fmt: skip
    assert (finished / "report.html").read_text().count("<svg") == 6


def test_run_learns_what_it_is_taught(finished):
    train_records = metrics(finished, "train")
    assert train_records[-3]["loss"] < 0.5 * train_records[0]["loss"]
    means = json.loads((finished / "eval" / "results.test.json").read_text())["means"]
    assert means["trained"]["nDCG@10"] > means["start"]["nDCG@10"] + 0.15
    text = (finished / "result.txt").read_text()
    for name in ("bm25", "start", "trained"):
        assert f"{means[name]['nDCG@10']:.4f}" in text
    assert text in (finished / "model" / "README.md").read_text()


def test_finished_run_is_told_not_repeated(tiny, finished, monkeypatch):
    monkeypatch.setattr(loop, "load_encoder", None)  # nothing is even loaded
    before = content(finished)
    assert train(tiny.config(), finished) == (finished / "result.txt").read_text()
    assert content(finished) == before


def assert_same_run(one, other):
    """Bit for bit, but for the clock and the folder's own name in the texts."""
    assert metrics(one) == metrics(other)
    assert (one / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
    assert content(one / "eval") == content(other / "eval")
    texts = [(run / "result.txt").read_text().replace(str(run), "RUN") for run in (one, other)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "ends",
    [
        # What is left is a run with the same seed in another folder.
        pytest.param([kill_at(3)], id="killed before the first checkpoint"),
        # Stopped past an evaluation; then the evaluation at 8 is done twice.
        pytest.param([stop_at(4), kill_at(9)], id="stopped, then killed past a checkpoint"),
        pytest.param([stop_at(7), stop_at(8)], id="stopped twice"),
    ],
)
def test_interrupted_equals_uninterrupted(tiny, finished, tmp_path, ends):
    workdir = tmp_path / "run"
    for end in ends:
        with contextlib.suppress(Killed):
            assert train(tiny.config(), workdir, stop=end) is None
        assert not (workdir / "result.txt").exists()
    text = train(tiny.config(), workdir)
    assert text == (workdir / "result.txt").read_text()
    assert_same_run(workdir, finished)


@pytest.mark.parametrize("target", ["ema", "start"])
def test_target_encoder_is_part_of_what_goes_on(tiny, tmp_path, target):
    config = tiny.config(
        train__target=target, train__target_decay=0.8, train__steps=6, train__micro_batches=1
    )
    train(config, tmp_path / "whole")
    with contextlib.suppress(Killed):
        train(config, tmp_path / "parts", stop=kill_at(6))
    train(config, tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_every_target_is_another_run(tiny, finished, tmp_path):
    """Of four targets the first step sees the same vectors; what moves is different."""
    records = {"model": metrics(finished, "train")[:3]}
    for target in ("detached", "ema", "start"):
        config = tiny.config(train__target=target, train__target_decay=0.5)
        train(config, tmp_path / target, stop=stop_at(3))
        records[target] = metrics(tmp_path / target, "train")
    first = [record[0]["loss"] for record in records.values()]
    np.testing.assert_allclose(first, first[0], rtol=1e-5)
    # From a constant target only the margin's side of the gradient is left.
    norms = [record[0]["gradient_norm"] for record in records.values()]
    np.testing.assert_allclose(norms[2:], norms[1], rtol=1e-4)
    assert abs(norms[1] - norms[0]) > 1e-3
    assert len({record[2]["loss"] for record in records.values()}) == 4
    # Two ways to say the same.
    again = tiny.config(loss__stop_gradient=True)
    train(again, tmp_path / "again", stop=stop_at(3))
    assert metrics(tmp_path / "again", "train") == records["detached"]


def test_micro_batches_change_nothing(tiny, finished, tmp_path):
    batch = {"train__batch_size": 16}  # two rows on each of eight devices
    for number in (1, 2):
        config = tiny.config(train__micro_batches=number, **batch)
        train(config, tmp_path / str(number), stop=stop_at(4))
    whole, parts = (metrics(tmp_path / name, "train") for name in ("1", "2"))
    for a, b in zip(whole, parts, strict=True):
        assert a.pop("kind") == b.pop("kind")
        for key, value in a.items():
            np.testing.assert_allclose(b[key], value, atol=1e-4, err_msg=key)


def test_killed_in_the_last_evaluation(tiny, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_bm25", killed)
        with pytest.raises(Killed):
            train(tiny.config(), tmp_path / "run")
    train(tiny.config(), tmp_path / "run")
    assert_same_run(tmp_path / "run", finished)


def test_another_seed_is_another_run(tiny, finished, tmp_path):
    train(tiny.config(seed=1), tmp_path / "other", stop=stop_at(2))
    both = metrics(tmp_path / "other", "train"), metrics(finished, "train")[:2]
    for mine, others in zip(*both, strict=True):
        assert mine["loss"] != others["loss"]


def test_model_is_the_best_on_dev_not_the_last(tiny, tmp_path, on_dev):
    on_dev([0.1, 0.2, 0.5, 0.5])  # at steps 0, 3, 6 and the last; of equal ones the first
    config = tiny.config(train__steps=8, train__evaluate_every=3, train__checkpoint_every=3)
    train(config, tmp_path)
    model = read_folder(str(tmp_path / "model")).params
    assert same(model, checkpointed(config, tmp_path, 6))
    assert not same(model, checkpointed(config, tmp_path, 8))


def test_start_encoder_stays_where_nothing_is_better(tiny, tmp_path, on_dev):
    on_dev([0.5, 0.4])
    text = train(tiny.config(train__steps=2), tmp_path)
    assert same(read_folder(str(tmp_path / "model")).params, read_folder(str(tiny.encoder)).params)
    assert "model/ is that" in text


def test_patience_ends_a_run_early(tiny, tmp_path, on_dev, monkeypatch):
    on_dev([0.1, 0.5, 0.4, 0.3, 0.9])
    settings = {"train__patience": 2, "train__evaluate_every": 2, "train__checkpoint_every": 2}
    config = tiny.config(**settings)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_bm25", killed)
        with pytest.raises(Killed):
            train(config, tmp_path)
    # Goes on from step 6, where patience was at its end already.
    assert train(config, tmp_path) is not None
    assert [r["step"] for r in metrics(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in metrics(tmp_path, "dev")] == [0, 2, 4, 6]
    assert not same(read_folder(str(tmp_path / "model")).params, checkpointed(config, tmp_path, 6))


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("train", "dev")])
def test_collection_may_lack_splits(tiny, tmp_path, splits):
    collection = helpers.write_collection(
        tmp_path / "part", splits={s: helpers.SPLITS[s] for s in splits}
    )
    config = tiny.config(data__dataset=str(collection), train__steps=3, train__evaluate_every=2)
    text = train(config, tmp_path / "run")
    model = read_folder(str(tmp_path / "run" / "model")).params
    if "dev" not in splits:
        assert same(model, checkpointed(config, tmp_path / "run", 3))
        assert metrics(tmp_path / "run", "dev") == []
    if len(splits) == 1:
        assert "neither a test nor a dev split" in text
        assert not (tmp_path / "run" / "eval").exists()
    else:
        assert (tmp_path / "run" / "eval" / f"results.{splits[1]}.json").is_file()
        assert ("There is no test split" in text) == (splits[1] == "dev")


def test_diverging_run_says_so_and_keeps_its_checkpoints(tiny, tmp_path):
    config = tiny.config(train__learning_rate=1e30, train__checkpoint_every=1)
    with pytest.raises(InputError, match=r"is nan at step 2; lower config\.train\.learning_rate"):
        train(config, tmp_path / "run")
    assert [r["step"] for r in metrics(tmp_path / "run", "train")] == [1]
    checkpointed(config, tmp_path / "run", 1)  # is whole
    assert not (tmp_path / "run" / "result.txt").exists()
    # The first loss is finite, what the first update makes of the encoder is not.
    config.train.evaluate_every = 1
    with pytest.raises(InputError, match=r"; lower config\.train\.learning_rate"):
        train(config, tmp_path / "other")


def test_restart_moves_the_old_run_aside(tiny, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    old = content(workdir)
    (tmp_path / "run.1").mkdir()  # of an earlier restart
    assert train(tiny.config(seed=5), workdir, restart=True, stop=stop_at(1)) is None
    assert content(tmp_path / "run.2") == old
    assert [r["step"] for r in metrics(workdir, "train")] == [1]
    assert json.loads((workdir / "config.json").read_text())["seed"] == 5


def test_changed_data_are_noticed_in_a_finished_run(tiny, finished, tmp_path):
    before = content(finished)
    changed = shutil.copytree(tiny.collection, tmp_path / "tiny")
    with (changed / "queries.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "new"}\n')
    # The same name in the config, as a file edited in place has.
    original = tiny.collection.rename(tmp_path / "original")
    try:
        changed.rename(tiny.collection)
        with pytest.raises(InputError, match="holds a run with other data"):
            train(tiny.config(), finished)
    finally:
        shutil.rmtree(tiny.collection)
        original.rename(tiny.collection)
    assert content(finished) == before


def test_folder_of_another_run_is_refused(tiny, finished, tmp_path):
    before = content(finished)
    with pytest.raises(InputError) as caught:
        train(tiny.config(seed=1, train__steps=13), finished)
    message = str(caught.value)
    assert "seed is 0 there and 1 here" in message
    assert "train.steps is 12 there and 13 here" in message
    assert message.count(" there and ") == 2
    assert content(finished) == before
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and no run's folder"):
        train(tiny.config(), tmp_path)
    assert list(content(tmp_path)) == ["letter.txt"]


def test_nothing_is_made_for_wrong_input(tiny, tmp_path):
    for wrong in (
        {"train__batch_size": 12},
        {"loss__error": "l3"},
        {"train__decay": "fast"},
        {"data__dataset": str(tmp_path / "none")},
        {"encoder__init": str(tmp_path / "none")},
        {"data__document_length": 15},
        {"encoder__max_length": 17},
        {"encoder__max_length": -1},
        {"train__batch_size": 32},  # of 24 triplets
        {"data__negatives": "hard"},
        {"train__dtype": "float16"},
        {"train__steps": 0},
        {"seed": -1},
        {"train__learning_rate": -0.1},
        {"train__clip_norm": -1.0},
        {"train__patience": -1},
        {"evaluation__depth": 0},
        {"train__block_tokens": -1},
        {"train__micro_batches": 0},
        {"train__micro_batches": 3},
        {"train__target": "teacher"},
        {"train__target_decay": 1.5},
    ):
        with pytest.raises(InputError):
            train(tiny.config(**wrong), tmp_path / "run")
        # A corrected command would be refused a folder that holds the wrong config.
        assert not (tmp_path / "run").exists(), wrong


@pytest.fixture(scope="module")
def triplets(tiny):
    """200 rows that bring their own negatives."""
    every = [(i, place) for i in range(len(helpers.pairs())) for place in range(5)][:200]
    rows = []
    for i, place in every:
        query, *positive = helpers.texts(i, place)
        negative = helpers.texts((i + 7) % 45, place)[1:]
        rows.append(
            {"query": query, "positive": " ".join(positive), "negative": " ".join(negative)}
        )
    return helpers.write_rows(tiny.root / "own.jsonl", rows)


def test_triplet_file(tiny, triplets, tmp_path):
    config = tiny.config(data__dataset="", data__triplets=str(triplets), train__steps=3)
    assert train(config, tmp_path).startswith("own, test: ")
    assert [r["step"] for r in metrics(tmp_path, "dev")] == [0, 3]


def test_triplet_file_evaluated_on_a_collection(tiny, triplets, finished, tmp_path):
    config = tiny.config(data__triplets=str(triplets), train__steps=3)
    assert train(config, tmp_path).startswith("tiny+own, test: 8 queries, 40 documents")
    # Evaluated as the collection alone is, trained on other texts.
    assert metrics(tmp_path, "dev")[0] == metrics(finished, "dev")[0]
    assert metrics(tmp_path, "train")[0]["loss"] != metrics(finished, "train")[0]["loss"]


def test_bm25_negatives(tiny, finished, tmp_path):
    config = tiny.config(data__negatives="bm25", train__steps=2)
    train(config, tmp_path)
    assert metrics(tmp_path, "train")[0]["loss"] != metrics(finished, "train")[0]["loss"]
    batches = load_data(config, load_encoder(config)).batches
    queries, positives, negatives = batches.rows(0, np.arange(24))
    assert (queries == positives).all()
    # BM25 sees the places alone, which row numbers follow.
    assert (negatives % 5 == positives % 5).all()
    assert (negatives != positives).all()


def vectors_of(encoder, batch):
    """Queries, positives and negatives ``[B, D]`` of a batch of any number of parts."""
    encode = jax.jit(make_encode(encoder.config, pooling=encoder.pooling))
    parts = [
        np.split(encode(encoder.params, jax.tree.map(lambda x, i=i: x[i], batch.texts)), 3)
        for i in range(len(batch.texts.blocks))
    ]
    return [np.concatenate(kind) for kind in zip(*parts, strict=True)]


@pytest.mark.parametrize("loss", ["margin_mse", "kl"])
def test_teacher(tiny, triplets, tmp_path, loss):
    scored = [json.loads(line) for line in triplets.read_text().splitlines()]
    for number, row in enumerate(scored):
        row |= {"positive_score": 3.0 + number % 5, "negative_score": -number / 100}
    files = {
        name: helpers.write_rows(tmp_path / f"{name}.jsonl", rows)
        for name, rows in {
            "scored": scored,
            "once": [*scored[:-1], {**scored[-1], "positive_score": None, "negative_score": None}],
            "drawn": [*scored[:-1], {**scored[-1], "negative": None}],
        }.items()
    }
    own = {"data__dataset": ""}
    config = tiny.config(loss, data__triplets=str(files["scored"]), **own)
    train(config, tmp_path / "run", stop=stop_at(2))
    encoder = load_encoder(config)
    data = load_data(config, encoder)
    batch = data.batches[0]
    vectors = vectors_of(encoder, batch)
    assert np.isfinite(batch.scores).all()
    teacher = {
        "margin_mse": {"teacher_margin": batch.scores[:, 0] - batch.scores[:, 1]},
        "kl": {"teacher_scores": batch.scores},
    }
    want = LOSSES[loss](*vectors, **base.LOSSES[loss], **teacher[loss])
    np.testing.assert_allclose(metrics(tmp_path / "run", "train")[0]["loss"], want, rtol=1e-5)
    for name in ("once", "drawn"):
        config = tiny.config(loss, data__triplets=str(files[name]), **own)
        with pytest.raises(InputError, match=rf"{name}: 1 of .* no teacher's scores, .* '{loss}'"):
            train(config, tmp_path / name)
        assert not (tmp_path / name).exists()


def test_target_of_a_loss_without_one_is_refused(tiny, tmp_path):
    for target in ("detached", "ema", "start"):
        with pytest.raises(InputError, match=rf"config.train.target is '{target}'; the loss 'sof"):
            train(tiny.config("softmax", train__target=target), tmp_path / "run")


def test_own_loss_that_the_step_cannot_call_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "own", lambda q, p, n, *, where=None: 0.0)
    config = tiny.config()
    config.loss = {"name": "own"}
    with pytest.raises(InputError, match="the loss 'own' takes no 'axis_name'"):
        train(config, tmp_path / "run")
    monkeypatch.setitem(LOSSES, "own", lambda q, p, n, *, where=None, axis_name=None: q[:, 0])
    with pytest.raises(InputError, match=r"gives an array of shape \(2,\); expected a scalar"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("margin_mse", "kl")])
def test_every_loss_runs_by_its_name(tiny, tmp_path, name):
    config = tiny.config(name, train__steps=1)
    train(config, tmp_path, stop=stop_at(1))
    assert np.isfinite([r["loss"] for r in metrics(tmp_path, "train")]).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("distributed", {}),
        ("adaptive", {"in_batch": True}),
        ("static", {"margin": 0.4}),
        ("contrastive", {"temperature": 0.1}),
    ],
)
def test_every_config_runs_its_loss(tiny, tmp_path, name, options):
    config = import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(tiny.settings)
    config.loss.update(options)
    assert train(config, tmp_path, stop=stop_at(2)) is None
    first, second = (r["loss"] for r in metrics(tmp_path, "train"))
    assert np.isfinite(second)
    # The first loss by hand: of the first batch, the start encoder's vectors, the loss's options.
    encoder = load_encoder(config)
    batch = load_data(config, encoder).batches[0]
    vectors = vectors_of(encoder, batch)
    loss, everything = LOSSES[config.loss.name], base.LOSSES[config.loss.name] | options
    np.testing.assert_allclose(first, loss(*vectors, **everything), rtol=1e-5)
