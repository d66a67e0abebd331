"""Limits of data, by headers."""

import gzip
import struct

import numpy as np
import pytest

from whet.data import limits
from whet.data.folders import read_idx, read_npz
from whet.data.tables import read_one
from whet.errors import DataError


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(limits, "available_bytes", lambda: 100_000)


def test_an_archive_is_held_against_half_of_the_memory(tmp_path, small_machine):
    np.savez_compressed(tmp_path / "half.npz", x=np.zeros(11_000, np.float32), y=np.zeros(11_000, np.int8))
    np.savez_compressed(tmp_path / "less.npz", x=np.zeros(9_000, np.float32), y=np.zeros(9_000, np.int8))
    assert (tmp_path / "half.npz").stat().st_size < 2_000
    with pytest.raises(DataError, match=r"half.npz would take 0.0 GiB of memory, by its headers; this machine has"):
        read_npz([tmp_path / "half.npz"])
    assert len(read_npz([tmp_path / "less.npz"]).test) == 9_000


def test_a_table_is_held_against_half_of_the_memory(tmp_path, small_machine):
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n" * 1_000)
    with pytest.raises(DataError, match=r"the table .*a.csv would take"):
        read_one(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("a,b\n" + "1,2\n" * 100)
    assert len(read_one(tmp_path / "b.csv")["a"]) == 100


def test_a_parquet_file_of_one_value_is_as_long_as_its_rows(tmp_path, small_machine):
    import pyarrow as pa
    import pyarrow.parquet

    pa.parquet.write_table(pa.table({"a": [1] * 20_000}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet would take"):
        read_one(tmp_path / "a.parquet")


def test_an_idx_file_is_held_against_half_of_the_memory(tmp_path, small_machine):
    content = bytes([0, 0, 8, 1]) + struct.pack(">I", 60_000) + bytes(60_000)
    (tmp_path / "x-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"the idx file .* would take"):
        read_idx(tmp_path / "x-idx1-ubyte.gz")


def test_a_line_that_crosses_chunks_is_measured_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n" + b"1" * (limits.MAX_LINE_BYTES - 100) + b",2\n")
    limits.check_text(path)
    path.write_bytes(b"a,b\n" + b"1" * (limits.MAX_LINE_BYTES + 100) + b",2\n")
    with pytest.raises(DataError, match="a line of over 16 MiB"):
        limits.check_text(path)
