"""Answer from this bundle with NumPy and the runtime alone.

    python predict.py picture.png other.jpg      one answer a picture
    python predict.py samples.npy                one sample, or a stack of them
    python predict.py samples.npz                named inputs, stacked
    python predict.py rows.csv                   one sample a line: columns as the header names them, in any order,
                                                 or without a header in the order they were recorded in
    python predict.py sentences.txt              one text a line
    python predict.py series.csv                 of a time series, the last rows: what comes next
    python predict.py --golden                   check this machine against the outputs recorded in the bundle
    python predict.py --eager ...                a torch model that was deployed compiled, without compiling it
    python predict.py --max-mib 4096 ...         take inputs that unpack to more than 2048 MiB (tables: 256 MiB)

Each answer is one line of JSON; a number that is NaN or infinite is null there. Every file of the bundle is
compared with its checksum in manifest.json before it is opened.
Exit codes: 0 answered, 1 the recorded outputs are not met (--golden), 2 refused, with one line that says why,
130 interrupted, 141 nobody reads the answers.
In Python: ``Predictor(folder).predict(raw)``.
"""

from __future__ import annotations

import os
import sys

# Nothing is imported from the bundle's folder before its checksums are right, not even in place of a library.
_PATHS, _HERE = list(sys.path), os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120
sys.path[:] = [place for place in sys.path if os.path.realpath(place or ".") != _HERE]
os.environ.update(ORT_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")  # all that is needed is in the bundle

import contextlib
import hashlib
import importlib.machinery
import json
import signal
import stat
import types
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # libraries take a while to import
try:
    import numpy as np
except ImportError as problem:
    if __name__ != "__main__":
        raise
    print(f"error: {problem}; pip install -r {Path(_HERE, 'requirements.txt')}", file=sys.stderr)
    sys.exit(2)

HERE = Path(_HERE)
MAX_MANIFEST_BYTES = 64 << 20
_IMPORTED = __name__ != "__main__"
if _IMPORTED:
    sys.path[:] = _PATHS
    if (HERE / "manifest.json").exists() and Path(globals().get("__cached__") or "/").parent.parent == HERE:
        with contextlib.suppress(OSError):  # Python has written bytecode of this file: it is not of the bundle
            Path(globals()["__cached__"]).unlink()
            (HERE / "__pycache__").rmdir()


class Refused(ValueError):
    """The bundle, or an input, cannot be used; the message is one line that says why."""


class Predictor:
    """The model of a bundle, with what turns raw inputs into tensors and outputs into answers."""

    def __init__(self, folder: Any = HERE, threads: int = 1, module: Any = None, compiled: bool = True) -> None:
        """Open a bundle, once every file of it is known to be the one that was sealed.

        Args:
            folder: The bundle; by default the one that this file is in.
            threads: Of one call of the model.
            module: The torch module to fill where its class cannot be had from a file.
            compiled: Whether a torch model that was deployed compiled is compiled at its first answer (seconds to
                minutes).

        Raises:
            ValueError: A file is changed, missing, too many or damaged.
            ImportError: A library of ``requirements.txt`` is not installed.
        """
        self.folder = Path(folder).resolve()
        self.manifest = checked_manifest(self.folder)
        code = _importer(self.folder, self.manifest)
        code("runtimes").check_manifest(self.manifest)
        self.arrays = code("preprocess.arrays")
        settings = self.folder / "preprocess" / "preprocess.json"
        try:
            text = settings.read_text(encoding="utf-8")
            found = code("preprocess.preprocess").from_json(text, settings.parent)
        except ValueError as error:
            raise Refused(f"preprocess/preprocess.json is damaged ({error}); restore the bundle") from error
        self.preprocess, self.postprocess = found
        self.inputs = code("inputs").Inputs(self.manifest, self.preprocess, code)
        if not compiled:
            self.manifest["deployment"].pop("compile", None)
        self._model = code("runtimes").open_model(self.folder, self.manifest, threads, module, code)

    def outputs(self, raw: Any) -> Any:
        """Map raw inputs, an array (N, ...), texts, or a dict of such by name, to the model's named outputs.

        Raises:
            ValueError: They are not what the model takes, or the model cannot answer.
        """
        return self._run(self.inputs.tensors(raw))

    def _run(self, tensors: Any) -> Any:
        """Return the outputs by name, their axis of samples first; what is the same for all is left out."""
        found, axes = self._model(tensors), {}
        for spec in self.manifest["signature"]["outputs"]:
            name, axis = spec["name"], spec.get("sample", 0)
            if name not in found or (axis is not None and found[name].ndim <= axis):
                raise Refused(f"the model gives no output {name!r} as the manifest says; restore the bundle")
            axes[name] = axis
        return {name: np.moveaxis(found[name], axis, 0) for name, axis in axes.items() if axis is not None}

    def predict(self, raw: Any) -> Any:
        """Map raw inputs (N, ...) to N answers of plain data."""
        return self.postprocess(self.outputs(raw)[self.manifest["output"]])

    def read(self, path: Any) -> Any:
        """Read raw inputs from a file; a single sample gets its axis of samples.

        Raises:
            ValueError: It is damaged, larger than the limit, or no input of this model.
            OSError: It cannot be opened.
        """
        return self.inputs.read(Path(path))

    def check_golden(self) -> float:
        """Return the largest deviation from the recorded outputs, as a share of what is tolerated.

        Raises:
            ValueError: ``golden.npz`` is damaged, or does not hold what the manifest says.
        """
        tolerance, shares = self.manifest["golden"]["tolerance"], []
        try:
            golden = self.arrays.read_npz(self.folder / "golden.npz", self.arrays.MAX_BYTES)
            tensors = {
                spec["name"]: golden["input." + spec["name"]] for spec in self.manifest["signature"]["inputs"]
            }
            for name, found in self._run(tensors).items():
                wanted = golden["output." + name]
                if found.shape != wanted.shape or not found.size:
                    raise Refused(
                        f"output {name!r} has shape {list(found.shape)}, recorded is {list(wanted.shape)}"
                    )
                limit = float(tolerance[name])
                if not 0 < limit < float("inf"):
                    raise Refused(
                        f"the tolerance in manifest.json of output {name!r} is {limit}; restore the bundle"
                    )
                shares.append(float(np.abs(found.astype(np.float64) - wanted).max()) / limit)
        except (KeyError, TypeError, OverflowError, OSError) as error:
            raise Refused(f"golden.npz or its tolerance in manifest.json is damaged ({error})") from error
        return float(np.max(shares))  # NaN if any is


def checked_manifest(folder: Path) -> Any:
    """Return what a bundle's manifest says, once every file of the bundle has the checksum it names.

    Raises:
        ValueError: A file is changed, missing, too many, a link or special, or the manifest is damaged.
    """
    path = folder / "manifest.json"
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_MANIFEST_BYTES:
            raise Refused(f"{path} is no file, or larger than {MAX_MANIFEST_BYTES >> 20} MiB; restore the bundle")
        manifest = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise Refused(f"{folder} is not a bundle: manifest.json: {os.strerror(error.errno or 0)}") from error
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, Refused) else Refused(f"{path} is damaged ({error})") from error
    sums = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(sums, dict) or not all(isinstance(digest, str) for digest in sums.values()):
        raise Refused(f"{path} is damaged (it names no files with their checksums); restore the bundle")
    _check_files(folder, sums)
    return manifest


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _check_files(folder: Path, sums: Any) -> None:
    """Compare every file below a bundle with the checksums of its manifest."""
    for name in sums:
        if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise Refused(
                f"manifest.json names the path {name!r}, which is not below the bundle; restore the bundle"
            )
    found = _files_below(folder) - {"manifest.json"}
    for what, names in (("is missing", set(sums) - found), ("is not of this bundle", found - set(sums))):
        if names:
            more = f", and {len(names) - 1} others" if len(names) > 1 else ""
            raise Refused(f"{folder}: file {min(names)!r} {what}{more}; restore the bundle, or make it anew")
    for name, digest in sums.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise Refused(
                    f"{folder}: file {name!r} was changed since the bundle was sealed; restore the bundle, "
                    f"or make it anew"
                )


