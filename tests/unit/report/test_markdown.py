"""Markdown: whole tables, the verdict first, nobody left out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from whet.measure.changes import Change
from whet.measure.measurement import Interval
from whet.measure.verdict import Answer, Verdict
from whet.report.markdown import candidate_page, report

ASKED = [
    {},
    {"failed": 2},
    {"task": "regression", "failed": 1},
    {"task": "fidelity"},
    {"batches": (1,)},
    {"classes": 40},
    {"kind": "run", "failed": 2},
]


def tables(text):
    """Every table as (rows, columns of each row); a bar that is escaped divides nothing."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[len(re.findall(r"(?<!\\)\|", row)) - 1 for row in block.splitlines()] for block in blocks]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_every_row_of_every_table_is_one_line_of_as_many_cells_as_its_head(make, asked):
    """A line break inside a message would start a line that belongs to nothing."""
    outcome = make(**asked)
    pages = [report(outcome, []), *(candidate_page(result, outcome) for result in outcome.results)]
    found = [table for page in pages for table in tables(page)]
    assert len(found) > 10
    for table in found:
        assert len(table) >= 2
        assert len(set(table)) == 1
    assert not re.search(r"^(leave the step out|lines )", "\n".join(pages), re.MULTILINE)


def test_failed_candidates_are_named_in_the_table_the_ranking_and_what_was_learned(make):
    text = report(make(failed=2), [])
    table, ranking, learned = (text.split(f"## {head}")[1].split("\n## ")[0] for head in (
        "Candidates", "Why this one", "What we learned"))  # fmt: skip
    for part in (table, ranking, learned):
        assert "torch-half" in part
        assert "died of SIGSEGV" in part
        assert "static-int8 changed nothing; leave the step out" in part


def test_the_verdict_stands_before_everything_else(make):
    lines = report(make(), []).splitlines()
    assert lines[2].startswith("**INCONCLUSIVE**: `static-int8`, on 1000 test samples")
    assert "| **PASS** | at most 1,100,000 bytes on disk | 300,000 bytes on disk |  |" in lines


def test_an_open_claim_says_what_would_settle_it_or_that_nothing_would(make):
    text = report(make(), [])
    assert "| about 5,200 samples |" in text
    assert "| no number: it lies at the limit |" in text


def test_recipes_side_by_side_are_judged_each_and_none_is_chosen(make):
    text = report(make(kind="run"), [])
    assert text.splitlines()[2].startswith("**FAIL** over 6 recipes, each judged on the same test samples")
    for name in ("graph-only", "static-int8", "combined"):
        assert f"### {name}\n" in text
    assert "(chosen)" not in text
    assert "## Why this one" not in text


def test_warnings_come_before_the_candidates_each_in_one_line(make):
    text = report(make({"warnings": ("select was seen\nin training", "second")}), [])
    assert "- select was seen in training\n- second\n" in text
    assert text.index("## Read this first") < text.index("## Candidates")


def test_candidates_that_were_not_tried_are_named(make):
    assert "Not tried, for want of time: half, combined." in report(make({"not_tried": ("half", "combined")}), [])


def test_figures_are_linked_where_they_lie(make):
    assert "![bars](figures/bars.png)" in report(make(), [Path("/somewhere/figures/bars.png")])


def test_classes_are_called_by_their_names_in_the_report_and_on_the_candidates_page(make):
    outcome = make()
    names = replace(outcome, original=replace(outcome.original, classes=("cat", "dog", "a|b")))
    for page in (report(names, []), candidate_page(names.results[2], names)):
        assert "| cat | 333 |" in page
        assert r"| a\|b | 333 |" in page


def test_every_metric_whose_loss_was_bounded_stands_in_a_table_of_its_own(make):
    outcome = make()
    result = outcome.results[2]
    limits = Interval(-0.0123, 0.0345, 0.95, "Dirichlet draws, paired", one_sided=True)
    changes = (
        Change("g_mean", True, 0.91, 0.9, 0.01, limits),
        Change("rmse", False, 2.0, 2.1, 0.05, replace(limits, high=None)),
    )
    page = candidate_page(replace(result, comparison=replace(result.comparison, changes=changes)), outcome)
    told = "95.0% one-sided limits -0.0123 to 0.0345, Dirichlet draws, paired"
    assert f"| g_mean | 0.91 | 0.9 | +0.0100 | {told} |" in page
    assert "| rmse | 2 | 2.1 | +0.0500 of itself | 95.0% one-sided limits -0.0123 to inf" in page


def test_a_page_of_a_failed_candidate_says_why_in_one_line(make):
    outcome = make(failed=1)
    page = candidate_page(outcome.results[-1], outcome)
    assert (
        "Failed (NothingChanged): step 3 (static-int8): static-int8 changed nothing; leave the step out\n" in page
    )
    assert "## Numbers" not in page


def test_a_page_shows_verdicts_numbers_and_steps(make):
    outcome = make(kind="run")
    verdict = Verdict("a claim", Answer.INCONCLUSIVE, "evidence", 77)
    page = candidate_page(replace(outcome.results[2], verdicts=(verdict,)), outcome)
    assert "| **INCONCLUSIVE** | a claim | evidence | about 77 samples |" in page
    assert "| speedup | 6.4 | 6.21 to 6.59 | x | batch_size 1, against original |" in page
    assert "problem two lines \\| and a bar |" in page


def test_a_value_that_could_not_be_measured_is_a_dash(make):
    assert "| auc | - | - |" in report(make(), [])
