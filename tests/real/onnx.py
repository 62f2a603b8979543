"""all-MiniLM-L6-v2 as we save it, through ONNX: onnxruntime's vectors against ours.

    make real-onnx

Runs the command of docs/vectors.md. optimum wants an older transformers than this package, so uv
makes it an environment of its own, torch included. Not part of `make test`; what it printed last is
in docs/vectors.md.
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
LIMIT = 1e-4
RUN = """
import sys
import numpy as np
import onnxruntime

given = dict(np.load(sys.argv[2]))
session = onnxruntime.InferenceSession(sys.argv[1])
wanted = {i.name: given[i.name] for i in session.get_inputs()}
np.save(sys.argv[3], session.run(["sentence_embedding"], wanted)[0])
"""


def command(model: Path, onnx: Path) -> list[str]:
    """That of the page, with our folders in it."""
    text = PAGE.read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.strip().startswith("uvx "))
    return shlex.split(line.replace("runs/mine/model", str(model)).replace(" onnx/", f" {onnx}"))


def padded(model: BiEncoder, texts: list[str]) -> dict[str, np.ndarray]:
    rows = model.tokenizer.encode(texts, limit=model.encoder.max_length)
    ids, mask = np.zeros((2, len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def main() -> None:
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # uvx
    contents = [document.content for document in PyDocs().documents()][::200][:24]
    texts = [" ".join(text.split()[: 8 * (i + 1)]) or "word" for i, text in enumerate(contents)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ours = BiEncoder.load("sentence-transformers/all-MiniLM-L6-v2")
        ours.save(folder / "model")
        vectors, given = ours.encode(texts), padded(ours, texts)
        np.savez(folder / "given.npz", **given)
        subprocess.run(command(folder / "model", folder / "onnx"), check=True)
        files = [folder / "onnx" / "model.onnx", folder / "given.npz", folder / "vectors.npy"]
        runtime = ["uvx", "--with", "onnxruntime", "python", "-c", RUN]
        subprocess.run([*runtime, *map(str, files)], check=True)
        found = np.load(files[-1])
    largest, lengths = float(np.abs(found - vectors).max()), given["attention_mask"].sum(1)
    print(
        f"all-MiniLM-L6-v2, {len(texts)} texts of {lengths.min()} to {lengths.max()} tokens\n"
        f"vectors, ours and onnxruntime's: differ by {largest:.1e} at most"
    )
    sys.exit(0 if largest <= LIMIT else 1)


if __name__ == "__main__":
    main()
