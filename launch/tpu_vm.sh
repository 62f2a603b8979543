#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice, through gcloud.
#
# Usage: launch/tpu_vm.sh --name=NAME --zone=ZONE [OPTIONS] COMMAND [-- TRAINING ARGS...]
#
# Commands, in the order in which `all` runs them:
#   create   create the machine, or use an existing one of that name if its state is READY
#   sync     copy this repository, at one commit, to ~/selfdistill_jax on every worker
#   install  on every worker: uv, a Python, requirements.lock with its hashes, and jax[tpu]
#   run      start training on every worker, detached, and follow worker 0's log. A lost connection
#            or Ctrl-C does not stop the training; a second `run` follows the run in progress
#   fetch    copy the run's folder and log from worker 0 to OUTPUT/NAME and OUTPUT/NAME.log
#   delete   delete the machine and its disk
#   all      the six above; when one fails or is interrupted the machine is not deleted, since it
#            may hold the only copy of a result, and the command that deletes it is printed
#
#   --name=NAME        the name of the machine; the run is runs/NAME there
#   --zone=ZONE        zone, such as us-west4-a
#   --type=TYPE        accelerator type (default v5litepod-8, one v5e host with 8 chips)
#   --version=VERSION  TPU software version (default: the one for TYPE's generation, v2 to v6e)
#   --project=PROJECT  Google Cloud project (default: gcloud's own setting)
#   --spot             a Spot machine: cheaper, but Google can take it away at any time
#   --commit=COMMIT    commit to copy (default HEAD; without it uncommitted changes are refused)
#   --keep             `all` does not delete the machine at the end
#   --output=DIR       destination of `fetch` (default runs)
#   --dry_run          print the gcloud commands, one per line, and run none of them
#   --help             print this text
#
# Training arguments go to `python -m selfdistill_jax.main`; the default is
# --config=configs/distributed.py. This script adds --distributed and --workdir.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python_version=3.11 uv_version=0.13.9
name='' zone='' type=v5litepod-8 version='' project='' commit='' output=runs command=''
spot='' keep='' dry_run='' bundle='' step='' training=()

say() { printf 'tpu_vm.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }
fail() { say "$*"; exit 1; }

# Prints all words on one line, quoted for a shell.
quote() {
  local word line='' apostrophe="'" escaped="'\\''"
  for word in "$@"; do
    case $word in
      *$'\n'*) word=$(printf '%q' "$word") ;;
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//$apostrophe/$escaped}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --commit=*) commit=${1#*=} ;;
    --output=*) output=${1#*=} ;;
    --spot) spot=yes ;;
    --keep) keep=yes ;;
    --dry_run) dry_run=yes ;;
    --help | -h) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    --) shift; training=("$@"); break ;;
    -*) die "unknown option $1 (training arguments follow --; see --help)" ;;
    create | sync | install | run | fetch | delete | all)
      [[ -z $command ]] || die "one command at a time: $command or $1"
      command=$1 ;;
    *) die "unknown command $1: expected create, sync, install, run, fetch, delete or all" ;;
  esac
  shift
done

# Checks that need no machine come first, before anything costs money.
[[ -n $command ]] || die "no command: expected create, sync, install, run, fetch, delete or all"
[[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
  die "--name=$name: expected small letters, digits and hyphens, beginning with a letter"
[[ -n $zone ]] || die "no --zone=ZONE"
case $command:$version:$type in
  create::v5litepod-* | all::v5litepod-*) version=v2-alpha-tpuv5-lite ;;
  create::v5p-* | all::v5p-*) version=v2-alpha-tpuv5 ;;
  create::v6e-* | all::v6e-*) version=v2-alpha-tpuv6e ;;
  create::v[234]-* | all::v[234]-*) version=tpu-ubuntu2204-base ;;
  create::* | all::*) die "no software version known for --type=$type: give --version=VERSION" ;;
