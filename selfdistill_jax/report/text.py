"""What a finished run leaves for a reader: the table, the model's card, the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.data.store import Collection
from selfdistill_jax.io import expand, write_text
from selfdistill_jax.retrieval.evaluation import MEASURES, ScoredRun, write_results
from selfdistill_jax.retrieval.significance import PairedTest, paired_test
from selfdistill_jax.retrieval.text_table import results_table
from selfdistill_jax.train.run_folder import RESULT, flatten
from selfdistill_jax.train.run_log import read_metrics
from selfdistill_jax.train.trainable import ADAPTERS, MODEL
from selfdistill_jax.train.trainable import FOLDER as ADAPTER


def write(
    workdir: Path,
    *,
    config: dict[str, Any],
    data,
    encoder: Pretrained,
    systems: dict[str, ScoredRun],
    split: str,
    ended: str,
) -> None:
    """Writes ``eval/``, the model's card, ``report.html`` and, last, ``result.txt``.

    ``ended`` says why the training ended early, where the reader has to know.
    """
    # Only here: it brings matplotlib, 1.5 s of every start.
    from selfdistill_jax.report.html import write_report

    kept = ADAPTERS[config["encoder"]["adapter"]]
    found = _text(workdir, data.collection, systems, split, ended, kept)
    # The card leaves this machine, and these lines mean nothing elsewhere.
    text = f"{found}\n"
    if kept == MODEL:
        text += f"model:  {workdir / MODEL}\n"
    if (workdir / ADAPTER).is_dir():
        text += f"adapter: {workdir / ADAPTER}\n"
    if kept == ADAPTER:
        text += f"use it: --model={config['encoder']['init']} --adapter={workdir / ADAPTER}\n"
    text += f"report: {workdir / 'report.html'}\n"
    if systems:
        write_results(workdir / "eval", systems, baseline="start", split=split)
    means = {m: systems["trained"].mean(m) for m in MEASURES} if systems else {}
    card = model_card(
        config, data.collection, encoder, f"\n\n```\n{found}```", means=means, split=split
    )
    write_text(workdir / kept / "README.md", card)
    write_report(workdir, config=config, collection=data.collection, systems=systems, text=text)
    write_text(workdir / RESULT, text)


def _text(
    workdir: Path,
    collection: Collection,
    systems: dict[str, ScoredRun],
    split: str,
    ended: str,
    kept: str,
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
    if best == 0 and kept == MODEL:
        lines.append("No evaluation on dev was better than the start encoder's: model/ is that.")
    elif best == 0:
        lines.append(f"No evaluation on dev was better than the first: {kept}/ is the untrained.")
    return "\n".join([*lines, ""])


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


def model_card(
    config: dict[str, Any],
    collection: Collection,
    encoder: Pretrained,
    note: str,
    *,
    means: Mapping[str, float] | None = None,
    split: str = "",
) -> str:
    """The README of a model's folder, or a prefix's, with the front matter that the hub reads.

    Args:
      config: of the run.
      collection: it was trained on.
      encoder: it started from; the licence that this one's own card names is named again.
      note: what is known of its quality, as text.
      means: the same as numbers, by measure.
      split: that they are of.
    """
    # Only here: 0.4 s of every start, which the step's compiling hides once it is under way.
    from huggingface_hub import EvalResult, ModelCardData

    init = config["encoder"]["init"]
    local = expand(init).is_dir()
    title = f"{Path(init).absolute().name if local else init} trained on {collection.name}"
    licence = _licence(encoder.folder)
    alone = ADAPTERS[config["encoder"]["adapter"]] == ADAPTER
    library = "peft" if alone else "sentence-transformers"
    matter = ModelCardData(
        library_name=library,
        pipeline_tag="sentence-similarity",
        tags=["prefix-tuning" if alone else library, "feature-extraction", "selfdistill_jax"],
        base_model=None if local else init,  # the hub refuses what is no hub id
        model_name=title if means else None,
        eval_results=[
            EvalResult(
                task_type="information-retrieval",
                dataset_type=collection.name,
                dataset_name=collection.name,
                dataset_split=split,
                metric_type=measure.lower().replace("@", "_at_"),
                metric_name=measure,
                metric_value=value,
            )
            for measure, value in means.items()
        ]
        if means
        else None,
        **licence,
    )
    settings = "\n".join(f"{key} = {value!r}" for key, value in flatten(config).items())
    sizes = ", ".join(map(str, config["train"]["dimensions"]))
    shorter = sizes and (
        f"\nIts first {sizes} dimensions were trained by the same loss (Matryoshka): vectors may\n"
        "be cut there, and scaled to unit length again."
    )
    named = ""
    if not licence:
        brings = (encoder.folder / "LICENSE").is_file()
        named = " (in LICENSE)" if brings else " (its folder names none)"
    return f"""---
{matter.to_yaml()}
---

# {title}

A bi-encoder for retrieval: one unit vector of {encoder.dimensions} dimensions a text,
{encoder.pooling} pooling, cosine similarity, texts cut at {encoder.max_length} tokens. Trained with
selfdistill_jax by the loss "{config["loss"]["name"]}" ([arXiv 2407.21515](https://arxiv.org/abs/2407.21515)).{shorter}
The licence of the start encoder{named} and that of the training data hold for it.
{_use_of_prefix(config) if alone else ""}
Evaluation: {note}

Settings:

```
{settings}
```
"""


def _use_of_prefix(config: dict[str, Any]) -> str:
    init = config["encoder"]["init"]
    return f"""
This folder holds the {config["encoder"]["adapter_tokens"]} keys and values that were trained for
each layer of {init}, in PEFT's format. sentence-transformers opens no such folder. Vectors, and
the hidden states that they are pooled of:

```python
from selfdistill_jax import BiEncoder

vectors = BiEncoder.load("{init}", adapter="THIS FOLDER").encode(["a text"])
```

```python
from peft import PeftModel
from transformers import AutoModel

model = PeftModel.from_pretrained(AutoModel.from_pretrained("{init}"), "THIS FOLDER")
```
"""


def adapter_card(init: str, note: str) -> str:
    """The README of a LoRA adapter's folder, as `model_card` is that of the model's."""
    from huggingface_hub import ModelCardData

    matter = ModelCardData(
        library_name="peft",
        tags=["lora", "sentence-similarity", "selfdistill_jax"],
        base_model=None if expand(init).is_dir() else init,
    )
    return f"""---
{matter.to_yaml()}
---

# A LoRA adapter for {init}

{note[0].upper()}{note[1:]}. `model/` beside it is the same, merged; its card has the settings.

```python
from peft import PeftModel
from transformers import AutoModel

model = PeftModel.from_pretrained(AutoModel.from_pretrained("{init}"), "THIS FOLDER")
```
"""


def _licence(folder: Path) -> dict[str, str]:
    """The keys on a licence that the front matter of a folder's card has, if it has any."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        matter = metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    keys = ("license", "license_name", "license_link")
    return {key: matter[key] for key in keys if isinstance(matter.get(key), str)}
