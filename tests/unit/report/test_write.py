"""A report is written from what lies in the RUN folder, and from nothing else."""

import subprocess
import sys
from dataclasses import replace

import pytest

from whet import plain
from whet.cli.console import exit_code
from whet.errors import RunFolderError
from whet.report import figures, write
from whet.search import outcome as outcomes


@pytest.fixture
def drawn(monkeypatch):
    """Names of what would be drawn: drawing takes seconds, and has tests of its own."""
    found = []
    monkeypatch.setattr(figures, "draw", lambda folder, outcome: found.append("figures") or [folder / "bars.png"])
    monkeypatch.setattr(figures, "confusion_matrix", lambda path, *_: found.append(path.name))
    return found


@pytest.mark.parametrize(
    "asked", [{}, {"failed": 2}, {"task": "regression"}, {"kind": "run", "failed": 1}], ids=str
)
def test_an_outcome_reads_back_as_itself(make, tmp_path, asked):
    outcome = make(**asked)
    (tmp_path / outcomes.FILE).write_text(plain.dumps(outcome))
    assert outcomes.load(tmp_path) == outcome


def test_the_report_and_a_page_for_every_candidate_are_written(make, tmp_path, drawn):
    outcome = make(failed=1)
    (tmp_path / outcomes.FILE).write_text(plain.dumps(outcome))
    path = write.write(tmp_path)
    assert path == tmp_path / "report.md"
    assert "![bars](figures/bars.png)" in path.read_text()
    pages = {page.name for page in (tmp_path / "metrics").glob("*.md")}
    assert pages == {f"{result.name}-metrics.md" for result in outcome.results}
    assert "figures" in drawn
    assert "static-int8-confusion-matrix.png" in drawn
    assert "static-int8-edges-confusion-matrix.png" not in drawn  # it failed


def test_without_matplotlib_the_report_is_written_and_names_what_to_install(make, tmp_path, monkeypatch):
    find = write.importlib.util.find_spec
    monkeypatch.setattr(
        write.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    text = write.write(tmp_path, make()).read_text()
    assert "pip install 'whet[report]'" in text
    assert "![" not in text
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"holds no results\.json; a run writes it when it ends"),
        ("{", "cannot be read"),
        ("{}", "cannot be read"),
    ],
)
def test_a_folder_without_readable_results_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / outcomes.FILE).write_text(content)
    with pytest.raises(RunFolderError, match=message):
        write.write(tmp_path)


def test_the_answer_of_a_run_is_fail_where_a_recipe_failed_or_nothing_was_judged(make):
    judged = make(kind="run")
    passed = tuple(result for result in judged.results if result.name in ("float", "graph-only", "half"))
    assert replace(judged, results=passed).answer == "PASS"
    assert replace(judged, results=judged.results[:3]).answer == "INCONCLUSIVE"
    assert judged.answer == "FAIL"
    assert replace(make(kind="run", failed=1), results=(*passed, make(failed=1).results[-1])).answer == "FAIL"
    assert replace(judged, results=passed[:1]).answer == "FAIL"
    assert make().answer == "INCONCLUSIVE"  # of the proof


@pytest.mark.slow
def test_a_report_needs_no_framework(make, tmp_path):
    (tmp_path / outcomes.FILE).write_text(plain.dumps(make(failed=1)))
    code = (
        "import sys, pathlib; from whet.report.write import write; write(pathlib.Path(sys.argv[1]));"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
    assert len(list((tmp_path / "metrics").glob("*.png"))) == 7
    assert len(list((tmp_path / "figures").glob("*.png"))) == 3


def test_a_run_in_which_no_candidate_has_a_result_has_an_exit_code_of_its_own(make):
    outcome = make(kind="run", failed=1)
    base, failed = outcome.results[0], outcome.results[-1]
    assert base.failure is None
    assert failed.failure is not None
    assert exit_code(replace(outcome, results=(base, failed))) == 70
    assert exit_code(outcome) == 1, "others have results, and a recipe that failed is a verdict FAIL"
    assert exit_code(replace(outcome, results=(base,))) == 1, "none was tried"


def test_results_that_pass_every_check_of_types_and_cannot_be_shown_are_one_line(make, tmp_path, monkeypatch):
    (tmp_path / outcomes.FILE).write_text(plain.dumps(make()))
    monkeypatch.setattr(write.markdown, "report", lambda *_: {}["absent"])
    monkeypatch.setattr(write.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunFolderError, match=r"results\.json has values .* \(KeyError: 'absent'\)"):
        write.write(tmp_path)
