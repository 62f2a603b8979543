"""Tests encode, from its flags to the files it writes, including stops and resumption."""

import shutil

import numpy as np
import pytest

from selfdistill_jax import BiEncoder, encode
from selfdistill_jax.retrieval.quantize import quantize, ranges_of, truncate
from selfdistill_jax.retrieval.vectors import VectorFile
from tests.tiny import CONTENTS, ROWS, content, fails, write_rows


def test_encode(start, model, tmp_path):
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    arguments = [f"--model={model}", f"--input={path}", f"--output={tmp_path}/new/vectors.npy"]
    status, out, err = start(encode, *arguments)
    assert (status, err.count("\n")) == (0, 1)
    assert out.startswith(f"3 vectors of 16 dimensions in {tmp_path}/new/vectors.npy")
    got = np.load(tmp_path / "new" / "vectors.npy")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, BiEncoder.load(str(model)).encode(CONTENTS))
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert (tmp_path / "new" / "vectors.ids.txt").read_text() == "one\n2\nthree\n"
    assert len(list((tmp_path / "new").iterdir())) == 2
    before = content(tmp_path)
    again = start(encode, *arguments)
    assert fails(again, f"{tmp_path}/new/vectors.npy: already exists; remove it or")
    # The other file is not overwritten either.
    (tmp_path / "new" / "vectors.npy").unlink()
    assert fails(start(encode, *arguments), f"{tmp_path}/new/vectors.ids.txt: already exists")
    assert content(tmp_path).items() <= before.items()


@pytest.mark.parametrize("precision", ["int8", "ubinary"])
def test_encode_for_a_search_engine(start, model, tmp_path, precision):
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    given = [f"--model={model}", f"--input={path}", "--dimensions=9", f"--precision={precision}"]
    status, out, err = start(encode, *given, f"--output={tmp_path}/v.npy")
    assert status == 0
    assert out.startswith(f"3 vectors of 9 dimensions, {precision}, in {tmp_path}/v.npy")
    exact = BiEncoder.load(str(model)).encode(CONTENTS)
    cut = exact[:, :9] / np.linalg.norm(exact[:, :9], axis=1, keepdims=True)
    got = np.load(tmp_path / "v.npy")
    np.testing.assert_array_equal(got, quantize(cut, precision, ranges=ranges_of(cut)))
    ranges = tmp_path / "v.ranges.npy"
    if precision == "ubinary":
        assert got.shape == (3, 2)
        assert not ranges.exists()
        return
    assert "Ranges are from only 3 texts, and other texts may exceed them" in err
    np.testing.assert_array_equal(np.load(ranges), ranges_of(cut))
    # A query is quantised with the documents' ranges.
    one = write_rows(tmp_path / "one.jsonl", ROWS[2:])
    given[1] = f"--input={one}"
    assert fails(start(encode, *given, f"--output={tmp_path}/q.npy"), "--precision=int8: one text")
    assert start(encode, *given, f"--output={tmp_path}/q.npy", f"--ranges={ranges}")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "q.npy"), got[2:])
    assert not (tmp_path / "q.ranges.npy").exists()
    (tmp_path / "v.npy").unlink()
    (tmp_path / "v.ids.txt").unlink()
    assert fails(start(encode, *given, f"--output={tmp_path}/v.npy"), f"{ranges}: already exists")


