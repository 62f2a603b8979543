"""Encodes texts into a numpy array.

    python -m selfdistill_jax.encode --model=runs/distributed/model --input=texts.jsonl \\
        --output=vectors.npy

Each line of the input is an object with "text" and optionally "title" and "_id", as in a BEIR
corpus. Row i of the output, float32 and of unit length, belongs to line i; the ids (or the line
numbers) go beside it into vectors.ids.txt.
"""

import os
from pathlib import Path

import numpy as np
from absl import flags

from selfdistill_jax import BiEncoder, cli, options
from selfdistill_jax.data.beir import read_document
from selfdistill_jax.data.jsonl import check_id, field, read_jsonl
from selfdistill_jax.data.source import Document
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import show_log

_FLAGS = flags.FlagValues()
options.define_model(_FLAGS)
flags.DEFINE_string("input", None, "File of texts, JSONL, may end in .gz.", flag_values=_FLAGS)
flags.DEFINE_string("output", None, "File of vectors, .npy.", flag_values=_FLAGS)


def main(argv: list[str]) -> None:
    show_log()
    options.refuse_rest(argv)
    options.required(_FLAGS, "model", "input", "output")
    output = Path(_FLAGS.output)
    if output.suffix != ".npy":
        raise InputError(f"--output={output}: expected a name that ends in .npy")
    ids = output.with_name(f"{output.stem}.ids.txt")
    options.refuse_existing(output, ids)
    rows = read_texts(Path(_FLAGS.input))
    model = BiEncoder.load(_FLAGS.model)
    output.parent.mkdir(parents=True, exist_ok=True)
    vectors = model.encode([row.content for row in rows], progress="Encoding")
    ids.write_text("".join(f"{row.id}\n" for row in rows), encoding="utf-8")
    temporary = output.with_name(f".{output.name}")
    np.save(temporary, vectors)
    os.replace(temporary, output)
    print(f"{len(rows):,} vectors of {vectors.shape[1]} dimensions in {output}, ids in {ids}")


def read_texts(path: Path) -> list[Document]:
    """The rows of a JSONL file of texts.

    Raises:
      InputError: a row is malformed, or there is none.
    """
    rows, seen = [], set()
    for line, row in read_jsonl(path):
        at = {"path": path, "line": line}
        id_ = check_id(field(row, "_id", str, default=str(line), **at), seen, **at)
        seen.add(id_)
        rows.append(read_document(id_, row, **at))
    if not rows:
        raise InputError(f'{path}: no rows; expected one object with "text" a line')
    return rows


if __name__ == "__main__":
    cli.run(main, flag_values=_FLAGS)
