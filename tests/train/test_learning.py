"""Tests that a run learns from its config's loss, target, batches and data."""

import json
from functools import partial
from importlib import import_module

import numpy as np
import pytest

from configs import base
from selfdistill_jax.errors import InputError
from selfdistill_jax.losses import LOSSES
from tests import tiny as helpers
from tests.tiny import load_batches, load_model, metrics, train
from tests.train.runs import stop_at, vectors_of

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def triplets(tiny):
    """Writes a file of 200 triplets with given negatives."""
    every = [(i, place) for i in range(len(helpers.pairs())) for place in range(5)][:200]
    rows = []
    for i, place in every:
        query, *positive = helpers.texts(i, place)
        negative = helpers.texts((i + 7) % 45, place)[1:]
        rows.append(
            {"query": query, "positive": " ".join(positive), "negative": " ".join(negative)}
        )
    return helpers.write_rows(tiny.root / "own.jsonl", rows)


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
    # The first loss, by hand, from the first batch, the start encoder and the loss's options.
    encoder = load_model(config).pretrained
    batch = load_batches(config)[0]
    vectors = vectors_of(encoder, batch)
    loss, everything = LOSSES[config.loss.name], base.LOSSES[config.loss.name] | options
    if config.loss.name in ("softmax", "distributed", "adaptive", "static"):
        loss = partial(loss, positive_ids=batch.positive_ids, negative_ids=batch.negative_ids)
    np.testing.assert_allclose(first, loss(*vectors, **everything), rtol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "distributed", "adaptive", "kl"])
