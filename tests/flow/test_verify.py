"""``verify``: what is wrong with a bundle is found, and each kind of wrong is told apart."""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

import whet
from whet import isolate, plain
from whet.bundle import manifest, write
from whet.bundle.verify import verify
from whet.errors import BundleError
from whet.machine import this_machine
from whet.measure.measurement import Measurement


def edit(bundle, **changes):
    """Change the manifest, and seal it again with the card that goes with it, as a careful forger would."""
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with suppress(BundleError):
        write.seal(bundle, manifest.read(bundle), measurements(bundle))


def measurements(bundle):
    return plain.read_json(bundle / "metrics.json", tuple[Measurement, ...])


def reseal(bundle):
    """Recompute every checksum, as somebody would who wants a changed bundle to look whole."""
    files = [path for path in bundle.rglob("*") if path.is_file() and path.name != "manifest.json"]
    hashes = {path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": hashes}))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def wrong(bundle, **options):
    """Return the kind and the detail of the one check that does not hold."""
    (found,) = [check for check in verify(bundle, **options) if not check.ok]
    return found.kind, found.detail


def change(bundle, **arrays):
    with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
        np.savez(bundle / "golden.npz", **{**golden, **arrays})


def rename_input(bundle):
    signature = json.loads((bundle / "manifest.json").read_text())["signature"]
    signature["inputs"][0]["name"] = "pixels"
    edit(bundle, signature=signature)


def retype_output(bundle):
    signature = json.loads((bundle / "manifest.json").read_text())["signature"]
    signature["outputs"][0]["dtype"] = "float64"
    edit(bundle, signature=signature)


def other_outputs(bundle):
    with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
        off = golden["output.output"] + 0.01
    change(bundle, **{"output.output": off})
    reseal(bundle)


def nan_outputs(bundle):
    change(bundle, **{"output.output": np.full((4, 3), np.nan, np.float32)})
    reseal(bundle)


def wide_outputs(bundle):
    change(bundle, **{"output.output": np.ones((4, 1), np.float32)})
    reseal(bundle)


def no_outputs(bundle):
    np.savez(bundle / "golden.npz", nothing=np.zeros(1))
    reseal(bundle)


def no_archive(bundle):
    (bundle / "golden.npz").write_bytes(b"PK not really")
    reseal(bundle)


def other_model(bundle):
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(bundle / "model.onnx")
    weight = proto.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))
    onnx.save(proto, bundle / "model.onnx")
    reseal(bundle)


def broken_model(bundle):
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[:900].ljust(len(content), b"x"))
    reseal(bundle)


