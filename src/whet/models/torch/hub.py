"""Models of Hugging Face's transformers: found by name or in a folder, built from their config, filled safely.

No code that comes with a model is ever run: ``trust_remote_code`` is False throughout. A folder's ``modules.json``
(what sentence-transformers puts behind the network, such as pooling) is not part of the model here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.errors import MissingDependency, ModelError, WeightsMismatch, in_one_line
from whet.models.source import Origin, Source
from whet.models.torch import hub_files
from whet.types import Format, TensorSpec

if TYPE_CHECKING:
    from torch import nn

PREFIX = "hf:"
CONFIG = hub_files.CONFIG
_SAFE, _PICKLED = ("model*.safetensors", "model.safetensors.index.json"), ("pytorch_model*.bin*",)
_BESIDE = (
    "config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "preprocessor_config.json",
)
_TEXT = ("input_ids", "attention_mask", "token_type_ids")
_LENGTH = 128  # of a sequence, where nothing else is said
_SHOWN = 3


def source(name: str, inputs: tuple[TensorSpec, ...] = ()) -> Source:
    """Name a model: a folder with ``config.json``, or ``owner/name`` of the hub, fetched if it is not here yet.

    Raises:
        ModelError: There is no such model, it cannot be fetched, or it has no config or weights.
        MissingDependency: A name is to be looked up and huggingface_hub is not installed.
    """
    folder = Path(name).expanduser()
    if not name.startswith((".", "/", "~")) and not (folder / CONFIG).is_file():
        folder = _fetched(name)
        label, revision = name, folder.name
    else:
        label, revision = folder.resolve().name, ""
    folder = folder.absolute()
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} has no {CONFIG}; a folder of a model is what save_pretrained writes")
    if not weight_files(folder):
        raise ModelError(
            f"{folder} has a {CONFIG} but no weights (model.safetensors or pytorch_model.bin); "
            f"save the model there with save_pretrained"
        )
    return Source(Origin.HUB, Format.TORCH, str(folder), label, inputs=tuple(inputs), revision=revision)


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights: safetensors where there are any, else what torch pickled."""
    for patterns in (_SAFE, _PICKLED):
        found = sorted(path for pattern in patterns for path in folder.glob(pattern))
        if found:
            return found
    return []


def tokenizer_file(source: Source) -> Path | None:
    """Return the ``tokenizer.json`` of a model of the hub, or None where it has none (or comes from elsewhere)."""
    path = Path(source.path) / "tokenizer.json"
    return path if source.origin is Origin.HUB and path.is_file() else None


def build(source: Source) -> nn.Module:
    """Return a new module of the class that the config names, its weights not yet filled.

    Raises:
        ModelError: The config cannot be read, or names a class that transformers does not have.
    """
    with _quiet():
        config, kind = _class(Path(source.path))
        try:
            module = kind(config) if isinstance(kind, type) else kind.from_config(config, trust_remote_code=False)
        except Exception as error:  # transformers raises whatever a config makes it
            raise ModelError(f"{source.factory} cannot be built from its {CONFIG}: {in_one_line(error)}") from error
    return _settled(module)


