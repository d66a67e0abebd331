"""Conduct a laboratory: its recipes side by side, then every two of its files, then its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whet import api, isolate, plain
from whet.data.data import Part, Splits
from whet.data.preprocess import Preprocess
from whet.data.samples import samples_of
from whet.data.sources import parse_preprocess
from whet.errors import DataError, ModelError, RunFolderError, UserError
from whet.lab.look import Seen, look
from whet.lab.parts import LabData, in_files, parted, unreadable
from whet.lab.recipes import Training, family, recipes
from whet.measure import statistics
from whet.models.source import Source, source_of
from whet.progress import Event, OnEvent
from whet.report import lab as pages
from whet.report.lab_results import FILE, RUN, Laboratory, called, load
from whet.search import optimize as searching
from whet.search import run_folder
from whet.search.optimize import Order
from whet.search.outcome import Outcome
from whet.storage import MARKER, is_marked, lock, write_text
from whet.trials import pairs as pairing
from whet.trials import trial
from whet.trials.pairs import CONFIDENCE, Pairs
from whet.types import Format

_PICTURES = 60_000  # that a training looks at, where no number of epochs is given
_MOST_EPOCHS = 30
_KIND = "lab"
_COMMAND = "run.json"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a laboratory.

    Attributes:
        model: The Keras classifier.
        data: The folder of pictures.
        results: Where everything is written.
        fraction: Of the test part that is measured.
        epochs: Of each training; None takes as many as look at 60,000 pictures, 30 at most.
        clusters: Numbers of values, a recipe each.
        sparsities: Shares of zeros, a recipe each.
        preprocess: As ``--preprocess`` takes it; empty leaves the numbers 0 to 255.
        seed: Of whatever is drawn.
        threads: Inside one operator.
        trust_pickle: Allow code that comes with the model.
        skip_unreadable: Leave out pictures that cannot be read, and say which.
    """

    model: str
    data: Path
    results: Path
    fraction: float = 1.0
    epochs: float | None = None
    clusters: tuple[int, ...] = (16, 64)
    sparsities: tuple[float, ...] = (0.5, 0.8)
    preprocess: str = ""
    seed: int = 0
    threads: int = 1
    trust_pickle: bool = False
    skip_unreadable: bool = False

    def check(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            UserError: One of them.
        """
        if not 0 < self.fraction <= 1:
            raise UserError(f"the test fraction is a share above 0 and up to 1, not {self.fraction:g}; write 0.5")
        if self.epochs is not None and not 0 < self.epochs <= 10_000:
            raise UserError(f"epochs are a number above 0, not {self.epochs:g}; write 2, or leave it out")
        for count in self.clusters:
            if not 2 <= count <= 256:
                raise UserError(f"clusters are 2 to 256 values, not {count}; write 16")
        for share in self.sparsities:
            if not 0 < share < 1:
                raise UserError(f"a sparsity is a share of zeros between 0 and 1, not {share:g}; write 0.5")
        if not self.clusters or not self.sparsities:
            raise UserError("a laboratory needs one number of clusters and one sparsity at least")


def conduct(wanted: Wanted, on_event: OnEvent) -> Laboratory:
    """Make every variant, measure it, compare every two, and write the pages; or go on where it stopped.

    Raises:
        UserError: The model, the data or the folder cannot be used, or a number makes no sense.
    """
    wanted.check()
    source = source_of(wanted.model, None, (), trust_pickle=wanted.trust_pickle)
    if source.format is not Format.KERAS:
        raise ModelError(f"the laboratory takes a Keras model (.keras or .h5), {source.name} is {source.format}")
    results = wanted.results.resolve()
    with _folder(results, _command(wanted, source)):
        if not (results / FILE).exists():
            found = _carried_out(wanted, source, results, on_event)
            write_text(results / FILE, plain.dumps(found))
        on_event(Event("write the pages"))
        pages.write(results)
    return load(results)[0]


def _carried_out(wanted: Wanted, source: Source, results: Path, on_event: OnEvent) -> Laboratory:
    """Look, run the recipes, compare every two files, and copy these to where they are looked for."""
    data = _data(wanted, on_event)
    total, splits = len(samples_of(parted(Path(data.name), data.lost).test)), data.open()
    seen: Seen = isolate.call(look, source, limits=trial.default_limits(), on_event=on_event)
    _match(seen, splits, source)
    data = replace(data, preprocess=pictures(wanted.preprocess, seen, splits))
    training = _training(wanted, splits)
    order = api.plan("run", source, data, results / RUN, **_options(wanted, training))
    order = replace(order, problem=replace(order.problem, races_original=False))
    outcome = api.carry_out(order, searching.run, on_event)
    pairs = _pairs(order, outcome, results, on_event)
    _copy(outcome, order, results)
    names = [called(result) for result in outcome.results]
    return Laboratory(
        model=wanted.model,
        data=str(wanted.data),
        pictures=splits.size(Part.TEST),
        pictures_of=total,
        fraction=wanted.fraction,
        trained_on=training.pictures,
        epochs=training.epochs,
        batch=training.batch,
        input=in_words(data.preprocess or Preprocess(), seen),
        families={name: family(name) for name in names},
        pairs=pairs,
        notes=(*_notes(wanted, seen, outcome), *by_chance(pairs)),
    )


def _data(wanted: Wanted, on_event: OnEvent) -> LabData:
    """Name the data; pictures that cannot be read are found here, where they are asked for, and nowhere again."""
    data = LabData(str(wanted.data.resolve()), seed=wanted.seed, fraction=wanted.fraction)
    if not wanted.skip_unreadable:
        return data
    on_event(Event("look for pictures that cannot be read"))
    return replace(data, lost=unreadable(Path(data.name)))


def _training(wanted: Wanted, splits: Splits) -> Training:
    count = splits.size(Part.TRAIN)
    epochs = wanted.epochs or float(min(max(round(_PICTURES / max(count, 1)), 1), _MOST_EPOCHS))
    return Training(count, epochs, wanted.seed)


def _options(wanted: Wanted, training: Training) -> Any:
    """Return what ``whet.run`` is asked: every recipe, one picture a call."""
    clusters, sparsities = tuple(dict.fromkeys(wanted.clusters)), tuple(dict.fromkeys(wanted.sparsities))
    return {
        "recipes": recipes(clusters, sparsities, training),
        "threads": wanted.threads,
        "seed": wanted.seed,
        "batch_sizes": (1,),
    }


def _match(seen: Seen, splits: Splits, source: Source) -> None:
    """Refuse a model whose outputs are not the classes of the data.

    Raises:
        DataError: They are more or fewer.
    """
    classes = max(seen.classes, 2)  # one output is the probability of the second of two
    if classes != len(splits.classes):
        told = ", ".join(splits.classes[:5]) + (", ..." if len(splits.classes) > 5 else "")
        raise DataError(
            f"{source.name} tells {classes} classes apart, the data has {len(splits.classes)} ({told}); give the "
            f"folders that it was trained on, one a class, in the order of its outputs by name"
        )


def pictures(given: str, seen: Seen, splits: Splits) -> Preprocess:
    """Return what brings the pictures of the data to what the model takes.

    Size and colour are the model's, unless they are given; numbers stay 0 to 255, unless a scale is given.

    Raises:
        DataError: What is given cannot be read.
    """
    asked = parse_preprocess(given) if given else Preprocess()
    (raw,) = splits.rows(Part.TEST, [0]).values()
    shape, files = raw[0].shape, in_files(splits.parts[Part.TEST])
    changes: dict[str, Any] = {}
    if asked.layout is None:
        changes["layout"] = "HWC"
    if asked.resize is None and asked.crop is None and (files or shape[:2] != (seen.height, seen.width)):
        changes["resize"] = (seen.height, seen.width)
    channels = 1 if len(shape) == 2 else shape[-1]
    if asked.color is None and (files or channels != seen.channels):
        changes["color"] = "L" if seen.channels == 1 else "RGB"
    return replace(asked, **changes)


def in_words(made: Preprocess, seen: Seen) -> str:
    """Say what a picture becomes before it goes in."""
    colour = "grey" if seen.channels == 1 else "RGB"
    told = [f"{seen.height} x {seen.width} {colour} numbers"]
    if made.crop:
        told.append(f"cropped to {made.crop}")
    if made.scale == 1.0 and not made.mean and not made.std:
        return f"{told[0]} from 0 to 255 (no scaling was asked for with --preprocess)"
    told.append(f"times {made.scale:.4g}")
    told += [f"less {made.mean}"] if made.mean else []
    told += [f"over {made.std}"] if made.std else []
    return ", ".join(told)


def _notes(wanted: Wanted, seen: Seen, outcome: Outcome) -> tuple[str, ...]:
    """Say what a reader should know before any number."""
    notes = list(outcome.warnings)
    if not wanted.preprocess and not seen.scales:
        notes.append(
            "The model has no Rescaling layer, and the numbers went in from 0 to 255: if it was trained on others, "
            "give --preprocess 'scale=1/255'."
        )
    return tuple(notes)


def by_chance(pairs: Pairs | None) -> Iterator[str]:
    """Say that the original answers no better than whoever names the same class always, if that is not excluded."""
    if pairs is None or pairs.original.confusion is None:
        return
    sizes, count = [sum(row) for row in pairs.original.confusion], pairs.samples
    right = sum(row[at] for at, row in enumerate(pairs.original.confusion))
    least, _ = statistics.proportion(right, count, CONFIDENCE)
    if least <= max(sizes) / count:
        yield (
            f"The original answers {right} of {count} pictures rightly (at least {least:.1%}); to name one class "
            f"always gives {max(sizes)}: look whether classes are in the order of its outputs, or at --preprocess."
        )


def _pairs(order: Order, outcome: Outcome, results: Path, on_event: OnEvent) -> Pairs | None:
    """Compare every two TFLite files; kept, so that it is not done again."""
    path = results / RUN / ".trials" / "pairs.json"
    if path.exists():
        return plain.loads(path.read_bytes(), Pairs)
    bundles = {
        called(result): trial.bundle_folder(order.problem, result.name)
        for result in outcome.results
        if result.failure is None and result.steps and result.steps[-1].format == Format.TFLITE
    }
    if len(bundles) < 2:
        return None
    found: Pairs = trial.in_child(
        order.problem,
        pairing.all_against_all,
        outcome.original,
        bundles,
        limits=trial.default_limits(),
        on_event=on_event,
    )
    write_text(path, plain.dumps(found))
    return found


def _copy(outcome: Outcome, order: Order, results: Path) -> None:
    """Copy every TFLite file out of its bundle, by the name of its variant."""
    for result in outcome.results:
        made = trial.bundle_folder(order.problem, result.name) / "model.tflite"
        if result.failure is None and made.is_file():
            shutil.copyfile(made, results / f"{called(result)}.tflite")


def _command(wanted: Wanted, source: Source) -> Mapping[str, Any]:
    """Return all that decides the results; the run below checks what lies in the data."""
    return {
        "kind": _KIND,
        "model": source.path,
        "model contents": source.fingerprint(),
        "data": str(wanted.data.resolve()),
        "fraction": wanted.fraction,
        "epochs": wanted.epochs,
        "clusters": list(wanted.clusters),
        "sparsities": list(wanted.sparsities),
        "preprocess": wanted.preprocess,
        "seed": wanted.seed,
        "threads": wanted.threads,
        "trust_pickle": wanted.trust_pickle,
        "skip_unreadable": wanted.skip_unreadable,
    }


def _forget(results: Path) -> None:
    """Empty a folder whose laboratory was stopped before it came to know that its model and data can be used."""
    path = results / _COMMAND
    if not is_marked(results) or not path.is_file() or (results / RUN / "original.json").exists():
        return
    if run_folder.read_command(results).get("kind") != _KIND:  # the folder of another verb, which may have finished
        return
    run_folder.check_links(results)
    with lock(results):
        if is_marked(results / RUN):
            shutil.rmtree(results / RUN, ignore_errors=True)
        path.unlink()


@contextmanager
def _folder(results: Path, command: Mapping[str, Any]) -> Iterator[None]:
    """Lock the folder of results; a mistake found before any work leaves it free for the next command.

    Raises:
        RunFolderError: It holds another laboratory, or something else.
    """
    new = not results.exists()
    try:
        run_folder.check(results)
        _forget(results)
        with run_folder.lock_run_folder(results, command):
            try:
                yield
            except (UserError, KeyboardInterrupt):
                if not (results / RUN / "original.json").exists():
                    (results / _COMMAND).unlink(missing_ok=True)
                    (results / MARKER).unlink(missing_ok=True)
                    (results / ".lock").unlink(missing_ok=True)
                    if new and not any(results.iterdir()):
                        results.rmdir()
                raise
    except RunFolderError as error:
        raise RunFolderError(str(error).replace("--out", "--results-path")) from error
