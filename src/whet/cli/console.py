"""What is shown on the terminal: progress while it lasts, tables at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape as escape_tags
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from whet.errors import INTERNAL
from whet.markup import plain_text
from whet.progress import Event

if TYPE_CHECKING:
    from whet.measure.measurement import Measurement
    from whet.measure.quality import Comparison
    from whet.measure.verdict import Verdict
    from whet.profile.profile import Profile
    from whet.search.outcome import Outcome
    from whet.trials.contest import Standing

ANSWERS = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}
EXIT_CODES = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}
_OVERALL, _TIMING = "candidates", "measure latency"  # stages that tell that work has begun


def escape(text: str) -> str:
    """Return a text of unknown origin for rich: in one line, without control characters or tags of its own."""
    return escape_tags(plain_text(text))


def exit_code(outcome: Outcome) -> int:
    """Return the exit code of a run: of its verdict, or that of a failure if no candidate has a result."""
    return INTERNAL if outcome.every_candidate_failed else EXIT_CODES[outcome.answer]


class Show:
    """Progress bars with the time left on standard error; lines where it is no terminal. A context manager.

    Lines begin once the model and the data are known to be usable, so that a mistake found before is a line alone.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._live = self.console.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._overall: Any = None
        self._current: Any = None
        self._stage = ""
        self._held: list[str] | None = []

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if not self._live:
            self._line(event)
        elif event.stage == _OVERALL and event.total:
            if self._overall is None:
                self._overall = self._progress.add_task("candidates", total=event.total)
            self._progress.update(self._overall, completed=event.done, total=event.total)
        else:
            if self._current is None or event.stage != self._stage:
                if self._current is not None:
                    self._progress.remove_task(self._current)
                self._current = self._progress.add_task(escape(event.stage), total=event.total or None)
            self._progress.update(self._current, completed=event.done, total=event.total or None)
        self._stage = event.stage

    def _line(self, event: Event) -> None:
        """Print a line for each new stage, or each candidate begun."""
        if event.stage == _OVERALL and event.note:
            place = f"[{event.done + 1}/{event.total}] " if event.total else ""
            self._print(f"{place}{plain_text(event.note)}\n", begun=event.done > 0 or not event.total)
        elif event.stage != self._stage:
            self._print(f"    {plain_text(event.stage)}\n", begun=event.stage == _TIMING)

    def _print(self, line: str, *, begun: bool) -> None:
        """Print a line, or keep it until work has begun."""
        if self._held is not None and not begun:
            self._held.append(line)
            return
        sys.stderr.write("".join([*(self._held or ()), line]))
        sys.stderr.flush()
        self._held = None


def outcome_table(outcome: Outcome, folder: Path) -> None:
    """Print a run's candidates, its verdict, and where everything lies."""
    from whet.search.rows import batch_sizes, rows

    console = _console()
    sizes = batch_sizes(outcome)
    told = " / ".join(map(str, sizes))
    table = Table(title=escape(f"{outcome.original.name}, batch {told}"), title_justify="left")
    for head in ("candidate", escape(outcome.original.metric), "drop", "ms", "faster", "KB", "smaller", ""):
        table.add_column(head, justify="left" if head in ("candidate", "") else "right", no_wrap=True)
    places = {result.name: result.verdicts for result in outcome.results}
    rejected = {item.name for item in outcome.ranking if not item.eligible}
    for row in rows(outcome):
        if row.failure:
            table.add_row(escape(row.name), *[""] * 6, "[red]failed[/]")
            continue
        ratio = outcome.original.float_bytes / row.size_bytes if row.size_bytes else 0
        table.add_row(
            escape(row.name),
            _number(row.value, 4),
            f"{row.drop:+.4f}" if row.drop is not None else "",
            " / ".join(f"{(row.latency_ms or {}).get(size, 0):.3g}" for size in sizes),
            " / ".join(_times((row.speedup or {}).get(size)) for size in sizes) if row.speedup else "",
            f"{row.size_bytes / 1000:,.0f}" if row.size_bytes else "",
            f"{ratio:.2f}x",
            _mark(row.name, row.chosen, rejected, places.get(row.name, ())),
        )
    console.print(table)
    for item in outcome.ranking:
        if not item.eligible:
            console.print(f"[red]rejected[/] {escape(item.name)}: {escape(item.reason)}", highlight=False)
    for warning in outcome.warnings:
        console.print(f"[yellow]note[/] {escape(warning)}", highlight=False)
    _conclusion(console, outcome)
    console.print(f"\nreport  {escape(str(folder / 'report.md'))}", soft_wrap=True, highlight=False)
    if outcome.proof is not None:
        console.print(f"bundle  {escape(str(folder / 'bundle'))}", soft_wrap=True, highlight=False)


