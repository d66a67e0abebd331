"""The environment variables that keep libraries from reporting anything and from writing into the home folder.

Both are set before a library is imported, because most read them once, when they are imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Reports about use are switched off whatever the user set: whet promises that there are none.
NO_REPORTS: Mapping[str, str] = {
    # ONNX Runtime from 1.31 on: as soon as it is imported it writes a device id and a store of events below
    # ~/.cache, and looks up its vendor's collector.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, and with it transformers and datasets: a download is reported with the versions of libraries.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The same libraries, and accelerate, in versions that do not know the variable above.
    "DISABLE_TELEMETRY": "1",
    # What further libraries have agreed on (https://donottrack.sh), among them those of a user's own model file.
    "DO_NOT_TRACK": "1",
}

# Caches that libraries create in the home folder, or in the temporary folder for good: the variable that moves
# each, and where it is by default. A cache that exists, or that the user moved, is the user's own and stays in use;
# no new one is created. The caches of the Hugging Face hub are not here: who names hf:... wants the download kept.
_CACHES: Mapping[str, tuple[str, ...]] = {
    "MPLCONFIGDIR": ("~/.config/matplotlib", "~/.cache/matplotlib", "~/.matplotlib"),  # the list of fonts
    "KERAS_HOME": ("~/.keras",),  # keras.json, written as soon as Keras is imported
    "TORCHINDUCTOR_CACHE_DIR": (),  # code of torch.compile, which stays in the temporary folder by default
    "TRITON_CACHE_DIR": ("~/.triton",),  # kernels for GPUs
    "CUDA_CACHE_PATH": ("~/.nv/ComputeCache",),  # kernels that the driver compiled
}


def disable_reports() -> None:
    """Switch the libraries' reports off for this process and its children; ``import whet`` does it."""
    os.environ.update(NO_REPORTS)
    loaded = sys.modules.get("onnxruntime")  # imported before whet was: the variable comes too late for it
    if loaded is not None and hasattr(loaded, "disable_telemetry_events"):
        loaded.disable_telemetry_events()


def moved_caches(folder: Path) -> dict[str, str]:
    """Return the variables that move caches which do not exist yet below ``folder``."""
    found = {}
    for name, places in _CACHES.items():
        if name not in os.environ and not any(_place(text).exists() for text in places):
            found[name] = str(folder / name.lower())
    return found


def _place(text: str) -> Path:
    """Return the path of a default place, which the XDG variables may move."""
    for name, default in (("XDG_CONFIG_HOME", "~/.config"), ("XDG_CACHE_HOME", "~/.cache")):
        if text.startswith(default) and (moved := os.environ.get(name)):
            return Path(moved + text.removeprefix(default))
    return Path(text).expanduser()
