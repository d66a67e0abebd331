"""The Python face: the same verbs as the command line, on paths or on objects in memory."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Unpack, cast

from whet import isolate, progress, userfile
from whet import options as opt
from whet.bundle.verify import Checks
from whet.bundle.verify import verify as verify_bundle
from whet.data.data import Splits
from whet.data.sources import DataSource
from whet.errors import RunFolderError, StorageError, UserError
from whet.measure.verdict import Budget
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.options import DataOptions, Options
from whet.profile.profile import Profile
from whet.progress import OnEvent
from whet.recipe import presets
from whet.recipe.presets import recipe
from whet.report.write import write as write_report
from whet.runtimes.base import usual
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

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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
    source = opt.model_source(model, weights, input, trust_pickle=trust_pickle)
    return adapter_for(source.format).open(source, None)


def dataset(data: Any, **options: Unpack[DataOptions]) -> Splits:
    """Open data and split it by what its samples may decide.

    Args:
        data: A built-in name, a path, ``hf:name``, ``file.py:factory``, ``(train, test)`` (arrays, frames, torch
            Datasets), a Hugging Face ``DatasetDict``, or ``whet.Data``.
        options: See DataOptions.

    Raises:
        DataError: It cannot be found, read or split.
    """
    opt.check(cast("Options", options), "dataset", set(Options.__annotations__) - set(DataOptions.__annotations__))
    return opt.read_data(data, options).open()


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


def verify(bundle: str | Path, model: Any = None, *, trust_code: bool = False, digest: str | None = None) -> Checks:
    """Check a bundle: bytes, processor, figures, signature, recorded outputs. All is well if every check is ``ok``.

    Args:
        bundle: The folder.
        model: The module, for a torch bundle whose class lived in memory, or in place of the code it brings.
        trust_code: Allow the code that a torch bundle brings to be run, in a child process.
        digest: What the digest of the manifest has to be, as ``sha256:...``; ``checks.digest`` is what it is.

    Raises:
        UserError: The digest has another form.
    """
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise UserError(f"a digest is sha256: and 64 digits of 0-9a-f, as verify prints it, not {digest[:80]!r}")
    source = None if model is None else opt.model_source(model, None, ())
    return verify_bundle(Path(bundle), source=source, trust_code=trust_code, digest=digest or "")


def profile(model: Any, data: Any = None, **options: Unpack[Options]) -> Profile:
    """Count and time the layers of a model, in a process of its own; without data, on inputs drawn by ``input``.

    Raises:
        UserError: The model or the data cannot be used, or nothing says what goes in.
    """
    opt.check(options, "profile", {*opt.SEARCHING, "runtime", "robustness"})
    entrant = _entrant(model, options.get("weights"), options)
    deployment = opt.deployment(options, (1,))
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
    opt.check(options, "bench", {*opt.SEARCHING, "robustness"})
    return _contest(models, data, options, quality=False, speed=True)


def evaluate(*models: Any, data: Any, **options: Unpack[Options]) -> Standings:
    """Measure what models are worth on ``test``; several with intervals that hold for all at once."""
    opt.check(options, "evaluate", {*opt.SEARCHING, "batch_sizes"})
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
    opt.check(options, "compare", {*opt.SEARCHING, "robustness"})
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
    asked = Contest(entrants, _optional(data, options), opt.deployment(options, (1, 7, 32)), quality, speed)
    asked = replace(asked, robustness=options.get("robustness", False), seed=options.get("seed", 0))
    with crashes_explained([entrant.source for entrant in entrants if entrant.source is not None]):
        return hold(asked, options.get("on_event") or progress.usual())


def _entrant(model: Any, weights: Any, options: Options) -> Entrant:
    """Name something to measure: a bundle's folder, or a model."""
    userfile.check_path(model, "the model")
    if isinstance(model, str | Path) and (Path(model) / "manifest.json").exists():
        path = Path(model).resolve()
        return Entrant(path.name, bundle=path, trust_code=options.get("trust_code", False))
    source = opt.model_source(
        model, weights, options.get("input", ()), trust_pickle=options.get("trust_pickle", False)
    )
    return Entrant(source.name, source)


def _optional(data: Any, options: Options) -> DataSource | None:
    if data is None:
        return None
    return opt.read_data(data, options)


def plan(kind: str, model: Any, data: Any, out: str | Path, **options: Unpack[Options]) -> Order:
    """Return what a command (``optimize`` or ``run``) asks for, every recipe checked; nothing is opened or written.

    Raises:
        UserError: An option, or a recipe, that cannot work.
    """
    opt.check(options, kind, {*opt.OF_BUNDLES, "robustness"} if kind == "run" else opt.OF_BUNDLES)
    trust = options.get("trust_pickle", False)
    source = opt.model_source(model, options.get("weights"), options.get("input", ()), trust_pickle=trust)
    seed = options.get("seed", 0)
    deployment = opt.deployment(options, (1, 32))
    usually = usual(source.format)
    own = deployment.options if deployment.runtime == usually else {}
    read, folder = opt.read_data(data, options), run_folder.resolved(out)
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


# The imports above bind the subpackage of this name in the package's face; there, ``whet.profile`` is the verb.
vars(sys.modules["whet"])["profile"] = profile