def test_several_negatives_of_a_query(tiny, triplets, tmp_path, name):
    """The first step's loss matches one computed by hand from the file's negatives."""
    rows = [json.loads(line) for line in triplets.read_text().splitlines()]
    for number, row in enumerate(rows):
        own = [row.pop("negative"), *(rows[number - k]["positive"] for k in (7, 11))]
        row |= {"negatives": own, "positive_score": 1.0, "negative_scores": [0.5, 0.25, 0.0]}
    file = helpers.write_rows(tmp_path / "groups.jsonl", rows)
    config = tiny.config(
        name, data__dataset="", data__triplets=str(file), data__negatives_per_query=3
    )
    train(config, tmp_path / "run", stop=stop_at(1))
    batch = load_batches(config)[0]
    q, p, n = vectors_of(load_model(config).pretrained, batch, negatives=3)
    assert n.shape == (8, 3, 16)
    given = {"positive_ids": batch.positive_ids, "negative_ids": batch.negative_ids}
    if name == "kl":
        given = {"teacher_scores": batch.scores}
    want = LOSSES[name](q, p, n, **base.LOSSES[name] | given)
    found = metrics(tmp_path / "run", "train")[0]
    np.testing.assert_allclose(found["loss"], want, rtol=1e-5)
    margins = np.einsum("bd,bd->b", q, p)[:, None] - np.einsum("bd,bkd->bk", q, n)
    np.testing.assert_allclose(found["margin_mean"], margins.mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__negatives_per_query": 0}, r"^config\.data\.negatives_per_query is 0, .*'distrib"),
        ({"data__negatives_per_query": 9, "data__negatives": "bm25", "data__candidates": 8},
         r"^config\.data\.candidates is 8; expected 9 or more"),
    ],
)  # fmt: skip
def test_settings_of_negatives(tiny, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        train(tiny.config(**settings), tmp_path / "run")


def test_queries_with_many_positives(tiny, tmp_path):
    """Batches with lists of positives of different widths compile one program per width."""
    documents = [f"{said} {place}" for said in helpers.SAID for place in helpers.PLACES]
    rows = [{"query": "mabo", "positive": document} for document in documents[:20]]
    rows += [
        {"query": f"kelu {i}", "positive": document} for i, document in enumerate(documents[20:])
    ]
    file = helpers.write_rows(tmp_path / "many.jsonl", rows)
    config = tiny.config("softmax", data__dataset="", data__triplets=str(file))
    batches = load_batches(config)
    widths = [batches[k].positive_ids.shape[1] for k in range(12)]
    assert set(widths) == {4, 16}
    assert train(config, tmp_path / "run") is not None


def test_first_dimensions_are_trained_beside_the_whole(tiny, tmp_path):
    config = tiny.config("softmax", train__dimensions=(5, 3))
    assert train(config, tmp_path, stop=stop_at(2)) is None
    assert (
        "Its first 5, 3 dimensions were trained" in (tmp_path / "model" / "README.md").read_text()
    )
    encoder = load_model(config).pretrained
    batch = load_batches(config)[0]
    vectors = vectors_of(encoder, batch)
    ids = {"positive_ids": batch.positive_ids, "negative_ids": batch.negative_ids}
    want = sum(LOSSES["softmax"](*(v[:, :size] for v in vectors), **ids) for size in (16, 5, 3))
    np.testing.assert_allclose(metrics(tmp_path, "train")[0]["loss"], want, rtol=1e-5)
    train(config, tmp_path, stop=stop_at(3))  # the same settings resume the folder


def test_every_target_is_another_run(tiny, finished, tmp_path):
    """All four targets give the same first loss; after two updates the losses differ."""
    records = {"model": metrics(finished, "train")[:3]}
    for target in ("detached", "ema", "start"):
        config = tiny.config(train__target=target, train__target_decay=0.5)
        train(config, tmp_path / target, stop=stop_at(3))
        records[target] = metrics(tmp_path / target, "train")
    first = [record[0]["loss"] for record in records.values()]
    np.testing.assert_allclose(first, first[0], rtol=1e-5)
    # A constant target leaves only the margin's part of the gradient.
    norms = [record[0]["gradient_norm"] for record in records.values()]
    np.testing.assert_allclose(norms[2:], norms[1], rtol=1e-4)
    assert abs(norms[1] - norms[0]) > 1e-3
    assert len({record[2]["loss"] for record in records.values()}) == 4
    # loss.stop_gradient is another way to ask for the detached target.
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


def test_shared_parameters_change_nothing(tiny, finished, tmp_path):
    """Eight devices share one copy of the parameters; losses and results stay the same."""
    report = train(tiny.config(train__fsdp=8), tmp_path / "run")
    for one, other in zip(metrics(tmp_path / "run"), metrics(finished), strict=True):
        assert one.keys() == other.keys()
        for key in ("loss", "gradient_norm", "nDCG@10"):
            if key in one:
                assert one[key] == pytest.approx(other[key], rel=1e-3), key
    assert report.splitlines()[0] == (finished / "result.txt").read_text().splitlines()[0]
    with pytest.raises(InputError, match=r"^config\.train\.fsdp is 3; expected a divisor"):
        train(tiny.config(train__fsdp=3), tmp_path / "other")


def test_another_seed_is_another_run(tiny, finished, tmp_path):
    train(tiny.config(seed=1), tmp_path / "other", stop=stop_at(2))
    both = metrics(tmp_path / "other", "train"), metrics(finished, "train")[:2]
    for mine, others in zip(*both, strict=True):
        assert mine["loss"] != others["loss"]


def test_triplet_file(tiny, triplets, tmp_path):
    config = tiny.config(data__dataset="", data__triplets=str(triplets), train__steps=3)
    assert train(config, tmp_path).startswith("own, test: ")
    assert [r["step"] for r in metrics(tmp_path, "dev")] == [0, 3]


def test_triplet_file_evaluated_on_a_collection(tiny, triplets, finished, tmp_path):
    config = tiny.config(data__triplets=str(triplets), train__steps=3)
    assert train(config, tmp_path).startswith("tiny+own, test: 8 queries, 40 documents")
    # Both runs are evaluated on the same collection; only their training texts differ.
    assert metrics(tmp_path, "dev")[0] == metrics(finished, "dev")[0]
    assert metrics(tmp_path, "train")[0]["loss"] != metrics(finished, "train")[0]["loss"]


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
    sizes = () if loss == "kl" else (9,)
    config = tiny.config(loss, data__triplets=str(files["scored"]), train__dimensions=sizes, **own)
    train(config, tmp_path / "run", stop=stop_at(2))
    encoder = load_model(config).pretrained
    batch = load_batches(config)[0]
    vectors = vectors_of(encoder, batch)
    assert np.isfinite(batch.scores).all()
    teacher = {
        "margin_mse": {"teacher_margin": batch.scores[:, 0] - batch.scores[:, 1]},
        "kl": {"teacher_scores": batch.scores},
    }
    want = sum(
        LOSSES[loss](*(v[:, :size] for v in vectors), **base.LOSSES[loss], **teacher[loss])
        for size in (16, *sizes)
    )
    np.testing.assert_allclose(metrics(tmp_path / "run", "train")[0]["loss"], want, rtol=1e-5)
    for name in ("once", "drawn"):
        config = tiny.config(loss, data__triplets=str(files[name]), **own)
        with pytest.raises(InputError, match=rf"{name}: 1 of .* no teacher scores"):
            train(config, tmp_path / name)
        assert not (tmp_path / name).exists()
