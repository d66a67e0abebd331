"""The Python face: the same verbs as the command line, on paths or on objects in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from whet import bounds, isolate, progress, userfile
from whet.bundle.verify import Checks
from whet.bundle.verify import verify as verify_bundle
from whet.data.data import Splits
from whet.data.goal import named
from whet.data.preprocess import Preprocess
from whet.data.sources import DataSource, data_source, parse_preprocess
from whet.data.windows import Windows, parse_windows
from whet.errors import DataError, RunFolderError, StorageError, UserError, did_you_mean
from whet.machine import check_threads
from whet.measure.verdict import Budget
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.models.signature import parse_inputs
from whet.models.source import Source, source_of
from whet.profile.profile import Profile
from whet.progress import OnEvent
from whet.recipe import presets
from whet.recipe.presets import recipe
from whet.recipe.recipe import Recipe
from whet.report.write import write as write_report
from whet.runtimes.base import Deployment, parse_runtime, usual
from whet.search import optimize as searching
from whet.search import run_folder
from whet.search.candidates import candidates, deploy
from whet.search.optimize import Order
from whet.search.outcome import Outcome
from whet.storage import removed_meanwhile, storage_errors
from whet.trials.command import command
from whet.trials.contest import Contest, Entrant, Standings, hold, profile_entrant
from whet.trials.fit import crashes_explained
from whet.trials.problem import Problem
from whet.trials.trial import default_limits

_SEARCHING = {"budget", "within", "recipes"}  # options of the searching verbs alone


def load(
    model: Any,
    weights: str | Path | None = None,
    input: str | Iterable[str] = (),
    *,
    trust_pickle: bool = False,
) -> Model:
    """Open a model.

    Args:
        model: ``file.py:factory``, a model file, the folder of a SavedModel, or a ``torch.nn.Module``.
        weights: A file of weights, for a factory.
        input: What goes in, as ``ids=int64[1,200]:0..30000``; several as a list. Lets the signature be found.
        trust_pickle: Allow weights to be unpickled.

    Raises:
        ModelError: It cannot be found or opened.
    """
    source = _source(model, weights, input, trust_pickle=trust_pickle)
    return adapter_for(source.format).open(source, None)


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


def dataset(data: Any, **options: Unpack[DataOptions]) -> Splits:
    """Open data and split it by what its samples may decide.

    Args:
        data: A built-in name, a path, ``hf:name``, ``file.py:factory``, ``(train, test)`` (arrays, frames, torch
            Datasets), a Hugging Face ``DatasetDict``, or ``whet.Data``.
        options: See DataOptions.

    Raises:
        DataError: It cannot be found, read or split.
    """
    _check(cast("Options", options), "dataset", set(Options.__annotations__) - set(DataOptions.__annotations__))
    return _data(data, options).open()


class Options(DataOptions, total=False):
    """What ``optimize`` and ``run`` take besides model, data and folder.

    Attributes:
        weights: A file of weights, for a factory.
        input: What goes in, as ``ids=int64[1,200]:0..30000``; several inputs as a list.
        trust_pickle: Allow weights to be unpickled.
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
    budget: Budget | None
    runtime: str | None
    threads: int
    batch_sizes: Sequence[int]
    within: float | None
    recipes: Sequence[str | Path | Recipe] | None
    robustness: bool
    on_event: OnEvent


def optimize(model: Any, data: Any, out: str | Path, **options: Unpack[Options]) -> Outcome:
    """Make a model smaller and faster, prove on the shipped file that it is good enough, write it all to ``out``.

    Args:
        model: ``file.py:factory``, an ``.onnx`` file, a ``torch.nn.Module``, or a Model.
        data: As ``dataset`` takes it.
        out: The RUN folder. The same call on the same folder resumes.
        options: See Options.

    Raises:
        UserError: The model, the data or the folder cannot be used.
    """
    order = plan("optimize", model, data, out, **options)
    return carry_out(order, searching.optimize, options.get("on_event") or progress.usual())


def run(model: Any, data: Any, out: str | Path, **options: Unpack[Options]) -> Outcome:
    """Compare fixed ``recipes`` side by side on ``test``, with intervals that hold for all at once; choose nothing.

    Raises:
        UserError: A recipe, the model, the data or the folder cannot be used.
    """
    if not options.get("recipes"):
        raise UserError(f"name the recipes to compare: a .toml file, or one of {', '.join(presets.ALL)}")
    order = plan("run", model, data, out, **options)
    return carry_out(order, searching.run, options.get("on_event") or progress.usual())


def verify(bundle: str | Path, model: Any = None) -> Checks:
    """Check a bundle: bytes, processor, signature, recorded outputs. All is well if every check is ``ok``.

    Args:
        bundle: The folder.
        model: The module, for a torch bundle whose class lived in memory.
    """
    return verify_bundle(Path(bundle), source=None if model is None else _source(model, None, ()))


