"""Tests the file that defines a study, and the grid that it spans."""

import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.study.definition import Run, read_study

GOOD = '''"""A title.

A text.
"""
COLLECTIONS = ("a", "b")
METHODS = {"x": {"loss.name": "softmax"}, "y": {}}
TUNED = {"train.learning_rate": (1e-4, 2e-4), "loss.temperature": (0.05, 0.1, 0.2)}
SEEDS = (0, 1)
BASELINE = "x"
'''


def study(tmp_path, text=GOOD):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return read_study(path)


def test_a_study_is_read(tmp_path):
    found = study(tmp_path)
    assert (found.name, found.title, found.text) == ("mine", "A title", "A text.")
    assert list(found.cells()) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    grid = found.grid("x")
    assert len(grid) == len({tuple(values.items()) for values in grid}) == 6
    assert found._replace(tuned={}).grid("y") == [{}]


def test_a_method_with_values_of_its_own(tmp_path):
    text = GOOD + 'OWN_TUNED = {"y": {"train.learning_rate": (1.0, 2.0)}}'
    found = study(tmp_path, text)
    assert len(found.grid("x")) == 6
    assert found.grid("y") == [{"train.learning_rate": 1.0}, {"train.learning_rate": 2.0}]


def test_equal_runs_have_equal_keys():
    one, two = {"a": 1, "b": 2.0}, {"b": 2.0, "a": 1}
    assert Run("c", "m", "tune", 0, one).key() == Run("c", "m", "tune", 0, two).key()
    assert Run("c", "m", "tune", 0, one).key() != Run("c", "m", "test", 0, one).key()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SEEDS = (0, 1)", "", "SEEDS is missing"),
        ("SEEDS = (0, 1)", "SEEDS = 3", "SEEDS is 3; expected a tuple"),
        ("SEEDS = (0, 1)", "SEEDS = ()", r"SEEDS is \(\); expected a tuple that is not empty"),
        ('BASELINE = "x"', 'BASELINE = "z"', "BASELINE is 'z'; expected one of METHODS"),
        ("SEEDS", 'OWN_TUNED = {"z": {}}; SEEDS', "OWN_TUNED has 'z'; expected one of METHODS"),
        ("SEEDS", "1 / 0", "ZeroDivisionError|SyntaxError"),
    ],
)
def test_a_faulty_study_is_one_line(tmp_path, old, new, message):
    with pytest.raises(InputError, match=message):
        study(tmp_path, GOOD.replace(old, new))


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_study(tmp_path / "none.py")
