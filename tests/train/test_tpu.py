"""Tests the step as the TPU compiler makes it, without a TPU; `make tpu` installs the compiler."""

import jax
import pytest

from selfdistill_jax.train import mesh
from tests.train.tpu_step import SIZE, TRIPLETS, is_installed, run

needs_compiler = pytest.mark.skipif(
    not is_installed(), reason="libtpu is not installed (make tpu; Linux x86-64 only)"
)


@needs_compiler
@pytest.mark.parametrize(("topology", "devices"), [("v5e:2x2", 4), ("v5e:4x4", 16)])
def test_a_step_has_no_host_calls_and_only_the_exchanges_that_the_docs_promise(topology, devices):
    facts = run(topology)
    assert facts["devices"] == devices
    assert facts["transfers"] == 0
    check(facts)
    # The gradient once; the loss, the metrics and the share of the vectors' gradient are small.
    vectors, small = 4 * TRIPLETS * SIZE, 16 * 4 * TRIPLETS
    gradient = facts["parameter_bytes"]
    assert gradient <= sum(facts["all-reduce"]) <= gradient + vectors + small
    assert vectors <= sum(facts["all-gather"]) <= vectors + small
    assert sum(facts["reduce-scatter"]) <= vectors
    assert not facts["all-to-all"] + facts["collective-permute"]


@needs_compiler
def test_slices_exchange_through_their_hosts():
    facts = run("v5e:2x2", slices=2)
    assert facts["devices"] == 8
    assert facts["transfers"] > 0
    check(facts)
    # The gradient is summed within each slice in parts, and the parts between the slices.
    exchanged = sum(sum(v) for v in facts.values() if isinstance(v, list))
    assert facts["parameter_bytes"] < exchanged < 2 * facts["parameter_bytes"]


def check(facts):
    assert facts["kernels"] == 2  # in the loops over layers, forwards and backwards
    assert facts["arrays_of_scores"] == 0
    assert (facts["conditionals"], facts["loops"], facts["host"]) == (0, 2, 0)


@needs_compiler
def test_the_facts_show_scores_in_memory():
    """Plain attention has arrays of scores for each head; the test above would fail."""
    facts = run("v5e:2x2", attention="own")
    assert facts["kernels"] == 0
    assert facts["arrays_of_scores"] > 0


class Device:
    """A device of a slice, with what `mesh_utils` reads."""

    platform, device_kind = "cpu", "cpu"

    def __init__(self, number: int, slice_index: int):
        self.id, self.process_index, self.slice_index = number, slice_index, slice_index


def test_slices_lie_along_the_data_axis(monkeypatch):
    devices = [Device(i, i // 4) for i in range(8)]
    monkeypatch.setattr(jax.sharding, "Mesh", lambda array, *_, **__: array)
    found = mesh.make_mesh(devices, fsdp=2)
    assert found.shape == (4, 2)
    assert [[d.slice_index for d in row] for row in found] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(mesh.InputError, match="a divisor of the 4 devices of each of 2 slices"):
        mesh.make_mesh(devices, fsdp=8)
