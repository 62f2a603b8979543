"""The rule of imports: rooms know the rooms below them only.

commands: main, prepare, evaluate, search, encode, compare, export
train                       mteb_encoder
bi_encoder, encoding        retrieval
data        encoder         losses       (these know nothing of each other)
errors, progress, packed, io, locks  (leaves: anyone may import them, but for losses)
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import selfdistill_jax

NAME = "selfdistill_jax"
PACKAGE = Path(selfdistill_jax.__file__).parent

LEAVES = {"errors", "progress", "packed", "io", "locks"}
BASEMENT = {"data", "encoder", "losses"}
COMMANDS = {"main", "prepare", "evaluate", "search", "encode", "compare", "export"}
# What each room may import of the package, besides itself.
BELOW = {
    "errors": set(),
    "progress": set(),
    "io": {"errors"},
    "locks": {"errors", "io"},
    "packed": set(),
    "losses": set(),
    "data": LEAVES,
    "encoder": LEAVES,
    "retrieval": BASEMENT | LEAVES,
    "encoding": {"data", "encoder"} | LEAVES,
    "mteb_encoder": {"bi_encoder"} | LEAVES,
    "bi_encoder": {"encoding", "data", "encoder"} | LEAVES,
    "train": {"bi_encoder", "encoding", "retrieval"} | BASEMENT | LEAVES,
    "cli": LEAVES,
    "options": LEAVES,
    "config_flag": {"train"} | LEAVES,
    "__init__": {"bi_encoder"},
}
EVERYTHING = BELOW.keys() - {"__init__"}
BELOW |= {command: (EVERYTHING | COMMANDS) - {"main"} for command in COMMANDS}
# The config object and its flags end here.
SEES_CONFIGS = {"train", "main", "prepare", "config_flag"}


def room(parts):
    """The room of a module's path below the package; of `BiEncoder`, which __init__ lends."""
    if not parts:
        return "__init__"
    return {"BiEncoder": "bi_encoder"}.get(parts[0], parts[0])


def imports(path, module):
    """Full dotted names that a file imports, function bodies included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *base.split(".")]).rstrip(".")
            # Of the package itself, the name is what counts: from selfdistill_jax import cli
            yield from (f"{base}.{a.name}" for a in node.names) if base == NAME else (base,)


def violations(package):
    """``file: import`` of every import that the rule forbids."""
    found = []
    for path in sorted(package.rglob("*.py")):
        at = path.relative_to(package).with_suffix("").parts
        own = room(at)
        for imported in imports(path, ".".join((NAME, *at))):
            first, *rest = imported.split(".")
            if first == NAME:
                allowed = room(rest) == own or room(rest) in BELOW[own]
            elif first in ("ml_collections", "configs"):
                allowed = own in SEES_CONFIGS
            else:
                allowed = first not in ("torch", "tensorflow", "sentence_transformers", "peft")
            if not allowed:
                found.append(f"{'/'.join(at)}: {imported}")
    return found


def test_rooms_import_downwards_only():
    assert violations(PACKAGE) == []


def test_every_room_is_known():
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__pycache__"} == BELOW.keys()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("losses/common", "from selfdistill_jax.errors import InputError"),
        ("data/tokens", "from selfdistill_jax.encoder import bert"),
        ("encoder/bert", "def f():\n    import selfdistill_jax.data.tokens"),
        ("encoder/bert", "from ..losses.common import dot"),
        ("encoder/bert", "from .. import losses"),
        ("retrieval/search", "from selfdistill_jax import encoding"),
        ("retrieval/search", "from selfdistill_jax import BiEncoder"),
        ("retrieval/search", "import selfdistill_jax"),
        ("data/cache", "from ml_collections import ConfigDict"),
        ("encoding", "import configs.base"),
        ("train/loop", "from selfdistill_jax.evaluate import main"),
        ("evaluate", "from selfdistill_jax.main import main"),
        ("train/loop", "import torch"),
    ],
)
def test_the_rule_is_enforced(tmp_path, file, line):
    path = tmp_path / f"{file}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"import jax\nfrom {NAME}.{file.split('/')[0]} import x\n{line}\n")
    assert len(violations(tmp_path)) == 1


def test_losses_come_without_the_rest_of_the_house():
    heavy = ["transformers", "tokenizers", "tensorflow_datasets", "orbax", "flax", "ml_collections"]
    code = f"import sys, {NAME}.losses; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
