"""What the launch scripts say of their options, and which words they refuse."""

import re
import shutil

import pytest

from tests.launch.scripts import LAUNCH, calls, launch, one_line, tpu


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--processes=0"], "--processes=0"),
        (["--processes=two"], "--processes=two"),
        (["--devices=-1"], "--devices=-1"),
        (["--devices"], "--devices needs a value"),
        (["--python=/no/such/python"], "/no/such/python"),
        ([], "make setup"),
    ],
)
def test_local_refuses_in_one_line(place, words, named):
    assert named in one_line(launch(place, "local.sh", *words), 2)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--nmae=x", "create"], "--nmae=x"),
        (["create", "--spto"], "--spto"),
        (["crate"], "crate"),
        (["create", "delete"], "create or delete"),
        ([], "no command"),
        (["--name=Has Blank", "create"], "--name=Has Blank"),
        (["--name=", "create"], "--name="),
        (["--zone=", "create"], "--zone"),
        (["--type=v9-8", "create"], "--type=v9-8"),
        (["--commit=nothing", "sync"], "--commit=nothing"),
        (["delete", "--", "--config=x"], "training arguments"),
        (["run", "--", "--workdir=x"], "--workdir=x"),
    ],
)
def test_tpu_vm_refuses_in_one_line(place, words, named):
    assert named in one_line(tpu(place, *words), 2)
    assert calls(place) == []


def test_without_gcloud_one_line_says_so(place, monkeypatch):
    empty = place / "empty"
    empty.mkdir()
    for tool in ["bash", "git", "dirname"]:
        (empty / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(empty))
    assert "gcloud not found" in one_line(tpu(place, "create"), 2)


@pytest.mark.parametrize("script", ["local.sh", "tpu_vm.sh"])
def test_help_names_every_option(place, script):
    run = launch(place, script, "--help")
    assert (run.returncode, run.stderr) == (0, "")
    text = (LAUNCH / script).read_text()
    options = set(re.findall(r"^    (--[a-z_]+)", text, re.MULTILINE)) - {"--config"}
    assert len(options) > 3
    readme = (LAUNCH / "README.md").read_text()
    assert [o for o in options if o not in run.stdout or o not in readme] == []
    assert len(text.splitlines()) < 200
