"""What a finished run leaves for a reader: the table, the model's card, the report."""

from pathlib import Path
from typing import Any

from selfdistill_jax.data.tables import Collection
from selfdistill_jax.encoder.folder import Encoder
from selfdistill_jax.retrieval.evaluation import MEASURES, System, write_results
from selfdistill_jax.retrieval.significance import PairedTest, paired_test
from selfdistill_jax.retrieval.table import results_table
from selfdistill_jax.train.adapter import FOLDER as ADAPTER
from selfdistill_jax.train.run_folder import RESULT, flatten, write_text
from selfdistill_jax.train.run_log import read_metrics


def write(
    workdir: Path,
    *,
    config: dict[str, Any],
    data,
    encoder: Encoder,
    systems: dict[str, System],
    split: str,
    ended: str,
) -> None:
    """Writes ``eval/``, the model's card, ``report.html`` and, last, ``result.txt``.

    ``ended`` says why the training ended early, where the reader has to know.
    """
    # Only here: it brings matplotlib, 1.5 s of every start.
    from selfdistill_jax.train.report import write_report

    text = _text(workdir, data.collection, systems, split, ended)
    if systems:
        write_results(workdir / "eval", systems, baseline="start", split=split)
    card = model_card(config, data.collection, encoder, f"\n\n```\n{text}```")
    write_text(workdir / "model" / "README.md", card)
    write_report(workdir, config=config, collection=data.collection, systems=systems, text=text)
    write_text(workdir / RESULT, text)


def _text(
    workdir: Path, collection: Collection, systems: dict[str, System], split: str, ended: str
) -> str:
    lines = []
    best = _best_step(workdir)
    if systems:
        queries = len(next(iter(systems.values())).values[MEASURES[0]])
        lines += [
            f"{collection.name}, {split}: {queries:,} queries, "
            f"{len(collection.document_ids):,} documents",
            "",
            results_table({n: s.values for n, s in systems.items()}, baseline="start"),
            "",
            describe_test(
                paired_test(
                    systems["start"].values[MEASURES[0]], systems["trained"].values[MEASURES[0]]
                )
            ),
        ]
        if split == "dev":
            lines.append("There is no test split: dev chose the model and is reported here.")
    else:
        lines.append("The collection has neither a test nor a dev split: nothing was evaluated.")
    if ended:
        lines.append(f"Training was ended by a {ended}.")
    if best == 0:
        lines.append("No evaluation on dev was better than the start encoder's: model/ is that.")
    lines += ["", f"model:  {workdir / 'model'}"]
    if (workdir / ADAPTER).is_dir():
        lines.append(f"adapter: {workdir / ADAPTER}")
    lines += [f"report: {workdir / 'report.html'}", ""]
    return "\n".join(lines)


def describe_test(test: PairedTest) -> str:
    """One line on a paired test of nDCG@10, trained against start."""
    return (
        f"trained − start: {test.mean_difference:+.4f} {MEASURES[0]} "
        f"(95 % interval {test.ci_low:+.4f} to {test.ci_high:+.4f}),\n"
        f"better on {test.wins} queries, worse on {test.losses}, equal on {test.ties}; "
        f"paired t-test p = {test.p_t:.1e}"
    )


def _best_step(workdir: Path) -> int | None:
    dev = [record for record in read_metrics(workdir) if record["kind"] == "dev"]
    return max(dev, key=lambda record: record[MEASURES[0]])["step"] if dev else None


def model_card(config: dict[str, Any], collection: Collection, encoder: Encoder, note: str) -> str:
    """The README of a model's folder, with the front matter that the hub reads."""
    settings = "\n".join(f"{key} = {value!r}" for key, value in flatten(config).items())
    base = config["encoder"]["init"]
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, selfdistill_jax]
base_model: {base}
---

# {base} trained on {collection.name}

A bi-encoder for retrieval: one unit vector of {encoder.dimensions} dimensions a text,
{encoder.pooling} pooling, cosine similarity, texts cut at {encoder.max_length} tokens. Trained with
selfdistill_jax by the loss "{config["loss"]["name"]}" ([arXiv 2407.21515](https://arxiv.org/abs/2407.21515)).
The licence of the start encoder and that of the training data hold for it.

Evaluation: {note}

Settings:

```
{settings}
```
"""


def adapter_card(base: str, note: str) -> str:
    """The README of an adapter's folder."""
    return f"""---
library_name: peft
base_model: {base}
tags: [lora, sentence-similarity, selfdistill_jax]
---

# A LoRA adapter for {base}

{note[0].upper()}{note[1:]}. Beside it stands `model/`, the same merged, and its settings.

```python
from peft import PeftModel
from transformers import AutoModel

model = PeftModel.from_pretrained(AutoModel.from_pretrained("{base}"), "THIS FOLDER")
```
"""