def _conclusion(console: Console, outcome: Outcome) -> None:
    """Print the verdict on the chosen candidate, or on every recipe."""
    judged = [(result.name, result.verdicts) for result in outcome.results if result.verdicts]
    if outcome.proof is not None:
        judged = [(outcome.proof.chosen, outcome.proof.verdicts)]
    for name, verdicts in judged:
        console.print(f"\n{_answers(verdicts)} {escape(name)}", highlight=False)
        verdict_lines(console, verdicts)


def _mark(name: str, chosen: bool, rejected: set[str], verdicts: Sequence[Verdict]) -> str:
    if chosen:
        return "[bold green]chosen[/]"
    return "[red]rejected[/]" if name in rejected else _answers(verdicts)


def _console() -> Console:
    """Return standard output; where it is no terminal, wide enough that no table is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def verdict_lines(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Print one line a claim."""
    for item in verdicts:
        needed = escape(f"; would be settled by {item.settled_by}") if item.settled_by else ""
        if item.needed_samples:
            needed = escape(f"; {item.settled_by} would settle it")
        answer = f"[{ANSWERS[item.answer]}]{item.answer:<12}[/]"
        told = f"  {answer} {escape(item.claim)}: {escape(item.evidence)}{needed}"
        console.print(told, soft_wrap=True, highlight=False)


def profile_table(profile: Profile) -> None:
    """Print a model's layers."""
    console = _console()
    table = Table(
        title=f"{profile.format}, batch {profile.batch_size}, {profile.threads} thread(s)", title_justify="left"
    )
    table.add_column("layer")
    table.add_column("type")
    for head in ("parameters", "bytes", "MACs", "ms", "share"):
        table.add_column(head, justify="right", no_wrap=True)
    whole = sum(layer.time_ms or 0 for layer in profile.layers) or 1.0
    for layer in profile.layers:
        spent = layer.time_ms
        table.add_row(
            escape(layer.name), escape(layer.kind), f"{layer.parameters:,}", f"{layer.bytes:,}",
            "?" if layer.macs is None else f"{layer.macs:,}",
            "fused" if spent is None else f"{spent:.4f}", "" if spent is None else f"{spent / whole:.0%}",
        )  # fmt: skip
    macs = "?" if profile.macs is None else f"{profile.macs:,}"
    table.add_section()
    table.add_row("all", "", f"{profile.parameters:,}", f"{profile.bytes:,}", macs, f"{profile.time_ms:.4f}", "")
    console.print(table)
    console.print("inputs  " + plain_text(", ".join(map(str, profile.signature.inputs))), markup=False)
    console.print("outputs " + plain_text(", ".join(map(str, profile.signature.outputs))), markup=False)


def standings_tables(standings: Sequence[Standing]) -> None:
    """Print what the measuring verbs found."""
    from whet.measure.measurement import value_of

    console = _console()
    sizes = sorted(
        {int(n.conditions["batch_size"]) for s in standings for n in s.measurements if n.metric == "latency_p50_ms"}
    )
    for size in sizes:
        _latency_table(console, standings, size)
    table = Table(title="size and memory", title_justify="left")
    for head in ("model", "bytes", "deflated", "deflation", "load ms", "peak MiB"):
        table.add_column(head, justify="left" if head == "model" else "right")
    for item in standings:
        numbers = item.measurements
        peak = value_of(numbers, "peak_memory_bytes")
        table.add_row(
            escape(item.name),
            _number(value_of(numbers, "size_bytes"), 0), _number(value_of(numbers, "deflated_bytes"), 0),
            f"{value_of(numbers, 'deflation_percent'):.0f} %", _number(value_of(numbers, "load_ms"), 1),
            _number(peak / 2**20 if peak else None, 0),
        )  # fmt: skip
    console.print(table)
    _quality_table(console, standings)
    _robustness_tables(console, standings)
    for note in standings[0].notes if standings else ():
        console.print(f"[yellow]note[/] {escape(note)}", highlight=False)


