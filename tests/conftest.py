"""Test environment: eight virtual CPU devices, no hub, strict shapes."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# This must precede the import of jax and transformers. Without it, looking up a hub name hangs for
# 46 s where there is no network.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

# Lets programs that tests start find the package without installing it.
os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)

# Programs compiled here run for milliseconds, so most of the tests' time went into compiling them.
# The first flag turns LLVM's optimizations off. The others select XLA's older lowering to LLVM, and
# one LLVM module instead of 32. Compiling the step of all losses took 27 s of processor time
# without flags, 18 s with the first one and 8 s with all. XLA aborts on an unknown flag, so the
# others are set for one version of jaxlib only. `XLA_FLAGS= pytest` compiles the tests as users'
# programs are compiled; `make soak` does this.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * version("jaxlib").startswith("0.10."),
)
# Many tests share a training step that takes seconds to compile. The cache lasts for this session,
# whose processes share it (`pytest -n 2`).
os.environ["JAX_COMPILATION_CACHE_DIR"] = (
    os.environ["JAX_COMPILATION_CACHE_DIR"]
    if "PYTEST_XDIST_WORKER" in os.environ
    else tempfile.mkdtemp(prefix="selfdistill_jax-compiled-")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

# Tests must not read or fill the user's own cache: tokenizers are cached there.
os.environ["XDG_CACHE_HOME"] = (
    os.environ["XDG_CACHE_HOME"]
    if "PYTEST_XDIST_WORKER" in os.environ
    else tempfile.mkdtemp(prefix="selfdistill_jax-cache-")
)

import jax
import pytest

if "PYTEST_XDIST_WORKER" not in os.environ:
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        atexit.register(shutil.rmtree, os.environ[name], ignore_errors=True)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Returns a `tests.tiny.Tiny`: a collection and an encoder that train in a second."""
    from tests.tiny import Tiny

    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def finished(tiny):
    """Returns the folder of a finished run with tiny's own settings; tests must not change it."""
    from tests.tiny import train

    workdir = tiny.root / "finished"
    assert train(tiny.config(), workdir) is not None
    return workdir


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Returns ``models(case)``: torch's model, which tests must not change, and its folder."""
    import torch
    import transformers

    from tests.encoder.settings import SETTINGS

    made = {}

    def make(case):
        if case not in made:
            torch.manual_seed(0)
            config = transformers.AutoConfig.for_model(case.split()[0], **SETTINGS[case])
            model = transformers.AutoModel.from_config(config).eval()
            with torch.no_grad():  # also changes biases and norms, which start as zeros and ones
                for value in model.parameters():
                    value += 0.1 * torch.randn_like(value)
            folder = tmp_path_factory.mktemp("model") / "model"
            model.save_pretrained(folder)
            made[case] = model, folder
        return made[case]

    return make


@pytest.fixture(scope="session")
def bases(models):
    """Returns ``bases(case)``: the encoder, its folder, and a compiled function to mean vectors."""
    from selfdistill_jax.checkpoints.model_folder import read_folder
    from selfdistill_jax.encoder.apply import make_encode

    made = {}

    def make(case):
        if case not in made:
            _, folder = models(case)
            encoder = read_folder(str(folder), pooling="mean")
            made[case] = encoder, folder, jax.jit(make_encode(encoder.config, pooling="mean"))
        return made[case]

    return make


@pytest.fixture
def model(finished):
    """Returns the folder of a trained model; tests must not change it."""
    return finished / "model"


@pytest.fixture
def start(capsys, monkeypatch, tmp_path_factory):
    """Returns ``start(command, *arguments)``, which gives exit status, stdout and stderr."""
    from selfdistill_jax.cli.run import run_command
    from selfdistill_jax.progress import LOG

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for name in ("handlers", "level", "propagate"):  # a command sets its own
        monkeypatch.setattr(LOG, name, getattr(LOG, name))

    def run(command, *arguments):
        with pytest.raises(SystemExit) as exit_:
            run_command(command.main, flag_values=command._FLAGS, argv=["command", *arguments])
        return exit_.value.code or 0, *capsys.readouterr()

    return run
