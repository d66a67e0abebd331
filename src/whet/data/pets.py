"""Oxford-IIIT Pet: downloaded from its publishers, and laid out as folders of train and test pictures.

37 breeds of cats and dogs, about 200 pictures each, CC BY-SA 4.0. Source: Parkhi, Vedaldi, Zisserman, Jawahar 2012,
"Cats and dogs". The checksums are those that torchvision's ``OxfordIIITPet`` pins.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from whet.data.download import Remote, fetch
from whet.errors import DataError, in_one_line
from whet.progress import Event, OnEvent
from whet.storage import make_folder, new_folder, storage_errors

BASES = ("https://thor.robots.ox.ac.uk/~vgg/data/pets/", "https://www.robots.ox.ac.uk/~vgg/data/pets/data/")
CHECKSUMS: Mapping[str, str] = {
    "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
    "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
}
_LISTS = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}
_ARCHIVES, _LAID = ".archives", ".laid"
_NAME = re.compile(r"[A-Za-z0-9_]+_\d+")  # Abyssinian_100


def download(
    root: Path, on_event: OnEvent, bases: Sequence[str] = BASES, checksums: Mapping[str, str] = CHECKSUMS
) -> bool:
    """Have the pictures in ``root/train/<breed>`` and ``root/test/<breed>``, by the official lists.

    Archives lie in ``root/.archives`` until they are laid out: an attempt that broke off is gone on with.

    Args:
        root: The folder; empty, or what an earlier attempt left.
        on_event: Told of progress.
        bases: Addresses that the archives lie below.
        checksums: MD5 of each archive.

    Returns:
        Whether anything was to be done.

    Raises:
        DataError: The folder holds something else, or the archives cannot be had, or are not what they should be.
        StorageError: The folder cannot be written.
    """
    if all((root / part).is_dir() for part in _LISTS):
        return False
    if root.exists() and (not root.is_dir() or any(_foreign(entry) for entry in root.iterdir())):
        raise DataError(f"{root} holds something else than this data set; name an empty folder to download to")
    archives = make_folder(root) / _ARCHIVES
    annotations, images = (
        fetch(Remote(name, [f"{base}{name}" for base in bases], md5), archives, on_event)
        for name, md5 in checksums.items()
    )
    with storage_errors(root):
        try:
            _lay_out(root, _lists(annotations), images, on_event)
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{images.name} cannot be unpacked: {in_one_line(error)}; remove {archives}") from error
        shutil.rmtree(archives)
    return True


def _foreign(entry: Path) -> bool:
    return entry.name not in (_ARCHIVES, _LAID, *_LISTS) and not entry.name.startswith(f".{_LAID}")


def _lists(annotations: Path) -> dict[str, str]:
    """Return the part of every picture, ``train`` or ``test``, by its name.

    Raises:
        DataError: A list is missing, or names what is no picture's name.
    """
    found: dict[str, str] = {}
    with tarfile.open(annotations) as archive:
        for part, member in _LISTS.items():
            try:
                file = archive.extractfile(member)
            except KeyError:
                file = None
            if file is None:
                raise DataError(f"{annotations.name} has no {member}; it is not the data set's")
            for line in file.read().decode().splitlines():
                name = line.split(" ", 1)[0]
                if line.startswith("#") or not name:
                    continue
                if not _NAME.fullmatch(name):
                    raise DataError(
                        f"{member} names {name!r}, which is no picture's name; it is not the data set's"
                    )
                found[name] = part
    return found


def _lay_out(root: Path, parts: Mapping[str, str], images: Path, on_event: OnEvent) -> None:
    """Write the pictures that are listed, and no others, each by its own name: no path of the archive is followed.

    Raises:
        DataError: One that is listed is missing.
    """
    missing = dict(parts)
    with new_folder(root / _LAID) as folder:
        with tarfile.open(images) as archive:
            for member in archive:
                name = re.fullmatch(r"(?:\./)?images/(\w+)\.jpg", member.name)
                if name is None or not member.isfile() or name[1] not in missing:
                    continue
                file = archive.extractfile(member)
                assert file is not None
                target = folder / missing.pop(name[1]) / name[1].rpartition("_")[0] / f"{name[1]}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read())
                on_event(Event("lay the pictures out", len(parts) - len(missing), len(parts)))
        if missing:
            raise DataError(
                f"{images.name} lacks {len(missing)} of {len(parts)} listed pictures, {next(iter(missing))}.jpg "
                f"for one; it is not the data set's"
            )
    for part in _LISTS:
        if (root / part).exists():
            shutil.rmtree(root / part)
        (root / _LAID / part).replace(root / part)
    shutil.rmtree(root / _LAID)
