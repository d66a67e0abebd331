"""Checkpoints: where a training stands, as one safetensors file. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from whet import plain
from whet.storage import write_bytes
from whet.train.course import Progress


class Checkpoint:
    """The file of one training, named by what went into it: another training does not find it."""

    def __init__(self, folder: Path, *parts: Any) -> None:
        self.path = folder / f"{plain.fingerprint(*parts)}.safetensors"

    def save(self, progress: Progress, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write where a training stands: ``{"model": {name: tensor}, "best": ...}``."""
        flat = {
            f"{group}/{name}": value.detach().cpu().clone().contiguous()
            for group, tensors in groups.items()
            for name, value in tensors.items()
        }
        write_bytes(self.path, save(flat, {"progress": json.dumps(plain.builtins(progress))}))

    def load(self) -> tuple[Progress, dict[str, dict[str, Tensor]]] | None:
        """Return what was saved; None where nothing was, or it cannot be read."""
        if not self.path.exists():
            return None
        groups: dict[str, dict[str, Tensor]] = {}
        try:
            with safe_open(str(self.path), framework="pt") as file:
                progress = plain.loads(file.metadata()["progress"], Progress)
                for key in file.keys():  # noqa: SIM118 - the file is no dict
                    group, _, name = key.partition("/")
                    groups.setdefault(group, {})[name] = file.get_tensor(key)
        except (SafetensorError, KeyError, ValueError):
            return None
        return progress, groups


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of an optimizer by the number of their parameter: ``0/exp_avg``."""
    state: Mapping[int, Mapping[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{number}/{key}": value for number, each in state.items() for key, value in each.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Take up what ``optimizer_state`` gave."""
    numbered: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        number, _, key = name.partition("/")
        numbered.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state() -> dict[str, Tensor]:
    """Return where torch's dice stand, by device."""
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found |= {str(number): state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def load_random(state: Mapping[str, Tensor]) -> None:
    """Put torch's dice back where they stood."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state[key] for key in sorted(set(state) - {"cpu"}, key=int)])
