"""Encodes texts into a numpy array.

    python -m selfdistill_jax.encode --model=runs/distributed/model --input=texts.jsonl \\
        --output=vectors.npy

Each line of the input is an object with "text" and optionally "title" and "_id", as in a BEIR
corpus. Row i of the output is the float32 unit vector of line i; the ids (or the line numbers) are
written to vectors.ids.txt in the same folder. Texts are encoded 16,384 at a time. If the command is
stopped, the same command resumes after the last complete batch of texts.

For search engines, --dimensions=128 truncates vectors and rescales them to unit length, and
--precision writes 8 bits or 1 bit per number, as sentence-transformers does. int8 and uint8 divide
each dimension's range among the first 16,384 texts. These ranges are written to vectors.ranges.npy;
pass that file as --ranges when encoding queries.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from selfdistill_jax import BiEncoder, io, locks
from selfdistill_jax.cli import options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.data.collection import Document
from selfdistill_jax.data.files.jsonl import field, read_jsonl
from selfdistill_jax.data.files.text import digest
from selfdistill_jax.data.id_rows import IdRows
from selfdistill_jax.data.sources.beir import read_document
from selfdistill_jax.data.sources.judged_files import Placed, with_unique_ids
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG, Progress, show_log
from selfdistill_jax.retrieval.quantize import PRECISIONS, RANGED, check_dimensions, read_ranges
from selfdistill_jax.retrieval.vectors import VectorFile

_SHARD = 16384  # texts: two minutes of work on two cores, the most an interruption can lose
_FEW = 100  # fewer texts give unreliable ranges; sentence-transformers' number
_FLAGS = flags.FlagValues()
options.define_model(_FLAGS)
options.define_adapter(_FLAGS)
options.define_dimensions(_FLAGS)
options.define_path("input", "JSONL file of texts; gzipped if the name ends in .gz.", _FLAGS)
options.define_path("output", "File of vectors to write; its name ends in .npy.", _FLAGS)
flags.DEFINE_enum(
    "kind", "document", ("document", "query", "text"),
    "Kind of the texts; the model's prompt for that kind, if any, is put before each.",
    flag_values=_FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
    "precision",
    "float32",
    list(PRECISIONS),
    "Format of the numbers: float32, 8 bits or 1 bit.",
    flag_values=_FLAGS,
)
options.define_path(
    "ranges",
    "The .npy file of ranges for int8 and uint8; by default they come from --input.",
    _FLAGS,
)


def main(argv: list[str]) -> None:
    show_log()
    options.refuse_rest(argv)
    options.required(_FLAGS, "model", "input", "output")
    texts, output = _FLAGS.input, _FLAGS.output
    if output.suffix != ".npy":
        raise InputError(f"--output={output}: expected a name that ends in .npy")
    options.refuse_pipe("input", texts)
    # Two processes would overwrite each other's rows.
    with locks.locked_output(output, "--output"):
        _encode(texts, output)


def _encode(texts: Path, output: Path) -> None:
    ids, found = (output.with_name(f"{output.stem}.{end}") for end in ("ids.txt", "ranges.npy"))
    options.refuse_existing(output)
    if not VectorFile.begun(output):  # otherwise the interrupted command wrote them
        options.refuse_existing(ids)
    precision, given = _FLAGS.precision, [_FLAGS.ranges] if _FLAGS.ranges else []
    calibrates = precision in RANGED and not given
    if calibrates and not VectorFile.begun(output):
        options.refuse_existing(found)
    names = [row.id for row in stream_texts(texts)]  # checks all rows before encoding
    _check_ranges(precision, given=bool(given), texts=len(names))
    kind = "" if _FLAGS.kind == "text" else _FLAGS.kind
    model = BiEncoder.load(_FLAGS.model, adapter=_FLAGS.adapter or "").of(kind)
    check_dimensions(_FLAGS.dimensions, model.encoder.dimensions)
    dimensions = _FLAGS.dimensions or model.encoder.dimensions
    prompt = model.encoder.prompts.of(kind)
    options_ = {"prompt": prompt, "dimensions": _FLAGS.dimensions}
    vectors = VectorFile(
        output,
        rows=len(names),
        dimensions=dimensions,
        of=f"{model.fingerprint} {digest('texts-1', texts, *given)} {prompt}",
        precision=precision,
        ranges=read_ranges(*given, dimensions) if given else None,
    )
    with io.explained(ids, "the ids", "free some space, and run the same command again"):
        io.write_text(ids, "".join(f"{name}\n" for name in names))
    rest = itertools.islice(stream_texts(texts), vectors.done, None)
    with Progress("Encoding", len(names), unit="texts", start=vectors.done) as bar:
        while shard := [row.content for row in itertools.islice(rest, _SHARD)]:
            vectors.add(model.encode(shard, **options_, progress=bar))
    if calibrates and vectors.ranges is not None:
        np.save(found, vectors.ranges)
    vectors.finish()
    numbers = "" if precision == "float32" else f", {precision},"
    print(f"{len(names):,} vectors of {dimensions} dimensions{numbers} in {output}, ids in {ids}")


def _check_ranges(precision: str, *, given: bool, texts: int) -> None:
    if given and precision not in RANGED:
        raise InputError(
            f"--ranges: not used with --precision={precision}; leave --ranges out, or give "
            f"--precision={' or '.join(RANGED)}"
        )
    if given or precision not in RANGED or texts >= _FEW:
        return
    if texts == 1:
        raise InputError(
            f"--precision={precision}: one text is not enough to set ranges; give the --ranges of "
            "a larger file, written when it was encoded"
        )
    LOG.warning(
        "Ranges are from only %d texts, and other texts may exceed them; give --ranges from more",
        texts,
    )


def stream_texts(path: Path) -> Iterator[Document]:
    """Yields the rows of a JSONL file of texts.

    Raises:
      InputError: a row is malformed, or the file has no rows.
    """
    ids = IdRows()
    yield from with_unique_ids(partial(_read_texts, path), ids)
    if not ids:
        raise InputError(f'{path}: no rows; expected one object with "text" per line')


def _read_texts(path: Path) -> Iterator[Placed]:
    for line, row in read_jsonl(path):
        at: Any = {"path": path, "line": line}
        id_ = field(row, "_id", str, default=str(line), **at)
        yield path, line, read_document(id_, row, **at)


if __name__ == "__main__":
    run_command(main, flag_values=_FLAGS)
