"""Hostile results: ``whet report`` on a RUN folder of somebody else, whose every value may be meant to do harm."""

import json
import os
from functools import partial

from driver import Case, table

REPORT = ("report", "{here}/run")
RESULTS = "run/results.json"
ABOVE = "../../escaped"


def change(path, value, here):
    """Set one value of the results: ``("results", 1, "name")``; a value that is callable gets the old one."""
    file = here / RESULTS
    content = json.loads(file.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value(place[path[-1]]) if callable(value) else value
    file.write_text(json.dumps(content))


def replace(before, after, here):
    """Replace a piece of text in the results, for what Python's JSON does not write."""
    file = here / RESULTS
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def become(content, here):
    (here / RESULTS).write_bytes(content)


def folder(here):
    (here / RESULTS).unlink()
    (here / RESULTS).mkdir()


def pipe(here):
    (here / RESULTS).unlink()
    os.mkfifo(here / RESULTS)


def absent(here):
    (here / RESULTS).unlink()


def sparse(here):
    with (here / RESULTS).open("wb") as file:
        file.truncate(2**29 + 1)


def link(name, here):
    """Put a link to a user's folder, or file, in place of something in RUN."""
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.tex").write_text("three years of work")
    place = here / "run" / name
    if place.is_dir():
        place.rename(here / "was")
        place.symlink_to(elsewhere)
    else:
        place.unlink(missing_ok=True)
        place.symlink_to(elsewhere / "thesis.tex")


def values(name, path, value, *says):
    return Case(name, REPORT, says=("results.json cannot be read", *says), prepare=partial(change, path, value))


def whole(name, prepare, *says):
    return Case(name, REPORT, says=("results.json", *says), prepare=prepare)


NAME = ("results", 1, "name")
VALUES = [
    values("name-above", NAME, ABOVE, "results[1].name", "cannot name a recipe"),
    values("name-absolute", NAME, "/tmp/escaped", "results[1].name"),
    values("name-backslash", NAME, "..\\escaped", "results[1].name"),
    values("name-empty", NAME, "", "results[1].name"),
    values("name-dots", NAME, "..", "results[1].name"),
    values("name-control", NAME, "a\x1b[31mb", "results[1].name"),
    values("name-markup", NAME, "[bold]a", "results[1].name"),
    values("name-long", NAME, "n" * 300, "results[1].name"),
    values("name-device", NAME, "NUL", "device"),
    values("name-twice", NAME, "Dynamic-int8", "two have the same name"),
    values("name-number", NAME, 7, "results[1].name", "expected `str`"),
    values("ranking-above", ("ranking", 0, "name"), ABOVE, "ranking[0].name"),
    values("not-tried-above", ("not_tried",), [ABOVE], "not_tried[0]"),
    values("chosen-above", ("proof", "chosen"), ABOVE, "proof.chosen"),
    values("chosen-unknown", ("proof", "chosen"), "half", "no result is named 'half'"),
    values(
        "picture-above",
        ("flips", "kept"),
        [
            {
                "number": 1,
                "label": "",
                "outcome": "",
                "before": {},
                "after": {},
                "loss": 0.1,
                "inputs": {},
                "picture": "../../../secret.png",
            }
        ],
        "flips.kept[0]",
        "not the name of a file",
    ),
    values(
        "input-absolute",
        ("flips", "kept"),
        [
            {
                "number": 1,
                "label": "",
                "outcome": "",
                "before": {},
                "after": {},
                "loss": 0.1,
                "inputs": {"x": "/etc/passwd"},
            }
        ],
        "flips.kept[0]",
    ),
    values("answer-unknown", ("proof", "answer"), "SURE", "proof.answer", "PASS, FAIL"),
    values("kind-unknown", ("kind",), "wish", "kind"),
    values("schema-later", ("schema",), 99, "schema", "99"),
    values("results-none", ("results",), [], "results: there are 0"),
    values("results-null", ("results",), None, "$.results"),
    values(
        "results-many",
        ("results",),
        lambda old: [{**old[1], "name": f"n{at}", "measurements": [], "quality": None} for at in range(1001)],
        "there are 1001",
    ),
    values("samples-negative", ("original", "quality", "samples"), -3, "original.quality.samples", "negative"),
    values("seconds-negative", ("seconds",), -1.5, "seconds", "negative"),
    values("parameters-null", ("original", "parameters"), None, "$.original.parameters"),
    values("parameters-text", ("original", "parameters"), "many", "$.original.parameters"),
    values("drop-list", ("results", 1, "comparison", "drop"), [1], "comparison.drop"),
    values("confusion-ragged", ("proof", "quality", "confusion"), [[1, 2], [3]], "confusion"),
    values("confusion-other-size", ("proof", "quality", "confusion"), [[1, 2], [3, 4]], "confusion"),
    values(
        "confusion-negative", ("proof", "quality", "confusion"), [[1, 2, 3], [3, -4, 5], [6, 7, 8]], "confusion"
    ),
    values("confusion-huge", ("proof", "quality", "confusion"), [[2**62] * 3] * 3, "confusion"),
    values(
        "batch-zero",
        ("results", 1, "measurements"),
        [
            {"metric": "latency_p50_ms", "value": 1.0, "conditions": {"batch_size": 0, "contestant": "candidate"}},
        ],
        "measurements[0].conditions.batch_size",
    ),
    values("batch-absent", ("results", 1, "measurements"), [{"metric": "speedup", "value": 1.0}], "batch_size"),
    values(
        "latency-negative",
        ("results", 1, "measurements"),
        [
            {"metric": "latency_p50_ms", "value": -1.0, "conditions": {"batch_size": 1}},
        ],
        "latency_p50_ms",
        "negative",
    ),
    values("text-endless", ("warnings",), ["w" * 200_000], "warnings[0]", "characters"),
]

WHOLE = [
    whole("infinite", partial(replace, '"seconds": ', '"seconds": 1e999, "was": '), "too large"),
    whole("constant", partial(replace, '"seconds": ', '"seconds": Infinity, "was": '), "Infinity is no number"),
    whole("twice", partial(replace, '"kind": "optimize"', '"kind": "optimize", "kind": "run"'), "twice"),
    whole("surrogate", partial(replace, '"kind": "optimize"', '"kind": "\\ud800"'), "surrogate"),
    whole("digits", partial(replace, '"seconds": ', f'"seconds": {"9" * 5000}, "was": ')),
    whole("empty", partial(become, b""), "not JSON"),
    whole("truncated", lambda here: become((here / RESULTS).read_bytes()[:5000], here), "not JSON"),
    whole("list", partial(become, b"[]"), "expected `object`"),
    whole("null", partial(become, b"null"), "expected `object`"),
    whole("bytes", partial(become, b"\xff\xfe\x00\x01"), "not UTF-8"),
    whole("latin", partial(become, '{"kind": "größe"}'.encode("latin-1")), "not UTF-8"),
    whole("deep", partial(become, b"[" * 100_000 + b"]" * 100_000), "nested"),
    whole("deep-objects", partial(become, b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested"),
    whole("folder", folder, "cannot be read"),
    whole("pipe", pipe, "not a regular file"),
    whole("absent", absent, "holds no results.json"),
    whole("sparse", sparse, "larger than"),
    Case("no-folder", ("report", "{here}/nothing"), says=("holds no results.json",)),
    Case("a-file", ("report", "{here}/good.npz"), says=("holds no results.json",)),
    Case("long-name", ("report", "{here}/" + "n" * 300), says=("file name too long",)),
]

LINKS = [
    Case(f"link-{name.replace('/', '-')}", REPORT, says=(f"run/{name} is a link", "remove the link"),
         prepare=partial(link, name))
    for name in ("figures", "metrics", "report.md", "metrics/graph-only-metrics.md", "figures/bars.png", "flips")
]  # fmt: skip

EVIL = (
    "<script>alert(1)</script> [x](javascript:1) ![y](http://z/) `code` \x1b[31m \u202egpj [bold]b[/bold] $\\frac{"
)


def poison(here):
    """Put text that means harm wherever results have free text."""
    for path in (
        ("original", "name"), ("original", "metric"), ("original", "float_failure"), ("original", "notes"),
        ("original", "classes"), ("warnings",), ("machine", "cpu"), ("results", 1, "description"),
        ("results", 1, "steps", 0, "name"), ("ranking", 0, "reason"), ("proof", "verdicts", 0, "claim"),
        ("proof", "verdicts", 0, "evidence"), ("results", 2, "failure"),
    ):  # fmt: skip
        value = EVIL
        if path[-1] in ("notes", "warnings"):
            value = [EVIL]
        if path[-1] == "classes":
            value = [f"{EVIL} {at}" for at in range(3)]
        if path[-1] == "failure":
            value = {"kind": "PassError", "message": EVIL}
        change(path, value, here)


def is_harmless(here, ended):
    """Return what of the harmful text would still do something in a page or on the terminal."""
    pages = [here / "run" / "report.md", *sorted((here / "run" / "metrics").glob("*.md"))]
    for page in pages:
        text = page.read_text()
        for harm in ("<script", "[x](javascript", "![y](", "\x1b", "\u202e"):
            if harm in text.replace("\\[x\\](", ""):
                return f"{harm!r} is in {page.name}"
    if "&lt;script>" not in pages[0].read_text():
        return "the text itself is missing in report.md"
    if "[bold]b[/bold]" not in " ".join(ended.out.split()):
        return f"tags were interpreted: {ended.out[-600:]!r}"
    return "the order of letters is reversed on the terminal" if "\u202e" in ended.out else None


FIGURES = {"MPLCONFIGDIR": "{here}/fonts"}  # the list of fonts that matplotlib keeps for its user
HARMLESS = [
    Case("texts", REPORT, code=0, prepare=poison, rewrites=True, check=is_harmless, environment=FIGURES),
    Case("texts-json", (*REPORT, "--json"), code=0, prepare=poison, rewrites=True, environment=FIGURES),
]

CASES = [*VALUES, *WHOLE, *LINKS, *HARMLESS]


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "a-file", "answer-unknown", "batch-absent", "bytes", "chosen-unknown", "confusion-other-size",
    "confusion-ragged", "deep-objects", "drop-list", "empty", "infinite", "input-absolute", "kind-unknown",
    "latin", "link-figures", "link-figures-bars.png", "link-flips", "link-metrics",
    "link-metrics-graph-only-metrics.md", "link-report.md", "list", "name-control", "name-device", "name-long",
    "name-markup", "name-number", "null", "ranking-above", "results-many", "results-none", "results-null",
    "schema-later", "sparse", "text-endless", "texts", "texts-json",
)  # fmt: skip


@table([Case(**{**vars(case), "needs": ("run",)}) for case in CASES], slow=SLOW)
def test_hostile(case, survives):
    survives(case)
