from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.retrieval.text_table import format_table, results_table


def test_text():
    table = format_table([["a", 0.5, 3], ["long name", None, "x"]], ["system", "m", "number"])
    assert table.split("\n") == [
        "system          m  number",
        "---------  ------  ------",
        "a          0.5000       3",
        "long name               x",
    ]
    assert format_table([["a", None]], ["system", "m"]).endswith("\na")  # no blanks at the end


def test_markdown():
    table = format_table([["a|b", 0.5, 1]], ["s", "m", "n"], markdown=True)
    assert table.split("\n") == [
        "| s    |      m |   n |",
        "| ---- | -----: | --: |",
        "| a\\|b | 0.5000 |   1 |",
    ]


SYSTEMS = {
    "start": {"MRR@10": {"q": 0.5, "r": 0.5}, "nDCG@10": {"q": 0.25, "r": 0.5}},
    "tuned": {"MRR@10": {"q": 1.0, "r": 0.5}, "nDCG@10": {"r": 0.75, "q": 0.75}},
}


def test_results_are_tested_against_the_baseline():
    p = paired_test([0.25, 0.5], [0.75, 0.75]).p_randomization
    lines = results_table(SYSTEMS, baseline="start").split("\n")
    assert [line.split() for line in lines] == [
        ["system", "MRR@10", "nDCG@10", "diff", "nDCG@10", "p"],
        ["------", "------", "-------", "------------", "------"],
        ["start", "0.5000", "0.3750"],
        ["tuned", "0.7500", "0.7500", "+0.3750", f"{p:.4f}"],
    ]


def test_results_without_a_test_or_ndcg():
    assert "diff" not in results_table(SYSTEMS)
    systems = {name: {"MRR@10": values["MRR@10"]} for name, values in SYSTEMS.items()}
    assert "diff MRR@10" in results_table(systems, baseline="start")
