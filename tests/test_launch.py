"""The launch scripts, run for real against a stand-in `gcloud`, worker machine and Python."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
AWKWARD = [
    "--config.data.dataset=a b",
    "it's",
    'say "so"',
    "$HOME `id` \\ * ;",
    "",
    "--x=two\nlines",
]

# Notes how it was called; where $WORKER names a home folder, does there what ssh and scp would do.
FAKE_GCLOUD = f"""#!/bin/sh
'''exec' "{sys.executable}" -S "$0" "$@" #'''
import ctypes, json, os, subprocess, sys, time

def on_worker(command):
    # A child stays behind to reap what the command leaves running, as a machine's init does: where
    # there is none, in a container, `tail --pid` would wait for a zombie.
    read, write = os.pipe()
    if os.fork():
        sys.exit(int(os.read(read, 9)))
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    status = subprocess.run(["bash", "-c", command], cwd=worker).returncode
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.write(write, str(status).encode())
    try:
        while True:
            os.wait()
    except ChildProcessError:
        os._exit(0)

argv = sys.argv[1:]
with open(os.environ["GCLOUD_LOG"], "a") as log:
    log.write(json.dumps(argv) + "\\n")
verb, line = argv[3], " ".join(argv)
if os.environ.get("FAIL") and os.environ["FAIL"] in line:
    sys.exit(9)
if os.environ.get("HANG") and os.environ["HANG"] in line:
    time.sleep(60)
if verb == "describe":
    print(os.environ.get("STATE", ""))
    sys.exit(not os.environ.get("STATE"))
worker = os.environ.get("WORKER")
if worker and verb == "ssh":
    on_worker(next(a for a in argv if a.startswith("--command=")).removeprefix("--command="))
if worker and verb == "scp":
    *sources, target = [a for a in argv[4:] if not a.startswith("--")]
    local = lambda path: os.path.join(worker, path.partition(":")[2]) if ":" in path else path
    subprocess.run(["cp", "-r", *map(local, sources), local(target)], check=True)
"""

# The worker's `python3`: notes its arguments; `-m uv venv` makes .venv/bin/python, the trainer.
FAKE_WORKER_PYTHON = """#!/bin/sh
echo "$@" >>"$WORKER/python3.log"
case "$*" in *" venv "*) mkdir -p .venv/bin && cp "$TRAINER" .venv/bin/python ;; esac
case "$*" in *" list "*) echo "jax 0.10.2" ;; esac
"""

# The trainer. PLAN gives, for each process number, what it does after noting how it was called.
FAKE_TRAINER = f"""#!/bin/sh
'''exec' "{sys.executable}" -S "$0" "$@" #'''
import json, os, signal, subprocess, sys, time
argv = sys.argv[1:]
flags = dict(a[2:].split("=", 1) for a in argv if a.startswith("--") and "=" in a)
number = flags.get("process_id", "0")
note = dict(argv=argv, pid=os.getpid(), cwd=os.getcwd(), env=dict(os.environ))
if "workdir" in flags:
    os.makedirs(flags["workdir"], exist_ok=True)
    open(os.path.join(flags["workdir"], "config.json"), "w").write("{{}}")

def got(number_, frame):
    print("got", signal.Signals(number_).name, flush=True)
    sys.exit(40)

plan = json.loads(os.environ.get("PLAN", "{{}}")).get(number, "exit 0")
if plan == "catch":
    signal.signal(signal.SIGINT, got)
    signal.signal(signal.SIGTERM, got)
if plan == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if plan == "parent":
    note["child"] = subprocess.Popen(["sleep", "60"]).pid
path = os.path.join(os.environ["NOTES"], number)
open(path + ".part", "w").write(json.dumps(note))
os.rename(path + ".part", path + ".json")
print("hello from", number, flush=True)
print("oops from", number, file=sys.stderr, flush=True)
if plan.startswith("later"):
    time.sleep(0.6)
    sys.exit(int(plan.split()[1]))
if plan.startswith("exit"):
    print("last words", end="")
    sys.exit(int(plan.split()[1]))
if plan.startswith("wait for"):  # wait for OTHER exit STATUS
    while not os.path.exists(os.path.join(os.environ["NOTES"], plan.split()[2] + ".json")):
        time.sleep(0.02)
    sys.exit(int(plan.split()[4]))
