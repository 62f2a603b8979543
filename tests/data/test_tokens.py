"""Tests that token ids equal those of `transformers`, and that the cache keeps them."""

import json
import shutil

import numpy as np
import pytest
import transformers

from selfdistill_jax.data import tokens
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.data.tokens import TokenCache, TokenTable
from selfdistill_jax.errors import InputError
from tests.tiny import ASKED, SAID, WORDS, content

LIMIT = 16


def some_texts(count=60, seed=0):
    """Returns texts of 0 to 40 known and unknown words."""
    rng = np.random.default_rng(seed)
    words = [*ASKED, *SAID, "the", "The", "grüße", "東京", "[SEP]", "mabo,tiri"]
    return ["", " ", *(" ".join(rng.choice(words, n)) for n in rng.integers(0, 41, count))]


def reference(folder, texts, limit):
    """Returns all ids, concatenated, and their lengths by transformers' own truncating call."""
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = peer(texts, max_length=limit, truncation=True)["input_ids"]
    return np.concatenate([*rows, []]), np.array([len(row) for row in rows])


@pytest.mark.parametrize("chunk", [1, 7, 2048])
@pytest.mark.parametrize(("kept", "limit"), [(3, 3), (16, 16), (50, 16), (50, 3), (16, 5)])
def test_rows_are_those_of_transformers(tiny, monkeypatch, chunk, kept, limit):
    monkeypatch.setattr(tokens, "_CHUNK", chunk)
    texts = some_texts()
    table = TokenTable.from_texts(Tokenizer(tiny.encoder), iter(texts), limit=kept)
    expected, lengths = reference(tiny.encoder, texts, limit)
    assert len(table) == len(texts)
    ids, found = table.flat(range(len(texts)), limit=limit)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(found, lengths)
    np.testing.assert_array_equal(table.lengths(limit), lengths)
    assert ids.dtype == found.dtype == table.lengths(limit).dtype == np.int32


def test_rows_in_any_order_and_a_part_of_the_table(tiny):
    texts = some_texts()
    tokenizer = Tokenizer(tiny.encoder)
    table = TokenTable.from_texts(tokenizer, texts, limit=LIMIT)
    picked = [5, 0, 61, 5, 17]
    expected, lengths = reference(tiny.encoder, [texts[i] for i in picked], 9)
    for part, rows in ((table, np.array(picked)), (table.take(picked), range(5))):
        ids, found = part.flat(rows, limit=9)
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(found, lengths)
    for nothing in (table.take([]), TokenTable.from_texts(tokenizer, [], limit=LIMIT)):
        assert len(nothing) == len(nothing.lengths(LIMIT)) == 0
        assert [len(array) for array in nothing.flat([], limit=8)] == [0, 0]


def test_rows_without_tokens():
    table = TokenTable(np.arange(5, dtype=np.int32), np.array([0, 0, 3, 3, 5, 5]))
    ids, lengths = table.flat([4, 1, 0, 2, 3, 0], limit=2)
    assert ids.tolist() == [0, 2, 3, 4]
    assert lengths.tolist() == [0, 2, 0, 0, 2, 0]


def encoder_folder(tiny, folder, change=lambda raw: None, **settings):
    """Copies the tiny encoder's tokenizer, with a change in its file or other settings."""
    raw = json.loads((tiny.encoder / "tokenizer.json").read_text())
    change(raw)
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    shutil.copy(tiny.encoder / "config.json", folder)
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def hidden_limits(raw):
    raw["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst",
                         "stride": 0}  # fmt: skip
    raw["padding"] = {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None,
                      "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip


CASED = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}