@pytest.mark.parametrize("own", [[], ["--precision=uint8", "--dimensions=7"]])
def test_encode_goes_on_where_it_was_stopped(start, model, tmp_path, monkeypatch, own):
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    given = [f"--model={model}", f"--input={path}", *own]
    monkeypatch.setattr(encode, "_SHARD", 1)
    assert start(encode, *given, f"--output={tmp_path}/whole.npy")[0] == 0
    works, encoded = BiEncoder.encode, []

    def stops(self, texts, **options):
        if len(encoded) == 2:
            encoded.append("stop")
            raise KeyboardInterrupt
        encoded.append(texts)
        return works(self, texts, **options)

    def stops_at_the_end(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(BiEncoder, "encode", stops)
    given.append(f"--output={tmp_path}/v.npy")
    status, _, err = start(encode, *given)
    assert (status, err.splitlines()[-1]) == (130, "interrupted")
    assert not (tmp_path / "v.npy").exists()
    status, _, err = start(encode, *given)
    assert (status, err.splitlines()[-1]) == (0, "Encoding: 3 of 3 texts, 0 s left")
    assert encoded == [[CONTENTS[0]], [CONTENTS[1]], "stop", [CONTENTS[2]]]
    # A stop between the two files can be resumed, too.
    (tmp_path / "v.npy").rename(tmp_path / "kept")
    for name in ("v.ids.txt", "v.ranges.npy"):
        (tmp_path / name).unlink(missing_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(VectorFile, "finish", stops_at_the_end)
        assert start(encode, *given)[0] == 130
    assert (tmp_path / "v.ids.txt").exists()
    assert start(encode, *given)[0] == 0
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "kept").read_bytes()
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert (tmp_path / "v.ids.txt").read_text() == "one\n2\nthree\n"
    assert not list(tmp_path.glob(".v*"))
    if own:  # the ranges are those of the first shard
        first = ranges_of(truncate(works(BiEncoder.load(str(model)), CONTENTS[:1]), 7))
        np.testing.assert_array_equal(np.load(tmp_path / "v.ranges.npy"), first)


@pytest.mark.parametrize("changed", ["texts", "model", "precision", "dimensions"])
def test_encode_does_not_go_on_with_something_else(start, model, tmp_path, monkeypatch, changed):
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    shutil.copytree(model, tmp_path / "model")
    given = [f"--model={tmp_path}/model", f"--input={path}", f"--output={tmp_path}/v.npy"]

    def stops(*_, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BiEncoder, "encode", stops)
        assert start(encode, *given)[0] == 130
    if changed == "texts":
        write_rows(path, ROWS[::-1])
    elif changed == "precision":
        given.append("--precision=binary")
    elif changed == "dimensions":
        given.append("--dimensions=8")
    else:
        settings = tmp_path / "model" / "sentence_bert_config.json"
        settings.write_text('{"max_seq_length": 5}')
    before = content(tmp_path)
    assert fails(start(encode, *given), f"{tmp_path}/.v.npy.part: left by an interrupted command")
    assert content(tmp_path) == before
    (tmp_path / ".v.npy.part.json").write_text("{")
    assert fails(start(encode, *given), f"{tmp_path}/.v.npy.part.json: damaged (")
    (tmp_path / ".v.npy.part.json").unlink()  # as the message says
    assert start(encode, *given)[0] == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "a"}\n{"text": "b"', "{path}:2: malformed JSON at column 13 "),
        ('{"_id": "x", "title": "b"}', "{path}:1: field 'text' is missing; add it"),
        ('{"text": "a", "_id": 7}', "{path}:1: field '_id' is a number; expected a string"),
        ("", '{path}: no rows; expected one object with "text" per line'),
    ],
)
def test_malformed_rows(start, model, tmp_path, lines, message):
    path = tmp_path / "texts.jsonl"
    path.write_text(lines)
    result = start(encode, f"--model={model}", f"--input={path}", f"--output={tmp_path}/v.npy")
    assert fails(result, message.replace("{path}", str(path)))
    assert [p.name for p in tmp_path.iterdir()] == ["texts.jsonl"]


def test_wrong_flags(start, model, tmp_path):
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    given = [f"--model={model}", f"--input={path}", f"--output={tmp_path}/v.npy"]
    assert fails(start(encode, *given[:2]), "--output is missing; give --output=VALUE (File")
    assert fails(start(encode, *given, "x"), "unexpected argument 'x'")
    text = f"{tmp_path}/new/v.txt"
    assert fails(start(encode, *given, f"--output={text}"), f"--output={text}: expected a name")
    assert fails(start(encode, *given, "--input=/none"), "/none: no such file")
    assert fails(start(encode, *given, "--model=/none"), "/none: no such folder")
    assert fails(start(encode, *given, "--dimensions=17"), "dimensions is 17; expected 1 to 16")
    assert fails(start(encode, *given, "--dimensions=0"), "flag --dimensions=0: 0 is not a pos")
    assert fails(start(encode, *given, "--precision=int4"), "flag --precision=int4: value should")
    assert fails(start(encode, *given, "--ranges=r.npy"), "--ranges: not used with --precision=fl")
    ranged = [*given, "--precision=int8", "--ranges=/none.npy"]
    assert fails(start(encode, *ranged), "/none.npy: no such file")
    assert [p.name for p in tmp_path.iterdir()] == ["texts.jsonl"]
