"""Program texts of stand-ins for `gcloud`, a worker machine's `python3` and the trainer."""

import sys

# Records its calls. If $WORKER names a home folder, does in it what ssh and scp would do.
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
with open(os.path.join(os.environ["NOTES"], "gcloud.log"), "a") as log:
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
# The worker's `python3` records its arguments; `-m uv venv` makes .venv/bin/python, the trainer.
FAKE_WORKER_PYTHON = """#!/bin/sh
echo "$@" >>"$WORKER/python3.log"
case "$*" in *" venv "*) mkdir -p .venv/bin && cp "$TRAINER" .venv/bin/python ;; esac
case "$*" in *" list "*) echo "jax 0.10.2" ;; esac
"""
# Stands in for the trainer: records its call, then does what PLAN lists for its process number.
FAKE_TRAINER = f"""#!/bin/sh
'''exec' "{sys.executable}" -S "$0" "$@" #'''
import json, os, signal, sys, time
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
path = os.path.join(os.environ["NOTES"], number)
open(path + ".part", "w").write(json.dumps(note))
os.rename(path + ".part", path + ".json")
print("hello from", number, flush=True)
print("oops from", number, file=sys.stderr, flush=True)
if plan.startswith("exit"):
    print("last words", end="")
    sys.exit(int(plan.split()[1]))
if plan.startswith("wait for"):  # wait for OTHER exit STATUS
    while not os.path.exists(os.path.join(os.environ["NOTES"], plan.split()[2] + ".json")):
        time.sleep(0.02)
    sys.exit(int(plan.split()[4]))
time.sleep(60)
"""