def build_trained(source: Source) -> nn.Module:
    """Return the module with its published weights, in float32.

    Raises:
        UnsafePickle: The weights can only be read by unpickling.
        WeightsMismatch: The file lacks weights of the model, which would be random numbers.
        ModelError: The weights cannot be read.
    """
    import torch

    from whet.models.torch import checkpoint

    folder = Path(source.path)
    files = weight_files(folder)
    safe = any(path.suffix == ".safetensors" for path in files)
    own = hub_files.read_config(folder)
    hub_files.check_index(folder)
    files = [path for path in files if path.suffix in (".bin", ".safetensors")]
    for path in files:
        checkpoint.read(path)  # what is unsafe or truncated is told in our words
    arrays, numbers = hub_files.count(files)
    hub_files.check_layers(folder, own, arrays)
    with _quiet():
        config, kind = _class(folder)
        hub_files.check_parameters(folder, _parameters(config, kind), numbers)
        try:
            loader: Any = kind
            module, found = loader.from_pretrained(
                str(folder), config=config, local_files_only=True, trust_remote_code=False, use_safetensors=safe,
                dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
        except Exception as error:
            raise ModelError(f"the weights in {folder} cannot be loaded: {in_one_line(error)}") from error
    missing = sorted(map(str, found["missing_keys"]))
    if missing or found["mismatched_keys"]:
        wrong = missing or [str(item) for item in found["mismatched_keys"]]
        raise WeightsMismatch(
            f"the weights in {folder} do not fit {type(module).__name__}: {len(wrong)} are missing or of another "
            f"shape ({', '.join(wrong[:_SHOWN])}); they would be random: train or save that model first"
        )
    return _settled(module)


def inputs(source: Source, module: nn.Module) -> tuple[TensorSpec, ...]:
    """Return what goes in, by the config and the tokenizer: batch and length are free.

    Token numbers are int64 (N, length); pictures float32 (N, channels, height, width); sound float32 (N, length).
    Nothing where the model takes anything else: then the data or ``--input`` tells.
    """
    config: Any = module.config
    main = getattr(module, "main_input_name", "input_ids")
    if main == "input_ids":
        return _text(Path(source.path), module, config)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    if main == "pixel_values" and size:
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return (TensorSpec(main, "float32", (None, channels, height, width), (1, channels, height, width)),)
    return (TensorSpec(main, "float32", (None, None), (1, 16000)),) if main == "input_values" else ()


def _text(folder: Path, module: nn.Module, config: Any) -> tuple[TensorSpec, ...]:
    """Return the inputs of a model of tokens, each (N, length), no longer than its table of positions."""
    most = _most(module, config)
    length = min(_LENGTH, most or _LENGTH)
    bounds = {"input_ids": (0, config.vocab_size - 1), "attention_mask": (1, 1), "token_type_ids": (0, 0)}
    names = [name for name in _told(folder, config) if name in bounds]
    if getattr(config, "is_encoder_decoder", False):
        names.append("decoder_input_ids")
        bounds["decoder_input_ids"] = bounds["input_ids"]
    return tuple(
        TensorSpec(name, "int64", (None, None), (1, length), *bounds[name], most=(None, most)) for name in names
    )


def _told(folder: Path, config: Any) -> list[str]:
    """Return the names of inputs in the model's order, as the tokenizer's settings list them."""
    path = folder / "tokenizer_config.json"
    settings = hub_files.read_object(path) if path.is_file() else {}
    given = settings.get("model_input_names")
    if not isinstance(given, list):
        given = _TEXT if getattr(config, "type_vocab_size", 0) > 1 else _TEXT[:2]
    return [name for name in _TEXT if name in given]


def _most(module: nn.Module, config: Any) -> int | None:
    """Return the greatest length: the table of positions, less those before the first (RoBERTa's padding)."""
    from torch import nn

    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    tables = (part for name, part in module.named_modules() if name.endswith("position_embeddings"))
    padded = (part.padding_idx for part in tables if isinstance(part, nn.Embedding))
    return most - max((index + 1 for index in padded if index is not None), default=0)


def _class(folder: Path) -> tuple[Any, Any]:
    """Return a folder's config, and the class it names or AutoModel."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingDependency.of("transformers", "hf") from error
    path = folder / CONFIG
    try:
        own = hub_files.read_config(folder)
        config = transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except ModelError:
        raise
    except Exception as error:
        own_code = "auto_map" in path.read_text(encoding="utf-8", errors="replace")
        cure = (
            "it needs code of its own, which is never run; give file.py:function" if own_code else "check the file"
        )
        raise ModelError(f"{path} cannot be read by transformers ({in_one_line(error)}); {cure}") from error
    names = own.get("architectures")
    named = getattr(transformers, str(names[0]), None) if isinstance(names, list) and names else None
    known = isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)
    return config, named if known else transformers.AutoModel


def _parameters(config: Any, kind: Any) -> int:
    """Return the number of parameters that a config makes, without room for them; 0 where only building tells."""
    import torch

    try:
        with torch.device("meta"):
            module = kind(config) if isinstance(kind, type) else kind.from_config(config, trust_remote_code=False)
    except Exception:  # noqa: BLE001 - what is wrong with it is told where it is built
        return 0
    return sum(parameter.numel() for parameter in module.parameters())


def _settled(module: Any) -> nn.Module:
    """Have a module answer with named tensors, and without a cache of its past."""
    module.config.return_dict = True
    if getattr(module.config, "use_cache", None):
        module.config.use_cache = False
    return module.eval()  # type: ignore[no-any-return]


def _fetched(name: str) -> Path:
    """Return the folder of a model of the hub: what is here already, else what is fetched."""
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ModuleNotFoundError as error:
        raise MissingDependency.of("huggingface_hub", "hf") from error
    try:
        found = Path(hub.snapshot_download(name, local_files_only=True))
        if (found / CONFIG).is_file() and weight_files(found):
            return found
    except errors.HFValidationError as error:
        raise ModelError(
            f"{PREFIX}{name} is no name of a model ({in_one_line(error)}); write owner/name"
        ) from error
    except errors.LocalEntryNotFoundError:
        pass
    try:
        with _quiet():
            found = Path(hub.snapshot_download(name, allow_patterns=[*_BESIDE, *_SAFE]))
            return (
                found
                if weight_files(found)
                else Path(hub.snapshot_download(name, allow_patterns=[*_BESIDE, *_PICKLED]))
            )
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {name!r}, or it is private; check the name, or log in with hf auth login"
        ) from error
    except Exception as error:  # the network raises its own kinds
        raise ModelError(
            f"{PREFIX}{name} is not on this machine and cannot be fetched ({type(error).__name__}: "
            f"{in_one_line(error, 120)}); check the network, or give the folder that holds it"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' own warnings and progress off the screen: what matters is an error of ours."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _no_bars()
            yield
    finally:
        logging.disable(before)


def _no_bars() -> None:
    from importlib.util import find_spec

    if find_spec("transformers") is not None:
        from transformers.utils import logging as told

        told.disable_progress_bar()
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
