"""Beyond the mean, as Markdown: classes, confusions, samples that flipped, inputs that are corrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from whet.markup import Markdown, code, escape_markdown
from whet.measure.quality import ClassChange, Comparison, Quality
from whet.measure.robustness import Robustness, Shift
from whet.report.tables import line, number
from whet.search.outcome import Outcome
from whet.trials.flips import Answer, Flips

_SHIPPED = "the shipped model"
_CLASSES, _CONFUSIONS, _ROWS = 25, 10, 12  # rows of a table that are shown


def class_table(compared: Comparison, names: Sequence[str]) -> Iterator[str]:
    """Yield the change of every class, the largest first; those beyond doubt are marked."""
    if not compared.classes:
        return
    ordered = largest(compared.classes)
    yield ""
    yield "| class | samples | before | after | worse by | limits, all classes at once | beyond doubt |"
    yield "|---|---|---|---|---|---|---|"
    for item in ordered[:_CLASSES]:
        limits = f"{item.interval.low:+.4f} to {item.interval.high:+.4f}"
        values = (f"{item.before:.4f}", f"{item.after:.4f}", f"{item.drop:+.4f}")
        yield line(class_name(item.label, names), str(item.samples), *values, limits, beyond_doubt(item))
    if len(ordered) > _CLASSES:
        yield ""
        yield f"The other {len(ordered) - _CLASSES} classes changed no more than the last one shown."


def largest(changes: Sequence[ClassChange]) -> list[ClassChange]:
    """Return the changes of classes: those beyond doubt first, then by their size."""
    return sorted(changes, key=lambda item: (not beyond_doubt(item), -abs(item.drop), item.label))


def beyond_doubt(item: ClassChange) -> str:
    """Return ``worse`` or ``better`` where a class's interval excludes 0, else nothing."""
    low, high = item.interval.low, item.interval.high
    if low is not None and low > 0:
        return "worse"
    return "better" if high is not None and high < 0 else ""


def class_name(label: int, names: Sequence[str]) -> str:
    """Return a class's name, or its number."""
    return names[label] if label < len(names) else str(label)


def confusion_table(original: Quality, quality: Quality, names: Sequence[str]) -> Iterator[str]:
    """Yield the confusions whose count changed most."""
    changes = confusions(original, quality)
    if not changes:
        return
    yield ""
    yield "| label | taken for | as given | shipped | change |"
    yield "|---|---|---|---|---|"
    for label, chosen, before, after in changes[:_CONFUSIONS]:
        yield line(
            class_name(label, names), class_name(chosen, names), str(before), str(after), f"{after - before:+d}"
        )
    if len(changes) > _CONFUSIONS:
        yield ""
        yield f"{len(changes) - _CONFUSIONS} other confusions changed no more than the last one shown."


def confusions(original: Quality, quality: Quality) -> list[tuple[int, int, int, int]]:
    """Return (label, choice, count before, count after) of each mistake whose count changed, the most first."""
    if original.confusion is None or quality.confusion is None:
        return []
    found = [
        (label, chosen, before, after)
        for label, rows in enumerate(zip(original.confusion, quality.confusion, strict=True))
        for chosen, (before, after) in enumerate(zip(*rows, strict=True))
        if label != chosen and before != after
    ]
    return sorted(found, key=lambda item: (-abs(item[3] - item[2]), item[:2]))


def sections(outcome: Outcome) -> Iterator[str]:
    """Yield the sections on flipped samples and on corrupted inputs, as far as they were looked at."""
    if outcome.flips is not None:
        yield from ("", "## Samples that flipped", "")
        yield from _flips(outcome.flips)
    for result in outcome.results:
        if result.flips is not None:
            yield from ("", f"## Samples that flipped with {code(result.name)}", "")
            yield from _flips(result.flips, code(result.name), f"flips/{result.name}")
    if outcome.robustness is not None:
        yield from ("", "## On corrupted inputs", "")
        exported = outcome.original.float_key not in (None, outcome.original.root)
        yield from _robustness(outcome.robustness, "its float export" if exported else "")


