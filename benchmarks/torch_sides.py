"""The peers that `benchmarks.versus` measures, each run as a program of its own.

    python -m benchmarks.torch_sides released '{"model": "FOLDER", "triplets": "FILE", ...}'

Both minimise the released code's distributed margin loss (arXiv 2407.21515) with AdamW, write
``OUTPUT/model`` and, in ``OUTPUT/record.json``, when the first step began and each ended.
Nothing of JAX or of selfdistill_jax is imported.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


class Clock:
    """When steps ended, by CLOCK_MONOTONIC, which all processes of a machine share.

    On a GPU events are recorded and read at the end: waiting for each step would slow them all.
    """

    def __init__(self):
        self.began: float | None = None
        self._first = 0.0
        self._marks: list[Any] = []

    def begin(self) -> None:
        """To be called before a step; the first is noted."""
        self.began = self.began or time.monotonic()

    def tick(self) -> None:
        """To be called after an update."""
        if not CUDA:
            self._marks.append(time.monotonic())
            return
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        if not self._marks:
            mark.synchronize()
            self._first = time.monotonic()
        self._marks.append(mark)

    def times(self) -> list[float]:
        if not CUDA:
            return self._marks
        torch.cuda.synchronize()
        return [self._first + self._marks[0].elapsed_time(mark) / 1e3 for mark in self._marks]


def margin_loss(q: torch.Tensor, p: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """mean_ij (m_j − (1 + p_i·n_j) / 2)²: the released code's broadcasting, over="positives"."""
    with torch.autocast(DEVICE, enabled=False):
        q, p, n = (functional.normalize(x.float()) for x in (q, p, n))
        margins = (q * p).sum(-1) - (q * n).sum(-1)
        return (margins - (1 + p @ n.T) / 2).square().mean()


def dropout(settings: dict[str, Any]) -> dict[str, float]:
    """What is changed of the encoder's config."""
    if settings["dropout"]:
        return {}
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    return dict.fromkeys(names, 0.0)


def released(settings: dict[str, Any], rows: list[dict[str, str]], clock: Clock) -> None:
    """The released method's step: all texts padded to the maximum, three passes, mixed precision.

    What differs from the published code makes it faster or comparable: no Lightning and no logging
    around it, bfloat16 for float16, AdamW for 8-bit Adam, mean pooling for the first token's.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    model = AutoModel.from_pretrained(
        settings["model"], add_pooling_layer=False, dtype=torch.float32, **dropout(settings)
    )
    model.to(DEVICE).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        fused=True,
    )
    lengths = {
        "query": settings["query_length"],
        "positive": settings["document_length"],
        "negative": settings["document_length"],
    }

    def vectors(texts: list[str], length: int) -> torch.Tensor:
        tokens = tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(DEVICE)
        hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        return (hidden.float() * mask).sum(1) / mask.sum(1)

    mixed = settings["precision"] == "bfloat16"
    for start in range(0, settings["steps"] * settings["batch_size"], settings["batch_size"]):
        clock.begin()
        batch = rows[start : start + settings["batch_size"]]
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=mixed):
            found = [vectors([row[name] for row in batch], n) for name, n in lengths.items()]
        margin_loss(*found).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    model.save_pretrained(Path(settings["output"]) / "model")
    tokenizer.save_pretrained(Path(settings["output"]) / "model")


def sentence_transformers(
    settings: dict[str, Any], rows: list[dict[str, str]], clock: Clock
) -> None:
    """sentence-transformers' own trainer with that loss, set up to be as fast as it gets."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from transformers import TrainerCallback
    from transformers.utils import is_flash_attn_2_available

    class Loss(torch.nn.Module):
        def __init__(self, model: SentenceTransformer):
            super().__init__()
            self.model = model

        def forward(self, features, labels=None):
            # Each column padded to its own longest text: merging the two columns of documents,
            # as the library's losses do, was no faster on a CPU.
            return margin_loss(*(self.model(each)["sentence_embedding"] for each in features))

    class Ticks(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            clock.begin()

        def on_step_end(self, args, state, control, **kwargs):
            clock.tick()

    mixed = settings["precision"] == "bfloat16"
    # With flash-attention texts are laid end to end and nothing is padded; it takes 16 bits. On a
    # CPU, sdpa takes 0.6 of eager attention's time at a batch of 128 (more at one of 16).
    flash = CUDA and mixed and is_flash_attn_2_available()
    model = SentenceTransformer(
        settings["model"],
        device=DEVICE,
        model_kwargs={"attn_implementation": "flash_attention_2" if flash else "sdpa"},
        config_kwargs=dropout(settings),
    )
    model.max_seq_length = settings["document_length"]
    model[0].query_length = settings["query_length"]  # heeded from version 6 on
    arguments = SentenceTransformerTrainingArguments(
        output_dir=settings["output"],
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["clip_norm"],
        router_mapping={"anchor": "query"},
        bf16=mixed,
        use_cpu=not CUDA,
        # Tokenising is under 1 % of a step on a CPU, whose cores loader processes would take.
        dataloader_num_workers=2 if CUDA else 0,
        dataloader_pin_memory=CUDA,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    columns = {"anchor": "query", "positive": "positive", "negative": "negative"}
    data = {column: [row[name] for row in rows] for column, name in columns.items()}
    SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(data),
        loss=Loss(model),
        callbacks=[Ticks()],
    ).train()
    model.save_pretrained(str(Path(settings["output"]) / "model"))


SIDES: dict[str, Callable[[dict[str, Any], list[dict[str, str]], Clock], None]] = {
    "released": released,
    "sentence_transformers": sentence_transformers,
}


def main() -> None:
    settings = json.loads(sys.argv[2])
    if CUDA:
        # What XLA does with float32 products on a GPU.
        torch.set_float32_matmul_precision("high")
    with open(settings["triplets"], encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    clock = Clock()
    SIDES[sys.argv[1]](settings, rows, clock)
    record = {
        "began": clock.began,
        "times": clock.times(),
        "device_gb": torch.cuda.max_memory_allocated() / 1e9 if CUDA else None,
    }
    (Path(settings["output"]) / "record.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
