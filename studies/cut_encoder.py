"""Writes an encoder that has only the first layers of another one: a weak start for studies.

python -m studies.cut_encoder sentence-transformers/all-MiniLM-L6-v2 data/minilm-3 --layers=3
"""

import argparse
import dataclasses

import jax

from selfdistill_jax import BiEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder or hub id of a bi-encoder")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--layers", type=int, default=3)
    options = parser.parse_args()
    model = BiEncoder.load(options.source)
    encoder, layers = model.encoder, options.layers
    params = encoder.params | {
        "layers": jax.tree.map(
            lambda of_all_layers: of_all_layers[:layers], encoder.params["layers"]
        )
    }
    model.encoder = encoder._replace(
        config=dataclasses.replace(encoder.config, num_layers=layers),
        raw_config=encoder.raw_config | {"num_hidden_layers": layers},
        params=params,
    )
    model.save(options.output)
    print(f"{options.output}: {layers} of {encoder.config.num_layers} layers")


if __name__ == "__main__":
    main()
