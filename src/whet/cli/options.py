"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import click

from whet import bounds
from whet.errors import UserError

Decorated = Callable[..., Any]


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A time such as ``90s``, ``20m`` or ``2h``, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, with s, m, h or nothing after the number, and refuse zero or more than a year."""
        text = str(value).strip()
        unit = text[-1:] if text[-1:] in _SECONDS else ""
        try:
            seconds = bounds.number(text.removesuffix(unit)) * _SECONDS[unit or "s"]
        except ValueError:
            self.fail(f"{bounds.shown(text)} is no time; write 90s, 20m or 2h", param, ctx)
        if not bounds.BOUNDS["within"].allows(seconds):
            _refuse(f"{_label(param)} is {bounds.shown(text)}; give a time above 0s up to 8784h, such as 20m", ctx)
        return float(seconds)


class Number(click.ParamType):  # type: ignore[type-arg]
    """A number within the bounds of its option, such as ``0.01``.

    Attributes:
        bound: The option's name in ``bounds.BOUNDS``; empty where the verb itself checks the value.
    """

    name = "number"

    def __init__(self, bound: str = "") -> None:
        self.bound = bound
        self.whole = bool(bound) and bounds.BOUNDS[bound].whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Read it; a share is no percentage, and a factor has no x behind it."""
        text = str(value).strip()
        try:
            number = bounds.number(text, whole=self.whole)
        except ValueError:
            if self.whole:
                _refuse(f"{_label(param)} is {bounds.shown(text)}; give {bounds.BOUNDS[self.bound]}", ctx)
            self.fail(f"{bounds.shown(text)} is no number; write 0.01 for 1 %, 2 for 2x", param, ctx)
        if self.bound:
            try:
                bounds.check(self.bound, number, _label(param))
            except UserError as error:
                _refuse(str(error), ctx)
        return number


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers from 1 up, comma-separated."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read them."""
        if isinstance(value, tuple):
            return value
        bound, label = bounds.BOUNDS["batch_size"], _label(param)
        try:
            sizes = tuple(int(bounds.number(word.strip(), whole=True)) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{bounds.shown(value)} is no list of sizes; write 1,32 (each {bound})", param, ctx)
        if 0 in sizes:
            self.fail(f"{bounds.shown(value)} is no list of sizes; write 1,32", param, ctx)
        for size in sizes:
            if not bound.allows(size):
                _refuse(f"a size of {label} is {bounds.shown(size)}; give {bound}", ctx)
        if len(set(sizes)) > bounds.MAX_BATCH_SIZES:
            _refuse(
                f"{label} has {len(set(sizes))} sizes; give {bounds.MAX_BATCH_SIZES} at most, such as 1,32", ctx
            )
        return sizes


_SECONDS = {"s": 1, "m": 60, "h": 3600}


def _label(param: click.Parameter | None) -> str:
    return param.opts[0] if param is not None else "the value"


def _refuse(message: str, ctx: click.Context | None) -> NoReturn:
    raise click.UsageError(message, ctx)


def _many(*options: Decorated) -> Decorated:
    def decorate(function: Decorated) -> Decorated:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


weights = click.option(
    "--weights", metavar="FILE", help="Weights for file.py:function (.safetensors, .pt, .pth, .th)."
)
many_weights = click.option(
    "--weights", metavar="FILE", multiple=True, help="Weights for each file.py:function, in their order."
)
model_options = _many(
    click.option(
        "--input",
        "input",
        multiple=True,
        metavar="SPEC",
        help="What goes in: 'ids=int64[1,200]:0..30000'. Repeatable.",
    ),
    click.option(
        "--trust-pickle", is_flag=True, help="Allow weights to be unpickled, which runs code from the file."
    ),
)
trust_code = click.option(
    "--trust-code", is_flag=True,
    help="Run the code that a PyTorch bundle brings (source.py), which can do all that you can; read it first.",
)  # fmt: skip
DATA = "A file (.npz .csv .parquet), a folder, hf:name, file.py:factory, or digits."
data = click.option("--data", required=True, metavar="DATA", help=DATA)
skip_unreadable = click.option(
    "--skip-unreadable", is_flag=True, help="Leave out pictures that cannot be read; the report names them."
)
data_options = _many(
    click.option(
        "--task", metavar="TASK",
        help="classification, regression, similarity, fidelity (with :metric, as in classification:g_mean), "
        "or file.py:metric.",
    ),
    click.option("--label", metavar="COLUMN", help="The column of a table that holds the labels, or none."),
    click.option(
        "--windows", metavar="LENGTH,HORIZON", help="Cut a time series: so many rows go in, so many are foretold."
    ),
    skip_unreadable,
    click.option(
        "--preprocess",
        metavar="SPEC",
        help="'scale=1/255; mean=imagenet; std=imagenet; layout=CHW', 'tokenizer=tokenizer.json; max_length=64', "
        "'fill=median; drop=id', or a .toml file.",
    ),
)  # fmt: skip
runtime = click.option(
    "--runtime", metavar="NAME",
    help="What artifacts are run in: onnxruntime, torch, litert, or onnxruntime:provider=cpu.",
)  # fmt: skip
machine_options = _many(
    click.option("--threads", type=Number("threads"), default=1, show_default=True, help="Inside one operator."),
    click.option(
        "--seed", type=Number("seed"), default=0, show_default=True, help="Of the splits and of whatever is drawn."
    ),
)
budget_options = _many(
    click.option(
        "--max-drop", type=Number("max_drop"), default=0.01, show_default=True,
        help="What may be lost: points of a bounded metric, a share of an unbounded one.",
    ),
    click.option("--max-class-drop", type=Number("max_class_drop"), help="What any class's sensitivity may lose."),
    click.option(
        "--min-speedup", type=Number("min_speedup"), default=1.0, show_default=True,
        help="Against the model as given, at every batch size.",
    ),
    click.option("--max-bytes", type=Number("max_bytes"), help="Greatest size of the file."),
    click.option(
        "--min-fidelity", type=Number("min_fidelity"), default=0.7, show_default=True,
        help="Agreement with the original below which a candidate is ruined.",
    ),
)  # fmt: skip
batch_sizes = click.option(
    "--batch-sizes", type=Sizes(), default="1,32", show_default=True, help="Each is measured."
)
json_flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
out = click.option("--out", required=True, metavar="RUN", help="The folder; the same command on it resumes.")


def budget(options: dict[str, Any]) -> Any:
    """Take the budget's options out of a verb's, and return the Budget."""
    from whet.measure.verdict import Budget

    names = ("max_drop", "max_class_drop", "min_speedup", "max_bytes", "min_fidelity")
    return Budget(**{name: options.pop(name) for name in names})
