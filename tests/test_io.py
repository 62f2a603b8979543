"""Tests that files appear whole or not at all, with one writer at a time and one-line errors."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selfdistill_jax import compare, encode, evaluate, io, locks, search
from selfdistill_jax.cli import options
from selfdistill_jax.errors import InputError
from tests.tiny import ROWS, content, fails, write_rows

HOLDER = """
import sys, time
from pathlib import Path
from selfdistill_jax import locks
with locks.locked_folder(Path(sys.argv[1]), "the run", "x"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_home_folder_is_expanded_or_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert io.expand("~/x") == tmp_path / "x"
    assert io.expand("a~/x") == Path("a~/x")
    with pytest.raises(InputError, match="~nobody-here/x: the home folder is unknown; set HOME"):
        io.expand("~nobody-here/x")
    with pytest.raises(InputError, match="contains a null character"):
        io.expand("a\0b")
    with pytest.raises(InputError, match="the name is not valid UTF-8"):
        io.expand(os.fsdecode(b"a\xff"))


@pytest.mark.parametrize("command", [encode, search, evaluate, compare])
def test_every_flag_that_is_a_path_is_expanded(command, monkeypatch, tmp_path):
    """`model` and `baseline` may be hub ids and `dataset` a list: these are expanded when read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = command._FLAGS
    read_later = {"model", "baseline", "dataset", "split", "measures", "kind", "precision"}
    for name in flags:
        if isinstance(flags[name].parser, options._PathParser):
            assert flags[name].parser.parse("~/x") == tmp_path / "x"
        elif flags[name].flag_type() == "string":
            assert name in read_later, f"--{name} is neither a path nor known to be something else"


def test_outputs_go_to_the_home_folder(start, model, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    arguments = [f"--model={model}", "--input=~/texts.jsonl", "--output=~/new/v.npy"]
    assert start(encode, *arguments)[0] == 0
    searched = [f"--model={model}", "--corpus=~/texts.jsonl", f"--queries={path}", "--run=~/a.trec"]
    assert start(search, *searched)[0] == 0
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {"texts.jsonl", "new/v.npy", "new/v.ids.txt", "a.trec"}


def test_a_comma_in_the_name_of_a_folder_is_no_separator(tmp_path):
    (tmp_path / "a,b").mkdir()
    assert options.split_datasets(f"{tmp_path}/a,b") == [f"{tmp_path}/a,b"]
    assert options.split_datasets("x, y,") == ["x", "y"]


def test_one_process_writes_at_a_time_and_a_dead_one_holds_nothing(tmp_path):
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        held = rf"{folder}: another process is writing to it \(process {holder.pid} on "
        with pytest.raises(InputError, match=held), locks.locked_folder(folder, "the run", "x"):
            pass
        holder.kill()
        holder.wait()
    assert list(content(folder)) == [locks.LOCK]  # the killed process left it
    with locks.locked_folder(folder, "the run", "x"):
        (folder / "result").write_text("x")
    assert list(content(folder)) == ["result"]


def test_a_trial_leaves_nothing_behind(tmp_path):
    io.try_output(tmp_path / "a" / "b" / "v.npy", "--output")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"--output \(a file of that name already exists"):
        io.try_output(tmp_path / "file" / "v.npy", "--output")
    with pytest.raises(InputError, match="the name is too long"):
        io.try_output(tmp_path / ("n" * 250), "--output")
    with pytest.raises(InputError, match="is a folder; expected a file"):
        io.try_output(tmp_path, "--output")
    assert list(content(tmp_path)) == ["file"]


def test_no_room(start, model, monkeypatch, tmp_path):
    """On a full disk, encode says so before it encodes, and leaves no file."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"no space left on the device\); 3\.0 MB are needed"):
        io.check_room(tmp_path, 3_000_000, "the checkpoint")
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    output = tmp_path / "v.npy"
    result = start(encode, f"--model={model}", f"--input={path}", f"--output={output}")
    assert fails(result, f"{output}: cannot write the vectors (no space left on the device)")
    assert list(content(tmp_path)) == ["texts.jsonl"]


def test_a_pipe_cannot_be_encoded(start, model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    output = tmp_path / "v.npy"
    result = start(encode, f"--model={model}", f"--input={tmp_path}/pipe", f"--output={output}")
    assert fails(result, f"--input={tmp_path}/pipe: not a regular file")
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_vectors_that_are_not_finite_are_refused(start, model, tmp_path):
    """NaN weights are named when the model is read, by every command."""
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(model, tmp_path / "nan")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    message = f"{folder}/model.safetensors: 1 of 16 numbers of tensor 'encoder.layer.0.output.dens"
    output = f"--output={tmp_path}/v.npy"
    assert fails(start(encode, f"--model={folder}", f"--input={path}", output), message)
    searched = [f"--corpus={path}", f"--queries={path}", f"--run={tmp_path}/out.trec"]
    assert fails(start(search, f"--model={folder}", *searched), message)
    assert not (tmp_path / "v.npy").exists()
