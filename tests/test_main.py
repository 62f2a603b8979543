"""Tests the training command as users run it: one-line errors, signals and processes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.tiny import content, metrics

CONFIG = "--config=configs/distributed.py"
ROOT = os.environ["PYTHONPATH"]
# Runs the command as `python -m selfdistill_jax.main` does, in children of a process that has
# already done the imports, which take seconds. Each child starts JAX's backend itself.
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
    """A running command; ``pid`` is its process id."""

    def __init__(self, ask, files, arguments, devices):
        self._ask, self._files = ask, files
        self.pid = ask([arguments, devices, *map(str, files)])

    def wait(self):
        """Waits for the end and returns exit status, stdout and stderr."""
        return self._ask(self.pid), *(file.read_text() for file in self._files)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Returns ``start(*arguments, devices=8)``, which starts a `Program`."""
    # ml_collections loads config files in a deprecated way.
    command = [sys.executable, "-W", "error", "-W", "ignore:the load_module", "-c", FORKING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # A new process group, so that children left by a failed test are killed, too.
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
    """Returns ``main(*arguments)``, which gives exit status, stdout and stderr."""
    return lambda *arguments: start(*arguments).wait()


def triplets(*lines):
    def write(tiny, folder):
        path = folder / "own.jsonl"
        path.write_text("".join(line + "\n" for line in lines))
        return {"data.dataset": "", "data.triplets": path}

    return write


def edited(name, change):
    def write(tiny, folder):
        path = shutil.copytree(tiny.encoder, folder / "model") / name
        path.write_bytes(change(path.read_bytes()))
        return {"encoder.init": path.parent}

    return write


def unknown_queries(tiny, folder):
    collection = shutil.copytree(tiny.collection, folder / "collection")
    with (collection / "qrels" / "train.tsv").open("a") as file:
        file.write("x1\tc1\t1\nx2\tc2\t1\n")
    return {"data.dataset": collection}


ROW = '{"query": "a", "positive": "b", "negative": "c"}'
# Wrong input, and the message: it names the file and line or the key, and the expected value.
WRONG_SETTINGS = [
    ({"train.stepz": 3}, r"--config.train.stepz: .*did you mean 'train.steps'\?"),
    ({"trane.steps": 3}, r"--config.trane.steps: .*did you mean 'train.steps'\?"),
    ({"loss.margin": 0.3}, r"--config.loss.margin: .*no such setting"),
    ({"train.steps": "many"}, r"flag --config.train.steps=many: .*int"),
    ({"loss.name": "static"}, r"config.loss.over: .*'static' .*margin, error, in_batch"),
    ({"loss.name": "distribute"}, r"config.loss.name .*expected .*did you mean 'distributed'\?"),
    ({"loss.error": "l3"}, r"config.loss: error is 'l3'; expected .*'l2', 'l1', 'soft'"),
    ({"train.batch_size": 12}, r"config.train.batch_size is 12, .*8 devices .*multiple of 8"),
    ({"train.batch_size": 1}, r"config.train.batch_size is 1; expected 2 or more"),
    ({"train.learning_rate": "inf"}, r"config.train.learning_rate is inf; expected a finite"),
    ({"train.clip_norm": "nan"}, r"config.train.clip_norm is nan; expected"),
    ({"data.dataset": "/no/such/folder"}, r"dataset '/no/such/folder': .*expected .*pydocs"),
    (triplets(ROW, '{"query": "a",'), r"{folder}/own.jsonl:2: malformed JSON at column "),
    (triplets(ROW, ROW, ROW.replace('"b"', "7")), r"{folder}/own.jsonl:3: field 'positive' .*str"),
    (triplets(), r"{folder}/own.jsonl: no triplets; expected"),
    (unknown_queries, r"{folder}/collection/qrels/train.tsv: 2 of 26 .*first: line 26, 'x1'"),
    (edited("model.safetensors", lambda b: b[:-100]), r"{folder}/model/model.safetensors: not a w"),
    (edited("config.json", lambda b: b.replace(b'ate_size": 32', b'ate_size": 64')),
     r"{folder}/model/model.safetensors: .*intermediate.*\[32, 16\].*\[64, 16\]"),
]  # fmt: skip


def assert_refused(result, message):
    status, out, err = result
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert re.match(f"error: {message}", err), err


@pytest.mark.parametrize(("settings", "message"), WRONG_SETTINGS)
def test_a_wrong_setting_is_one_line_and_makes_nothing(main, tiny, tmp_path, settings, message):
    if callable(settings):
        settings = settings(tiny, tmp_path)
    before = content(tmp_path)
    result = main(CONFIG, *tiny.flags(**settings), f"--workdir={tmp_path / 'run'}")
    assert_refused(result, message.replace("{folder}", str(tmp_path)))
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config=configs/distribute.py"], "--config=configs/distribute.py: no such file"),
        (["--config=configs/base.py:nix"], "--config=configs/base.py:nix: KeyError: 'nix'"),
        (["--config=Makefile"], "--config=Makefile: SyntaxError: "),
        (["--config=selfdistill_jax/errors.py"], "--config=selfdistill_jax/errors.py: has no "),
        (["--config=~nobody-here/x.py"], "~nobody-here/x.py: the home folder is unknown"),
        ([CONFIG, "--workdir=~nobody-here/run"], "~nobody-here/run: the home folder is unknown"),
        ([CONFIG, "--restrat"], r"unknown flag --restrat; did you mean 'restart'\?"),
        ([CONFIG, "train"], "unexpected argument 'train'"),
        ([CONFIG, "--process_id=1"], "--process_id needs --distributed"),
        ([CONFIG, "--distributed"], "--distributed: jax.distributed.initialize failed"),
    ],
)
def test_a_wrong_flag_is_one_line(main, arguments, message):
    assert_refused(main(*arguments), message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, ".* holds a run with another config: seed is 0 there and 1 here"),
        ({"train.steps": -1}, "config.train.steps is -1; expected 1 or more"),
    ],
)
def test_nothing_of_an_old_run_is_overwritten(main, tiny, finished, settings, message):
    before = content(finished)
    assert_refused(main(CONFIG, *tiny.flags(**settings), f"--workdir={finished}"), message)
    assert content(finished) == before


