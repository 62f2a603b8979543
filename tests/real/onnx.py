"""Compares onnxruntime's vectors with ours, for all-MiniLM-L6-v2 saved here and exported to ONNX.

`make real-onnx` runs the command of docs/vectors.md. optimum needs an older transformers than this
package, so uv gives it a separate environment, including torch. docs/vectors.md has the last
output.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from selfdistill_jax import BiEncoder
from selfdistill_jax.data.sources.pydocs import PyDocs

PAGE = Path(__file__).parents[2] / "docs" / "vectors.md"
RUN = """
import sys, numpy, onnxruntime
given, session = dict(numpy.load("given.npz")), onnxruntime.InferenceSession("onnx/model.onnx")
wanted = {i.name: given[i.name] for i in session.get_inputs()}
numpy.save("vectors.npy", session.run(["sentence_embedding"], wanted)[0])
"""


def main() -> None:
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # uvx
    contents = [document.content for document in PyDocs().documents()][::200][:24]
    texts = [" ".join(text.split()[: 8 * (i + 1)]) or "word" for i, text in enumerate(contents)]
    (line,) = (x for x in PAGE.read_text().replace("\\\n", " ").splitlines() if "uvx " in x)
    command = shlex.split(line.replace("runs/mine/model", "model"))
    model = BiEncoder.load("sentence-transformers/all-MiniLM-L6-v2")
    rows = model.tokenizer.encode(texts, limit=model.encoder.max_length)
    ids, mask = np.zeros((2, len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "model"))
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        np.savez(Path(folder, "given.npz"), **given)
        for words in (command, ["uvx", "--with", "onnxruntime", "python", "-c", RUN]):
            subprocess.run(words, check=True, cwd=folder)
        found = np.load(Path(folder, "vectors.npy"))
    largest, lengths = float(np.abs(found - model.encode(texts)).max()), mask.sum(1)
    print(
        f"all-MiniLM-L6-v2, {len(texts)} texts of {lengths.min()} to {lengths.max()} tokens\n"
        f"vectors, ours and onnxruntime's: differ by {largest:.1e} at most"
    )
    sys.exit(largest > 1e-4)


if __name__ == "__main__":
    main()
