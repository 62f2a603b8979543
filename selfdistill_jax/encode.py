"""Encodes texts into a numpy array.

    python -m selfdistill_jax.encode --model=runs/distributed/model --input=texts.jsonl \\
        --output=vectors.npy

Each line of the input is an object with "text" and optionally "title" and "_id", as in a BEIR
corpus. Row i of the output, float32 and of unit length, belongs to line i; the ids (or the line
numbers) go beside it into vectors.ids.txt. Texts are encoded 16,384 at a time; stopped, the same
command goes on where it was.

For search engines, --dimensions=128 cuts vectors and scales them to unit length again, and
--precision writes 8 bits or 1 bit a number, as sentence-transformers does. The range that int8 and
uint8 divide is each dimension's among the first 16,384 texts, and goes beside the output into
vectors.ranges.npy: give that by --ranges for queries.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags

from selfdistill_jax import BiEncoder, io, locks
from selfdistill_jax.cli import options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.data.collection import Document
from selfdistill_jax.data.sources.beir import read_document
from selfdistill_jax.data.sources.jsonl import check_id, digest, field, read_jsonl
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG, Progress, show_log
from selfdistill_jax.retrieval.quantize import PRECISIONS, RANGED, check_dimensions, read_ranges
from selfdistill_jax.retrieval.vectors import VectorFile

_SHARD = 16384  # texts: on two cores two minutes of work, which is lost at most
_FEW = 100  # texts that say little of where all others will lie; sentence-transformers' number
_FLAGS = flags.FlagValues()
options.define_model(_FLAGS)
options.define_adapter(_FLAGS)
options.define_dimensions(_FLAGS)
options.define_path("input", "File of texts, JSONL, may end in .gz.", _FLAGS)
options.define_path("output", "File of vectors, .npy.", _FLAGS)
flags.DEFINE_enum(
    "kind", "document", ("document", "query", "text"),
    "What the texts are: the model's prompt for it is put before each, if it has one.",
    flag_values=_FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
    "precision", "float32", list(PRECISIONS), "How a number is written.", flag_values=_FLAGS
)
options.define_path(
    "ranges", "File of ranges for int8 and uint8, instead of these texts' own, .npy.", _FLAGS
)


def main(argv: list[str]) -> None:
    show_log()
    options.refuse_rest(argv)
    options.required(_FLAGS, "model", "input", "output")
    texts, output = _FLAGS.input, _FLAGS.output
    if output.suffix != ".npy":
        raise InputError(f"--output={output}: expected a name that ends in .npy")
    if texts.exists() and not texts.is_file():
        raise InputError(
            f"--input={texts}: not a regular file; it is read several times, which a pipe cannot "
            "be; write the texts to a file first"
        )
    # Two processes would overwrite each other's rows.
    with locks.locked_output(output, "--output"):
        _encode(texts, output)


def _encode(texts: Path, output: Path) -> None:
    ids, found = (output.with_name(f"{output.stem}.{end}") for end in ("ids.txt", "ranges.npy"))
    options.refuse_existing(output)
    if not VectorFile.begun(output):  # else they are of the interrupted command
        options.refuse_existing(ids)
    precision, given = _FLAGS.precision, [_FLAGS.ranges] if _FLAGS.ranges else []
    calibrates = precision in RANGED and not given
    if calibrates and not VectorFile.begun(output):
        options.refuse_existing(found)
    names = [row.id for row in stream_texts(texts)]  # each row is checked before any is encoded
    _check_ranges(precision, given=bool(given), texts=len(names))
    model = BiEncoder.load(_FLAGS.model, adapter=_FLAGS.adapter or "")
    check_dimensions(_FLAGS.dimensions, model.encoder.dimensions)
    dimensions = _FLAGS.dimensions or model.encoder.dimensions
    prompt = model.encoder.prompts.of("" if _FLAGS.kind == "text" else _FLAGS.kind)
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
    kind = "" if precision == "float32" else f", {precision},"
    print(f"{len(names):,} vectors of {dimensions} dimensions{kind} in {output}, ids in {ids}")


def _check_ranges(precision: str, *, given: bool, texts: int) -> None:
    if given and precision not in RANGED:
        raise InputError(f"--ranges: {precision} has none; give --precision={' or '.join(RANGED)}")
    if given or precision not in RANGED or texts >= _FEW:
        return
    if texts == 1:
        raise InputError(f"--precision={precision}: one text spans no ranges; give --ranges")
    LOG.warning("Ranges of %d texts, which others may exceed; give --ranges of more", texts)


def stream_texts(path: Path) -> Iterator[Document]:
    """The rows of a JSONL file of texts.

    Raises:
      InputError: a row is malformed, or there is none.
    """
    seen: set[str] = set()
    for line, row in read_jsonl(path):
        at = {"path": path, "line": line}
        id_ = check_id(field(row, "_id", str, default=str(line), **at), seen, **at)
        seen.add(id_)
        yield read_document(id_, row, **at)
    if not seen:
        raise InputError(f'{path}: no rows; expected one object with "text" a line')


if __name__ == "__main__":
    run_command(main, flag_values=_FLAGS)