WRONG = {
    "a changed byte in the model": (lambda b: flip(b / "model.onnx"), "files", "changed since .* model.onnx"),
    "a changed byte in the golden outputs": (lambda b: flip(b / "golden.npz"), "files", "changed .* golden.npz"),
    "changed code": (
        lambda b: (b / "preprocess/preprocess.py").write_text("import os\n"),
        "files",
        "changed since .* preprocess/preprocess.py",
    ),
    "a missing file": (lambda b: (b / "reference.npz").unlink(), "files", "missing: reference.npz"),
    "an extra file": (lambda b: (b / "extra.py").write_text("1"), "files", "not of this bundle: extra.py"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "manifest", "is not a bundle"),
    "a truncated manifest": (
        lambda b: (b / "manifest.json").write_text((b / "manifest.json").read_text()[:500]),
        "manifest",
        "cannot be read",
    ),
    "a manifest that is a list": (lambda b: (b / "manifest.json").write_text("[]"), "manifest", "got `array`"),
    "another schema": (lambda b: edit(b, schema=99), "manifest", "has schema 99, this version of whet reads 1"),
    "a field of another type": (lambda b: edit(b, golden="four"), "manifest", "is damaged"),
    "a model that has no checksum": (lambda b: edit(b, file="other.onnx"), "files", "no checksum of the model"),
    "a model outside": (lambda b: edit(b, file="../model.onnx"), "manifest", "no name of a file below the bundle"),
    "another input name": (rename_input, "signature", r"inputs are x=.*; the manifest says pixels="),
    "another output type": (retype_output, "signature", r"outputs are .*; the manifest says output=float64"),
    "a model that is no model": (broken_model, "signature", "model.onnx"),
    "another model, resealed": (other_model, "golden", "off the recorded one by"),
    "other golden outputs, resealed": (other_outputs, "golden", "'output' is off the recorded one by"),
    "golden outputs that are NaN": (nan_outputs, "golden", "off the recorded one"),
    "golden outputs of another shape": (wide_outputs, "golden", "off the recorded one"),
    "no golden outputs": (no_outputs, "golden", "golden.npz cannot be read"),
    "golden outputs that are no archive": (no_archive, "golden", "golden.npz cannot be read"),
    "a processor that cannot": (
        lambda b: edit(b, needs=["exact-u8s8", "quantum"]),
        "processor",
        "lacks .*quantum, without which .* optimize again on this processor",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_kind_of_wrong_is_told_apart(bundle, case):
    damage, kind, told = WRONG[case]
    damage(bundle)
    found, detail = wrong(bundle)
    assert found == kind
    assert re.search(told, detail), detail


def test_a_processor_without_vnni_is_told_that_results_would_be_wrong(bundle):
    edit(bundle, needs=["exact-u8s8"])
    old = replace(this_machine(), cpu="an old processor", flags=("avx2", "sse4_2"))
    new = replace(this_machine(), cpu="a new processor", flags=("avx2", "avx512_vnni"))
    kind, detail = wrong(bundle, machine=old)
    assert kind == "processor"
    assert detail.startswith("an old processor lacks exact-u8s8")
    assert all(check.ok for check in verify(bundle, machine=new))


def test_several_wrongs_are_all_told(bundle):
    edit(bundle, needs=["quantum"])
    flip(bundle / "model.onnx")
    assert [check.kind for check in verify(bundle) if not check.ok] == ["files", "processor"]


def test_nothing_of_a_bundle_is_opened_before_its_bytes_are_known(bundle, monkeypatch):
    flip(bundle / "model.onnx")
    monkeypatch.setattr(isolate, "call", lambda *_, **__: pytest.fail("it was opened"))
    assert wrong(bundle)[0] == "files"


def test_on_the_command_line_and_as_json(here, bundle):
    ran = here("verify", bundle)
    assert (ran.code, ran.err) == (0, "")
    assert [line[:2] for line in ran.out.splitlines()] == ["ok"] * 6 + ["di"]
    digest = ran.out.split()[-1]
    assert digest == f"sha256:{hashlib.sha256((bundle / 'manifest.json').read_bytes()).hexdigest()}"
    assert here("verify", bundle, "--digest", digest).code == 0
    assert here("verify", bundle, "--json").json["ok"] is True

    flip(bundle / "model.onnx")
    ran = here("verify", bundle)
    assert (ran.code, ran.err) == (1, "")
    assert "FAIL  files      changed since the bundle was sealed: model.onnx" in ran.out
    ran = here("verify", bundle, "--json")
    assert (ran.code, ran.err) == (1, "")
    assert ran.json["ok"] is False
    assert [check["kind"] for check in ran.json["checks"] if not check["ok"]] == ["files"]


def test_what_is_no_folder_is_the_users_mistake(here, tmp_path):
    ran = here("verify", tmp_path / "nowhere")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    ran = here("verify", tmp_path)
    assert ran.code == 1
    assert "is not a bundle: it has no manifest.json" in ran.out


def test_a_changed_bundle_is_not_measured_either(here, bundle, npz):
    flip(bundle / "model.onnx")
    for command in (["bench", bundle], ["evaluate", bundle, "--data", npz], ["profile", bundle]):
        ran = here(*command)
        assert ran.code == 1
        assert "is not as it was sealed (changed since the bundle was sealed: model.onnx)" in ran.err
        assert ran.err.count("\n") == 1


def test_python_gives_the_same_checks(bundle):
    assert whet.verify(bundle) == whet.verify(str(bundle)) == verify(bundle)


def test_a_pinned_digest_shows_a_bundle_that_was_sealed_again(here, bundle):
    pinned = whet.verify(bundle).digest
    edit(bundle, name="another")
    assert all(check.ok for check in whet.verify(bundle)), "checksums alone do not show it"
    ran = here("verify", bundle, "--digest", pinned)
    assert ran.code == 1
    assert f"pinned is {pinned}" in ran.out
    assert here("verify", bundle, "--digest", pinned[7:]).code == 2
    assert [check.kind for check in whet.verify(bundle, digest=pinned)] == ["manifest", "digest"]


@pytest.mark.parametrize("answer", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_a_verdict_that_its_own_figures_contradict_is_refused(bundle, answer):
    verdicts = json.loads((bundle / "manifest.json").read_text())["verdicts"]
    assert verdicts
    assert all(item["figures"] for item in verdicts)
    for at, item in enumerate(verdicts):
        if item["answer"] == answer:
            continue
        forged = [{**one, "answer": answer} if at == number else one for number, one in enumerate(verdicts)]
        edit(bundle, verdicts=forged)
        kind, detail = wrong(bundle)
        assert kind == "manifest"
        assert f"it answers {answer} to" in detail


def test_an_answer_that_the_verdicts_do_not_give_is_refused(bundle):
    right = json.loads((bundle / "manifest.json").read_text())["answer"]
    for answer in {"PASS", "FAIL", "INCONCLUSIVE", ""} - {right}:
        edit(bundle, answer=answer)
        kind, detail = wrong(bundle)
        assert kind == "manifest"
        assert f"its verdicts together say {right}" in detail


def test_a_size_or_a_card_that_is_not_the_bundles_is_refused(bundle):
    made, numbers = manifest.read(bundle), measurements(bundle)
    smaller = [replace(item, value=100.0) if item.metric == "size_bytes" else item for item in numbers]
    write.seal(bundle, made, smaller)
    kind, detail = wrong(bundle)
    assert kind == "figures"
    assert "a size of 100.0 bytes is stated" in detail

    write.seal(bundle, made, numbers)
    (bundle / "MODEL_CARD.md").write_text("**PASS**, believe me")
    reseal(bundle)
    assert wrong(bundle)[0] == "figures"


def test_an_earlier_card_that_writes_an_infinite_number_out_verifies(bundle):
    endless = Measurement("sqnr_db", float("inf"), "dB", "max")
    write.seal(bundle, manifest.read(bundle), (*measurements(bundle), endless))
    card = bundle / "MODEL_CARD.md"
    assert "| sqnr_db | - dB |" in card.read_text()
    card.write_text(card.read_text().replace("| sqnr_db | - dB |", "| sqnr_db | inf dB |"))
    reseal(bundle)
    assert all(check.ok for check in verify(bundle))