def test_restart_with_a_wrong_setting_moves_nothing(main, tiny, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    before = content(tmp_path)
    wrong = tiny.flags(**{"encoder.init": tmp_path / "none"})
    result = main(CONFIG, *wrong, f"--workdir={workdir}", "--restart")
    assert_refused(result, f"{tmp_path}/none: no such folder; expected an encoder")
    assert content(tmp_path) == before


def test_finished_run_is_printed(main, tiny, finished):
    result = main(CONFIG, *tiny.flags(), f"--workdir={finished}")
    assert result == (0, (finished / "result.txt").read_text(), "")


def test_help(main):
    status, out, err = main("--help")
    assert (status, err) == (0, "")
    assert all(f"\n  --{flag}\n" in out for flag in ("config", "workdir", "restart", "distributed"))


def test_two_runs_in_one_folder(start, tiny, tmp_path):
    """The second run is refused at once, and the first one's records are complete."""
    arguments = [CONFIG, *tiny.flags(**{"train.steps": 40}), f"--workdir={tmp_path}/run"]
    programs = [start(*arguments), start(*arguments)]
    (status, _, _), (refused, out, err) = sorted(program.wait() for program in programs)
    assert (status, refused, out) == (0, 2, "")
    assert err.splitlines()[-1].startswith(f"error: {tmp_path}/run: another process is writing ")
    assert [r["step"] for r in metrics(tmp_path / "run", "train")] == list(range(1, 41))


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
    assert err.splitlines()[-1].startswith(f"Stopped at step {step};")
    assert metrics(tmp_path)[-1]["step"] == step
    status, out, err = start(*arguments).wait()
    assert (status, out) == (0, (tmp_path / "result.txt").read_text())
    assert err.startswith(f"Resuming from step {step} in {tmp_path}\n")
    assert [r["step"] for r in metrics(tmp_path, "train")] == list(range(1, 121))
    # Libraries' own log lines would bury the important ones.
    labels = ("Resuming from", "Training: ", "Dev", "Test, ")
    err, _, account = err.partition("Account of this run:\n")
    assert all(line.startswith(labels) for line in err.splitlines())
    assert account.splitlines()[0].split() == ["steps", str(120 - step)]
    assert '"kind": "account"' in (tmp_path / "metrics.jsonl").read_text()


def two_processes(start, *flags, devices):
    """Runs two processes of one run and returns their results."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    job = "--distributed", f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"
    programs = [start(*flags, *job, f"--process_id={i}", devices=devices) for i in range(2)]
    return [program.wait() for program in programs]


def test_two_processes_train_as_one(start, tiny, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    # Separate caches make both runs search for negatives; the two processes search together.
    mined = {"data__negatives": "mined", "data__mined_ceiling": 0}
    settings = [CONFIG, *tiny.flags(train__steps=6, train__learning_rate=0.005, **mined)]
    cached = [f"--config.data.cache={tmp_path / name}" for name in ("cache 1", "cache 2")]
    # The number of devices is the same, since Adam amplifies rounding from another order of sums.
    assert start(*settings, cached[0], f"--workdir={alone}", devices=4).wait()[0] == 0
    ends = two_processes(start, *settings, cached[1], f"--workdir={together}", devices=2)
    assert [status for status, _, _ in ends] == [0, 0], ends
    # Only the first process prints the result, after mixed-up lines from XLA's collectives.
    result = (together / "result.txt").read_text()
    assert [out.endswith(result) for _, out, _ in ends] == [True, False]
    assert "nDCG" not in ends[1][1]
    assert json.loads((together / "environment.json").read_text())["processes"] == 2
    assert len(metrics(alone)) == len(metrics(together)) == 1 + 6 + 3
    for one, two in zip(metrics(alone), metrics(together), strict=True):
        assert (one["kind"], one["step"]) == (two["kind"], two["step"])
        for key in one.keys() - {"kind", "step"}:
            np.testing.assert_allclose(two[key], one[key], rtol=1e-5, atol=1e-5, err_msg=key)
    one, two = (load_file(run / "model" / "model.safetensors") for run in (alone, together))
    assert one.keys() == two.keys()
    for name in one:
        if not name.endswith("attention.self.key.bias"):
            # A key's bias shifts all scores of a token alike, which softmax ignores. Its gradient
            # is rounding error alone, which Adam turns into steps.
            np.testing.assert_allclose(two[name], one[name], atol=1e-5, err_msg=name)


def test_what_stops_the_first_process_stops_the_other(start, tiny, tmp_path):
    """Otherwise the second process would wait for minutes after the first has ended."""
    (tmp_path / "of another").write_text("")
    ends = two_processes(start, CONFIG, *tiny.flags(), f"--workdir={tmp_path}", devices=1)
    assert [status for status, _, _ in ends] == [2, 2], ends
    messages = [err.splitlines()[-1] for _, _, err in ends]
    assert messages[0].startswith(f"error: {tmp_path}: the folder is not empty and holds no run")
    assert messages[1] == "error: process 0 failed; see its error message"
