"""The recipe: ordered passes, from TOML or Python, checked before any work."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import msgspec

from whet import plain
from whet.errors import RecipeError, did_you_mean
from whet.passes.base import Pass
from whet.passes.registry import pass_class
from whet.storage import sha256
from whet.types import Format, TraitKind

T = TypeVar("T")


@dataclass(frozen=True)
class _Head:
    """What stands in a file above the steps."""

    name: str
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    description: str = ""


_KEYS = {"steps", *(field.name for field in fields(_Head))}


# Names are those of folders and files, on any system: ASCII, since lookalikes and normal forms of other letters
# name other files on one system and the same file on another.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # of Windows, with any suffix


def check_name(name: str) -> None:
    """Refuse a name of a recipe that cannot name a folder on every system.

    A name has 1 to 64 of the letters a to z and A to Z, digits, ``_``, ``.``, ``+`` and ``-``. It begins with a
    letter, a digit or ``_``, does not end with a dot, and is none of the devices of Windows (``con``, ``nul``...).

    Raises:
        RecipeError: It is another one.
    """
    shown = ascii(name if len(name) <= 70 else f"{name[:67]}...")
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise RecipeError(
            f"{shown} cannot name a recipe; use 1 to 64 of the letters a-z and A-Z, digits, '_', '.', '+' and '-', "
            f"the first a letter, a digit or '_', the last no dot"
        )
    if _DEVICES.fullmatch(name):
        raise RecipeError(f"{shown} cannot name a recipe: Windows keeps it for a device; choose another name")


@dataclass(frozen=True)
class Recipe:
    """Passes in order.

    Attributes:
        name: Name of the candidate, of its folder and of its files: see ``check_name``.
        steps: The passes.
        seed: For whatever they draw.
        description: A line for the report.
    """

    name: str
    steps: tuple[Pass, ...]
    seed: int = 0
    description: str = ""

    def __post_init__(self) -> None:
        """Refuse a name that cannot be a folder's on every system."""
        check_name(self.name)

    @classmethod
    def of(
        cls, name: str, steps: Iterable[Pass | Mapping[str, Any]], seed: int = 0, description: str = ""
    ) -> Recipe:
        """Build a recipe of passes, or of mappings as they stand in TOML: ``{"pass": "half"}``."""
        built = tuple(step if isinstance(step, Pass) else read_step(step, at) for at, step in enumerate(steps, 1))
        return cls(name, built, seed, description)

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a ``.toml`` file.

        Raises:
            RecipeError: It is not there, no TOML, or has keys or values that no pass knows.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RecipeError(f"cannot read the recipe {path}: {error.strerror}; check the path") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not valid TOML: {error}") from error
        unknown = sorted(set(content) - _KEYS)
        if unknown:
            raise RecipeError(f"{path.name} has an unknown key {unknown[0]!r}{did_you_mean(unknown[0], _KEYS)}")
        steps = content.get("steps")
        if not isinstance(steps, list) or not steps:
            raise RecipeError(f"{path.name} has no steps; write [[steps]] with pass = 'name' below it")
        try:
            head = _convert({"name": path.stem, **content}, _Head)
        except RecipeError as error:
            raise RecipeError(f"{path.name}{error}") from error
        try:
            return cls.of(head.name, steps, head.seed, head.description)
        except RecipeError as error:
            raise RecipeError(f"{path.name}: {error}") from error

    def dumps(self) -> str:
        """Return the recipe as TOML, resolved: every default spelled out."""
        import tomli_w

        head: dict[str, Any] = {"name": self.name, "seed": self.seed}
        if self.description:
            head["description"] = self.description
        steps = [{"pass": step.name, **_given(settings(step))} for step in self.steps]
        return tomli_w.dumps({**head, "steps": steps})

    def check(self, source: Format, traits: Iterable[TraitKind] = ()) -> Format:
        """Fold formats and traits through all steps; return the format at the end.

        Raises:
            RecipeError: A step does not run on what the steps before it leave, or would erase what they made.
        """
        have, made = set(traits), set[TraitKind]()
        for at, step in enumerate(self.steps, 1):
            where = f"recipe {self.name!r}, step {at}"
            try:
                step.check(source)
            except RecipeError as error:
                raise RecipeError(f"{where}: {error}") from error
            for kind, reason in step.refuses.items():
                if kind in have:
                    raise RecipeError(f"{where}: {step.name} does not run on a {kind} model: {reason}")
            lost = made & step.erases
            if lost:
                raise RecipeError(
                    f"{where}: {step.name} would erase what an earlier step made ({', '.join(sorted(lost))}); "
                    f"put it before that step"
                )
            have = (have - step.erases) | step.establishes
            made |= step.establishes
            source = step.output_format(source)
        return source

    def fingerprint(self) -> str:
        """Return a hash of everything that decides what the recipe does."""
        return plain.fingerprint(self.seed, [asked(step) for step in self.steps])


def asked(step: Pass) -> list[Any]:
    """Return everything that decides what a pass does: its name, its settings, what stands in files they name."""
    named = [sha256(path) for path in step.files() if path.is_file()]
    return [step.name, settings(step), *named]


def settings(step: Pass) -> dict[str, Any]:
    """Return the settings of a pass as plain data, defaults included."""
    return {field.name: plain.builtins(getattr(step, field.name)) for field in fields(step)}


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table, and those in it, without what is None, which TOML does not have."""
    return {
        key: _given(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }


def read_step(step: Mapping[str, Any], at: int = 1) -> Pass:
    """Build a pass out of one ``[[steps]]`` table.

    Raises:
        RecipeError: No such pass or setting, or a value it does not take.
    """
    if not isinstance(step, Mapping) or "pass" not in step:
        raise RecipeError(f"step {at} does not name its pass; write pass = 'static-int8', for example")
    kind = pass_class(str(step["pass"]))
    given = {key: value for key, value in step.items() if key != "pass"}
    try:
        _check_known(given, kind)
        return _convert(given, kind)
    except RecipeError as error:
        raise RecipeError(f"step {at}: {kind.name}{error}") from error


def _check_known(given: Mapping[str, Any], kind: Any) -> None:
    """Refuse keys that a pass, or a table in it, does not have."""
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    for key, value in given.items():
        if key not in known:
            raise RecipeError(f" has no setting {key!r}{did_you_mean(key, known)}")
        if isinstance(value, Mapping) and is_dataclass(hints[key]):
            try:
                _check_known(value, hints[key])
            except RecipeError as error:
                raise RecipeError(f".{key}{error}") from error


def _convert(given: Mapping[str, Any], kind: type[T]) -> T:
    """Build a ``kind`` out of the values of a TOML table; other keys are left out.

    Raises:
        RecipeError: A value is not what the kind takes: ``sparsity = 1.5: expected `float` < 1.0``.
    """
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
    *tables, name = re.split(r"\.", re.sub(r"[^\w.].*", "", place))  # of `recovery.augment[0]`: recovery, augment
    for table in tables:
        given, kind = given[table], get_type_hints(kind)[table]
    if name not in given:
        raise RecipeError(f": {problem}")
    asked = f"{'.'.join([*tables, name])} = {given[name]!r}"
    if problem.startswith("Invalid enum value"):
        known = map(str, get_args(get_type_hints(kind)[name]))
        raise RecipeError(f": {asked} is not known{did_you_mean(str(given[name]), known)}")
    raise RecipeError(f": {asked}: {problem[0].lower()}{problem[1:]}")
