"""PyTorch: the user's own model as given, eager, or compiled where asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from whet.errors import RuntimeFailure, WhetError, in_one_line
from whet.models.model import Stored
from whet.models.torch.adapter import TorchAdapter, flatten, tensors
from whet.runtimes.base import Closing, Deployment, beyond_table
from whet.types import Format

if TYPE_CHECKING:
    from whet.types import Array, Batch


_BEYOND = "index out of range in self"  # what an embedding of torch says of a number that it does not have
_FORMS = 64  # of inputs, each translated once: torch's own limit of 8 falls back to eager without a word


class TorchRuntime:
    """Runs modules in inference mode, eagerly; on the GPU only where asked.

    With ``compile=true`` torch.compile translates the module at the first call: seconds to minutes, part of the
    load time. It translates again for one sample and for several, and for other lengths; after that the number of
    samples is free. On a CPU it needs a C++ compiler wherever the artifact runs.
    """

    name = "torch"
    formats = (Format.TORCH,)
    options: Mapping[str, tuple[Any, ...]] = {
        "device": ("cpu", "cuda"),
        "compile": ("false", "true"),
    }

    def open(self, stored: Stored, deployment: Deployment) -> TorchSession:
        """Load the stored module onto the device."""
        device = deployment.options.get("device", "cpu")
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeFailure("torch has no CUDA device here; leave out device, or run on a machine with a GPU")
        compiled = deployment.options.get("compile") == "true"
        if compiled and device == "cpu":
            _need_compiler()
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
        return CompiledSession(module, device, facts) if compiled else TorchSession(module, device, facts)


class TorchSession(Closing):
    """A module, run on arrays."""

    def __init__(self, module: torch.nn.Module, device: str, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self._module = module
        self._device = device

    def _inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return tensors(batch)

    def run(self, batch: Batch) -> dict[str, Array]:
        """Run the module; inputs and outputs are copied where the device is another."""
        with torch.inference_mode():
            inputs = self._inputs(batch)
            if self._device != "cpu":
                inputs = {name: tensor.to(self._device) for name, tensor in inputs.items()}
            try:
                outputs = flatten(self._module(**inputs))
                return {name: value.cpu().numpy() for name, value in outputs.items()}
            except WhetError:
                raise
            except Exception as error:  # from the user's own forward
                if str(error) == _BEYOND:
                    raise beyond_table(f"one ({_BEYOND})") from error
                raise RuntimeFailure(f"torch cannot run the model: {in_one_line(error, 300)}") from error


class CompiledSession(TorchSession):
    """A module that torch.compile translates; ``facts["graphs"]`` tells into how many parts at the first call."""

    def __init__(self, module: torch.nn.Module, device: str, facts: Mapping[str, Any]) -> None:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _FORMS)
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        self._graphs = 0
        self._called = False
        compiled = cast("torch.nn.Module", torch.compile(module, backend=self._translate))
        super().__init__(compiled, device, {**facts, "compile": "inductor"})

    def run(self, batch: Batch) -> dict[str, Array]:
        """Run the module, translated first where inputs are of a new form.

        Raises:
            RuntimeFailure: Nothing of it could be translated.
        """
        outputs = super().run(batch)
        if not self._called:
            self._called = True
            self.facts = {**self.facts, "graphs": self._graphs}
        if not self._graphs:
            raise RuntimeFailure(
                "torch.compile finds nothing to compile in this model (it leaves LSTM, GRU and RNN layers as they "
                "are); leave compile out"
            )
        return outputs

    def _inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        inputs = super()._inputs(batch)
        for tensor in inputs.values():
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return inputs

    def _translate(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        """Translate one part; what torch calls a backend."""
        from torch._inductor.compile_fx import compile_fx

        self._graphs += 1
        # No pool of compiling processes, which would outlive a session that is killed.
        return compile_fx(graph, inputs, config_patches={"compile_threads": 1})


def _need_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise RuntimeFailure(
            "torch.compile needs a C++ compiler, and there is none here; install g++ or clang++ (CXX names it), "
            "or leave compile out"
        ) from error
