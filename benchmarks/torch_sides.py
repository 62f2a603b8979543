"""The peers that `benchmarks.versus` measures, each run as a separate program.

    python -m benchmarks.torch_sides released '{"model": "FOLDER", "triplets": "FILE", ...}'

Both minimise the released code's distributed margin loss (arXiv 2407.21515) with AdamW, and write
``OUTPUT/model`` and ``OUTPUT/record.json``, which has the begin of the first step and the end of
every step. This module imports neither JAX nor selfdistill_jax.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# On a CPU tokenising takes under 1 % of a step, and loader processes would compete for its cores.
LOADERS = min(8, os.cpu_count() or 1) if CUDA else 0


class Clock:
    """End times and losses of steps, by CLOCK_MONOTONIC, which all processes of a machine share.

    On a GPU events are recorded and read at the end: waiting for each step would slow down
    training.
    """

    def __init__(self):
        self.began: float | None = None
        self._first = 0.0
        self._marks: list[Any] = []
        self._losses: list[torch.Tensor] = []

    def begin(self) -> None:
        """Call before each step; records the time of the first call."""
        self.began = self.began or time.monotonic()

    def see(self, loss: torch.Tensor) -> torch.Tensor:
        """Records a step's loss and returns it."""
        self._losses.append(loss.detach())
        return loss

    def losses(self) -> list[float]:
        return [loss.item() for loss in self._losses]

    def tick(self) -> None:
        """Call after each update."""
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


def without_dropout(settings: dict[str, Any]) -> dict[str, float]:
    """Config values that disable dropout; their names depend on the architecture."""
    if settings["dropout"]:
        return {}
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(settings["model"]).to_dict()
    return {name: 0.0 for name, value in config.items() if "drop" in name and value}


def fastest_attention(precision: str) -> str:
    """The fastest attention for sentence-transformers.

    With flash-attention it concatenates texts without padding, which needs a 16-bit precision and
    the
    package flash-attn. On a CPU sdpa takes 0.6 of eager attention's time at a batch of 128 (more
    at a batch of 16).
    """
    from transformers.utils import is_flash_attn_2_available

    flash = CUDA and precision == "bfloat16" and is_flash_attn_2_available()
    return "flash_attention_2" if flash else "sdpa"


def released(settings: dict[str, Any], rows: list[dict[str, str]], clock: Clock) -> dict[str, Any]:
    """The released method's step: all texts padded to the maximum, three passes, mixed precision.

    The differences from the published code make it faster or comparable: no Lightning and no
    logging,
    bfloat16 instead of float16, AdamW instead of 8-bit Adam, mean pooling instead of the first
    token.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    model = AutoModel.from_pretrained(
        settings["model"], dtype=torch.float32, **without_dropout(settings)
    )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # unused
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

    def tokens(batch: list[dict[str, str]]) -> list[dict[str, torch.Tensor]]:
        how = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return [
            dict(tokenizer([row[name] for row in batch], max_length=length, **how))
            for name, length in lengths.items()
        ]

    def vectors(tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        given = {name: x.to(DEVICE, non_blocking=True) for name, x in tokens.items()}
        hidden = model(**given).last_hidden_state
        mask = given["attention_mask"].unsqueeze(-1)
        return (hidden.float() * mask).sum(1) / mask.sum(1)

    mixed = settings["precision"] == "bfloat16"
    batches = DataLoader(
        rows[: settings["steps"] * settings["batch_size"]],
        settings["batch_size"],
        collate_fn=tokens,
        num_workers=LOADERS,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in batches:
        clock.begin()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=mixed):
            found = [vectors(column) for column in batch]
        clock.see(margin_loss(*found)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    model.save_pretrained(Path(settings["output"]) / "model")
    tokenizer.save_pretrained(Path(settings["output"]) / "model")
    return {"attention": model.config._attn_implementation, "unpadded": False}


def sentence_transformers(
    settings: dict[str, Any], rows: list[dict[str, str]], clock: Clock
) -> dict[str, Any]:
    """sentence-transformers' own trainer with the same loss, in its fastest configuration."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from transformers import TrainerCallback

    class Loss(torch.nn.Module):
        def __init__(self, model: SentenceTransformer):
            super().__init__()
            self.model = model

        def forward(self, features, labels=None):
            # Each column is padded to its own longest text. Merging the two columns of documents,
            # as the library's losses do, was no faster on a CPU. Neither was `torch.compile` (20.0
            # s for a step of 128 instead of 19.8, and a minute more until the first step).
            vectors = [self.model(each)["sentence_embedding"] for each in features]
            for each, longest in zip(features, longest_texts, strict=True):
                longest.append(int(each["input_ids"].shape[-1]))
            return clock.see(margin_loss(*vectors))

    class Ticks(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            clock.begin()

        def on_step_end(self, args, state, control, **kwargs):
            clock.tick()

    longest_texts: tuple[list[int], ...] = [], [], []
    mixed = settings["precision"] == "bfloat16"
    attention = fastest_attention(settings["precision"])
    model = SentenceTransformer(
        settings["model"],
        device=DEVICE,
        model_kwargs={"attn_implementation": attention},
        config_kwargs=without_dropout(settings),
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
        dataloader_num_workers=LOADERS,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_nan_inf_filter=False,  # would read each step's loss and wait for the GPU
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
    unpadded = bool(model[0].can_flatten_inputs)
    return {
        "attention": attention,
        "unpadded": unpadded,
        # Concatenated texts are not padded to a length.
        "longest_texts": None if unpadded else [max(longest) for longest in longest_texts],
    }


SIDES: dict[str, Callable[[dict[str, Any], list[dict[str, str]], Clock], dict[str, Any]]] = {
    "released": released,
    "sentence_transformers": sentence_transformers,
}


def main() -> None:
    settings = json.loads(sys.argv[2])
    if CUDA:
        # The precision of float32 products in XLA on a GPU.
        torch.set_float32_matmul_precision("high")
    with open(settings["triplets"], encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    clock = Clock()
    facts = SIDES[sys.argv[1]](settings, rows, clock)
    record = {
        "began": clock.began,
        "times": clock.times(),
        "losses": clock.losses(),
        "facts": facts | {"threads": torch.get_num_threads(), "loaders": LOADERS},
        "device_gb": torch.cuda.max_memory_allocated() / 1e9 if CUDA else None,
    }
    (Path(settings["output"]) / "record.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
