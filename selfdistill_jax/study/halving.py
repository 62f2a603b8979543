"""Successive halving: short trials of many recipes, longer ones of the better half, and so on."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

Recipe = TypeVar("Recipe")


class Rung(NamedTuple):
    """Holds one round: the number of recipes that take part, and the steps of each."""

    recipes: int
    steps: int


def plan(
    recipes: int, *, seconds: float, first_steps: int, step_seconds: float, other_seconds: float
) -> list[Rung]:
    """Returns the rounds of the most recipes that the time allows.

    Each round has half the recipes and twice the steps of the one before; the last has two.

    Args:
      recipes: number of recipes there are.
      seconds: time for all rounds.
      first_steps: steps of the first round.
      step_seconds: time of a step.
      other_seconds: time of a trial besides its steps.

    Returns:
      The rounds, at least one of two recipes even if the time does not suffice.

    Example:
      >>> plan(8, seconds=400, first_steps=10, step_seconds=1, other_seconds=10)
      [Rung(recipes=8, steps=10), Rung(recipes=4, steps=20), Rung(recipes=2, steps=40)]
    """

    def rounds(count: int) -> list[Rung]:
        found = [Rung(count, first_steps)]
        while found[-1].recipes > 2:
            before = found[-1]
            found.append(Rung(-(-before.recipes // 2), 2 * before.steps))
        return found

    def cost(found: list[Rung]) -> float:
        return sum(n * (other_seconds + steps * step_seconds) for n, steps in found)

    affordable = [n for n in range(2, recipes + 1) if cost(rounds(n)) <= seconds]
    return rounds(max(affordable, default=min(2, recipes)))


def halve(
    recipes: Sequence[Recipe], rounds: Sequence[Rung], value: Callable[[Recipe, int], float | None]
) -> Recipe | None:
    """Returns the recipe that wins the last round.

    Args:
      recipes: recipes in the order of their promise; the first ones take part.
      rounds: see `plan`.
      value: ``(recipe, steps)`` returns a trial's value on dev; None to stop.

    Returns:
      The winner; None if it was stopped.
    """
    left = list(recipes)
    for rung in rounds:
        left = left[: rung.recipes]
        values = []
        for recipe in left:
            found = value(recipe, rung.steps)
            if found is None:
                return None
            values.append(found)
        order = sorted(range(len(left)), key=lambda i: -values[i])  # stable: the first of equals
        left = [left[i] for i in order]
    return left[0]
