"""The training command as a person meets it: one line for a wrong input, signals, processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from selfdistill_jax.train.monitoring.run_log import read_metrics
from tests.tiny import content, metrics

CONFIG = "--config=configs/distributed.py"
ROOT = os.environ["PYTHONPATH"]
# Runs the command as `python -m selfdistill_jax.main` does, in children of a process that has done
# the imports, which take seconds; a child starts JAX's backend itself.
FORKING = """
import json, os, runpy, signal, sys, traceback, warnings
import jax
import ml_collections.config_flags
import selfdistill_jax.train.run

def run(arguments, devices, out, err):
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.alarm(120)  # the end of a program that hangs
    jax.config.update("jax_num_cpu_devices", devices)
    sys.argv, status = ["main", *arguments], 0
    try:
        runpy.run_module("selfdistill_jax.main", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

for line in sys.stdin:
    todo = json.loads(line)
    if isinstance(todo, int):
        answer = os.waitstatus_to_exitcode(os.waitpid(todo, 0)[1])
    else:
        with warnings.catch_warnings(action="ignore"):
            answer = os.fork()
        if not answer:
            run(*todo)
    print(answer, flush=True)
"""


class Program:
    """A running command.

    Attributes:
      pid: its process.
    """

    def __init__(self, ask, files, arguments, devices):
        self._ask, self._files = ask, files
        self.pid = ask([arguments, devices, *map(str, files)])

    def wait(self):
        """Exit status, stdout, stderr."""
        return self._ask(self.pid), *(file.read_text() for file in self._files)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """``start(*arguments, devices=8)``: a `Program`."""
    # ml_collections' own way to load a config file is deprecated.
    command = [sys.executable, "-W", "error", "-W", "ignore:the load_module", "-c", FORKING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # Of its own group: what a failed test leaves behind ends with it.
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:

        def ask(what):
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        def start(*arguments, devices=8):
            folder = tmp_path_factory.mktemp("main")
            return Program(ask, [folder / "out", folder / "err"], arguments, devices)

        yield start
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def main(start):
    """``main(*arguments)``: exit status, stdout, stderr."""
    return lambda *arguments: start(*arguments).wait()


def triplets(*lines):
    def write(tiny, folder):
        path = folder / "own.jsonl"
        path.write_text("".join(line + "\n" for line in lines))
        return {"data.dataset": "", "data.triplets": path}

    return write


def truncated_weights(tiny, folder):
    model = shutil.copytree(tiny.encoder, folder / "model")
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-100])
    return {"encoder.init": model}


def other_shape(tiny, folder):
    model = shutil.copytree(tiny.encoder, folder / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    return {"encoder.init": model}


def unknown_queries(tiny, folder):
    collection = shutil.copytree(tiny.collection, folder / "collection")
    with (collection / "qrels" / "train.tsv").open("a") as file:
        file.write("x1\tc1\t1\nx2\tc2\t1\n")
    return {"data.dataset": collection}


ROW = '{"query": "a", "positive": "b", "negative": "c"}'


WRONG = {
    "unknown key": (
        {"train.stepz": 3},
        "--config.train.stepz: configs/distributed.py has no such setting; "
        "did you mean 'train.steps'?",
    ),
    "unknown group": (
        {"trane.steps": 3},
        "--config.trane.steps: configs/distributed.py has no such setting; "
        "did you mean 'train.steps'?",
    ),
    "another loss's option": (
        {"loss.margin": 0.3},
        "--config.loss.margin: configs/distributed.py has no such setting",
    ),
    "wrong type": (
        {"train.steps": "many"},
        "flag --config.train.steps=many: invalid literal for int() with base 10: 'many'",
    ),
    "another loss": (
        {"loss.name": "static"},
        "config.loss.over: the loss 'static' has no such option (it has margin, error, "
        "in_batch, broadcast, method, normalize); start from the config of that loss",
    ),
    "unknown loss": (
        {"loss.name": "distribute"},
        "config.loss.name is 'distribute'; expected one of static, adaptive, distributed, "
        "softmax, triplet, pairwise_logistic, margin_mse, kl; did you mean 'distributed'?",
    ),
    "unknown value of a loss's option": (
        {"loss.error": "l3"},
        "config.loss: error is 'l3'; expected one of 'l2', 'l1', 'soft'",
    ),
    "batch not divisible": (
        {"train.batch_size": 12},
        "config.train.batch_size is 12, which 8 devices cannot share equally; "
        "take a multiple of 8, such as 8",
    ),
    "missing collection": (
        {"data.dataset": "/no/such/folder"},
        "dataset '/no/such/folder': neither a folder nor an embedded collection; expected the path "
        "of a BEIR folder or one of: pydocs",
    ),
    "malformed line": (
        triplets(ROW, '{"query": "a",'),
        "{folder}/own.jsonl:2: malformed JSON at column ",
    ),
    "wrong type of a field": (
        triplets(ROW, ROW, '{"query": "a", "positive": 7, "negative": "c"}'),
        "{folder}/own.jsonl:3: field 'positive' is a number; expected a string",
    ),
    "empty file": (
        triplets(),
        "{folder}/own.jsonl: no triplets; expected rows of query, positive and negative",
    ),
    "unknown queries": (
        unknown_queries,
        "{folder}/collection/qrels/train.tsv: 2 of 26 judgements name queries that are not in "
        "queries.jsonl (first: line 26, 'x1'); remove them or add the queries",
    ),
    "truncated weights": (
        truncated_weights,
        "{folder}/model/model.safetensors: not a whole safetensors file (",
    ),
    "weights of another shape": (
        other_shape,
        "{folder}/model/model.safetensors: tensor 'encoder.layer.0.intermediate.dense.weight' "
        "has shape [32, 16]; config.json asks for [64, 16]",
    ),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_wrong_setting(main, tiny, tmp_path, settings, message):
    if callable(settings):
        settings = settings(tiny, tmp_path)
    before = content(tmp_path)
    status, out, err = main(CONFIG, *tiny.flags(**settings), f"--workdir={tmp_path / 'run'}")
    assert (status, out) == (2, "")
    assert err.startswith("error: " + message.replace("{folder}", str(tmp_path)))
    assert err.count("\n") == 1
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing; try --config=configs/distributed.py"),
        (["--config=configs/distribute.py"], "--config=configs/distribute.py: no such file"),
        (["--config=configs/base.py:nix"], "--config=configs/base.py:nix: KeyError: 'nix' ("),
        (["--config=Makefile"], "--config=Makefile: SyntaxError: "),
        (["--config=selfdistill_jax/errors.py"], "--config=selfdistill_jax/errors.py: has no "),
        ([CONFIG, "--restrat"], "unknown flag --restrat; did you mean 'restart'?"),
        ([CONFIG, "train"], "unexpected argument 'train'; settings are given as --config."),
        ([CONFIG, "--process_id=1"], "--process_id needs --distributed"),
        ([CONFIG, "--distributed"], "--distributed: jax.distributed.initialize failed ("),
    ],
)
def test_wrong_flag(main, arguments, message):
    status, out, err = main(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, " holds a run with another config: seed is 0 there and 1 here; "),
        ({"train.steps": -1}, "config.train.steps is -1; expected 1 or more"),
    ],
)
def test_nothing_of_an_old_run_is_overwritten(main, tiny, finished, settings, message):
    before = content(finished)
    status, out, err = main(CONFIG, *tiny.flags(**settings), f"--workdir={finished}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert content(finished) == before


def test_restart_with_a_wrong_setting_moves_nothing(main, tiny, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    before = content(tmp_path)
    wrong = tiny.flags(**{"encoder.init": tmp_path / "none"})
    status, out, err = main(CONFIG, *wrong, f"--workdir={workdir}", "--restart")
    assert (status, out) == (2, "")
    assert err == (
        f"error: {tmp_path}/none: no such folder; expected an encoder's folder or a hub id\n"
    )
    assert content(tmp_path) == before


def test_finished_run_is_printed(main, tiny, finished):
    status, out, err = main(CONFIG, *tiny.flags(), f"--workdir={finished}")
    assert (status, out, err) == (0, (finished / "result.txt").read_text(), "")


def test_help(main):
    status, out, err = main("--help")
    assert (status, err) == (0, "")
    assert out.startswith("Trains an encoder for retrieval.\n")
    for flag in ("config", "workdir", "restart", "distributed", "coordinator_address"):
        assert f"\n  --{flag}\n" in out


def test_two_runs_in_one_folder(start, tiny, tmp_path):
    """The second is refused at once, and the first one's records are whole."""
    arguments = [CONFIG, *tiny.flags(**{"train.steps": 40}), f"--workdir={tmp_path}/run"]
    programs = [start(*arguments), start(*arguments)]
    (status, _, _), (refused, out, err) = sorted(program.wait() for program in programs)
    assert (status, refused, out) == (0, 2, "")
    assert err.splitlines()[-1].startswith(f"error: {tmp_path}/run: another process is writing ")
    steps = [record["step"] for record in metrics(tmp_path / "run", "train")]
    assert steps == list(range(1, 41))


def test_the_home_folder_in_a_config_and_a_workdir(start, tiny, tmp_path):
    wrong = ["--config=~nobody-here/x.py", *tiny.flags(), f"--workdir={tmp_path}/run"]
    assert start(*wrong).wait()[2].startswith("error: ~nobody-here/x.py: the home folder is unk")
    wrong = [CONFIG, *tiny.flags(), "--workdir=~nobody-here/run"]
    assert start(*wrong).wait()[2].startswith("error: ~nobody-here/run: the home folder is unkn")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"train.batch_size": 1}, "config.train.batch_size is 1; expected 2 or more"),
        ({"train.learning_rate": "inf"}, "config.train.learning_rate is inf; expected a finite"),
        ({"loss.error": "l2", "train.clip_norm": "nan"}, "config.train.clip_norm is nan; expected"),
    ],
)
def test_settings_that_train_nothing(main, tiny, tmp_path, setting, message):
    status, out, err = main(CONFIG, *tiny.flags(**setting), f"--workdir={tmp_path}/run")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()


