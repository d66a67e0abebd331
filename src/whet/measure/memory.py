"""Memory and load time: what a fresh process needs to open an artifact and run it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from whet import isolate
from whet.isolate import NO_LIMITS, Limits
from whet.models.model import Stored
from whet.progress import OnEvent
from whet.runtimes.base import Deployment, open_session, runtime_for
from whet.types import Signature


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process needed.

    Attributes:
        load_ms: From the files to a session that has answered once, code that is compiled on the way included.
        peak_bytes: Greatest resident memory of the whole process.
        added_bytes: What of that came after the runtime was imported: the model, its session and its buffers.
        batch_size: It was run with.
    """

    load_ms: float
    peak_bytes: int
    added_bytes: int
    batch_size: int


def measure(
    stored: Stored,
    signature: Signature,
    deployment: Deployment,
    limits: Limits = NO_LIMITS,
    log: Path | None = None,
) -> Footprint:
    """Open and run an artifact in a process of its own, at the largest batch size of the deployment."""
    found = isolate.call(
        _open_and_run, stored, signature, deployment, limits=limits, threads=deployment.threads, log=log
    )
    assert isinstance(found, Footprint)
    return found


def _open_and_run(stored: Stored, signature: Signature, deployment: Deployment, on_event: OnEvent) -> Footprint:
    """Measure this process. Runs in the child."""
    size = signature.batch or max(deployment.batch_sizes)
    small, large = signature.synthetic(1), signature.synthetic(size)
    runtime = runtime_for(deployment, stored.format)
    before = _status("VmRSS")
    started = time.perf_counter()
    with _nothing_compiled_before(), open_session(stored, deployment) as session:
        session.run(small)
        load_ms = (time.perf_counter() - started) * 1000
        for _ in range(3):
            session.run(large)
    peak = _status("VmHWM")
    del runtime
    return Footprint(load_ms, peak, max(peak - before, 0), size)


@contextmanager
def _nothing_compiled_before() -> Iterator[None]:
    """Have torch.compile find no code of earlier processes, as on a machine that opens the artifact first."""
    with tempfile.TemporaryDirectory(prefix="whet-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        yield


def _status(field: str) -> int:
    """Return a memory figure of this process in bytes: Linux's own, which starts anew with each program."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