esac
if ((${#training[@]})); then
  [[ $command == run || $command == all ]] || die "$command takes no training arguments"
  for word in "${training[@]}"; do
    [[ $word != --workdir* ]] || die "$word: this script sets --workdir, to runs/NAME"
  done
else
  training=(--config=configs/distributed.py)
fi
[[ -n $dry_run ]] || command -v gcloud >/dev/null ||
  die "gcloud not found: install the Google Cloud CLI, or look with --dry_run"
if [[ $command == sync || $command == all ]]; then
  changes=$(git -C "$root" status --porcelain 2>/dev/null) || die "$root is no git checkout"
  [[ -n $commit || -z $changes ]] ||
    die "uncommitted changes in $root: commit them, or give --commit=HEAD to leave them behind"
  sha=$(git -C "$root" rev-parse --verify --quiet "${commit:-HEAD}^{commit}") ||
    die "--commit=${commit:-HEAD}: no such commit in $root"
fi

place=("--zone=$zone")
[[ -z $project ]] || place+=("--project=$project")
# The repository in every worker's home folder; the run in it, with log, pid and status beside it.
repository=selfdistill_jax job=runs/$name

tpu() {
  local words=(gcloud compute tpus tpu-vm "$@" "${place[@]}")
  if [[ -n $dry_run ]]; then printf '%s\n' "$(quote "${words[@]}")"; else "${words[@]}"; fi
}

on_worker() { tpu ssh "$name" "--worker=$1" "--command=$2"; }

do_create() {
  local state=''
  [[ -z $dry_run ]] || tpu describe "$name" '--format=value(state)'
  [[ -n $dry_run ]] || state=$(tpu describe "$name" '--format=value(state)' 2>/dev/null) || state=''
  case $state in
    '') tpu create "$name" "--accelerator-type=$type" "--version=$version" ${spot:+--spot} ;;
    READY) say "$name is there already: using it" ;;
    *) fail "$name is there but $state, not READY: wait, or delete it first" ;;
  esac
}

do_sync() {
  local ref=refs/launch/$name file=selfdistill_jax-$name.bundle
  bundle=$(git -C "$root" rev-parse --absolute-git-dir)/$file
  if [[ -z $dry_run ]]; then  # a bundle needs a ref, so the commit gets a temporary one
    git -C "$root" update-ref "$ref" "$sha"
    git -C "$root" bundle create --quiet "$bundle" "$ref"
    git -C "$root" update-ref -d "$ref"
  fi
  tpu scp "$bundle" "$name:" --worker=all
  # git ignores runs/ and .venv/, so `git clean` does not remove them.
  on_worker all "git -c init.defaultBranch=main init --quiet $repository && cd $repository &&\
 git fetch --quiet ../$file $ref && git checkout --quiet --force --detach $sha &&\
 git clean --quiet -fd && rm ../$file"
}

do_install() {
  # jax[tpu] is the lock's jax with the libtpu that it requires. The images' own Python is too old,
  # so uv installs one; on newer images pip needs PIP_BREAK_SYSTEM_PACKAGES to install for a user.
  local uv="python3 -m uv" into="--quiet --python .venv/bin/python"
  on_worker all "cd $repository &&\
 PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv==$uv_version &&\
 $uv venv --quiet --allow-existing --python $python_version .venv &&\
 $uv pip install $into --require-hashes -r requirements.lock &&\
 $uv pip install $into --constraint requirements.lock 'jax[tpu]' &&\
 $uv pip list --python .venv/bin/python | grep -E '^(jax|jaxlib|libtpu) '"
}

do_run() {
  local train start ended="exit \"\$(cat $job.status || echo 1)\"" process="\"\$(cat $job.pid)\""
  # With tpu,cpu a missing TPU is an error; by default JAX would only warn and use the CPU.
  train="PYTHONUNBUFFERED=1 JAX_PLATFORMS=tpu,cpu .venv/bin/python -m selfdistill_jax.main\
 --distributed --workdir=$job $(quote "${training[@]}"); echo \$? >$job.status"
  start="cd $repository && mkdir -p runs &&\
 if ps -ww -o args= -p \"\$(cat $job.pid 2>/dev/null)\" 2>/dev/null | grep -q selfdistill_jax.main;\
 then echo 'a run is under way: following it'; else rm -f $job.status; : >$job.log;\
 nohup setsid bash -c $(quote "$train") >>$job.log 2>&1 </dev/null & echo \$! >$job.pid; fi"
  on_worker all "$start"
  { on_worker 0 "cd $repository && tail -n +1 -f -s 0.2 --pid=$process $job.log; $ended" &&
    on_worker all "cd $repository && tail -f -s 0.2 --pid=$process /dev/null; $ended"; } ||
    fail "training failed, or the connection to it was lost: \`run\` again resumes or follows it"
}

do_fetch() {
  [[ -n $dry_run ]] || mkdir -p "$output"
  tpu scp "$name:$repository/$job" "$name:$repository/$job.log" "$output" --worker=0 --recurse
}

do_delete() { tpu delete "$name" --quiet; }

# shellcheck disable=SC2317 # called by the trap
on_exit() {
  local status=$?
  [[ -z $dry_run ]] || return 0
  [[ -z $bundle ]] || rm -f "$bundle"
  [[ -n $step ]] || return 0
  ((status == 0)) || say "stopped at $step"
  say "$name is kept and costs money until: \
$(quote gcloud compute tpus tpu-vm delete "$name" --quiet "${place[@]}")"
}
trap on_exit EXIT

if [[ $command != all ]]; then "do_$command"; exit; fi
for step in create sync install run fetch delete; do
  if [[ $step == delete && -n $keep ]]; then exit; fi
  [[ -n $dry_run ]] || say "$step"
  "do_$step"
done
step=''
