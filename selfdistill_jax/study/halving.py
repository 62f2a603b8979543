"""Successive halving: short trials of many recipes, longer ones of the better half, and so on.

Every round also has a trial of the default recipe, with which the others are compared.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

Recipe = TypeVar("Recipe")


class Rung(NamedTuple):
    """Holds one round: the number of recipes, the default included, and the steps of each."""

    recipes: int
    steps: int


def plan(
    recipes: int,
    *,
    seconds: float,
    first_steps: int,
    most_steps: int,
    step_seconds: float,
    other_seconds: float,
) -> list[Rung]:
    """Returns the rounds of the most recipes that the time allows, and then the longest rounds.

    Each round has half the recipes and twice the steps of the one before; the last has two. If the
    time suffices for all recipes, the steps of all rounds are doubled as often as possible.

    Args:
      recipes: number of recipes there are.
      seconds: time for all rounds.
      first_steps: steps of the first round.
      most_steps: steps of the final run; trials are only made longer up to this number.
      step_seconds: time of a step.
      other_seconds: time of a trial besides its steps.

    Returns:
      The rounds, at least one of two recipes even if the time does not suffice.

    Example:
      >>> times = {"step_seconds": 1, "other_seconds": 10}
      >>> plan(8, seconds=400, first_steps=10, most_steps=400, **times)
      [Rung(recipes=8, steps=10), Rung(recipes=4, steps=20), Rung(recipes=2, steps=40)]
      >>> plan(2, seconds=400, first_steps=10, most_steps=400, **times)
      [Rung(recipes=2, steps=160)]
    """

    def rounds(count: int, steps: int = first_steps) -> list[Rung]:
        found = [Rung(count, steps)]
        while found[-1].recipes > 2:
            before = found[-1]
            found.append(Rung(-(-before.recipes // 2), 2 * before.steps))
        return found

    def cost(found: list[Rung]) -> float:
        return sum(n * (other_seconds + steps * step_seconds) for n, steps in found)

    affordable = [n for n in range(2, recipes + 1) if cost(rounds(n)) <= seconds]
    count = max(affordable, default=min(2, recipes))
    steps = first_steps
    while count == recipes:
        longer = rounds(count, 2 * steps)
        if cost(longer) > seconds or longer[-1].steps > most_steps:
            break
        steps *= 2
    return rounds(count, steps)


def halve(
    recipes: Sequence[Recipe], rounds: Sequence[Rung], value: Callable[[Recipe, int], float | None]
) -> Recipe | None:
    """Returns the best recipe besides the default one.

    Args:
      recipes: the default recipe, then others in the order of their promise; the first ones take
        part.
      rounds: see `plan`.
      value: ``(recipe, steps)`` returns a trial's value on dev; None to stop.

    Returns:
      The best of the other recipes in the last round; None if it was stopped.
    """
    default, *left = recipes
    for rung in rounds:
        left = left[: rung.recipes - 1]
        values = []
        for recipe in (default, *left):
            found = value(recipe, rung.steps)
            if found is None:
                return None
            values.append(found)
        order = sorted(range(len(left)), key=lambda i: -values[i + 1])  # stable
        left = [left[i] for i in order]
    return left[0]
