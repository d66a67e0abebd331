"""Options that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

Decorated = Callable[..., Any]


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A time such as ``90s``, ``20m`` or ``2h``, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no time; write 90s, 20m or 2h", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


class Number(click.FloatRange):
    """A number within bounds, such as ``0.01``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it; a share is no percentage, and a factor has no x behind it."""
        try:
            float(value)
        except ValueError:
            self.fail(f"{value!r} is no number; write 0.01 for 1 %, 2 for 2x", param, ctx)
        return super().convert(value, param, ctx)


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers from 1 up, comma-separated."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read them."""
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(word.strip().isdigit() and int(word) > 0 for word in words):
            self.fail(f"{value!r} is no list of sizes; write 1,32", param, ctx)
        return tuple(int(word) for word in words)


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
    click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Inside one operator."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the splits and of whatever is drawn."),
)
budget_options = _many(
    click.option(
        "--max-drop", type=Number(0), default=0.01, show_default=True,
        help="What may be lost: points of a bounded metric, a share of an unbounded one.",
    ),
    click.option("--max-class-drop", type=Number(0), help="What any class's sensitivity may lose."),
    click.option(
        "--min-speedup", type=Number(0, min_open=True), default=1.0, show_default=True,
        help="Against the model as given, at every batch size.",
    ),
    click.option("--max-bytes", type=click.IntRange(1), help="Greatest size of the file."),
    click.option(
        "--min-fidelity", type=Number(0, 1), default=0.7, show_default=True,
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
