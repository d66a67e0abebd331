"""The demo's model: a small CNN, trained on the built-in digits in seconds."""

from __future__ import annotations

from pathlib import Path

from whet.errors import RunFolderError
from whet.progress import Event, OnEvent
from whet.storage import make_folder, write_bytes

RECIPES = ("graph-only", "static-int8", "dynamic-int8", "static-int8-edges", "combined")
_EPOCHS, _BATCH = 12, 64
_MODEL = Path(__file__).parent / "demo_model.py"


def files(run: Path) -> tuple[Path, Path]:
    """Return the demo's model file and its weights, beside the RUN folder; the model file is put there."""
    run = run.resolve()
    if run.exists() and not run.is_dir():
        raise RunFolderError(f"{run} is a file; choose another --out")
    folder = make_folder(run.parent / f"{run.name}-model")
    write_bytes(folder / "model.py", _MODEL.read_bytes())
    return folder / "model.py", folder / "digits.safetensors"


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
