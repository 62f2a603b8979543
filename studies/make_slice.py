"""Writes a smaller BEIR folder: a random part of the queries and documents of a large one.

    python studies/make_slice.py data/arxiv-titles data/arxiv-titles-slice

Keeps `--test` and `--dev` queries with their documents, and fills up to `--documents` with other
documents and all training queries of documents that are left. A search among fewer documents is
easier, so values are comparable only within the slice.
"""

import argparse
import json
import random
from pathlib import Path

SPLITS = ("train", "dev", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--documents", type=int, default=8000)
    parser.add_argument("--dev", type=int, default=300)
    parser.add_argument("--test", type=int, default=800)
    options = parser.parse_args()
    draw = random.Random(0)
    qrels = {split: read_qrels(options.source / "qrels" / f"{split}.tsv") for split in SPLITS}
    kept: set[str] = set()
    for split in ("dev", "test"):
        queries = sorted({query for query, _, _ in qrels[split]})
        chosen = set(draw.sample(queries, min(getattr(options, split), len(queries))))
        qrels[split] = [row for row in qrels[split] if row[0] in chosen]
        kept |= {document for _, document, _ in qrels[split]}
    documents = read_rows(options.source / "corpus.jsonl")
    others = [row["_id"] for row in documents if row["_id"] not in kept]
    kept |= set(draw.sample(others, max(0, min(options.documents - len(kept), len(others)))))
    qrels["train"] = [row for row in qrels["train"] if row[1] in kept]
    asked = {query for rows in qrels.values() for query, _, _ in rows}
    (options.output / "qrels").mkdir(parents=True)
    write_rows(options.output / "corpus.jsonl", [row for row in documents if row["_id"] in kept])
    queries = read_rows(options.source / "queries.jsonl")
    write_rows(options.output / "queries.jsonl", [row for row in queries if row["_id"] in asked])
    for split, rows in qrels.items():
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(row) for row in rows)]
        path = options.output / "qrels" / f"{split}.tsv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(kept):,} documents, {len(asked):,} queries")


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def read_qrels(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


if __name__ == "__main__":
    main()
