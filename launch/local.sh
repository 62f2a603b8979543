#!/usr/bin/env bash
# Trains on this machine, in one process or in several.
#
# Usage: launch/local.sh [--processes=N] [--devices=D] [--python=PATH] [--dry_run]
#                        [--] [TRAINING ARGS...]
#
#   --processes=N  processes to start (default 1). Several processes communicate through
#                  jax.distributed on a free port of this machine, and every line of their
#                  output begins with the number of the process.
#   --devices=D    D virtual CPU devices in every process (default: the devices that JAX finds).
#   --python=PATH  the Python to train with (default: .venv/bin/python of this repository).
#   --dry_run      print the commands, one per line, and start nothing.
#   --help         print this text; `-- --help` prints the training command's own.
#
# All other arguments, and all arguments after --, go to `python -m selfdistill_jax.main`; without
# any, the argument is --config=configs/distributed.py. Paths are relative to the current folder; a
# --config that is not found there is looked up in this repository.
#
# The exit status is that of process 0. When a process fails, the others get SIGTERM and, 10 seconds
# later (GRACE_SECONDS in the environment changes this), SIGKILL; if this ended process 0, the exit
# status is that of the failed process. SIGINT, SIGTERM and SIGHUP are passed on to every process,
# with the same grace period.
#
#   launch/local.sh --processes=2 --devices=4 --config=configs/distributed.py

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
processes=1 devices='' python=$root/.venv/bin/python dry_run='' training=() config_follows=''

say() { printf 'local.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# Prints one word, quoted for a shell, on one line.
quote() {
  local apostrophe="'" escaped="'\\''"
  case $1 in
    *$'\n'*) printf '%q' "$1" ;;
    '' | *[!A-Za-z0-9_@%+=:,./-]*) printf "'%s'" "${1//$apostrophe/$escaped}" ;;
    *) printf '%s' "$1" ;;
  esac
}

# Prints the path of a config (NAME.py[:ARGUMENT]): as given, or else in this repository.
config_path() {
  local file=${1%%:*}
  [[ -e $file || ! -e $root/$file ]] || printf '%s/' "$root"
  printf '%s' "$1"
}

train_with() {
  case $config_follows$1 in
    --config) config_follows=yes; training+=("$1"); return ;;
    --config=*) training+=("--config=$(config_path "${1#*=}")") ;;
    yes*) training+=("$(config_path "$1")") ;;
    *) training+=("$1") ;;
  esac
  config_follows=''
}

while (($#)); do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    --python=*) python=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --processes | --devices | --python) die "$1 needs a value, given as $1=VALUE" ;;
    --help | -h) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    --) shift; while (($#)); do train_with "$1"; shift; done; break ;;
    *) train_with "$1" ;;
  esac
  shift
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || die "--processes=$processes: expected a number from 1 up"
[[ $devices =~ ^([1-9][0-9]*)?$ ]] || die "--devices=$devices: expected a number from 1 up"
((${#training[@]})) || train_with --config=configs/distributed.py
if [[ -z $dry_run ]]; then
  command -v -- "$python" >/dev/null ||
    die "no Python at $python: run 'make setup' in $root, or give --python=PATH"
fi

# Prints a port on which no process answers, below the range that the system assigns.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 12000))
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { printf '%s' "$port"; return; }
  done
  die "found no free port between 20000 and 32000"
}

environment=("PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}")
[[ -z $devices ]] || environment+=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices")
((processes == 1)) || { environment+=(PYTHONUNBUFFERED=1); port=$(free_port); }

# Sets `words` to the command that starts process $1.
command_of() {
  words=(env "${environment[@]}" "$python" -m selfdistill_jax.main)
  ((processes == 1)) || words+=(--distributed "--coordinator_address=127.0.0.1:$port"
    "--num_processes=$processes" "--process_id=$1")
  words+=("${training[@]}")
}

if [[ -n $dry_run ]]; then
  for ((i = 0; i < processes; i++)); do
    command_of "$i"
    line=''
    for word in "${words[@]}"; do line+="${line:+ }$(quote "$word")"; done
    printf '%s\n' "$line"
  done
  exit
fi

if ((processes == 1)); then
  command_of 0
  exec "${words[@]}"
fi

# --- several processes --------------------------------------------------------------------------

grace=${GRACE_SECONDS:-10} pids=() statuses=() ending='' deadline='' blame=0
pipes=$(mktemp -d)

prefix() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do printf '[%s] %s\n' "$1" "$line"; done
}

# Each process and its children form a process group (see `set -m` below).
signal_group() { kill "-$1" -- "-$2" 2>/dev/null || true; }
group_lives() { kill -0 -- "-$1" 2>/dev/null; }

end_running() {
  local i
  ending=yes
  [[ -n $deadline ]] || deadline=$((SECONDS + grace))
  for i in "${!pids[@]}"; do [[ -n ${statuses[i]:-} ]] || signal_group "$1" "${pids[i]}"; done
}

# Runs on every exit, so that no started process outlives this script.
# shellcheck disable=SC2317 # called by the trap
clean_up() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do signal_group KILL "$pid"; done
  rm -rf "$pipes"
}

trap clean_up EXIT
trap 'end_running INT' INT
trap 'end_running TERM' TERM HUP

# Job control gives every process its own group, so that a signal from this script reaches it and
# its children exactly once; without job control, background processes of bash ignore SIGINT. With a
# terminal on stderr, `set -m` would stop a script that was itself started in the background.
{ set -m; } 2>/dev/null
for ((i = 0; i < processes; i++)); do
  [[ -z $ending ]] || break
  command_of "$i"
  mkfifo "$pipes/$i.out" "$pipes/$i.err"
  prefix "$i" <"$pipes/$i.out" &
  prefix "$i" <"$pipes/$i.err" >&2 &
  "${words[@]}" >"$pipes/$i.out" 2>"$pipes/$i.err" </dev/null &
  pids[i]=$!
done
set +m

# Bash 3.2 has no `wait -n`, so the loop checks the processes five times a second.
while ((${#statuses[@]} < ${#pids[@]})); do
  sleep 0.2 || true
  for i in "${!pids[@]}"; do
    if [[ -n ${statuses[i]:-} ]] || kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
    statuses[i]=0
    wait "${pids[i]}" 2>/dev/null || statuses[i]=$?
    signal_group TERM "${pids[i]}"  # its remaining children
    if ((statuses[i] == 0)) || [[ -n $ending ]]; then continue; fi
    say "process $i ended with status ${statuses[i]}; ending the others"
    [[ -n ${statuses[0]:-} ]] || blame=$i
    end_running TERM
  done
  [[ -z $deadline ]] || ((SECONDS < deadline)) || end_running KILL
done

deadline=$((SECONDS + grace))
for pid in ${pids[@]+"${pids[@]}"}; do
  while group_lives "$pid" && ((SECONDS < deadline)); do sleep 0.1 || true; done
  signal_group KILL "$pid"
done
wait  # until the last lines are printed
exit "${statuses[blame]:-130}"  # 130: interrupted before process 0 was started