def _files_below(folder: Path) -> set[str]:
    """Return the paths of all files below a bundle; links, special files and bytecode are refused."""
    found, folders = set(), [""]
    while folders:
        below = folders.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name, mode = below + entry.name, entry.stat(follow_symlinks=False).st_mode
                own = _IMPORTED and (name == "__pycache__" or name.startswith("__pycache__/predict."))
                if stat.S_ISDIR(mode) and (own or entry.name != "__pycache__"):
                    folders.append(name + "/")
                elif stat.S_ISREG(mode) and not own and not entry.name.endswith((".pyc", ".pyo")):
                    found.add(name)
                elif not own:
                    kind = "a link" if stat.S_ISLNK(mode) else "special" if not stat.S_ISREG(mode) else "bytecode"
                    kind = "bytecode" if stat.S_ISDIR(mode) else kind
                    raise Refused(f"{folder}: {name!r} is {kind}, which no bundle has; remove it")
    return found


class _SourceOnly(importlib.machinery.SourceFileLoader):
    """Compile a module from its source each time: no bytecode is read or written."""

    def get_code(self, fullname: str) -> Any:
        """Return the code of a module."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _importer(folder: Path, manifest: Any) -> Any:
    """Return what imports the bundle's own files by name; two bundles do not share their code."""
    make = importlib.machinery.FileFinder.path_hook((_SourceOnly, [".py"]))

    def finder(place: str) -> Any:
        if not Path(place).is_relative_to(folder):
            raise ImportError(f"{place} is not of the bundle")
        return make(place)

    sys.path_hooks.insert(0, finder)
    for place in [place for place in sys.path_importer_cache if Path(place).is_relative_to(folder)]:
        del sys.path_importer_cache[place]
    sums = json.dumps([str(folder), manifest["files"]], sort_keys=True)
    name = f"whet_bundle_{hashlib.sha256(sums.encode(errors='replace')).hexdigest()[:16]}"
    package: Any = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(name, package)
    return lambda module: importlib.import_module(f"{name}.{module}")


