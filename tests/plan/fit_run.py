"""Plans a step with a table of embeddings that fits into a chip's memory only if it is sharded.

python -m tests.plan.fit_run
"""

import json

from configs import base
from selfdistill_jax.plan.encoders import ENCODERS, without_weights
from selfdistill_jax.plan.fit import compile_until_it_fits
from selfdistill_jax.plan.machines import open_tpu, prepare
from selfdistill_jax.plan.workload import make_plan

if __name__ == "__main__":
    prepare()
    machine = open_tpu("v5e:2x2")
    config = base.get_config("distributed")
    config.train.batch_size = 4  # one example a chip, so that there are no micro-batches
    raw = ENCODERS["minilm"] | {
        "vocab_size": 9_000_000, "hidden_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 4, "intermediate_size": 128,
    }  # fmt: skip

    def make(changes, first):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        return make_plan(changed, machine, encoder=without_weights(raw, "tiny"), lengths=(8, 40))

    trials = compile_until_it_fits(make, machine)
    print(json.dumps([[t.changes, t.compiled is not None, t.needed, t.available] for t in trials]))
