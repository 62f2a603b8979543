"""Makes what a run needs of its data, ahead of it, and says what the run will be trained on.

    python -m selfdistill_jax.prepare --config=configs/distributed.py [--config.data.dataset=DIR]

Takes the settings of selfdistill_jax.main, checks them, and writes tables, tokens and hard
negatives to the cache, where the run finds them. No step is taken, no run's folder touched.
"""

from absl import flags

from selfdistill_jax import cli, config_flag, options
from selfdistill_jax.progress import show_log
from selfdistill_jax.train.devices import share_cpu
from selfdistill_jax.train.preparing import prepare


def main(argv: list[str]) -> None:
    options.refuse_rest(argv)
    show_log()
    config = flags.FLAGS.config
    share_cpu(config.train.batch_size // max(config.train.micro_batches, 1))
    print(prepare(config))


if __name__ == "__main__":
    config_flag.define()
    cli.run(main, parse=config_flag.parse)
