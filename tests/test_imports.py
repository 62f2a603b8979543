"""Checks that packages import only from packages below them.

commands: main, prepare, choose, evaluate, search, encode, compare, report, study, plan
cli                         study, plan
report                      train
retrieval
checkpoints                 data
encoder                     losses
errors, progress, packed, io, locks, json_file    (anyone may import these, except losses)
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import selfdistill_jax

NAME = "selfdistill_jax"
PACKAGE = Path(selfdistill_jax.__file__).parent

LEAVES = {"errors", "progress", "packed", "io", "locks", "json_file"}
COMMANDS = {
    "main",
    "prepare",
    "evaluate",
    "search",
    "encode",
    "compare",
    "choose",
}
# These commands are __main__.py of a package.
MAIN_FILES = {"report command", "study command", "plan command"}
COMMANDS |= MAIN_FILES
# Packages and modules that each of them may import, besides itself.
BELOW = {
    "errors": set(),
    "progress": set(),
    "io": {"errors"},
    "locks": {"errors", "io"},
    "json_file": {"errors", "io"},
    "packed": set(),
    "config": set(),
    "losses": set(),
    "encoder": LEAVES,
    "checkpoints": {"encoder"} | LEAVES,
    "data": LEAVES,
    # BiEncoder.fit imports the module fit when it is called.
    "retrieval": {"data", "checkpoints", "encoder", "losses", "fit"} | LEAVES,
    "train": {"retrieval", "data", "checkpoints", "encoder", "losses"} | LEAVES,
    "report": {"train", "retrieval", "data", "checkpoints", "losses"} | LEAVES,
    "study": {"report", "train", "retrieval", "data"} | LEAVES,
    "plan": {"train", "retrieval", "data", "checkpoints", "encoder"} | LEAVES,
    "cli": {"train", "data"} | LEAVES,
    "fit": {"config", "cli", "report", "train", "retrieval", "data"} | LEAVES,
    "__init__": {"retrieval"},
}
EVERYTHING = BELOW.keys() - {"__init__"}
BELOW |= {command: (EVERYTHING | COMMANDS) - {"main"} for command in COMMANDS}
# Only these files know the config object; job.py turns it into the parts that all others take.
SEES_CONFIGS = {"config", "train/job", "fit", "cli/config_flag", "study/__main__"}


def unit(parts):
    """Returns the package or module that a path below selfdistill_jax belongs to."""
    if not parts:
        return "__init__"
    return {"BiEncoder": "retrieval"}.get(parts[0], parts[0])


def imports(path, module):
    """Yields the full dotted names that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *base.split(".")]).rstrip(".")
            # In `from selfdistill_jax import cli`, the imported name counts.
            yield from (f"{base}.{a.name}" for a in node.names) if base == NAME else (base,)


def violations(package):
    """Returns ``file: import`` for every import that the rule forbids."""
    found = []
    for path in sorted(package.rglob("*.py")):
        at = path.relative_to(package).with_suffix("").parts
        own = f"{at[0]} command" if at[1:] == ("__main__",) else unit(at)
        for imported in imports(path, ".".join((NAME, *at))):
            first, *rest = imported.split(".")
            if first == NAME:
                allowed = unit(rest) == own or unit(rest) in BELOW[own]
            elif first in ("ml_collections", "configs"):
                allowed = "/".join(at) in SEES_CONFIGS
            else:
                allowed = first not in ("torch", "tensorflow", "sentence_transformers", "peft")
            if not allowed:
                found.append(f"{'/'.join(at)}: {imported}")
    return found


def test_packages_import_downwards_only():
    assert violations(PACKAGE) == []


def test_every_package_is_known():
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__pycache__"} == BELOW.keys() - MAIN_FILES


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("losses/common", "from selfdistill_jax.errors import InputError"),
        ("encoder/apply", "def f():\n    import selfdistill_jax.data.tokens"),
        ("encoder/apply", "from ..losses.common import dot"),
        ("retrieval/search", "from selfdistill_jax.train import loop"),
        ("data/tokens", "from selfdistill_jax import BiEncoder"),
        ("data/cache", "from ml_collections import ConfigDict"),
        ("evaluate", "from selfdistill_jax.main import main"),
        ("train/loop", "import torch"),
    ],
)
def test_the_rule_is_enforced(tmp_path, file, line):
    path = tmp_path / f"{file}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"import jax\nfrom {NAME}.{file.split('/')[0]} import x\n{line}\n")
    assert len(violations(tmp_path)) == 1


def test_the_loop_can_be_read_alone():
    own = [name for name in imports(PACKAGE / "train" / "loop.py", "") if name.startswith(NAME)]
    assert len(own) <= 10


def test_losses_import_nothing_heavy():
    heavy = ["transformers", "tokenizers", "tensorflow_datasets", "orbax", "flax", "ml_collections"]
    code = f"import sys, {NAME}.losses; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.check_output(command, text=True, timeout=60) == "[]\n"
