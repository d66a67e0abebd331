"""HTML for notebooks: well formed, escaped, coloured by verdict; and what shows itself in it."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from whet import markup, plain
from whet.bundle.verify import Check, Checks
from whet.measure.measurement import Measurement
from whet.measure.quality import Quality
from whet.measure.verdict import Answer, Verdict
from whet.profile.profile import LayerProfile, Profile
from whet.trials.contest import Standing, Standings
from whet.types import Format, Signature, TensorSpec

EVIL = "<script>alert('a & b')</script>"
SIGNATURE = Signature((TensorSpec("x", "float32", (None, 3)),), (TensorSpec("y", "float32", (None, 2)),))


def parsed(html):
    """The elements of a piece of HTML, which is well formed and of plain tables and text alone."""
    tree = ET.fromstring(f"<all>{html}</all>")
    assert {node.tag for node in tree.iter()} <= {
        "all", "table", "caption", "thead", "tbody", "tr", "th", "td", "b", "div",
    }  # fmt: skip
    assert all(set(node.attrib) <= {"style"} for node in tree.iter())
    for table in tree.iter("table"):
        widths = {len(row) for row in table.iter("tr")}
        assert len(widths) == 1
    return tree


def texts(html):
    return ["".join(node.itertext()) for node in parsed(html).iter() if node.tag in ("td", "th", "caption", "div")]


def test_whatever_stands_in_a_cell_is_escaped():
    html = markup.table([EVIL], [[EVIL]], EVIL) + markup.line(EVIL)
    assert "<script" not in html
    assert texts(html) == [EVIL] * 4


def test_verdicts_have_their_colour_and_numbers_stand_at_the_right():
    tree = parsed(markup.table(["a", "b"], [["PASS", "1,200"], ["FAIL", "-0.5"], ["passed", "+x"]]))
    assert [(node.text, node.attrib["style"]) for node in tree.iter("b")] == [
        ("PASS", "color:#1b7f3b"),
        ("FAIL", "color:#b00020"),
    ]
    sides = [node.attrib["style"].removeprefix("text-align:") for node in tree.iter("td")]
    assert sides == ["left", "right", "left", "right", "left", "left"]


def test_columns_without_any_value_are_left_out():
    assert texts(markup.table(["a", "b", "c"], [["1", None, ""], ["2", "", None]])) == ["a", "1", "2"]


@pytest.mark.parametrize(
    "asked", [{}, {"failed": 2}, {"kind": "run"}, {"task": "regression"}, {"batches": (1,)}], ids=str
)
def test_an_outcome_shows_its_verdict_and_every_candidate(make, asked):
    outcome = make(**asked)
    outcome = replace(outcome, warnings=(EVIL,))
    found = texts(outcome._repr_html_())
    assert outcome.answer in " ".join(found)
    assert f"note: {EVIL}" in found
    for result in outcome.results:
        assert result.name in found
    if outcome.proof is not None:
        assert "chosen" in found
        assert outcome.proof.verdicts[0].claim in found


def test_a_verdict_shows_what_would_settle_it():
    html = Verdict("a claim", Answer.INCONCLUSIVE, "evidence", 5200)._repr_html_()
    assert texts(html)[-4:] == ["INCONCLUSIVE", "a claim", "evidence", "about 5,200 samples"]


def test_checks_are_a_list_that_shows_itself():
    checks = Checks([Check("files", True, "12 files"), Check("golden", False, EVIL)])
    assert texts(checks._repr_html_())[3:] == ["PASS", "files", "12 files", "FAIL", "golden", EVIL]
    assert plain.builtins(checks) == plain.builtins(list(checks))


def test_standings_are_a_list_that_shows_latencies_sizes_and_scores():
    numbers = [
        Measurement("latency_p50_ms", 2.5, "ms", "min", 9, None, {"batch_size": 8}),
        Measurement("size_bytes", 1200, "bytes"),
    ]
    quality = Quality(100, {"accuracy": 0.9, "auc": None})
    first = Standing("a", "onnx", {}, SIGNATURE, tuple(numbers), quality)
    speedup = Measurement("speedup", 1.5, "x", "max", 9, None, {"batch_size": 8})
    second = replace(first, name=EVIL, measurements=(*numbers, speedup))
    found = texts(Standings([first, second])._repr_html_())
    assert found[:6] == ["model", "format", "ms, batch 8", "faster, batch 8", "bytes", "accuracy"]
    assert found[6:] == ["a", "onnx", "2.5", "", "1,200", "0.9", EVIL, "onnx", "2.5", "1.50", "1,200", "0.9"]
    assert plain.builtins(Standings([first])) == plain.builtins([first])


def test_a_profile_shows_every_layer_and_the_whole(make):
    layers = [LayerProfile("conv", "Conv2d", 9000, 36000, 81000, 0.3), LayerProfile(EVIL, "ReLU", 0, 0, None, None)]
    profile = Profile(Format.TORCH, SIGNATURE, 1, 1, layers, 9000, 36000, None, 0.31, make().machine)
    found = texts(profile._repr_html_())
    assert found[8:15] == ["conv", "Conv2d", "9,000", "36,000", "81,000", "0.3000", "100%"]
    assert found[15:22] == [EVIL, "ReLU", "0", "0", "?", "fused", ""]
    assert found[22:] == ["all", "", "9,000", "36,000", "?", "0.3100", ""]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("two\nlines\tand  tabs", "two lines and tabs"),
        ("\x1b[31mred\x07", "\ufffd[31mred\ufffd"),
        ("\x9b31m", "\ufffd31m"),
        ("left\u202etfel", "left\ufffdtfel"),
        ("größe 数", "größe 数"),
        ("\ud800", "\ufffd"),
    ],
)
def test_text_for_a_terminal_is_one_line_that_steers_nothing(text, shown):
    assert markup.plain_text(text) == shown


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("accuracy 0.9 (max_drop)", "accuracy 0.9 (max_drop)"),
        ("<script>", "&lt;script>"),
        ("&lt;b>", "&amp;lt;b>"),
        ("a & b", "a & b"),
        ("[x](javascript:1)", "\\[x\\](javascript:1)"),
        ("![x](http://y)", "!\\[x\\](http://y)"),
        ("`a` *b*", "\\`a\\` \\*b\\*"),
        ("a\n# b", "a # b"),
    ],
)
def test_text_in_markdown_is_shown_as_it_is(text, escaped):
    assert markup.escape_markdown(text) == escaped
    assert markup.escape_markdown(markup.Markdown(text)) == " ".join(text.split())


def test_code_in_markdown_cannot_be_ended_by_what_is_in_it():
    assert markup.code("a`<b>`\nc") == "`a'<b>' c`"
