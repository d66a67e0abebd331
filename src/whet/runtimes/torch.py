"""PyTorch, eager: the user's own model as given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from whet.errors import RuntimeFailure, WhetError, in_one_line
from whet.models.model import Stored
from whet.models.torch.adapter import TorchAdapter, flatten, tensors
from whet.runtimes.base import Closing, Deployment
from whet.types import Format

if TYPE_CHECKING:
    from whet.types import Array, Batch


class TorchRuntime:
    """Runs modules eagerly, in inference mode; on the GPU only where asked."""

    name = "torch"
    formats = (Format.TORCH,)
    options: Mapping[str, tuple[Any, ...]] = {"device": ("cpu", "cuda")}

    def open(self, stored: Stored, deployment: Deployment) -> TorchSession:
        """Load the stored module onto the device."""
        device = deployment.options.get("device", "cpu")
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeFailure("torch has no CUDA device here; leave out device, or run on a machine with a GPU")
        torch.set_num_threads(deployment.threads)
        try:
            module = TorchAdapter().load(stored.path, stored.source).module.to(device)
        except WhetError:
            raise
        except Exception as error:  # a broken file, or code of the user's own
            raise RuntimeFailure(f"torch cannot open {stored.path.name}: {in_one_line(error, 300)}") from error
        facts = {
            "runtime": "torch",
            "version": str(torch.__version__),
            "device": device,
            "threads": deployment.threads,
        }
        return TorchSession(module, device, facts)


class TorchSession(Closing):
    """A module, run on arrays."""

    def __init__(self, module: torch.nn.Module, device: str, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self._module = module
        self._device = device

    def run(self, batch: Batch) -> dict[str, Array]:
        """Run the module; inputs and outputs are copied where the device is another."""
        with torch.inference_mode():
            inputs = tensors(batch)
            if self._device != "cpu":
                inputs = {name: tensor.to(self._device) for name, tensor in inputs.items()}
            try:
                outputs = flatten(self._module(**inputs))
                return {name: value.cpu().numpy() for name, value in outputs.items()}
            except WhetError:
                raise
            except Exception as error:  # from the user's own forward
                raise RuntimeFailure(f"torch cannot run the model: {in_one_line(error, 300)}") from error
