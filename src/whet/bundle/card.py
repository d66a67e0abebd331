"""The model card of a bundle: what it is, where it comes from, what it was found to be worth."""

from __future__ import annotations

from collections.abc import Sequence

from whet.bundle.manifest import Manifest
from whet.measure.measurement import Measurement, value_of

_UNKNOWN = "not known"


def render(made: Manifest, measurements: Sequence[Measurement]) -> str:
    """Return the card as Markdown."""
    lines = [f"# Model card: {made.name}", "", _summary(made, measurements), "", "## Verdict", ""]
    if made.verdicts:
        lines += [f"**{made.answer}**, on samples that decided nothing else.", ""]
        lines += [f"- **{item.answer}** {item.claim}: {item.evidence}" for item in made.verdicts]
    else:
        lines.append("None: this candidate was ranked, not judged.")
    lines += ["", "## Inputs and outputs", ""]
    lines += [f"- input `{spec}`" for spec in made.signature.inputs]
    lines += [f"- output `{spec}`" for spec in made.signature.outputs]
    if made.classes:
        lines.append(f"- classes: {', '.join(made.classes)}")
    lines += ["", "## How it was made", ""]
    for at, step in enumerate(made.history, 1):
        skipped = f", {len(step.skipped)} layers left alone" if step.skipped else ""
        lines.append(f"{at}. `{step.name}`: {len(step.changed)} changed{skipped}")
        lines += [f"   - left alone: {item.layer}: {item.reason}" for item in step.skipped]
    if not made.history:
        lines.append("Nothing was done to it.")
    lines += ["", "## Numbers", "", "| metric | value | conditions |", "|---|---|---|"]
    lines += [_row(item) for item in measurements]
    lines += ["", "## Where it runs", "", *_where(made), "", "## Limits", "", *_limits(made), ""]
    return "\n".join(lines)


def _summary(made: Manifest, measurements: Sequence[Measurement]) -> str:
    size = value_of(measurements, "size_bytes")
    told = f"{size:,.0f} bytes" if size else _UNKNOWN
    return f"A {made.task} model in {made.format} form ({told}), made by whet {made.whet} from `{_origin(made)}`."


def _origin(made: Manifest) -> str:
    name = str(made.source.get("factory") or "")
    path = str(made.source.get("path") or "").rpartition("/")[2]
    return f"{path}:{name}" if path and name else path or name or _UNKNOWN


def _row(item: Measurement) -> str:
    value = "-" if item.value is None else f"{item.value:,.6g}"
    limits = ""
    if item.interval is not None and item.interval.low is not None and item.interval.high is not None:
        limits = f" ({item.interval.low:.4g} to {item.interval.high:.4g})"
    told = ", ".join(f"{key} {value}" for key, value in item.conditions.items())
    return f"| {item.metric} | {value}{limits} {item.unit} | {told} |"


def _where(made: Manifest) -> list[str]:
    used = made.deployment
    lines = [
        f"- measured in {used.get('runtime')} {used.get('version')}, {used.get('threads')} thread(s), "
        f"{used.get('provider') or used.get('device')}",
        f"- measured on {made.machine.cpu} ({' '.join(made.machine.flags)})",
    ]
    if made.needs:
        lines.append(f"- right only on processors with: {', '.join(made.needs)}")
    return lines


def _limits(made: Manifest) -> list[str]:
    lines = [
        f"- Data: {', '.join(f'{part} {size}' for part, size in made.data.get('splits', {}).items())} samples."
    ]
    lines += [f"- {note}" for note in made.data.get("notes", ())]
    lines.append(
        "- Nothing is known of it on inputs unlike these; `reference.npz` holds histograms to compare with."
    )
    if made.source.get("trust_pickle"):
        lines.append("- The weights were unpickled on the user's explicit word (--trust-pickle).")
    return lines
