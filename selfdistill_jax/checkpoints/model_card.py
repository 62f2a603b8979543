"""Writes the README of a model's folder, which becomes the model's page on the Hugging Face hub."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.io import expand, write_text

_NOTE = re.compile(r"(\nEvaluation: ).*?(\n\nSettings:\n)", re.DOTALL)


def model_card(
    settings: Mapping[str, Any],
    *,
    collection: str,
    encoder: Pretrained,
    note: str,
) -> str:
    """Returns the README of a model's folder, with the front matter the hub reads.

    Args:
      settings: the run's settings, ``{"train.steps": …, …}``.
      collection: name of the training collection.
      encoder: the start encoder; the licence that its own card names is repeated.
      note: the model's quality, as text.
    """
    # Imported here because it takes 0.4 s, which the step's compilation hides by now.
    from huggingface_hub import ModelCardData

    init = settings["encoder.init"]
    local = expand(init).is_dir()
    title = f"{Path(init).absolute().name if local else init} trained on {collection}"
    licence: dict[str, Any] = dict(_licence(encoder.folder))
    library = "sentence-transformers"
    matter = ModelCardData(
        library_name=library,
        pipeline_tag="sentence-similarity",
        tags=[library, "feature-extraction", "selfdistill_jax"],
        base_model=None if local else init,  # the hub rejects paths
        **licence,
    )
    listed = "\n".join(f"{key} = {value!r}" for key, value in settings.items())
    sizes = ", ".join(map(str, settings["train.dimensions"]))
    shorter = sizes and (
        f"\nIts first {sizes} dimensions were trained by the same loss (Matryoshka): vectors may\n"
        "be cut there, and scaled to unit length again."
    )
    only = settings["train.side"] == "query" and (
        "\nIt encodes only queries. Documents are encoded by the start encoder, of which\n"
        "`document_encoder/` is a copy; existing vectors of documents stay valid."
    )
    more = (shorter or "") + (only or "")
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
selfdistill_jax by the loss "{settings["loss.name"]}" ([arXiv 2407.21515](https://arxiv.org/abs/2407.21515)).{more}
The licence of the start encoder{named} and that of the training data hold for it.

Evaluation: {note}

Settings:

```
{listed}
```
"""


def set_evaluation(
    path: Path, note: str, *, means: Mapping[str, float], collection: str, split: str
) -> None:
    """Writes a finished run's figures into the card that `model_card` made.

    Args:
      path: the card's file.
      note: the text that replaces the card's own note.
      means: measure -> mean, for the hub; empty if nothing was evaluated.
      collection, split: the evaluated collection and its split.
    """
    from huggingface_hub import EvalResult, ModelCard

    card = ModelCard.load(path)
    text = _NOTE.sub(lambda found: f"{found[1]}{note}{found[2]}", card.text, count=1)
    if means:
        card.data.model_name = re.findall(r"^# (.+)$", text, re.MULTILINE)[0]
        card.data.eval_results = [
            EvalResult(
                task_type="information-retrieval",
                dataset_type=collection,
                dataset_name=collection,
                dataset_split=split,
                metric_type=measure.lower().replace("@", "_at_"),
                metric_name=measure,
                metric_value=value,
            )
            for measure, value in means.items()
        ]
    write_text(path, f"---\n{card.data.to_yaml()}\n---\n{text}")


def adapter_card(init: str, note: str, *, only_queries: bool = False) -> str:
    """Returns the README of a LoRA adapter's folder."""
    only = " It is for queries only; encode documents with the base model." if only_queries else ""
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

{note[0].upper()}{note[1:]}. `model/` beside it is the same, merged; its card has the
settings.{only}

```python
from peft import PeftModel
from transformers import AutoModel

model = PeftModel.from_pretrained(AutoModel.from_pretrained("{init}"), "THIS FOLDER")
```
"""


def _licence(folder: Path) -> dict[str, str]:
    """Returns the licence keys from the front matter of a folder's README, if it has any."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        matter = metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    keys = ("license", "license_name", "license_link")
    return {key: matter[key] for key in keys if isinstance(matter.get(key), str)}
