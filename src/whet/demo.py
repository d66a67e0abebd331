"""The demo's model: a small CNN, trained on the built-in digits in seconds."""

from __future__ import annotations

from pathlib import Path

from whet.errors import RunFolderError
from whet.progress import Event, OnEvent
from whet.storage import links_below, make_folder, storage_errors, write_bytes

RECIPES = ("graph-only", "static-int8", "dynamic-int8", "static-int8-edges", "combined")
_EPOCHS, _BATCH = 12, 64
_MODEL = Path(__file__).parent / "demo_model.py"


def files(run: Path) -> tuple[Path, Path]:
    """Return the demo's model file and its weights, in a folder beside the RUN folder; the model file is put there.

    Nothing that is there already is changed.

    Raises:
        RunFolderError: The folder, or the model file in it, is not the demo's.
    """
    folder = run.parent / f"{run.name}-model"
    model, weights = folder / "model.py", folder / "digits.safetensors"
    with storage_errors(folder):
        taken = folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir())))
    if taken and not _is_ours(folder, model):
        raise RunFolderError(
            f"{folder}, where the demo puts its model, has other files in it, or a changed model.py; choose "
            f"another --out"
        )
    if not taken:
        write_bytes(make_folder(folder) / model.name, _MODEL.read_bytes())
    return model, weights


def _is_ours(folder: Path, model: Path) -> bool:
    """Return whether a folder has the demo's model file, unchanged, and no links."""
    if next(links_below(folder), None) is not None or not model.is_file():
        return False
    content = _MODEL.read_bytes()
    return model.stat().st_size == len(content) and model.read_bytes() == content


def train(weights: Path, on_event: OnEvent) -> None:
    """Train the model by its labels with Adam and save its weights. Runs in a child."""
    import torch
    from safetensors.torch import save

    from whet import userfile
    from whet.data import builtin
    from whet.errors import ModelError

    torch.manual_seed(0)
    inputs, labels = (torch.from_numpy(array) for array in builtin.load("digits").train)
    model = userfile.call(weights.parent / "model.py", "digits_cnn", ModelError).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(_EPOCHS):
        on_event(Event("train a small CNN on digits", epoch, _EPOCHS))
        for batch in torch.randperm(len(inputs)).split(_BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    write_bytes(weights, save(model.state_dict()))