def _shown(path: str) -> str:
    """Return a path as it is printed: on one line."""
    return path if path.isprintable() and path else repr(path)


def _line(answer: Any, path: str) -> tuple[str, int]:
    """Return an answer as a line of JSON, and how many of its numbers are NaN or infinite (null there)."""
    try:
        return json.dumps({"input": path, "answer": answer}, allow_nan=False), 0
    except ValueError:
        lost = 0

        def finite(value: Any) -> Any:
            nonlocal lost
            if isinstance(value, dict):
                return {key: finite(item) for key, item in value.items()}
            if isinstance(value, list):
                return [finite(item) for item in value]
            if isinstance(value, float) and not np.isfinite(value):
                lost += 1
                return None
            return value

        return json.dumps({"input": path, "answer": finite(answer)}, allow_nan=False), lost


def _options(arguments: list[str]) -> tuple[set[str], int, list[str]]:
    """Return the options, the limit in MiB (0 if none is given) and the paths; after ``--`` all are paths."""
    options, paths, rest, limit = set(), [], list(arguments), 0
    while rest:
        word = rest.pop(0)
        if word == "--":
            paths += rest
            break
        if word == "--max-mib":
            text = rest.pop(0) if rest else ""
            if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text)):
                raise Refused(f"--max-mib is {text!r}; give a whole number of MiB from 1 up, such as 4096")
            limit = int(text)
        elif word in ("--golden", "--eager", "-h", "--help"):
            options.add(word)
        elif word.startswith("-"):
            raise Refused(f"there is no option {word!r}; see --help, or write ./{word} for a file of that name")
        else:
            paths.append(word)
    return options, limit, paths


def main(arguments: list[str]) -> int:
    """Answer for each file named, and return the exit code."""
    about = "predict.py"
    try:
        options, limit, paths = _options(arguments)
        if options & {"-h", "--help"} or not arguments:
            print(__doc__)
            return 0 if arguments else 2
        if not paths and "--golden" not in options:
            raise Refused("no file is named; see --help")
        about = f"bundle {HERE.name}"
        predictor = Predictor(compiled="--eager" not in options)
        if limit:
            predictor.inputs.max_bytes = predictor.inputs.max_table_bytes = limit << 20
        if "--golden" in options:
            return _golden(predictor)
        lost = 0
        for path in paths:
            about = path
            for answer in predictor.predict(predictor.read(path)):
                line, count = _line(answer, path)
                lost += count
                print(line)
    except BrokenPipeError:
        raise
    except (OSError, ValueError, ImportError, MemoryError) as error:
        return _refuse(about, error)
    _note(lost, predictor.inputs.rotated)
    return 0


def _golden(predictor: Predictor) -> int:
    """Print how far the outputs are off the recorded ones; 1 if farther than is tolerated."""
    worst = predictor.check_golden()
    share = worst if np.isfinite(worst) else None
    print(json.dumps({"golden": "ok" if worst <= 1 else "off", "share_of_tolerance": share}))
    return 0 if worst <= 1 else 1


def _note(lost: int, rotated: int) -> None:
    """Say on standard error what the answers do not show."""
    if lost:
        print(f"note: {lost} numbers of the answers are NaN or infinite; they are printed as null", file=sys.stderr)
    if rotated:
        print(
            f"note: {rotated} pictures carry an EXIF rotation, which is not applied: pixels are taken as stored",
            file=sys.stderr,
        )


def _refuse(about: str, error: BaseException) -> int:
    """Say in one line what cannot be answered, and why."""
    text = str(error)
    if isinstance(error, ImportError):
        text = f"{error}; pip install -r {_shown(str(HERE / 'requirements.txt'))}"
    elif isinstance(error, OSError) and error.errno is not None:
        text = f"{os.strerror(error.errno)}; check the path"
    elif isinstance(error, MemoryError):
        text = "there is not enough memory; give fewer samples at a time"
    text = "".join(mark if mark.isprintable() else " " for mark in text)
    print(f"error: {_shown(about)}: {' '.join(text.split())}", file=sys.stderr)
    return 2


def _command() -> int:
    """Run ``main`` and flush what it printed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to flush goes nowhere
        return 141
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _refuse("standard output", error)


if __name__ == "__main__":
    sys.exit(_command())