time.sleep(60)
"""


# Starts a command as a terminal would: with SIGINT not ignored, though the tests' own may be.
INTERRUPTIBLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def git(folder: Path, *words: str) -> str:
    run = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A committed copy of launch/ in a path with a blank, and stand-ins on PATH."""
    for name in [
        "XLA_FLAGS",
        "JAX_PLATFORMS",
        "JAX_NUM_CPU_DEVICES",
        "PYTHONPATH",
        "PLAN",
        "FAIL",
        "HANG",
    ]:
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for role in ["AUTHOR", "COMMITTER"]:
        monkeypatch.setenv(f"GIT_{role}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.setenv("GCLOUD_LOG", str(tmp_path / "gcloud.log"))
    monkeypatch.setenv("TRAINER", str(executable(tmp_path / "trainer", FAKE_TRAINER)))
    executable(tmp_path / "bin" / "gcloud", FAKE_GCLOUD)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    root = tmp_path / "a repository"
    shutil.copytree(LAUNCH, root / "launch")
    (root / ".gitignore").write_text("/.venv/\n/runs/\n")
    (root / "requirements.lock").write_text("jax==0.10.2\n")
    (root / "configs").mkdir()
    (root / "configs" / "distributed.py").write_text("")
    git(root, "-c", "init.defaultBranch=main", "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=One")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def launch(place: Path, script: str, *words: str) -> subprocess.CompletedProcess:
    command = [str(place / "a repository" / "launch" / script), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def one_line(run: subprocess.CompletedProcess, status: int) -> str:
    """The one line of complaint of a call that was refused."""
    assert (run.returncode, run.stdout) == (status, "")
    assert run.stderr.count("\n") == 1
    return run.stderr


# --- local.sh ------------------------------------------------------------------------------------


def local(place: Path, *words: str) -> subprocess.CompletedProcess:
    return launch(place, "local.sh", f"--python={place / 'trainer'}", *words)


def start(place: Path, script: str, *words: str) -> subprocess.Popen:
    command = [str(place / "a repository" / "launch" / script), *words]
    return subprocess.Popen(
        [sys.executable, "-S", "-c", INTERRUPTIBLE, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def notes(place: Path, number: int = 0) -> dict:
    return json.loads((place / f"{number}.json").read_text())


def until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # an orphan of a container without an init stays as a zombie
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_one_process_is_plain_training(place, monkeypatch):
    monkeypatch.setenv("PLAN", '{"0": "exit 7"}')
    run = local(place, *AWKWARD)
    assert run.returncode == 7
    assert run.stdout == "hello from 0\nlast words"
    assert run.stderr == "oops from 0\n"
    assert notes(place)["argv"] == ["-m", "selfdistill_jax.main", *AWKWARD]
    assert notes(place)["cwd"] == os.getcwd()
    assert notes(place)["env"]["PYTHONPATH"] == str(place / "a repository")
    assert notes(place)["env"].get("JAX_PLATFORMS") is None


def test_devices_are_virtual_cpu_devices(place):
    assert local(place, "--devices=3").returncode == 0
    environment = notes(place)["env"]
    assert (environment["JAX_PLATFORMS"], environment["JAX_NUM_CPU_DEVICES"]) == ("cpu", "3")


@pytest.mark.parametrize("form", ["--config={}", "--config {}"])
def test_config_is_found_from_any_folder(place, form):
    config = place / "a repository" / "configs" / "distributed.py"
    local(place, *form.format("configs/distributed.py:msmarco").split())
    assert notes(place)["argv"][2:] == form.format(f"{config}:msmarco").split(" ", form.count(" "))
    Path("configs").mkdir()
    Path("configs/distributed.py").write_text("")
    local(place, *form.format("configs/distributed.py:msmarco").split())
    assert notes(place)["argv"][2:] == form.format("configs/distributed.py:msmarco").split()


def test_no_training_arguments_mean_the_default_config(place):
    local(place)
    config = place / "a repository" / "configs" / "distributed.py"
    assert notes(place)["argv"][2:] == [f"--config={config}"]


def test_own_options_are_taken_before_the_dashes_only(place):
    local(place, "--config.a=1", "--devices=2", "--", "--devices=5", "--help")
    assert notes(place)["argv"][2:] == ["--config.a=1", "--devices=5", "--help"]
    assert notes(place)["env"]["JAX_NUM_CPU_DEVICES"] == "2"


def test_several_processes_form_one_job(place):
    run = local(place, "--processes=3", "--devices=2", *AWKWARD)
    assert run.returncode == 0
    lines = [f"[{i}] {text}" for i in range(3) for text in [f"hello from {i}", "last words"]]
    assert sorted(run.stdout.splitlines()) == sorted(lines)
    assert sorted(run.stderr.splitlines()) == [f"[{i}] oops from {i}" for i in range(3)]
    addresses = set()
    for i in range(3):
        module, name, distributed, address, count, number, *rest = notes(place, i)["argv"]
        assert (module, name, distributed) == ("-m", "selfdistill_jax.main", "--distributed")
        assert (count, number, rest) == ("--num_processes=3", f"--process_id={i}", AWKWARD)
        assert notes(place, i)["env"]["JAX_NUM_CPU_DEVICES"] == "2"
        addresses.add(address)
    (address,) = addresses
    host, port = address.removeprefix("--coordinator_address=").split(":")
    assert host == "127.0.0.1"
    assert 1024 < int(port) < 65536


@pytest.mark.parametrize(
    ("plan", "status"),
    [
        ({"0": "sleep", "1": "wait for 0 exit 5"}, 5),
        ({"0": "wait for 1 exit 6", "1": "parent"}, 6),
        ({"0": "catch", "1": "wait for 0 exit 5"}, 5),
        ({"0": "exit 0", "1": "later 5"}, 0),
    ],
)
def test_a_failure_ends_the_rest(place, monkeypatch, plan, status):
    monkeypatch.setenv("PLAN", json.dumps(plan))
    monkeypatch.setenv("GRACE_SECONDS", "1")
    run = local(place, "--processes=2")
    assert run.returncode == status
    failed = 0 if "exit" in plan["0"] and status else 1
    assert f"process {failed} ended with status {status or 5}; ending the others\n" in run.stderr
    pids = [notes(place, i)["pid"] for i in range(2)]
    assert not any(map(lives, pids))
    if "child" in notes(place, 1):
        assert not lives(notes(place, 1)["child"])


def test_a_process_that_will_not_end_is_killed(place, monkeypatch):
    monkeypatch.setenv("PLAN", '{"0": "wait for 1 exit 3", "1": "stubborn"}')
    monkeypatch.setenv("GRACE_SECONDS", "1")
    assert local(place, "--processes=2").returncode == 3
    assert not lives(notes(place, 1)["pid"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(place, monkeypatch, number):
    monkeypatch.setenv("PLAN", '{"0": "catch", "1": "catch"}')
    run = start(place, "local.sh", "--processes=2", f"--python={place / 'trainer'}")
    until(lambda: all((place / f"{i}.json").exists() for i in range(2)))
    run.send_signal(number)
    out, _ = run.communicate(timeout=10)
    assert run.returncode == 40
    assert {f"[0] got {number.name}", f"[1] got {number.name}"} <= set(out.splitlines())
    assert not any(lives(notes(place, i)["pid"]) for i in range(2))


def test_local_dry_run_prints_what_it_would_run(place):
    run = launch(place, "local.sh", "--dry_run", "--processes=2", "--devices=4", *AWKWARD)
    assert run.returncode == 0
    commands = run.stdout.splitlines()
    assert len(commands) == 2
    for i, command in enumerate(commands):
        # As a shell reads it, with the real Python's place taken by printf.
        python = f"'{place}/a repository/.venv/bin/python'"
        assert python in command
        shown = command.replace(python, "printf '%s\\0'")
        out = subprocess.run(["bash", "-c", shown], capture_output=True, text=True).stdout
        words = out.split("\0")[:-1]
        assert words[:3] == ["-m", "selfdistill_jax.main", "--distributed"]
        assert words[4:] == ["--num_processes=2", f"--process_id={i}", *AWKWARD]
    assert not (place / "0.json").exists()


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


# --- tpu_vm.sh -----------------------------------------------------------------------------------

WHERE = ["--name=pod-1", "--zone=us-west4-a"]


def tpu(place: Path, *words: str) -> subprocess.CompletedProcess:
    return launch(place, "tpu_vm.sh", *WHERE, *words)


def calls(place: Path) -> list[list[str]]:
    """The arguments of every call of gcloud, after `compute tpus tpu-vm`."""
    log = place / "gcloud.log"
    found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert all(call[:3] == ["compute", "tpus", "tpu-vm"] for call in found)
    return [call[3:] for call in found]


def verbs(place: Path) -> list[str]:
    return [call[0] for call in calls(place)]


def test_create_makes_the_machine(place):
    run = tpu(place, "--type=v5litepod-16", "--project=p", "--spot", "create")
    assert run.returncode == 0
    end = ["--zone=us-west4-a", "--project=p"]
    kind = ["--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"]
    assert calls(place) == [
        ["describe", "pod-1", "--format=value(state)", *end],
        ["create", "pod-1", *kind, *end],
    ]


def test_create_uses_a_machine_that_is_there(place, monkeypatch):
    monkeypatch.setenv("STATE", "READY")
    run = tpu(place, "create")
    assert run.returncode == 0
    assert verbs(place) == ["describe"]
    assert "pod-1 is there already" in run.stderr


def test_create_refuses_a_machine_that_is_not_ready(place, monkeypatch):
    monkeypatch.setenv("STATE", "PREEMPTED")
    assert "PREEMPTED" in one_line(tpu(place, "create"), 1)
    assert verbs(place) == ["describe"]


@pytest.mark.parametrize(
    ("words", "version"),
    [
        ([], "v2-alpha-tpuv5-lite"),
        (["--type=v5p-8"], "v2-alpha-tpuv5"),
        (["--type=v6e-8"], "v2-alpha-tpuv6e"),
        (["--type=v4-8"], "tpu-ubuntu2204-base"),
        (["--type=v9-8", "--version=mine"], "mine"),
    ],
)
def test_the_software_version_follows_the_type(place, words, version):
    run = tpu(place, "--dry_run", *words, "create")
    assert f" --version={version} " in run.stdout


def test_dry_run_prints_the_commands_that_are_run(place, monkeypatch):
    """Each printed line, given to a shell, calls gcloud as the script itself does."""
    words = ["all", "--spot", "--output=here", "--", *AWKWARD]
    assert tpu(place, *words).returncode == 0
    real = calls(place)
    (place / "gcloud.log").unlink()

    empty = place / "empty"
    empty.mkdir()
    for tool in ["bash", "git", "dirname", "sed"]:
        (empty / tool).symlink_to(shutil.which(tool))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(empty))
        dry = tpu(place, "--dry_run", *words)
    assert (dry.returncode, dry.stderr) == (0, "")
    assert calls(place) == []
    for line in dry.stdout.splitlines():
        subprocess.run(["bash", "-c", line], check=False)
    assert calls(place) == real
    steps = (
        "describe create scp ssh(unpack) ssh(install) ssh(start) ssh(log) ssh(status) scp delete"
    )
    assert verbs(place) == [step.partition("(")[0] for step in steps.split()]


def test_everything_goes_to_all_workers(place):
    tpu(place, "all")
    workers = [word for call in calls(place) for word in call if word.startswith("--worker=")]
    # The bundle, its unpacking, install, start; then worker 0's log, everybody's status, fetch.
    assert workers == ["--worker=all"] * 4 + ["--worker=0", "--worker=all", "--worker=0"]


@pytest.fixture
def worker(place, monkeypatch):
    """A worker machine: a home folder in which ssh commands are really run."""
    if sys.platform != "linux":
        pytest.skip("a worker has setsid and GNU tail and ps")
    home = place / "worker"
    home.mkdir()
    executable(place / "bin" / "python3", FAKE_WORKER_PYTHON)
    monkeypatch.setenv("WORKER", str(home))
    return home / "selfdistill_jax"


def test_all_on_a_worker(place, worker):
    """Bundle, checkout, environment, detached run, log, result: with the remote commands run."""
    root = place / "a repository"
    (root / "uncommitted").write_text("")
    run = tpu(place, "--commit=HEAD", "--output=here", "all", "--", *AWKWARD)
    assert run.returncode == 0, run.stderr
    assert git(worker, "rev-parse", "HEAD") == git(root, "rev-parse", "HEAD")
    assert not (worker / "uncommitted").exists()
    assert list(worker.parent.glob("*.bundle")) == list((root / ".git").glob("*.bundle")) == []
    assert git(root, "for-each-ref", "refs/launch") == ""

    install = (worker.parent / "python3.log").read_text().splitlines()
    assert install[0].startswith("-m pip install --quiet --user uv==")
    assert "-m uv venv" in install[1]
    assert install[2].endswith("--require-hashes -r requirements.lock")
    assert install[3].endswith("--constraint requirements.lock jax[tpu]")

    given = ["--distributed", "--workdir=runs/pod-1", *AWKWARD]
    assert notes(place)["argv"] == ["-m", "selfdistill_jax.main", *given]
    assert notes(place)["env"]["JAX_PLATFORMS"] == "tpu,cpu"
    assert "hello from 0\noops from 0\nlast words" in run.stdout
    assert Path("here/pod-1/config.json").exists()
    assert Path("here/pod-1.log").read_text() == "hello from 0\noops from 0\nlast words"
    assert verbs(place)[-1] == "delete"
    assert "costs money" not in run.stderr


def test_a_failed_training_keeps_the_machine(place, monkeypatch):
    monkeypatch.setenv("FAIL", "tail")
    run = tpu(place, "--project=p", "all")
    assert run.returncode == 1
    assert verbs(place)[-1] == "ssh"
    assert "training failed" in run.stderr
    assert run.stderr.endswith(
        "tpu_vm.sh: pod-1 is kept and costs money until: gcloud compute tpus tpu-vm delete pod-1 "
        "--quiet --zone=us-west4-a --project=p\n"
    )


def test_run_follows_a_run_that_is_under_way(place, worker, monkeypatch):
    """After a lost connection the training goes on; its status is had from the next `run`."""
    worker.mkdir()
    executable(worker / ".venv" / "bin" / "python", FAKE_TRAINER)
    monkeypatch.setenv("PLAN", '{"0": "wait for go exit 3"}')
    with monkeypatch.context() as patch:
        patch.setenv("FAIL", "tail")
        lost = tpu(place, "run", "--", "--config=first")
    assert lost.returncode == 1
    assert "connection to it was lost" in lost.stderr
    until((place / "0.json").exists)
    pid = notes(place)["pid"]
    assert lives(pid)

    again = start(place, "tpu_vm.sh", *WHERE, "run", "--", "--x=1")
    assert again.stdout.readline() == "a run is under way: following it\n"
    assert again.stdout.readline() == "hello from 0\n"
    (place / "go.json").write_text("")
    _, err = again.communicate(timeout=10)
    assert again.returncode == 1
    assert "training failed" in err
    assert (worker / "runs" / "pod-1.status").read_text() == "3\n"
    assert notes(place)["pid"] == pid
    assert "--config=first" in notes(place)["argv"]


def test_interrupting_all_keeps_the_machine(place, monkeypatch):
    monkeypatch.setenv("HANG", "tail")
    run = start(place, "tpu_vm.sh", *WHERE, "all")
    until(lambda: verbs(place).count("ssh") == 4)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=10)
    assert run.returncode != 0
    assert "delete" not in verbs(place)
    assert "pod-1 is kept and costs money until: gcloud" in err


@pytest.mark.parametrize("step", ["create", "scp", "requirements.lock"])
def test_a_failed_step_stops_all_and_keeps_the_machine(place, monkeypatch, step):
    monkeypatch.setenv("FAIL", f" {step}")
    run = tpu(place, "all")
    assert run.returncode == 9
    assert step in " ".join(calls(place)[-1])
    assert "delete" not in verbs(place)
    assert "gcloud compute tpus tpu-vm delete pod-1" in run.stderr
    assert list((place / "a repository" / ".git").glob("*.bundle")) == []


def test_keep_keeps_the_machine(place):
    run = tpu(place, "--keep", "all")
    assert run.returncode == 0
    assert verbs(place)[-1] == "scp"
    assert "gcloud compute tpus tpu-vm delete pod-1" in run.stderr


def test_delete_and_fetch_alone(place):
    assert tpu(place, "delete").returncode == 0
    assert tpu(place, "fetch").returncode == 0
    remote = "pod-1:selfdistill_jax/runs/pod-1"
    assert calls(place) == [
        ["delete", "pod-1", "--quiet", "--zone=us-west4-a"],
        ["scp", remote, f"{remote}.log", "runs", "--worker=0", "--recurse", "--zone=us-west4-a"],
    ]


def test_uncommitted_changes_are_refused_before_anything_is_made(place):
    (place / "a repository" / "new").write_text("")
    for command in ["sync", "all"]:
        assert "--commit=HEAD" in one_line(tpu(place, command), 2)
    assert calls(place) == []
    assert tpu(place, "--commit=HEAD", "sync").returncode == 0


def test_a_named_commit_is_brought(place, worker):
    root = place / "a repository"
    first = git(root, "rev-parse", "HEAD")
    (root / "new").write_text("")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=Two")
    assert tpu(place, "sync").returncode == 0
    assert (worker / "new").exists()
    (worker / "runs").mkdir()
    assert tpu(place, f"--commit={first[:10]}", "sync").returncode == 0
    assert git(worker, "rev-parse", "HEAD") == first
    assert not (worker / "new").exists()
    assert (worker / "runs").exists()


def test_without_gcloud_one_line_says_so(place, monkeypatch):
    empty = place / "empty"
    empty.mkdir()
    for tool in ["bash", "git", "dirname"]:
        (empty / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(empty))
    assert "gcloud not found" in one_line(tpu(place, "create"), 2)


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
