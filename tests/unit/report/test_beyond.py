"""Beyond the mean: classes, confusions, samples that flipped, corrupted inputs, in words, tables and figures."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from whet.measure.measurement import Interval
from whet.measure.quality import ClassChange
from whet.measure.robustness import Robustness, Shift
from whet.report import figures
from whet.report.beyond import confusions, largest
from whet.report.learned import sentences
from whet.report.markdown import report
from whet.trials.flips import Answer, Flip, Flips


def change(label, drop, low, high):
    return ClassChange(label, 100, 0.9, 0.9 - drop, drop, Interval(low, high, 0.995, "Tango", True), 5, 2)


CHANGES = (change(0, 0.01, -0.01, 0.03), change(1, 0.08, 0.02, 0.15), change(2, -0.1, -0.2, -0.01))


def with_classes(outcome, changes):
    proof = replace(outcome.proof, comparison=replace(outcome.proof.comparison, classes=changes))
    return replace(outcome, proof=proof)


def shift(name, severity, extra=0.01, low=-0.02, high=0.04, after=0.8):
    interval = None if extra is None else Interval(low, high, 0.996, "Tango", True)
    return Shift(name, severity, 0.1 * severity, "of the spread", 0.85, after, extra, interval)


def robust(*shifts):
    return Robustness("accuracy", 500, 1000, 0.9, 0.89, shifts, 0.95, 3)


def flipped(count=3, folder=None, kind="decisions"):
    kept = []
    for at in range(count):
        picture = ""
        if folder is not None:
            folder.mkdir(exist_ok=True)
            pixels = np.random.default_rng(at).integers(0, 256, (8, 8, 3)).astype(np.uint8)
            picture = f"{at}.png"
            Image.fromarray(pixels).save(folder / picture)
        before, after = Answer("cat", 0.9), Answer("dog | wolf", 0.6)
        if kind == "errors":
            before, after = Answer(error=0.1), Answer(error=0.4)
        outcome = ("lost", "won", "neither")[at % 3]
        kept.append(Flip(at, "cat", outcome, before, after, 0.5, {"x": f"{at}.npy"}, picture, "1, 2"))
    counts = (20, 12, 3) if kind == "decisions" else (None, None, None)
    return Flips(kind, 1000, 35, *counts, tuple(kept))


def test_classes_beyond_doubt_come_first_and_are_marked(make):
    assert [item.label for item in largest(CHANGES)] == [2, 1, 0]
    text = report(with_classes(make(), CHANGES), [])
    table = text.split("| class |")[1]
    assert table.index("| class 2 |") < table.index("| class 1 |") < table.index("| class 0 |")
    assert "| class 1 | 100 | 0.9000 | 0.8200 | +0.0800 | +0.0200 to +0.1500 | worse |" in text
    assert "| -0.2000 to -0.0100 | better |" in text


def test_only_classes_beyond_doubt_are_pointed_out(make):
    told = [line for line in sentences(with_classes(make(), CHANGES)) if "the class" in line]
    assert len(told) == 2
    assert told[1].startswith(
        "With `static-int8` the class class 1 is worse beyond doubt: its sensitivity went from"
    )
    assert not [line for line in sentences(make()) if "the class" in line]


def test_of_very_many_classes_the_largest_changes_are_shown_and_the_rest_counted(make):
    changes = tuple(change(at, at / 1000, -0.1, 0.2) for at in range(100))
    text = report(with_classes(make(classes=100), changes), [])
    assert "| class 99 | 100 |" in text
    assert "| class 10 | 100 |" not in text
    assert "The other 75 classes changed no more than the last one shown." in text


def test_confusions_that_changed_are_counted_by_hand(make):
    proof = make().proof
    before, after = ((90, 5, 5), (2, 95, 3), (0, 0, 100)), ((85, 6, 9), (2, 94, 4), (0, 0, 100))
    found = confusions(replace(proof.original, confusion=before), replace(proof.quality, confusion=after))
    assert found == [(0, 2, 5, 9), (0, 1, 5, 6), (1, 2, 3, 4)]
    outcome = make()
    proof = replace(
        proof, original=replace(proof.original, confusion=before), quality=replace(proof.quality, confusion=after)
    )
    assert "| class 0 | class 2 | 5 | 9 | +4 |" in report(replace(outcome, proof=proof), [])


def test_flipped_samples_are_counted_and_listed_in_lines_that_stay_whole(make):
    text = report(replace(make(), flips=flipped()), [])
    assert (
        "On 35 of 1,000 test samples the shipped model decides otherwise than the model as given: 20 became" in text
    )
    assert "decided nothing" in text
    assert r"| 0 | cat | cat (0.9) | dog \| wolf (0.6) | 0.5 | lost | 1, 2 |" in text
    assert "The error grew on 35 of 1,000 test samples." in report(
        replace(make(), flips=flipped(kind="errors")), []
    )
    none = Flips("decisions", 1000, 0, 0, 0, 0, ())
    text = report(replace(make(), flips=none), [])
    assert "decides as the model as given does on all 1,000 test samples" in text
    assert "35" not in "".join(line for line in sentences(replace(make(), flips=none)) if "test samples" in line)


def test_the_report_says_whether_corrupted_inputs_cost_more(make):
    found = robust(shift("blur", 1), shift("blur", 2, 0.03, 0.01, 0.05), shift("noise", 1, 0.06, 0.04, 0.08))
    text = report(replace(make(), robustness=found), [])
    assert (
        "2 of 3 corruptions cost the shipped model more in accuracy than the model as given, beyond doubt; "
        "most does noise, severity 1: 0.0600 more (0.04 to 0.08)."
    ) in text
    assert "| blur | 2 (0.2 of the spread) | 0.85 | 0.8 | +0.0300 | 0.01 to 0.05 |" in text
    assert "On 500 of the 1,000 test samples, the same corrupted inputs for both models (seed 3)." in text
    calm = report(replace(make(), robustness=robust(shift("blur", 1), shift("blur", 2, 0.02))), [])
    assert "None of 2 corruptions costs the shipped model more in accuracy" in calm
    assert "the largest difference is +0.0200 (-0.02 to 0.04), under blur, severity 2" in calm


def test_outputs_that_are_not_finite_are_told(make):
    found = robust(shift("blur", 1), shift("blur", 2, extra=None, after=None))
    text = report(replace(make(), robustness=found), [])
    assert "Under blur, severity 2, outputs of the shipped model are not finite." in text
    assert "| 0.85 | - | outputs are not finite | - |" in text


@pytest.mark.parametrize("kind", ["pictures", "rows", "errors"])
def test_flipped_samples_and_corrupted_inputs_are_drawn(make, tmp_path, kind):
    found = flipped(
        7, tmp_path / "flips" if kind == "pictures" else None, "errors" if kind == "errors" else "decisions"
    )
    found_robust = robust(*(shift(name, at, 0.03, 0.01) for name in ("blur", "noise") for at in (1, 2, 3)))
    path = figures.flips(tmp_path / "flips.png", found, tmp_path / "flips")
    other = figures.robustness(tmp_path / "robustness.png", found_robust)
    for picture in (path, other):
        with Image.open(picture) as image:
            assert image.width > 300
            assert image.height > 200
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_what_each_recipe_of_a_run_flipped_is_shown_under_its_name(make):
    outcome = make(kind="run")
    first, *others = outcome.results
    text = report(replace(outcome, results=(replace(first, flips=flipped()), *others)), [])
    assert f"## Samples that flipped with `{first.name}`" in text
    assert (
        f"On 35 of 1,000 test samples `{first.name}` decides otherwise than the model as given: 20 became" in text
    )
    assert f"[flips/{first.name}/](flips/{first.name}/flips.json)" in text
    assert "| as given | after |" in text
