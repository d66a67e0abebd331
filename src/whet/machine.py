"""The machine at hand: its processor, what that can do, and the versions of what runs on it."""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from whet.errors import UserError

LIBRARIES = (
    "whet",
    "numpy",
    "scipy",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "onnxscript",
    "ai-edge-litert",
    "scikit-learn",
)

# The instruction sets that decide how fast, or how exactly, a model runs.
_KNOWN_FLAGS = frozenset(
    [
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
    ]
)

# A capability is what an artifact may need; any one of the instruction sets gives it.
CAPABILITIES: Mapping[str, frozenset[str]] = {
    # Products of unsigned by signed bytes are summed in 32 bits. Without it, AVX2's VPMADDUBSW sums pairs in
    # 16 bits and saturates, so that full-range INT8 weights give wrong results.
    "exact-u8s8": frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimd"}),
    # Products of bfloat16 without a conversion of every operand.
    "bfloat16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What measurements were made on.

    Attributes:
        cpu: The processor's model name.
        flags: Its instruction sets, of those that matter here.
        cores: Logical processors this process may use.
        memory_bytes: Physical memory.
        system: Operating system and architecture.
        python: The interpreter's version.
        versions: Installed versions of the libraries that decide a result.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str
    python: str
    versions: Mapping[str, str]

    def can(self, capability: str) -> bool:
        """Tell whether this processor has a capability; an unknown one is not had."""
        return bool(CAPABILITIES.get(capability, frozenset()) & set(self.flags))

    def missing(self, capabilities: Iterable[str]) -> list[str]:
        """Return those of ``capabilities`` that this processor does not have."""
        return [capability for capability in capabilities if not self.can(capability)]


@functools.cache
def this_machine() -> Machine:
    """Return the facts of the machine this process runs on."""
    import psutil

    cpu, flags = _processor()
    return Machine(
        cpu=cpu,
        flags=flags,
        cores=usable_cores(),
        memory_bytes=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=versions(LIBRARIES),
    )


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each library that is there."""
    found = {}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def usable_cores() -> int:
    """Return the number of logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(count: int) -> int:
    """Return the number of threads that was asked for.

    Raises:
        UserError: The machine has fewer logical processors: the threads would wait for each other, or hang it.
    """
    cores = os.cpu_count() or 1
    if count > cores:
        raise UserError(
            f"{count} threads are too many for this machine, which has {cores} logical cores; lower threads"
        )
    return count


def _processor() -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and its known flags (Linux; elsewhere what the platform tells)."""
    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    words = set((fields.get("flags") or fields.get("Features") or "").split())
    if sys.platform == "darwin" and platform.machine() == "arm64":
        words |= {"asimd", "asimddp"}
    return name, tuple(sorted(words & _KNOWN_FLAGS))
