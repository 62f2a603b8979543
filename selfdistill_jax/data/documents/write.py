"""Writes a BEIR folder with passages and queries of documents without labels."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from selfdistill_jax.data.collection import SPLITS
from selfdistill_jax.data.documents.pairs import Pairs, make_pairs
from selfdistill_jax.data.documents.sections import read_sections
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import new_folder

_KINDS = {"heading": "headings", "link": "texts of links", "sentence": "first sentences"}


def write_collection(documents: Path, output: Path) -> str:
    """Makes a BEIR folder from documents without labels, see `make_pairs`.

    Args:
      documents: a folder of documents or a file, see `read_sections`.
      output: folder to make; it must not exist.

    Returns:
      A summary as text.

    Raises:
      InputError: as for `read_sections` and `make_pairs`, or the output exists.
    """
    if output.exists():
        raise InputError(f"{output}: exists already; give the name of a new folder as --output")
    found = make_pairs(read_sections(documents))
    with new_folder(output) as folder:
        _write_rows(
            folder / "corpus.jsonl",
            [{"_id": p.id, "title": "", "text": p.text} for p in found.passages],
        )
        _write_rows(
            folder / "queries.jsonl",
            [
                {"_id": f"q{i}", "text": pair.query, "metadata": {"kind": pair.kind}}
                for i, pair in enumerate(found.pairs)
            ],
        )
        (folder / "qrels").mkdir()
        for split in SPLITS:
            rows = [
                f"q{i}\t{found.passages[pair.passage].id}\t1\n"
                for i, pair in enumerate(found.pairs)
                if found.split[found.passages[pair.passage].file] == split
            ]
            text = "query-id\tcorpus-id\tscore\n" + "".join(rows)
            (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return _summary(found, documents, output)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _summary(found: Pairs, documents: Path, output: Path) -> str:
    kinds = Counter(pair.kind for pair in found.pairs)
    queries = Counter(found.split[found.passages[pair.passage].file] for pair in found.pairs)
    files = Counter(found.split.values())
    of_kinds = ", ".join(f"{kinds[kind]:,} {name}" for kind, name in _KINDS.items())
    return (
        f"{documents}: {len(found.split):,} documents, {len(found.passages):,} passages "
        f"({found.left_out:,} more nearly equal one of these and are left out)\n"
        f"{len(found.pairs):,} queries: {of_kinds}\n"
        + ", ".join(f"{s} {queries[s]:,} of {files[s]:,} documents" for s in SPLITS)
        + f"\n\nTo train on them, for example:\n\n    python -m selfdistill_jax.main "
        f"--config=configs/recommended.py \\\n        --config.data.dataset={output}"
    )
