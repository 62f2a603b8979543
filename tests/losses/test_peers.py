"""Tests values and gradients against torch: the released code's formulas and peers' baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax import losses
from tests.losses.reference import from_teacher, triplets

torch = pytest.importorskip("torch")
F = torch.nn.functional
ERRORS = {
    "l2": torch.square,
    "l1": torch.abs,
    "soft": lambda x: torch.log(1 + torch.exp(-x)),
}


def compare(loss, formula, **arrays):
    """Checks that the values and the gradients of q, p and n agree in float64."""
    size = 7
    x = triplets(size)
    tensors = [torch.tensor(v, requires_grad=True) for v in x]
    want = formula(*tensors, **{k: torch.tensor(v) for k, v in arrays.items()})
    want.backward()
    with jax.enable_x64(True):
        got, gradient = jax.device_get(jax.jit(jax.value_and_grad(lambda x: loss(*x, **arrays)))(x))
    np.testing.assert_allclose(got, want.item(), rtol=1e-12)
    for ours, theirs in zip(gradient, tensors, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=1e-12)


def cosine(a, b):
    return F.cosine_similarity(a, b)


def all_cosines(a, b):
    return F.normalize(a) @ F.normalize(b).T


@pytest.mark.parametrize("error", ERRORS)
def test_released_distributed(error):
    """A vector of margins minus a matrix of targets broadcasts along rows: column j gets m_j."""

    def released(q, p, n):
        margins = cosine(q, p) - cosine(q, n)
        return ERRORS[error](margins - (1 + all_cosines(p, n)) / 2).mean()

    compare(lambda *x: losses.distributed_margin(*x, error=error, over="positives"), released)


@pytest.mark.parametrize("error", ERRORS)
def test_released_in_batch(error):
    """A vector of positives minus a matrix of negatives gives column j the positive of j."""

    def margins(q, p, n):
        return cosine(q, p) - all_cosines(q, n)

    def adaptive(q, p, n):
        return ERRORS[error](margins(q, p, n) - (1 + all_cosines(p, n)) / 2).mean()

    def static(q, p, n):
        return ERRORS[error](margins(q, p, n) - 0.3).mean()

    options = {"error": error, "in_batch": True, "broadcast": "released"}
    compare(lambda *x: losses.adaptive_margin(*x, **options), adaptive)
    compare(lambda *x: losses.static_margin(*x, margin=0.3, **options), static)


@pytest.mark.parametrize("error", ERRORS)
def test_released_triplet_by_triplet(error):
    def adaptive(q, p, n):
        return ERRORS[error](cosine(q, p) - cosine(q, n) - (1 + cosine(p, n)) / 2).mean()

    compare(lambda *x: losses.adaptive_margin(*x, error=error), adaptive)


class Given(torch.nn.Module):
    """Stands in for a SentenceTransformer with given vectors."""

    def forward(self, features):
        return dict(features)

    def get_embedding_dimension(self):
        return 12


def features(*vectors):
    return [{"sentence_embedding": v} for v in vectors]


@pytest.fixture
def peer():
    return pytest.importorskip("sentence_transformers.losses")


@pytest.mark.parametrize("symmetric", [False, True])
def test_softmax(peer, symmetric):
    ways = ("query_to_doc", "doc_to_query") if symmetric else ("query_to_doc",)
    theirs = peer.MultipleNegativesRankingLoss(
        Given(), scale=10.0, directions=ways, partition_mode="per_direction"
    )
    compare(
        lambda *x: losses.softmax(*x, temperature=0.1, symmetric=symmetric),
        lambda *x: theirs(features(*x), None),
    )


def test_joint_softmax(peer):
    theirs = peer.MultipleNegativesRankingLoss(
        Given(),
        scale=10.0,
        directions=("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
    )
    compare(
        lambda *x: losses.softmax(*x, temperature=0.1, joint=True),
        lambda *x: theirs(features(*x), None),
    )


@pytest.mark.parametrize("slack", [-0.05, 0.0, 0.3])
def test_guide(peer, slack):
    """The trained encoder is its own guide."""
    from transformers import BertTokenizer

    model = Given()
    model.tokenizer, model.max_seq_length = BertTokenizer(), 8
    theirs = peer.GISTEmbedLoss(
        model, model, temperature=0.1, margin=-slack, contrast_anchors=False,
        contrast_positives=False,
    )  # fmt: skip
    compare(
        lambda *x: losses.softmax(*x, temperature=0.1, guide=slack),
        lambda *x: theirs(features(*x), None),
    )


def test_triplet(peer):
    theirs = peer.TripletLoss(
        Given(), distance_metric=peer.TripletDistanceMetric.COSINE, triplet_margin=0.4
    )
    compare(lambda *x: losses.triplet(*x, margin=0.4), lambda *x: theirs(features(*x), None))


def test_pairwise_logistic():
    def ranknet(q, p, n):
        preferred = (cosine(q, p) - cosine(q, n)) / 0.3
        return F.binary_cross_entropy_with_logits(preferred, torch.ones_like(preferred))

    compare(lambda *x: losses.pairwise_logistic(*x, temperature=0.3), ranknet)


def test_margin_mse(peer):
    theirs = peer.MarginMSELoss(Given())
    compare(
        lambda *x, teacher_margin: losses.margin_mse(
            *x, teacher_margin=teacher_margin, normalize=False
        ),
        lambda *x, teacher_margin: theirs(features(*x), teacher_margin),
        **from_teacher("margin_mse", 7),
    )


def test_kl(peer):
    theirs = peer.DistillKLDivLoss(Given(), temperature=2.0)
    compare(
        lambda *x, teacher_scores: losses.kl(
            *x, teacher_scores=teacher_scores, temperature=2.0, scale=1.0, normalize=False
        ),
        lambda *x, teacher_scores: theirs(features(*x), teacher_scores),
        **from_teacher("kl", 7),
    )


def test_matryoshka(peer):
    model, sizes, weights = Given(), [12, 7, 2], [1.0, 0.5, 3.0]
    softmax = peer.MultipleNegativesRankingLoss(
        model, scale=10.0, directions=("query_to_doc",), partition_mode="per_direction"
    )
    theirs = peer.MatryoshkaLoss(model, softmax, sizes, weights)
    compare(
        lambda *x: losses.matryoshka(
            losses.softmax, *x, dimensions=sizes, weights=weights, temperature=0.1
        ),
        lambda *x: theirs(features(*x), None),
    )


def test_float32_too():
    """The formulas also agree in float32, which users run, within its rounding."""
    x = [np.float32(v) for v in triplets(64)]
    q, p, n = (torch.tensor(v) for v in x)
    want = torch.square(cosine(q, p) - cosine(q, n) - (1 + all_cosines(p, n)) / 2).mean()
    got = losses.distributed_margin(*map(jnp.asarray, x), over="positives")
    np.testing.assert_allclose(got, want.item(), rtol=2e-6)