def _flips(found: Flips, who: str = _SHIPPED, folder: str = "flips") -> Iterator[str]:
    yield flips_in_words(found, who)
    yield "They were read after the verdict, at the same opening of test, and decided nothing."
    if not found.kept:
        return
    decisions = found.kind == "decisions"
    yield ""
    greatest = "loss of confidence" if decisions else "growth of error"
    yield f"The {len(found.kept)} of the greatest {greatest}, raw inputs too, lie in"
    yield f"[{folder}/]({folder}/flips.json)."
    yield ""
    after = "shipped" if who == _SHIPPED else "after"
    yield f"| sample | label | as given | {after} | loss | outcome | input |"
    yield "|---|---|---|---|---|---|---|"
    for item in found.kept[:_ROWS]:
        shown = Markdown(f"[picture]({folder}/{item.picture})") if item.picture else item.row
        before, after = answer_in_words(item.before), answer_in_words(item.after)
        yield line(
            str(item.number), item.label or "-", before, after, f"{item.loss:.3g}", item.outcome or "-", shown
        )


def flips_in_words(found: Flips, who: str = _SHIPPED) -> str:
    """Say on how many samples two models differ, and to whose loss."""
    if not found.differing:
        same = (
            "decides as the model as given does"
            if found.kind == "decisions"
            else "errs no more than the model as given"
        )
        return f"{who[0].upper()}{who[1:]} {same} on all {found.samples:,} test samples."
    share = f"{found.differing:,} of {found.samples:,} test samples"
    if found.kind != "decisions":
        return f"The error grew on {share}."
    if found.lost is None:
        return f"On {share} {who} decides otherwise than the model as given."
    return (
        f"On {share} {who} decides otherwise than the model as given: {found.lost} became wrong, "
        f"{found.won} became right, {found.neither} are wrong either way."
    )


def answer_in_words(item: Answer) -> str:
    """Return ``cat (0.93)``, or the error where there are no classes."""
    if item.choice:
        return f"{item.choice} ({number(item.probability)})"
    return f"error {number(item.error)}"


def _robustness(found: Robustness, given: str) -> Iterator[str]:
    """Yield the answer, the table and how it was found; ``given`` says what ran in place of the model as given."""
    yield from map(escape_markdown, robustness_in_words(found))
    yield ""
    metric = found.metric
    yield line(
        "inputs", "severity", f"{metric}, as given", f"{metric}, shipped", "loses more by", "all limits at once"
    )
    yield "|---|---|---|---|---|---|"
    yield line("as they are", "", number(found.before), number(found.after), "", "")
    for item in found.shifts:
        told = f"{item.severity} ({item.amount:g} {item.unit})"
        yield line(item.corruption, told, number(item.before), number(item.after), *_extra(item))
    yield ""
    some = "all" if found.samples == found.of else f"{found.samples:,} of the {found.of:,}"
    yield f"On {some} test samples, the same corrupted inputs for both models (seed {found.seed})."
    yield "*Loses more by* is how far the shipped model falls behind the model as given on corrupted inputs, less"
    yield "how far it does so on clean ones."
    if given:
        yield f"The model as given was run as {given}, which answers alike, and sooner."


def _extra(item: Shift) -> tuple[str, str]:
    if item.extra is None or item.interval is None:
        return ("-", "-") if item.after is not None else ("outputs are not finite", "-")
    low, high = item.interval.low, item.interval.high
    return f"{item.extra:+.4f}", f"{number(low)} to {number(high)}"


def robustness_in_words(found: Robustness) -> Iterator[str]:
    """Answer in a sentence: does the shipped model lose more than the original where inputs are corrupted?"""
    of = len(found.shifts)
    compared = [item for item in found.shifts if item.extra is not None]
    broken = [item for item in found.shifts if item.before is not None and item.after is None]
    if found.worse:
        first = found.worse[0]
        assert first.interval is not None
        costs = "costs" if len(found.worse) == 1 else "cost"
        yield (
            f"{len(found.worse)} of {of} corruptions {costs} the shipped model more in {found.metric} than the "
            f"model as given, beyond doubt; most does {first.corruption}, severity {first.severity}: "
            f"{first.extra:.4f} more ({number(first.interval.low)} to {number(first.interval.high)})."
        )
    elif compared:
        worst = max(compared, key=lambda item: item.extra or 0.0)
        assert worst.interval is not None
        yield (
            f"None of {of} corruptions costs the shipped model more in {found.metric} than the model as given, "
            f"beyond doubt; the largest difference is {worst.extra:+.4f} "
            f"({number(worst.interval.low)} to {number(worst.interval.high)}), under {worst.corruption}, "
            f"severity {worst.severity}."
        )
    for item in broken:
        yield f"Under {item.corruption}, severity {item.severity}, outputs of the shipped model are not finite."
