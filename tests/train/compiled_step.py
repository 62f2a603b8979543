"""Compiles a tiny step for TPUs or GPUs that this machine does not have, and prints facts as JSON.

    python -m tests.train.compiled_step TOPOLOGY_OR_GPUS NUMBER_OF_SLICES ATTENTION

It runs in a separate process, because JAX must be configured before it is first used.
"""

import json
import subprocess
import sys

import jax

from configs import base
from selfdistill_jax.data.packing import LANES
from selfdistill_jax.plan.compile import compile_step
from selfdistill_jax.plan.encoders import ENCODERS, without_weights
from selfdistill_jax.plan.hlo import array_sizes
from selfdistill_jax.plan.machines import open_gpus, open_tpu, prepare
from selfdistill_jax.plan.workload import make_plan

TRIPLETS, SIZE, HEADS, LAYERS = 64, 128, 4, 2
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def run(machine: str, slices: int = 1, attention: str = "auto") -> dict:
    """Compiles in a new process, and returns the facts."""
    command = [sys.executable, "-m", "tests.train.compiled_step", machine, str(slices), attention]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def main(name: str, slices: int, attention: str) -> None:
    prepare()
    machine = open_gpus(name) if name.startswith("h100") else open_tpu(name, slices=slices)
    config = base.get_config("distributed")
    config.data.update({"query_length": 20, "document_length": 60})
    config.train.update({"batch_size": TRIPLETS, "attention": attention})
    raw = ENCODERS["minilm"] | {
        "vocab_size": 1000, "hidden_size": SIZE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "intermediate_size": 192, "max_position_embeddings": 96,
    }  # fmt: skip
    plan = make_plan(config, machine, encoder=without_weights(raw, "tiny"), lengths=(8, 40))
    step = compile_step(plan, machine)
    facts = {
        "devices": len(machine.devices),
        "hosts": machine.hosts,
        "kernels": step.text.count('custom_call_target="tpu_custom_call"'),
        "conditionals": step.program.conditionals,
        "loops": step.program.loops,
        "host": step.program.host_calls,
        "slice_bytes": step.program.slice_bytes,
        "parameter_bytes": 4 * sum(x.size for x in jax.tree.leaves(plan.model.pretrained.params)),
        "row_length": step.row_length,
        "arrays_of_scores": array_sizes(step.text).count(
            step.rows * step.row_length * HEADS * LANES
        ),
    }
    for kind in KINDS:
        facts[kind] = [e.bytes for e in step.program.exchanges if e.kind == kind]
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
