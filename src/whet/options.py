"""What the verbs take besides their models: the options, their checks, and what they are turned into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from whet import bounds, userfile
from whet.data.goal import named
from whet.data.preprocess import Preprocess
from whet.data.sources import DataSource, data_source, parse_preprocess
from whet.data.windows import Windows, parse_windows
from whet.errors import DataError, UserError, did_you_mean
from whet.machine import check_threads
from whet.measure.verdict import Budget
from whet.models.model import Model
from whet.models.signature import parse_inputs
from whet.models.source import Source, source_of
from whet.progress import OnEvent
from whet.recipe.recipe import Recipe
from whet.runtimes.base import Deployment, parse_runtime

SEARCHING = {"budget", "within", "recipes"}  # options of the searching verbs alone
OF_BUNDLES = {"trust_code"}  # options of the verbs that open bundles alone


class DataOptions(TypedDict, total=False):
    """How data is read.

    Attributes:
        preprocess: What turns raw inputs into tensors; takes the place of the data's own.
        task: ``classification``, ``regression``, ``fidelity``, ``similarity``, or ``metric(outputs, labels)``.
        seed: Of the splits.
        label: The column of a table that holds the labels; several with commas between, or ``none``.
        windows: How a time series is cut into samples: ``whet.Windows(96, 24)``, or ``"96,24"``.
        skip_unreadable: Leave out pictures that cannot be read, in place of stopping; a note names them.
    """

    preprocess: str | Preprocess | None
    task: Any
    seed: int
    label: str | None
    windows: str | Windows | None
    skip_unreadable: bool


class Options(DataOptions, total=False):
    """What ``optimize`` and ``run`` take besides model, data and folder.

    Attributes:
        weights: A file of weights, for a factory.
        input: What goes in, as ``ids=int64[1,200]:0..30000``; several inputs as a list.
        trust_pickle: Allow weights to be unpickled.
        trust_code: Allow the code that a torch bundle brings to be run; ``profile``, ``bench``, ``evaluate`` and
            ``compare`` take it.
        preprocess: As ``dataset`` takes it; so ``task``, ``label`` and ``windows``.
        budget: What may be lost; by default one point of the task's metric.
        runtime: What artifacts are run in, ``onnxruntime`` or ``onnxruntime:graph_level=basic,provider=cpu``; by
            default the usual runtime of their format.
        threads: For the arithmetic inside one operator; 1 by default.
        batch_sizes: Each is measured; 1 and 32 by default.
        seed: Of the splits, and of whatever is drawn.
        within: Seconds after which no further candidate is begun.
        recipes: What ``optimize`` tries, in place of the usual set.
        robustness: Whether behaviour on corrupted inputs is looked at: by ``optimize`` of what it chose unless this
            is False, by ``evaluate`` if it is True.
        on_event: Told of progress; by default a line in a notebook, and nothing elsewhere.
    """

    weights: str | Path | Sequence[str | Path] | None
    input: str | Iterable[str]
    trust_pickle: bool
    trust_code: bool
    budget: Budget | None
    runtime: str | None
    threads: int
    batch_sizes: Sequence[int]
    within: float | None
    recipes: Sequence[str | Path | Recipe] | None
    robustness: bool
    on_event: OnEvent


def check(options: Options, verb: str, not_taken: Iterable[str] = ()) -> None:
    """Refuse options that a verb does not know, and values that none takes."""
    known = set(Options.__annotations__) - set(not_taken)
    for word in sorted(set(options) - known):
        if word in Options.__annotations__:
            raise UserError(f"{verb} takes no {word!r}; leave it out")
        raise UserError(f"unknown option {word!r}{did_you_mean(word, known)}")
    budget = options.get("budget")
    if budget is not None and not isinstance(budget, Budget):
        raise UserError(f"budget is a whet.Budget, for example Budget(max_drop=0.01), not {bounds.shown(budget)}")
    bounds.check_budget(budget or Budget())
    bounds.check_options(options)


def model_source(model: Any, weights: Any, inputs: Any, *, trust_pickle: bool = False) -> Source:
    """Return where a model comes from: a path, an object in memory, or a Model that was opened before.

    Raises:
        UserError: It cannot be found, or nothing says where it came from.
    """
    if isinstance(model, Source):
        return model
    if isinstance(model, Model):
        if model.source is None:
            raise UserError("this Model does not know its source; give the file or module it came from")
        return model.source
    for path, label in ((model, "the model"), (weights, "the weights")):
        userfile.check_path(path, label)
    return source_of(model, weights, parse_inputs(inputs), trust_pickle=trust_pickle)


def read_data(data: Any, options: DataOptions) -> DataSource:
    """Return where samples come from and how they are read; nothing is opened yet.

    Raises:
        DataError: It cannot be found, or an option does not fit.
    """
    preprocess, windows, task = options.get("preprocess"), options.get("windows"), options.get("task")
    userfile.check_path(data, "the data")
    userfile.check_path(task, "the task")
    if isinstance(preprocess, str):
        preprocess = parse_preprocess(preprocess)
    if isinstance(windows, str):
        windows = parse_windows(windows)
    if isinstance(task, str):
        parts = userfile.split(task)
        if parts is None:
            named(task)
        else:
            userfile.check(parts[0], DataError)
    source = data_source(
        data, preprocess=preprocess, task=task, seed=options.get("seed", 0), label=options.get("label"),
        windows=windows,
    )  # fmt: skip
    source = replace(source, skip_unreadable=bool(options.get("skip_unreadable", source.skip_unreadable)))
    parts = None if source.memory is not None else userfile.split(source.name)
    if parts is not None:
        userfile.check(parts[0], DataError)
    return source


def deployment(options: Options, usual_sizes: Sequence[int]) -> Deployment:
    """Return how artifacts are run: ``onnxruntime:graph_level=basic`` is a runtime with an option."""
    name, own = parse_runtime(options.get("runtime") or "")
    given = options.get("batch_sizes")
    threads = check_threads(options.get("threads", 1))
    return Deployment(name, own, threads, bounds.check_sizes(usual_sizes if given is None else given))
