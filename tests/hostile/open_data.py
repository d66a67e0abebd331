"""Open data as every verb does, read all of it, and refuse it in the same line: without a model, in a second.

The cases that come through a verb show that it answers alike; the others need no child process and no framework.
"""

import sys

import numpy as np

from whet.bounds import printable
from whet.data.data import Part
from whet.data.modes import told
from whet.data.samples import looks
from whet.data.sources import data_source
from whet.data.tasks import resolve_task
from whet.data.windows import parse_windows
from whet.errors import WhetError


def read(name, windows):
    splits = data_source(name, windows=parse_windows(windows) if windows else None).open()
    for note in (*splits.notes, *told(looks(splits.parts.values()), splits.preprocess.color)):
        print("note", note)
    splits.fingerprint()
    labels = splits.labels(Part.TEST)
    resolve_task(None, np.eye(3)[np.arange(splits.size(Part.TEST)) % 3], labels)
    for part in splits.parts:
        for batch in splits.batches(part, 32):
            assert all(len(array) for array in batch.values())
    print({part.value: splits.size(part) for part in splits.parts})


try:
    read(sys.argv[1], "".join(sys.argv[3:]))
except WhetError as error:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    sys.exit(error.exit_code)