def profile(model: Any, data: Any = None, **options: Unpack[Options]) -> Profile:
    """Count and time the layers of a model, in a process of its own; without data, on inputs drawn by ``input``.

    Raises:
        UserError: The model or the data cannot be used, or nothing says what goes in.
    """
    _check(options, "profile", {*_SEARCHING, "runtime", "robustness"})
    entrant = _entrant(model, options.get("weights"), options)
    deployment = _deployment(options, (1,))
    tell = options.get("on_event") or progress.usual()
    with crashes_explained([entrant.source] if entrant.source is not None else []):
        found = isolate.call(
            profile_entrant, entrant, _optional(data, options), deployment, limits=default_limits(),
            threads=deployment.threads, on_event=tell,
        )  # fmt: skip
    assert isinstance(found, Profile)
    return found


def bench(*models: Any, data: Any = None, **options: Unpack[Options]) -> Standings:
    """Time models in turns, with their size, load time and memory; without data, on inputs drawn by ``input``."""
    _check(options, "bench", {*_SEARCHING, "robustness"})
    return _contest(models, data, options, quality=False, speed=True)


def evaluate(*models: Any, data: Any, **options: Unpack[Options]) -> Standings:
    """Measure what models are worth on ``test``; several with intervals that hold for all at once."""
    _check(options, "evaluate", {*_SEARCHING, "batch_sizes"})
    return _contest(models, data, options, quality=True, speed=False)


def compare(*models: Any, data: Any, **options: Unpack[Options]) -> Standings:
    """Compare models with the first one: quality sample by sample, speed in turns, size and memory.

    Args:
        models: ``file.py:factory``, ``.onnx`` or ``.tflite`` files, bundles, or modules in memory.
        data: As ``dataset`` takes it.
        options: See Options; ``weights`` are those of the factories, in order.

    Raises:
        UserError: A model or the data cannot be used, or they do not fit.
    """
    _check(options, "compare", {*_SEARCHING, "robustness"})
    if len(models) < 2:
        raise UserError("compare takes two models or more; to measure one, use evaluate or bench")
    return _contest(models, data, options, quality=True, speed=True)


def _contest(models: Sequence[Any], data: Any, options: Options, *, quality: bool, speed: bool) -> Standings:
    weights = options.get("weights")
    given = [weights] if isinstance(weights, str | Path) else list(weights or ())
    entrants: list[Entrant] = []
    for model in models:
        takes = isinstance(model, str) and userfile.split(model) is not None
        entrant = _entrant(model, given.pop(0) if takes and given else None, options)
        taken = {other.name for other in entrants}
        name = next(
            name for at in count(1) if (name := entrant.name if at == 1 else f"{entrant.name}-{at}") not in taken
        )
        entrants.append(replace(entrant, name=name))
    if given:
        raise UserError(f"{given[0]} belongs to no model; give one --weights a file.py:function, in their order")
    asked = Contest(entrants, _optional(data, options), _deployment(options, (1, 7, 32)), quality, speed)
    asked = replace(asked, robustness=options.get("robustness", False), seed=options.get("seed", 0))
    return hold(asked, options.get("on_event") or progress.usual())


def _entrant(model: Any, weights: Any, options: Options) -> Entrant:
    """Name something to measure: a bundle's folder, or a model."""
    _check_path(model, "the model")
    if isinstance(model, str | Path) and (Path(model) / "manifest.json").exists():
        path = Path(model).resolve()
        return Entrant(path.name, bundle=path)
    source = _source(model, weights, options.get("input", ()), trust_pickle=options.get("trust_pickle", False))
    return Entrant(source.name, source)


def _optional(data: Any, options: Options) -> DataSource | None:
    if data is None:
        return None
    return _data(data, options)


def plan(kind: str, model: Any, data: Any, out: str | Path, **options: Unpack[Options]) -> Order:
    """Return what a command (``optimize`` or ``run``) asks for, every recipe checked; nothing is opened or written.

    Raises:
        UserError: An option, or a recipe, that cannot work.
    """
    _check(options, kind, {"robustness"} if kind == "run" else ())
    trust = options.get("trust_pickle", False)
    source = _source(model, options.get("weights"), options.get("input", ()), trust_pickle=trust)
    seed = options.get("seed", 0)
    deployment = _deployment(options, (1, 32))
    usually = usual(source.format)
    own = deployment.options if deployment.runtime == usually else {}
    read, folder = _data(data, options), run_folder.resolved(out)
    run_folder.check_apart(folder, {"model": source.path, "data": "" if read.memory is not None else read.name})
    problem = Problem(
        source=source,
        data=read,
        deployment=deployment,
        original=replace(deployment, runtime=usually, options=own),
        budget=options.get("budget") or Budget(),
        folder=folder,
        seed=seed,
        robustness=options.get("robustness", True) and kind == "optimize",
    )
    given = options.get("recipes")
    tried = (
        candidates(problem)
        if given is None
        else deploy(problem, [recipe(one, source.format, problem.deployment.runtime) for one in given])
    )
    within = options.get("within")
    return Order(problem, tried, command(kind, problem, tried, within), within)


