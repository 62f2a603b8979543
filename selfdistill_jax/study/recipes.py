"""Lists the recipes that `selfdistill_jax.choose` tries: the default one, then promising ones."""

from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """Holds the settings that a recipe changes.

    Attributes:
      loss: name of the loss, which has its default options.
      negatives: ``config.data.negatives``.
      learning_rate: ``config.train.learning_rate``.
    """

    loss: str
    negatives: str
    learning_rate: float

    @property
    def name(self) -> str:
        """Returns a short name."""
        return f"{self.loss}, {self.negatives} negatives, {self.learning_rate:g}"

    def apply(self, config: Any) -> None:
        """Changes a config."""
        with config.unlocked():
            config.loss = {"name": self.loss}
        config.data.negatives = self.negatives
        config.train.learning_rate = self.learning_rate

    def flags(self) -> list[str]:
        """Returns the flags that make the training command follow this recipe."""
        return [
            f"--config=configs/base.py:{self.loss}",
            f"--config.data.negatives={self.negatives}",
            f"--config.train.learning_rate={self.learning_rate:g}",
        ]


_LOSSES = ("softmax", "distributed")
# In the order of the gain with softmax (docs/studies/negatives); random ones are the default.
_NEGATIVES = ("random", "bm25", "mined")
# The best rate changes little with the number of steps (docs/studies/rates), so trials use the rate
# of the final run.
_RATES = (5e-5, 1e-4, 2.5e-5)


def recipes(*, drawn: bool) -> list[Recipe]:
    """Returns all recipes, the default one first.

    Every value of a setting occurs early, so that a short list covers all of them.

    Args:
      drawn: whether any negatives are drawn; if the data have them all, their source is no choice.
    """
    sources = _NEGATIVES if drawn else _NEGATIVES[:1]
    found = [
        (i + j + 2 * k, Recipe(loss, negatives, rate))
        for i, loss in enumerate(_LOSSES)
        for j, negatives in enumerate(sources)
        for k, rate in enumerate(_RATES)
    ]
    return [recipe for _, recipe in sorted(found, key=lambda pair: pair[0])]
