"""Compiles a run for TPUs or GPUs that this machine does not have, and reports its needs.

    python -m selfdistill_jax.plan --config=configs/distributed.py --topology=v5e:2x4
    python -m selfdistill_jax.plan --config=configs/distributed.py --gpu=h100:8

The compiler for those devices works without them. Its output shows whether the run fits into their
memory, which bytes they exchange, and whether a step calls the host: these are facts. Times are
estimates with two bounds: the time at the chip's peak rates, and the compiler's own estimate (for
GPUs 30 % of the peak rates) as if nothing ran in parallel. If the run does not fit, other settings
are tried. The texts are those of the config's collection, unless --lengths is given; the start
encoder is read, unless --encoder is given.
"""

import copy
import json
from typing import Any

from absl import flags

from selfdistill_jax.cli import config_flag, options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.errors import InputError
from selfdistill_jax.plan.compile import Compiled, DoesNotFitError, compile_encoding
from selfdistill_jax.plan.encoders import ENCODERS, shapes_of
from selfdistill_jax.plan.fit import Trial, compile_until_it_fits
from selfdistill_jax.plan.machines import GPUS, SHAPES, Machine, open_gpus, open_tpu, prepare
from selfdistill_jax.plan.text import as_text, as_values
from selfdistill_jax.plan.workload import Plan, make_plan
from selfdistill_jax.progress import LOG, show_log

_FLAGS = flags.FLAGS


def _define() -> None:
    config_flag.define()
    flags.DEFINE_string(
        "topology", "", f"TPU slice: one of {', '.join(SHAPES)} and a shape or size, such as "
        "v5e:2x4 or v5e-8.",
    )  # fmt: skip
    flags.DEFINE_integer("slices", 1, "Number of such slices.", lower_bound=1)
    flags.DEFINE_string(
        "gpu", "", f"GPUs: one of {', '.join(GPUS)} and their number, such as h100:8."
    )
    flags.DEFINE_string(
        "encoder", "", f"Sizes to use instead of config.encoder.init: {', '.join(ENCODERS)}."
    )
    flags.DEFINE_list(
        "lengths", [], "Mean tokens of queries and documents, such as 8,70, to use instead of "
        "the config's collection.",
    )  # fmt: skip
    flags.DEFINE_integer("passages", 0, "Number of documents to encode; 0 skips it.", lower_bound=0)
    flags.DEFINE_float("price", None, "Dollars for an hour of a chip or GPU.", lower_bound=0.0)
    flags.DEFINE_bool("json", False, "Print one JSON object.")


def main(argv: list[str]) -> int | None:
    options.refuse_rest(argv)
    show_log()
    prepare()
    machine = _machine()
    lengths = _lengths(_FLAGS.lengths)
    encoder = shapes_of(_FLAGS.encoder) if _FLAGS.encoder else None
    config = copy.deepcopy(_FLAGS.config)
    if encoder is not None:
        config.encoder.init = _FLAGS.encoder
    if lengths is not None:
        config.data.dataset, config.data.triplets = "pydocs", ""  # not read, but checked

    def make(changes: dict[str, Any], first: Plan | None) -> Plan:
        changed = copy.deepcopy(config)
        changed.update_from_flattened_dict(changes)
        texts = None if first is None else first.texts
        return make_plan(changed, machine, encoder=encoder, lengths=lengths, texts=texts)

    LOG.info("Compiling the training step for %s", machine.name)
    trials = compile_until_it_fits(make, machine, tried=_report)
    plan = trials[-1].plan
    encoding: tuple[Compiled, int] | None = None
    if _FLAGS.passages:
        LOG.info("Compiling the encoding of documents")
        try:
            encoding = compile_encoding(plan, machine, passages=_FLAGS.passages)
        except DoesNotFitError:
            raise InputError(
                f"encoding does not fit into the memory of {machine.name}; lower "
                "config.encoder.max_length"
            ) from None
    found = as_values(machine, trials, encoding, passages=_FLAGS.passages, price=_FLAGS.price)
    print(json.dumps(found) if _FLAGS.json else as_text(found, plan))
    return None if trials[-1].compiled else 1


def _machine() -> Machine:
    if bool(_FLAGS.topology) == bool(_FLAGS.gpu):
        raise InputError("give either --topology=v5e:2x4 (for example) or --gpu=h100:8")
    if _FLAGS.gpu:
        if _FLAGS.slices > 1:
            raise InputError(
                f"--slices={_FLAGS.slices} is for TPUs; with --gpu, give the number of GPUs, such "
                "as --gpu=h100:16"
            )
        return open_gpus(_FLAGS.gpu)
    return open_tpu(_FLAGS.topology, slices=_FLAGS.slices)


def _lengths(given: list[str]) -> tuple[float, float] | None:
    if not given:
        return None
    try:
        query, document = map(float, given)
    except ValueError:
        query = document = 0.0
    if not (3 <= query < 1e5 and 3 <= document < 1e5):
        raise InputError(
            f"--lengths={','.join(given)}: expected two numbers of tokens, 3 or more, such as 8,70"
        )
    return query, document


def _report(trial: Trial) -> None:
    changes: Any = ", ".join(f"{k} = {v}" for k, v in trial.changes.items()) or "this config"
    LOG.info("%s: %s", changes, "fits" if trial.compiled else "does not fit")


if __name__ == "__main__":
    _define()
    run_command(main, parse=config_flag.parse)
