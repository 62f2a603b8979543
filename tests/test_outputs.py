"""Tests every output of every command on a full disk and in a folder that cannot be created.

A limit on the size of files simulates the full disk, because mounting one needs root. A file with
the folder's name simulates missing permissions, because root may write everywhere.
"""

import contextlib
import resource

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from selfdistill_jax import encode, evaluate, search
from selfdistill_jax.errors import InputError
from tests.tiny import content, metrics, prepare, train, write_rows

BLOCK = 4096


@contextlib.contextmanager
def largest_file(size):
    """Lets the system refuse every write beyond ``size`` bytes of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    cache = jax.config.jax_compilation_cache_dir
    _keep_programs_in(None)  # JAX would leave partial programs in the shared cache
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        _keep_programs_in(cache)


def _keep_programs_in(folder):
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


def commands(tiny, model, folder):
    """Returns name -> a command and its arguments; its files are all below ``folder``."""
    texts = write_rows(folder / "texts.jsonl", [{"text": f"mabo {i}"} for i in range(300)])
    given = f"--model={model}"
    corpus = [f"--{name}={tiny.collection}/{name}.jsonl" for name in ("corpus", "queries")]
    output = folder / "out"
    return {
        "encode": (encode, [given, f"--input={texts}", f"--output={output}/v.npy"]),
        "encode int8": (
            encode,
            [given, "--precision=int8", f"--input={texts}", f"--output={output}/v.npy"],
        ),
        "search": (search, [given, *corpus, f"--run={output}/r.trec"]),
        "evaluate": (evaluate, [given, f"--dataset={tiny.collection}", f"--output={output}"]),
    }


NAMES = ["encode", "encode int8", "search", "evaluate"]


def refused(result):
    status, out, err = result
    last = err.splitlines()[-1] if err else ""
    return status == 2 and not out and last.startswith("error: ") and "Traceback" not in err


@pytest.mark.parametrize("size", [0, BLOCK])
@pytest.mark.parametrize("name", NAMES)
def test_no_room_for_an_output(start, tiny, model, tmp_path, name, size):
    command, arguments = commands(tiny, model, tmp_path)[name]
    if name == "evaluate":  # fills its cache first
        assert start(command, *arguments[:-1], f"--output={tmp_path}/other")[0] == 0
    with largest_file(size):
        result = start(command, *arguments)
    assert refused(result), result
    assert "the file is too large for the file system or the process's limit" in result[2]
    left = content(tmp_path)
    assert start(command, *arguments)[0] == 0, "the same command works when there is room"
    assert content(tmp_path).items() >= left.items(), "something half-written was left"


@pytest.mark.parametrize("name", NAMES)
def test_an_output_in_a_place_that_is_no_folder(start, tiny, model, tmp_path, name):
    command, arguments = commands(tiny, model, tmp_path)[name]
    (tmp_path / "out").write_text("mine")
    before = content(tmp_path)
    result = start(command, *arguments)
    assert refused(result), result
    assert f"{tmp_path}/out" in result[2]
    assert content(tmp_path) == before


@pytest.mark.parametrize("size", [0, 450, 1000])
def test_no_room_for_prepared_data(tiny, tmp_path, size):
    config = tiny.config(data__cache=str(tmp_path / "cache"))
    with largest_file(size), pytest.raises(InputError, match=r"prepared data \(the file is too"):
        prepare(config)
    left = content(tmp_path)
    # With 1,000 bytes, the collection is stored and the tokens of the documents are not.
    assert bool(left) == (size == 1000)
    prepare(config)
    whole = content(tmp_path)
    assert {name: whole[name] for name in left} == left  # nothing unfinished was left


@pytest.mark.parametrize("size", [0, BLOCK, 25_000, 100_000])
def test_no_room_for_a_run(tiny, finished, tmp_path, size):
    """With room again, the same command finishes the run with the metrics of an undisturbed one."""
    config = tiny.config(evaluation__test=False)
    with largest_file(size), pytest.raises(InputError, match="too large for the file system"):
        train(config, tmp_path / "run")
    assert not [name for name in content(tmp_path) if "/.new-" in name]
    train(config, tmp_path / "run")
    assert metrics(tmp_path / "run", "train") == metrics(finished, "train")