def carry_out(order: Order, search: Callable[[Order, OnEvent], Outcome], on_event: OnEvent) -> Outcome:
    """Search and report. A mistake found before any work leaves the folder as it was, free for the next command."""
    folder = order.problem.folder
    run_folder.check(folder)
    new = not folder.exists()
    run_folder.forget(folder)
    try:
        with storage_errors(folder):
            outcome = search(order, on_event)
            write_report(folder, outcome)
    except (RunFolderError, StorageError):
        raise
    except FileNotFoundError as error:
        if folder.exists():
            raise
        raise removed_meanwhile(folder) from error
    except (UserError, KeyboardInterrupt):
        if run_folder.forget(folder) and new:
            folder.rmdir()
        raise
    return outcome


def _check(options: Options, verb: str, not_taken: Iterable[str] = ()) -> None:
    """Refuse options that a verb does not know, and values that none takes."""
    known = set(Options.__annotations__) - set(not_taken)
    for word in sorted(set(options) - known):
        if word in Options.__annotations__:
            raise UserError(f"{verb} takes no {word!r}; leave it out")
        raise UserError(f"unknown option {word!r}{did_you_mean(word, known)}")
    _check_types(options)
    budget = options.get("budget") or Budget()
    for name in ("threads", "seed", "within"):
        if (value := options.get(name)) is not None:
            bounds.check(name, value)
    for name in ("max_drop", "max_class_drop", "min_speedup", "max_bytes", "min_fidelity"):
        if (value := getattr(budget, name)) is not None:
            bounds.check(name, value, f"the budget's {name}")
    if not isinstance(budget.confidence, float) or not 0.5 < budget.confidence < 1:
        raise UserError(f"the budget's confidence is {budget.confidence!r}; give a number between 0.5 and 1")


def _check_types(options: Options) -> None:
    """Refuse values of a type that an option does not take."""
    within, budget, label = options.get("within"), options.get("budget"), options.get("label")
    if within is not None and not isinstance(within, int | float):
        raise UserError(f"within is a number of seconds, not {bounds.shown(within)}")
    if budget is not None and not isinstance(budget, Budget):
        raise UserError(f"budget is a whet.Budget, for example Budget(max_drop=0.01), not {bounds.shown(budget)}")
    if label is not None and not isinstance(label, str):
        raise UserError(f"label is the name of a column, not {bounds.shown(label)}")


def _source(model: Any, weights: Any, inputs: Any, *, trust_pickle: bool = False) -> Source:
    if isinstance(model, Source):
        return model
    if isinstance(model, Model):
        if model.source is None:
            raise UserError("this Model does not know its source; give the file or module it came from")
        return model.source
    for path, label in ((model, "the model"), (weights, "the weights")):
        _check_path(path, label)
    return source_of(model, weights, parse_inputs(inputs), trust_pickle=trust_pickle)


def _data(data: Any, options: DataOptions) -> DataSource:
    preprocess, windows, task = options.get("preprocess"), options.get("windows"), options.get("task")
    _check_path(data, "the data")
    _check_path(task, "the task")
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


def _check_path(given: Any, label: str) -> None:
    """Refuse a path, or the file of a ``file.py:function``, that the operating system cannot follow."""
    if isinstance(given, str | Path):
        parts = userfile.split(str(given))
        bounds.check_path(parts[0] if parts else given, label)


def _deployment(options: Options, usual_sizes: Sequence[int]) -> Deployment:
    """Return how artifacts are run: ``onnxruntime:graph_level=basic`` is a runtime with an option."""
    name, own = parse_runtime(options.get("runtime") or "")
    given = options.get("batch_sizes")
    threads = check_threads(options.get("threads", 1))
    return Deployment(name, own, threads, _sizes(usual_sizes if given is None else given))


def _sizes(given: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(dict.fromkeys(given))
    for size in sizes:
        bounds.check("batch_size", size, "a batch size")
    if not 0 < len(sizes) <= bounds.MAX_BATCH_SIZES:
        raise UserError(f"{len(sizes)} batch sizes are given; give 1 to {bounds.MAX_BATCH_SIZES} of them")
    return sizes


# The imports above bind the subpackage of this name in the package's face; there, ``whet.profile`` is the verb.
vars(sys.modules["whet"])["profile"] = profile
