"""Fetch a file from the net: resumed where it stopped, checked by its checksum."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import DataError, in_one_line
from whet.progress import Event, OnEvent
from whet.storage import make_folder, storage_errors

_CHUNK = 1 << 18
_TRIES = 4  # of one address that breaks off
_PAUSE_SECONDS = 1.0
_SILENCE_SECONDS = 30.0  # after which an address is given up
_MB = 1_000_000
_BROKEN = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors


@dataclass(frozen=True)
class Remote:
    """A file on the net.

    Attributes:
        name: Of the file.
        addresses: Where it is had, the first that answers.
        md5: Of its content, in hex, as its publishers give it; against damage, not against forgery.
    """

    name: str
    addresses: Sequence[str]
    md5: str


def fetch(remote: Remote, folder: Path, on_event: OnEvent) -> Path:
    """Download a file into a folder, or take what lies there; a ``.part`` of an earlier attempt is gone on with.

    Raises:
        DataError: No address gives it, or what they give has another checksum.
        StorageError: It cannot be written.
    """
    path = make_folder(folder) / remote.name
    if path.exists() and _md5(path) == remote.md5:
        return path
    path.unlink(missing_ok=True)
    part, refusals = folder / f"{remote.name}.part", []
    for address in remote.addresses:
        try:
            _download(address, part, on_event)
        except _BROKEN as error:
            refusals.append(f"{address}: {in_one_line(error)}")
            continue
        found = _md5(part)
        if found == remote.md5:
            with storage_errors(path):
                part.replace(path)
            return path
        part.unlink()
        refusals.append(f"{address}: its checksum is {found}, not {remote.md5}, and it was thrown away")
    kept = part.stat().st_size if part.exists() else 0
    left = f"{kept:,} bytes of it are kept, and the same command goes on from there" if kept else "try again later"
    raise DataError(f"{remote.name} could not be downloaded ({'; '.join(refusals)}); {left}")


def _download(address: str, part: Path, on_event: OnEvent) -> None:
    """Append to ``part`` until it is whole; an address that breaks off is asked again.

    Raises:
        OSError: It refuses, or breaks off again and again without a byte more.
    """
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _more(address, part, on_event):
                return
            raise ConnectionError("the connection broke off")
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                part.unlink()  # longer than the file, or whole and never checked: begun anew
                continue
            raise
        except _BROKEN:
            gained = (part.stat().st_size if part.exists() else 0) > before
            tries = 0 if gained else tries + 1
            if tries >= _TRIES:
                raise
            time.sleep(_PAUSE_SECONDS * tries)


def _more(address: str, part: Path, on_event: OnEvent) -> bool:
    """Fetch what is missing, as far as it comes; tell whether that is all."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=_SILENCE_SECONDS) as answer:  # noqa: S310
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0  # a server without ranges sends the whole
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with storage_errors(part), part.open("ab" if have else "wb") as file:
            for chunk in iter(lambda: answer.read(_CHUNK), b""):
                file.write(chunk)
                have += len(chunk)
                _tell(part, have, total, on_event)
    return total is None or have >= total


def _tell(part: Path, have: int, total: int | None, on_event: OnEvent) -> None:
    name = part.name.removesuffix(".part")
    on_event(Event(f"download {name} (MB)", have // _MB, (total or 0) // _MB))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        digest: Any = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return str(digest.hexdigest())
