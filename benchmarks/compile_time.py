"""Compile time of a training step for encoders of different depth.

    python -m benchmarks.compile_time --layers 2 6 12

Lowers and compiles steps of all-MiniLM-L6-v2's width in one process, in turn and with empty caches,
as `selfdistill_jax.main` does, but without work in parallel. "to the least" is the median divided
by the median of the first depth.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import optax

from benchmarks.common import print_table, summary, write
from benchmarks.training_step import MINILM, batch
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.losses import distributed_margin
from selfdistill_jax.train.mesh import make_mesh, put_batch
from selfdistill_jax.train.step import TrainState, make_step

# Settings of each architecture at this width; `config_of` adds ModernBERT's settings by layer.
KINDS = {
    "bert": {},
    "mpnet": {"architecture": "mpnet", "type_vocab_size": 0, "relative_buckets": 32},
    "modernbert": {
        "architecture": "modernbert", "type_vocab_size": 0, "pre_norm": True, "gated": True,
        "biases": False,
    },
}  # fmt: skip


def config_of(kind: str, layers: int) -> EncoderConfig:
    config = dataclasses.replace(MINILM, num_layers=layers, **KINDS[kind])
    if kind != "modernbert":
        return config
    near = [bool(i % 3) for i in range(layers)]
    return dataclasses.replace(
        config,
        rotary=tuple(1e4 if one else 1.6e5 for one in near),
        windows=tuple(64 if one else 0 for one in near),
    )


def seconds(config: EncoderConfig) -> float:
    """Seconds to trace, lower and compile a step, with empty caches."""
    jax.clear_caches()
    optimizer, mesh = optax.adamw(5e-5), make_mesh()
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    state = TrainState(params, jax.eval_shape(optimizer.init, params))
    rows = put_batch(batch(64, 32, 96, config.vocab_size), mesh)
    step = make_step(make_encode(config, pooling="mean"), distributed_margin, optimizer, mesh)
    begin = time.perf_counter()
    step.lower(state, rows).compile()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--layers", type=int, nargs="+", default=[2, 6, 12])
    add("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    add("--rounds", type=int, default=3)
    add("--output", default="", help="JSON file to write")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    seconds(config_of("bert", 1))  # the first compilation loads libraries
    found = {(kind, layers): [] for kind in options.kinds for layers in options.layers}
    for _ in range(options.rounds):
        for kind, layers in found:
            found[kind, layers].append(seconds(config_of(kind, layers)))
    rows = [["encoder", "layers", "seconds", "min..max", "to the least"]]
    for (kind, layers), taken in found.items():
        least = statistics.median(found[kind, options.layers[0]])
        time_ = summary(taken)
        rows.append(
            [kind, layers, f"{time_['median']:.1f}", f"{time_['min']:.1f}..{time_['max']:.1f}",
             f"{time_['median'] / least:.2f}"]
        )  # fmt: skip
    print_table(rows)
    results = {f"{kind} {layers}": summary(taken) for (kind, layers), taken in found.items()}
    write(options.output, {"rounds": options.rounds, "seconds": results})


if __name__ == "__main__":
    main()