def test_terminated_and_resumed(start, tiny, tmp_path):
    settings = {"train.steps": 120, "train.checkpoint_every": 1000, "train.evaluate_every": 1000}
    arguments = [CONFIG, *tiny.flags(**settings), f"--workdir={tmp_path}"]
    program = start(*arguments)
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.jsonl").exists() or len(metrics(tmp_path)) < 10:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(program.pid, signal.SIGTERM)
    status, out, err = program.wait()
    assert (status, out) == (128 + signal.SIGTERM, "")
    (step,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert 10 <= step < 120
    assert err.splitlines()[-2:] == [
        "Stopping after this step or evaluation; a second signal stops at once",
        f"Stopped at step {step}; the same command resumes there",
    ]
    assert metrics(tmp_path)[-1]["step"] == step
    status, out, err = start(*arguments).wait()
    assert (status, out) == (0, (tmp_path / "result.txt").read_text())
    assert err.startswith(f"Resuming from step {step} in {tmp_path}\n")
    assert [r["step"] for r in metrics(tmp_path, "train")] == list(range(1, 121))
    # What libraries log of their inner steps would bury the lines that count.
    labels = ("Resuming from", "Training: ", "Dev", "Test, ")
    err, _, account = err.partition("Account of this run:\n")
    assert [line for line in err.splitlines() if not line.startswith(labels)] == []
    assert account.splitlines()[0].split() == ["steps", str(120 - step)]
    assert read_metrics(tmp_path)[-1]["kind"] == "account"


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_two_processes_train_as_one(start, tiny, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    # With caches of their own, so that each searches for negatives, the two together.
    mined = {"data__negatives": "mined", "data__mined_ceiling": 0}
    settings, cached = (
        [CONFIG, *tiny.flags(train__steps=6, train__learning_rate=0.005, **mined)],
        [f"--config.data.cache={tmp_path / name}" for name in ("cache of one", "cache of two")],
    )
    # Of as many devices: of more or fewer other triplets are summed first, and of a gradient that
    # is rounding alone Adam makes steps.
    assert start(*settings, cached[0], f"--workdir={alone}", devices=4).wait()[0] == 0
    flags = [*settings, cached[1], f"--workdir={together}", "--distributed"]
    flags += [f"--coordinator_address=127.0.0.1:{free_port()}", "--num_processes=2"]
    programs = [start(*flags, f"--process_id={i}", devices=2) for i in range(2)]
    ends = [program.wait() for program in programs]
    assert [status for status, _, _ in ends] == [0, 0], ends
    # The first alone prints, behind the lines of XLA's collectives, which run into one another.
    result = (together / "result.txt").read_text()
    assert [out.endswith(result) for _, out, _ in ends] == [True, False]
    assert "nDCG" not in ends[1][1]
    assert json.loads((together / "environment.json").read_text())["processes"] == 2
    assert len(metrics(alone)) == len(metrics(together)) == 6 + 3
    for one, two in zip(metrics(alone), metrics(together), strict=True):
        assert (one["kind"], one["step"]) == (two["kind"], two["step"])
        for key in one.keys() - {"kind", "step"}:
            np.testing.assert_allclose(two[key], one[key], rtol=1e-5, atol=1e-5, err_msg=key)
    one, two = (load_file(run / "model" / "model.safetensors") for run in (alone, together))
    assert one.keys() == two.keys()
    for name in one:
        if not name.endswith("attention.self.key.bias"):
            # A key's bias shifts all scores of a token alike, which softmax does not see: its
            # gradient is rounding alone, and Adam makes steps of it.
            np.testing.assert_allclose(two[name], one[name], atol=1e-5, err_msg=name)


def test_what_stops_the_first_process_stops_the_other(start, tiny, tmp_path):
    """The other, which waits for it, would do so for minutes after its end."""
    (tmp_path / "of another").write_text("")
    flags = [CONFIG, *tiny.flags(), f"--workdir={tmp_path}", "--distributed"]
    flags += [f"--coordinator_address=127.0.0.1:{free_port()}", "--num_processes=2"]
    programs = [start(*flags, f"--process_id={i}", devices=1) for i in range(2)]
    ends = [program.wait() for program in programs]
    assert [status for status, _, _ in ends] == [2, 2], ends
    messages = [err.splitlines()[-1] for _, _, err in ends]
    assert messages[0].startswith(f"error: {tmp_path}: the folder is not empty and holds no run")
    assert messages[1] == "error: process 0 failed; see its error message"
