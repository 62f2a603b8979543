"""Tests the benchmarks that read the TPU compiler's output, on small hand-written output."""

import pytest

from benchmarks import plans, tpu_schedule
from selfdistill_jax.plan.machines import Chip

# Two bundles, a loop of three with 10 rounds, an inner loop of two with 5 rounds, and one more.
BUNDLES = """
0x0  :  { %a = vld }
0x1  :  { %b = smov }
0x2 LB : > { Start region 7 }
0x3 LB : >> { Start region 9 ;; %m = vmatmul.bf16.xpose }
0x4  : >> { %c = scmp.ge.s32.totalorder %i, 5 /* loop exit test */ ;; sbr.rel (%p) target = $region9 }
0x5  : > { %d = scmp.ge.s32.totalorder %j, 10 /* loop exit test */ }
0x6  : > { sbr.rel (%p) target = $region7 }
0x7  :  { %e = vst }
"""  # noqa: E501
PROGRAM = """
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[1000,1000]{1,0} parameter(0)
  %norm = f32[8,128]{1,0:T(8,128)S(1)} fusion(%p), kind=kLoop, calls=%f, metadata={op_name="jit(step)/Encoder/layers/output_norm/mul"}, backend_config={"estimated_cycles":"3000"}
  %twin = f32[8,128]{1,0:T(8,128)S(1)} fusion(%p), kind=kLoop, calls=%g, metadata={op_name="jit(step)/Encoder/layers/inner/dot"}, backend_config={"estimated_cycles":"3000"}
  ROOT %sum = f32[8]{0:T(128)S(1)} all-reduce(%twin), metadata={op_name="jit(step)/psum"}
}
"""  # noqa: E501


def test_loops_of_a_schedule_count_as_often_as_they_run(tmp_path):
    path = tmp_path / "0001-norm-77-final_bundles.txt"
    path.write_text(BUNDLES.replace("vmatmul.bf16.xpose", "vadd"))
    assert tpu_schedule.read_bundles(path) == (2 + 10 * (3 + 5 * 2) + 1, 0)
    # A product needs 16 rows of one of the four units.
    path.write_text(BUNDLES)
    assert tpu_schedule.read_bundles(path).cycles == 10 * 5 * 16 / 4
    path.write_text(BUNDLES.replace("/* loop exit test */", ""))
    assert tpu_schedule.read_bundles(path) == (8, 2)
    assert list(tpu_schedule.read_dump(tmp_path)) == ["norm"]


def test_parts_have_the_longer_of_schedule_and_traffic():
    chip = Chip(flops=1e12, bandwidth=1e9, ring=1e9, memory=1e9, clock=1e6)
    codes = {"norm": tpu_schedule.Code(2000.0, 0)}
    found = tpu_schedule.by_part(PROGRAM, codes, chip)
    # Equal fusions are compiled once: the second has the code of the first. 4 MB take 4 ms.
    expected = {"traffic": 0.004, "model": 3.0, "schedule": 4.0}
    for part in ("norms", "feed-forward"):
        assert found[part] == pytest.approx(expected)
    assert sum(values["schedule"] for values in found.values()) == pytest.approx(8.0)


def test_tables_have_ranges_and_the_settings_that_fit():
    encoding = {"hours": [1.0, 2.0], "passages": 8_800_000}
    fitting = {"run": {"hours": [0.5, 3.0]}, "tried": [{"changes": {}}], "encoding": encoding}
    changed = fitting | {"tried": [{"changes": {"train.micro_batches": 4}}]}
    table = plans.sizing_table({"v5e-1 128": fitting, "v5e-1 1024": changed})
    (row,) = table.splitlines()[2:]
    assert row.startswith(
        "| v5e-1 | 0.5 to 3.0 h | 0.5 to 3.0 h (micro_batches 4) | 1.0 to 2.0 h | 11.4 to 22.7 h | "
    )
    assert "v5e-256 128" not in plans.cases("sizing")
    assert len(plans.cases("tpu")) == 15