def _latency_table(console: Console, standings: Sequence[Standing], size: int) -> None:
    """Print the latencies at one batch size, and where the machine was too noisy for what was asked."""
    from whet.measure.measurement import value_of

    table = Table(title=f"batch {size}", title_justify="left")
    for head in (
        "model",
        "ran in",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "samples/s",
        f"against {escape(standings[0].name)}",
    ):
        table.add_column(head, justify="left" if head in ("model", "ran in") else "right", no_wrap=True)
    doubts = []
    for item in standings:
        numbers = item.measurements
        found = next((n for n in numbers if n.metric == "speedup" and n.conditions["batch_size"] == size), None)
        latencies = [value_of(numbers, f"latency_{p}_ms", batch_size=size) for p in ("p50", "p90", "p99")]
        rate = value_of(numbers, "throughput_per_s", batch_size=size)
        table.add_row(
            escape(item.name),
            escape(_ran(item)),
            *(_number(ms, 3) for ms in latencies),
            _number(rate, 0),
            _times(found, True),
        )
        if found and "noise" in found.conditions:
            doubts.append(f"{item.name} is {found.conditions['noise']}")
    console.print(table)
    if doubts:
        console.print(
            f"The machine was noisy: {plain_text('; '.join(doubts))}.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


def _quality_table(console: Console, standings: Sequence[Standing]) -> None:
    judged = [item for item in standings if item.quality is not None]
    if not judged:
        return
    table = Table(
        title=f"quality on {judged[0].quality.samples if judged[0].quality else 0} test samples",
        title_justify="left",
    )
    table.add_column("metric")
    for item in judged:
        table.add_column(escape(item.name), justify="right")
    names = list(dict.fromkeys(name for item in judged if item.quality for name in item.quality.scores))
    for name in names:
        table.add_row(
            escape(name), *(_number(item.quality.scores.get(name) if item.quality else None, 4) for item in judged)
        )
    console.print(table)
    _changes_table(console, [(item.name, item.comparison) for item in judged if item.comparison is not None])


def _changes_table(console: Console, compared: Sequence[tuple[str, Comparison]]) -> None:
    """Print what each model lost of each metric, with its limits, and how near it comes to the first."""
    if not compared:
        return
    confidence = compared[0][1].interval.confidence
    table = Table(title=f"worse by, {confidence:.1%} limits of each metric alone", title_justify="left")
    table.add_column("metric")
    for name, _ in compared:
        table.add_column(escape(name), justify="right")
    for changes in zip(*(each.changes for _, each in compared), strict=True):
        limits = [(change.drop, change.interval.low, change.interval.high) for change in changes]
        kind = "" if changes[0].bounded else ", share of itself"
        told = [f"{drop:+.4f} ({_limit(low, -1)} to {_limit(high, 1)})" for drop, low, high in limits]
        table.add_row(escape(changes[0].metric + kind), *told)
    for key in compared[0][1].fidelity:
        table.add_row(escape(key), *(_number(each.fidelity.get(key), 4) for _, each in compared))
    console.print(table)


def _limit(value: float | None, sign: int) -> str:
    return f"{sign * float('inf') if value is None else value:.4f}"


def _robustness_tables(console: Console, standings: Sequence[Standing]) -> None:
    """Print the metric of each model on corrupted inputs, and how much more it loses than the first one."""
    from whet.report.beyond import robustness_in_words

    for item in standings:
        found = item.robustness
        if found is None or (item is standings[0] and len(standings) > 1):
            continue
        heads = (
            "inputs",
            "severity",
            escape(standings[0].name),
            escape(item.name),
            "loses more by",
            "all limits at once",
        )
        table = Table(
            title=f"corrupted inputs, {escape(found.metric)} on {found.samples} samples", title_justify="left"
        )
        for head in heads:
            table.add_column(head, justify="left" if head == "inputs" else "right", no_wrap=head == "inputs")
        table.add_row("as they are", "", _number(found.before, 4), _number(found.after, 4), "", "")
        for shift in found.shifts:
            limits = shift.interval
            told = f"{_number(limits.low, 4)} to {_number(limits.high, 4)}" if limits else ""
            values = (_number(value, 4) for value in (shift.before, shift.after, shift.extra))
            table.add_row(shift.corruption, str(shift.severity), *values, told)
        console.print(table)
        for sentence in robustness_in_words(found):
            console.print(plain_text(f"{item.name}: {sentence}"), soft_wrap=True, highlight=False, markup=False)


def _ran(item: Standing) -> str:
    where = str(item.facts.get("provider") or item.facts.get("device") or "").removesuffix("ExecutionProvider")
    return f"{item.facts.get('runtime')} {where.lower()}"


def _answers(verdicts: Sequence[Verdict]) -> str:
    from whet.measure.verdict import overall

    if not verdicts:
        return ""
    answer = overall(verdicts)
    return f"[{ANSWERS[answer]}]{answer}[/]"


def _times(item: Measurement | None, interval: bool = False) -> str:
    if item is None or item.value is None:
        return ""
    told = f"{item.value:.2f}x"
    return f"{told} ({item.interval.low:.2f} to {item.interval.high:.2f})" if interval and item.interval else told


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
