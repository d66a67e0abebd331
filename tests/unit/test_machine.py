"""The machine at hand, against the operating system's own answers."""

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from whet import machine
from whet.machine import Machine, this_machine, usable_cores, versions


def with_flags(*flags):
    return Machine("cpu", flags, 1, 0, "Linux x86_64", "3", {})


def test_this_machine_is_what_the_system_says():
    here = this_machine()
    assert here.cores == len(os.sched_getaffinity(0))
    assert here.memory_bytes == psutil.virtual_memory().total
    assert here.python == platform.python_version()
    assert here.system == f"{platform.system()} {platform.machine()}"
    assert here.cpu
    assert here.versions["numpy"] == metadata.version("numpy")
    assert this_machine() is here


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo")
def test_the_flags_are_the_processors():
    told = Path("/proc/cpuinfo").read_text().split()
    here = this_machine()
    assert set(here.flags) == set(told) & machine._KNOWN_FLAGS
    assert list(here.flags) == sorted(here.flags)


INTEL = (
    "processor : 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: fpu sse4_2 avx2 avx512_vnni\n\nmodel name : other\n"
)
ARM = "processor\t: 0\nBogoMIPS\t: 50\nFeatures\t: fp asimd i8mm unheard\n"


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [
        (INTEL, "Some CPU @ 2GHz", ("avx2", "avx512_vnni", "sse4_2")),
        (ARM, None, ("asimd", "i8mm")),
        ("", None, ()),
    ],
)
def test_the_processor_is_read_on_intel_and_arm(monkeypatch, tmp_path, text, name, flags):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / "cpuinfo")
    found = machine._processor()
    assert found == (name or platform.processor() or platform.machine(), flags)


@pytest.mark.parametrize(
    ("system", "architecture", "flags"),
    [("darwin", "arm64", ("asimd", "asimddp")), ("darwin", "x86_64", ()), ("linux", "arm64", ())],
)
def test_apples_processors_have_exact_sums(monkeypatch, tmp_path, system, architecture, flags):
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / "absent")
    monkeypatch.setattr(machine.sys, "platform", system)
    monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
    assert machine._processor()[1] == flags


def test_cores_are_those_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


def test_versions_leave_out_what_is_not_installed():
    assert versions(["pytest", "no-such-library"]) == {"pytest": metadata.version("pytest")}


@pytest.mark.parametrize(
    ("flags", "can"),
    [
        (["avx2", "fma"], False),
        (["avx2", "avx512_vnni"], True),
        (["avx_vnni"], True),
        (["asimd"], True),
        ([], False),
    ],
)
def test_exact_sums_of_bytes_need_one_of_several_instruction_sets(flags, can):
    assert with_flags(*flags).can("exact-u8s8") is can
    assert with_flags(*flags).missing(["exact-u8s8"]) == ([] if can else ["exact-u8s8"])


def test_an_unknown_capability_is_not_had():
    assert with_flags("avx2").missing(["levitation", "exact-u8s8"]) == ["levitation", "exact-u8s8"]
