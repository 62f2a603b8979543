"""Writes triplet files with a teacher's scores, from a BEIR folder's training pairs.

    python -m studies.score_triplets TEACHER data/tldr-3k --shares 0.135 1

Negatives are random. Each share of the training pairs becomes a file in that folder, such as
`teacher-0.135.jsonl`; a smaller share is the beginning of a larger one. A score is 20 times the
teacher's cosine, which fits the default scale of the losses `margin_mse` and `kl`. The printed
seconds are those of the teacher, which encodes each text of a share once.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selfdistill_jax import BiEncoder
from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.progress import show_log
from selfdistill_jax.train.data.mined_examples import SCALE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", help="folder or hub id of a bi-encoder")
    parser.add_argument("folder", type=Path, help="BEIR folder")
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0])
    options = parser.parse_args()
    show_log()
    write_scored_triplets(BiEncoder.load(options.teacher), options.folder, options.shares)


def write_scored_triplets(teacher: BiEncoder, folder: Path, shares: Sequence[float]) -> None:
    """Writes a file in the folder for each share of its training pairs."""
    source = BeirFolder(folder)
    documents, queries = list(source.documents()), list(source.queries())
    triplets = draw_triplets(source, len(documents))
    for share in shares:
        part = triplets[: max(1, round(share * len(triplets)))]
        began = time.monotonic()
        asked, of_query = np.unique(part[:, 0], return_inverse=True)
        used, of_document = np.unique(part[:, 1:], return_inverse=True)
        query_vectors = teacher.encode_query([queries[i].text for i in asked], progress="Queries")
        document_vectors = teacher.encode_document(
            [documents[i].content for i in used], progress="Documents"
        )
        pairs = document_vectors[of_document.reshape(-1, 2)]  # [examples, 2, D]
        scores = SCALE * np.einsum("nd,nkd->nk", query_vectors[of_query], pairs)
        seconds = time.monotonic() - began
        path = folder / f"teacher-{share:g}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for (query, positive, negative), (high, low) in zip(part, scores.tolist(), strict=True):
                row = {
                    "query_id": queries[query].id,
                    "positive_id": documents[positive].id,
                    "negative_id": documents[negative].id,
                    "positive_score": round(high, 4),
                    "negative_score": round(low, 4),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{path}: {len(part):,} examples, {seconds:.0f} s")


def draw_triplets(source: BeirFolder, num_documents: int) -> np.ndarray:
    """Returns ``[examples, 3]``, rows of queries, positives and negatives, shuffled.

    Documents that dev or test judges are no negatives.
    """
    held_out = {row.document for split in ("dev", "test") for row in source.judgements(split)}
    free = [row for row in range(num_documents) if row not in held_out]
    examples, positives = list(source.examples()), defaultdict(set)
    for example in examples:
        positives[example.query].add(example.positive)
    draw, triplets = random.Random(0), []
    for example in examples:
        negative = draw.choice(free)
        while negative in positives[example.query]:
            negative = draw.choice(free)
        triplets.append((example.query, example.positive, negative))
    draw.shuffle(triplets)
    return np.array(triplets)


if __name__ == "__main__":
    main()