def test_a_tokenizers_own_limits_are_switched_off(tiny, tmp_path):
    limited = Tokenizer(encoder_folder(tiny, tmp_path / "limited", hidden_limits))
    plain = Tokenizer(tiny.encoder)
    texts = some_texts()
    for ours, theirs in zip(
        limited.encode(texts, limit=30), plain.encode(texts, limit=30), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert limited.fingerprint == plain.fingerprint
    cased = Tokenizer(encoder_folder(tiny, tmp_path / "cased", **CASED))
    assert cased.fingerprint != plain.fingerprint
    assert cased.encode(["The"], limit=9)[0].tolist() != plain.encode(["The"], limit=9)[0].tolist()


def test_an_older_folder_of_a_vocabulary(tiny, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    # [SEP] in a text is a special token for BERT's own tokenizer, but three words for tiny's.
    texts = [text.replace("[SEP]", "") for text in some_texts()]
    for ours, theirs in zip(
        Tokenizer(tmp_path).encode(texts, limit=LIMIT),
        Tokenizer(tiny.encoder).encode(texts, limit=LIMIT),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_no_usable_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    for wrong in ("", "{}", '{"version": "1.0", "model": {"type": "none"}}'):
        path.write_text(wrong)
        with pytest.raises(InputError) as caught:
            Tokenizer(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path}: not a usable tokenizer (")


class Unread(list):
    def __len__(self):
        raise AssertionError("tokenised again")


def cached_tokens(folder, tokenizer, texts, *, limit):
    return TokenCache(folder, tokenizer, texts, limit=limit).open()


def everything(table):
    return [array.tolist() for array in table.flat(range(len(table)), limit=99)]


def test_cache_is_reused_for_the_same_tokenizer_only(tiny, tmp_path):
    texts, folder = some_texts(), tmp_path / "cache" / "mine-queries"
    plain = Tokenizer(tiny.encoder)
    made = cached_tokens(folder, plain, texts, limit=LIMIT)
    expected = everything(TokenTable.from_texts(plain, texts, limit=LIMIT))
    assert everything(made) == expected
    before = content(tmp_path)
    # A copy in another folder counts as the same tokenizer.
    same = Tokenizer(encoder_folder(tiny, tmp_path / "same"))
    shutil.rmtree(tmp_path / "same")
    for tokenizer in (plain, same):
        assert everything(cached_tokens(folder, tokenizer, Unread(), limit=LIMIT)) == expected
    assert content(tmp_path) == before

    cased = Tokenizer(encoder_folder(tiny, tmp_path / "cased", **CASED))
    for tokenizer, limit in ((cased, LIMIT), (plain, 7)):
        anew = everything(cached_tokens(folder, tokenizer, texts, limit=limit))
        assert anew == everything(TokenTable.from_texts(tokenizer, texts, limit=limit)) != expected
    other = cached_tokens(folder.with_name("mine-documents"), plain, ["the"], limit=LIMIT)
    assert len(other) == 1
    assert everything(cached_tokens(folder, plain, Unread(), limit=LIMIT)) == expected


@pytest.mark.parametrize("save", ["savez", "save"])
def test_a_build_that_fails_leaves_nothing_unfinished(tiny, tmp_path, monkeypatch, save):
    write = getattr(np, save)

    def full(path, *arrays, **named):
        write(path, *arrays, **named)
        raise OSError("no space left")

    folder, tokenizer = tmp_path / "mine", Tokenizer(tiny.encoder)
    monkeypatch.setattr(np, save, full)
    with pytest.raises(InputError, match=r"mine-.*: cannot write prepared data .no space left"):
        cached_tokens(folder, tokenizer, ["the"] * 3, limit=LIMIT)
    monkeypatch.undo()
    shards = [] if save == "savez" else ["000000000000.npz"]  # a whole shard is used again
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == shards
    assert len(cached_tokens(folder, tokenizer, ["the"] * 3, limit=LIMIT)) == 3
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"ids.npy", "offsets.npy"}


class Reads(list):
    """Holds texts and records which slices are read."""

    def __init__(self, texts):
        super().__init__(texts)
        self.slices = []

    def __getitem__(self, rows):
        self.slices.append((rows.start, rows.stop))
        return super().__getitem__(rows)


def test_an_interrupted_build_continues_and_processes_share_it(tiny, tmp_path, monkeypatch):
    texts, tokenizer = Reads(some_texts()), Tokenizer(tiny.encoder)
    expected = everything(TokenTable.from_texts(tokenizer, list(texts), limit=LIMIT))
    monkeypatch.setattr(tokens, "_SHARD", 2)
    assert len(texts) > 6
    cache = TokenCache(tmp_path / "mine", tokenizer, texts, limit=LIMIT)
    cache.make_share(1, 3)
    shards = range(0, len(texts), 2)
    assert texts.slices == [(start, start + 2) for start in shards[1::3]]
    # As if the process had been killed here: whole shards are not made again.
    texts.slices.clear()
    again = TokenCache(tmp_path / "mine", tokenizer, texts, limit=LIMIT)
    assert everything(again.open()) == expected
    made = {start for start, _ in texts.slices}
    assert made == set(shards) - set(shards[1::3])
    texts.slices.clear()
    again.make_share(0, 1)
    assert everything(again.open()) == expected
    assert texts.slices == []


def test_another_run_may_join_the_shards_meanwhile(tiny, tmp_path, monkeypatch):
    tokenizer = Tokenizer(tiny.encoder)
    monkeypatch.setattr(tokens, "_SHARD", 2)
    one, two = (TokenCache(tmp_path / "a", tokenizer, some_texts(), limit=LIMIT) for _ in range(2))
    join, expected = TokenCache._join, everything(two.open())
    shutil.rmtree(next(tmp_path.iterdir()))

    def slow(self):
        monkeypatch.setattr(TokenCache, "_join", join)
        two.open()
        join(self)

    monkeypatch.setattr(TokenCache, "_join", slow)
    assert everything(one.open()) == expected
    one.make_share(0, 1)
    (folder,) = tmp_path.iterdir()
    assert folder.suffix != ".parts"


def test_a_damaged_shard_is_named(tiny, tmp_path):
    cache = TokenCache(tmp_path / "a", Tokenizer(tiny.encoder), some_texts(), limit=LIMIT)
    cache.make_share(0, 1)
    (shard,) = tmp_path.rglob("*.npz")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"^{shard.parent}: damaged \(BadZipFile: .*; delete"):
        cache.open()


@pytest.mark.parametrize("name", ["ids.npy", "offsets.npy"])
@pytest.mark.parametrize("keep", [None, 0, 20, 128, 0.5, -1])
def test_a_damaged_cache_is_not_read(tiny, tmp_path, name, keep):
    def opened():
        return cached_tokens(tmp_path / "mine", Tokenizer(tiny.encoder), some_texts(), limit=LIMIT)

    opened()
    (path,) = tmp_path.rglob(name)
    whole = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(whole[: int(len(whole) * keep) if keep == 0.5 else keep])
    with pytest.raises(InputError, match=rf"^{path.parent}: damaged \(.*; delete the folder"):
        opened()
