"""Encoding of a corpus: `BiEncoder.encode` against `SentenceTransformer.encode`.

    python benchmarks/encode.py --dataset=DIR --texts=2000 --output=encode.json

The time covers tokenising the texts (title and text of a BEIR folder's documents) and computing
unit vectors; both sides cut texts at the same length. Each side is a separate process, in its
faster precision. The sides run in turn, with models loaded and warm. sentence-transformers gets the
fastest
of several batch sizes, measured beforehand on a quarter of the texts; ours has no batch size.
"tokens" are useful tokens: those of the cut texts, special tokens included, without padding.
"""

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when run as a file
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Several processes share a GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax.numpy as jnp
import numpy as np

from benchmarks import common
from benchmarks.common import Worker, alternate, print_table, summary, write
from selfdistill_jax import BiEncoder
from selfdistill_jax.checkpoints.hub import locate
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.data.tokenizer import Tokenizer


def ours(*, model: str, texts: list[str], length: int, precision: str) -> tuple[Any, dict]:
    """For `common.Worker`."""
    encoder = read_folder(model)._replace(max_length=length)
    loaded = BiEncoder(encoder, dtype=jnp.dtype(precision))
    return lambda: loaded.encode(texts), {"vectors": loaded.encode(texts)}


def sentence_transformers(
    *, model: str, texts: list[str], length: int, precision: str, batch_size: int
) -> tuple[Any, dict]:
    """For `common.Worker`."""
    import torch
    from sentence_transformers import SentenceTransformer

    from benchmarks.torch_sides import fastest_attention

    if torch.cuda.is_available():
        # The precision of float32 products in XLA on a GPU.
        torch.set_float32_matmul_precision("high")
    attention = fastest_attention(precision)
    loaded = SentenceTransformer(
        model, model_kwargs={"dtype": precision, "attn_implementation": attention}
    )
    loaded.max_seq_length = length

    def run() -> np.ndarray:
        return loaded.encode(
            texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )

    return run, {"vectors": run(), "batch_size": batch_size, "attention": attention}


SIDES = {"ours": ours, "sentence_transformers": sentence_transformers}


def corpus(folder: str, limit: int) -> list[str]:
    """The first ``limit`` texts of a BEIR folder; all texts if it is 0."""
    contents = (document.content for document in BeirFolder(folder).documents())
    return list(itertools.islice(contents, limit or None))


def fastest_batch_size(sizes: Sequence[int], texts: Sequence[str], **arguments: Any) -> int:
    """The fastest batch size of sentence-transformers, measured on every fourth text."""
    if len(sizes) == 1:
        return sizes[0]
    workers = {
        str(size): Worker(sentence_transformers, texts=texts[::4], batch_size=size, **arguments)
        for size in sizes
    }
    seconds = alternate(workers, 1)
    for worker in workers.values():
        worker.close()
    return int(min(seconds, key=lambda size: seconds[size][0]))


def compare(
    seconds: Mapping[str, Sequence[float]],
    facts: Mapping[str, Mapping[str, Any]],
    *,
    texts: int,
    tokens: int,
) -> dict[str, Any]:
    """Rates of each side and, if both ran, the speed-up of ours.

    Args:
      seconds: side -> seconds of each round.
      facts: side -> ``vectors``, and values that the result includes unchanged.
      texts, tokens: number of texts and tokens encoded in a round.
    """
    found: dict[str, Any] = {}
    for side, taken in seconds.items():
        found[side] = {
            "texts_per_second": summary([texts / s for s in taken]),
            "useful_tokens_per_second": summary([tokens / s for s in taken]),
            **{name: value for name, value in facts[side].items() if name != "vectors"},
        }
    if seconds.keys() == SIDES.keys():
        rounds = zip(*(seconds[side] for side in SIDES), strict=True)
        found["ratio"] = statistics.median(theirs / mine for mine, theirs in rounds)
        mine, theirs = (facts[side]["vectors"] for side in SIDES)
        found["largest_difference"] = float(np.abs(mine - theirs).max())
    return found


def measure(options: argparse.Namespace) -> None:
    model = str(locate(options.model))
    texts = corpus(options.dataset, options.texts)
    tokens = sum(map(len, Tokenizer(Path(model)).encode(texts, limit=options.length)))
    precisions = common.precisions(options)
    workers = {}
    for side in options.sides:
        given: dict[str, Any] = {
            "model": model, "length": options.length, "precision": precisions[side]
        }  # fmt: skip
        if side == "sentence_transformers":
            given["batch_size"] = fastest_batch_size(options.batch_size, texts, **given)
        workers[side] = Worker(SIDES[side], texts=texts, **given)
    seconds = alternate(workers, options.rounds)
    facts = {
        side: {"precision": precisions[side], **worker.facts, "peak_gb": worker.close()}
        for side, worker in workers.items()
    }
    found = compare(seconds, facts, texts=len(texts), tokens=tokens)
    rows = [["side", "precision", "batch", "texts/s", "min..max", "tokens/s", "peak GB"]]
    for side in options.sides:
        one = found[side]
        rate = one["texts_per_second"]
        rows.append(
            [side, one["precision"], one.get("batch_size", "-"), f"{rate['median']:.1f}",
             f"{rate['min']:.1f}..{rate['max']:.1f}",
             f"{one['useful_tokens_per_second']['median']:.0f}", f"{one['peak_gb']:.2f}"]
        )  # fmt: skip
    print_table(rows)
    if "ratio" in found:
        print(
            f"\nours is {found['ratio']:.2f} times as fast; "
            f"vectors differ by {found['largest_difference']:.1e} at most"
        )
    settings = {
        **common.settings(options),
        "texts": len(texts),
        "tokens": tokens,
        "length": options.length,
    }
    write(options.output, {"settings": settings, **found})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="BEIR folder")
    add("--texts", type=int, default=2000, help="the first so many; 0: all")
    add("--length", type=int, default=200, help="tokens a text is cut at")
    text = "of sentence-transformers; the fastest of these is taken"
    add("--batch_size", type=int, nargs="+", default=[32, 64, 128], help=text)
    common.run(measure, common.parse(parser, argv, SIDES))


if __name__ == "__main__":
    main()
