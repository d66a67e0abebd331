"""LiteRT, the runtime of TFLite files, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from whet.errors import RuntimeFailure, WhetError, in_one_line
from whet.models.model import Stored
from whet.models.tflite.interpreter import KERNELS, Running
from whet.runtimes.base import Closing, Deployment
from whet.types import Format

if TYPE_CHECKING:
    from whet.types import Array, Batch


class LiteRT:
    """Runs TFLite files.

    ``kernels`` is ``xnnpack`` (LiteRT's default delegate, where it takes an operator), ``builtin`` (its own
    optimized kernels: what sparse INT8 files need) or ``reference`` (plain and slow, to compare with).
    """

    name = "litert"
    formats = (Format.TFLITE,)
    options: Mapping[str, tuple[Any, ...]] = {"kernels": tuple(KERNELS)}

    def open(self, stored: Stored, deployment: Deployment) -> LiteRTSession:
        """Open a file; ``provider`` tells whether XNNPACK took any of its operators."""
        kernels = deployment.options.get("kernels", "xnnpack")
        try:
            running = Running(stored.path.read_bytes(), kernels, deployment.threads)
        except Exception as error:  # a file that cannot be read, or what LiteRT refuses
            raise RuntimeFailure(
                f"LiteRT cannot open {stored.path.name}: {in_one_line(error, 300)}{_advice(kernels)}"
            ) from error
        if running.in_blocks and kernels != "xnnpack":
            raise RuntimeFailure(
                f"{stored.path.name} has weights with a scale a block, for which LiteRT's own kernels give wrong "
                f"numbers; leave kernels={kernels} out"
            )
        facts = {
            "runtime": "litert",
            "version": metadata.version("ai-edge-litert"),
            "provider": _provider(running, kernels),
            "threads": deployment.threads,
            "kernels": kernels,
        }
        return LiteRTSession(running, facts)


class LiteRTSession(Closing):
    """An interpreter, run on arrays: floats in and floats out, or the integers that the file holds in."""

    def __init__(self, running: Running, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self._running: Running | None = running
        self._called = False

    def run(self, batch: Batch) -> dict[str, Array]:
        """Run the interpreter; outputs are copies.

        Raises:
            SignatureError: Numbers that the file's integers cannot stand for.
            RuntimeFailure: LiteRT refuses it otherwise.
        """
        assert self._running is not None
        try:
            found = self._running.run(batch)
        except WhetError:
            raise
        except Exception as error:  # LiteRT raises ValueError and RuntimeError
            raise RuntimeFailure(
                f"LiteRT cannot run the model: {in_one_line(error, 300)}{_advice(str(self.facts['kernels']))}"
            ) from error
        if not self._called:
            self._called = True  # where lengths are free, it is known now what XNNPACK took
            self.facts = {**self.facts, "provider": _provider(self._running, str(self.facts["kernels"]))}
        return found

    def close(self) -> None:
        """Let go of the interpreter and its memory."""
        self._running = None


def _provider(running: Running, kernels: str) -> str:
    """Name what runs the operators: XNNPACK where it took any."""
    return "XNNPACK" if running.delegated() else f"{kernels.replace('xnnpack', 'builtin')} kernels"


def _advice(kernels: str) -> str:
    """Say what else can be tried where XNNPACK is in the way."""
    return "; try it without XNNPACK: --runtime litert:kernels=builtin" if kernels == "xnnpack" else ""
