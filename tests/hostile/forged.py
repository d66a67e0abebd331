"""Bundles as somebody forges them who knows how whet seals: changes that are applied to a genuine one."""

import base64
import hashlib
import json
import os
import pickle
import struct
import zipfile

import numpy as np

SOURCE = """
import torch

class Rows(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Parameter(torch.zeros(6, 32))
        self.out = torch.nn.Parameter(torch.zeros(32, 3))

    def forward(self, row):
        return {"answer": torch.relu(row @ self.hidden) @ self.out}

def rows():
    return Rows()
"""


def read(here):
    return json.loads((here / "bundle/manifest.json").read_text())


def put(here, made):
    (here / "bundle/manifest.json").write_text(json.dumps(made))


def reseal(here):
    """Recompute every checksum, so that the bundle looks whole."""
    bundle, made = here / "bundle", read(here)
    files = [path for path in bundle.rglob("*") if path.is_file() and path.name != "manifest.json"]
    made["files"] = {p.relative_to(bundle).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    put(here, made)


def seal(here):
    """Write the card and the checksums of a manifest, as whet does."""
    from whet import plain
    from whet.bundle import manifest, write
    from whet.measure.measurement import Measurement

    bundle = here / "bundle"
    numbers = plain.read_json(bundle / "metrics.json", tuple[Measurement, ...])
    write.seal(bundle, manifest.read(bundle), numbers)


def manifest_bytes(content):
    return lambda here: (here / "bundle/manifest.json").write_bytes(content)


def changed(**changes):
    """Change fields of the manifest, whatever comes of it."""
    return lambda here: put(here, {**read(here), **changes})


def nested(field, **changes):
    """Change entries of a field of the manifest."""
    return lambda here: put(here, {**read(here), field: {**read(here)[field], **changes}})


def deployed(**changes):
    """Change how the bundle is run, and seal it."""

    def prepare(here):
        nested("deployment", **changes)(here)
        seal(here)

    return prepare


def instead(name, make):
    """Put something in place of a file of the bundle (or beside its files)."""

    def prepare(here):
        path = here / "bundle" / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        make(path)

    return prepare


def sealed_with(name, make):
    """Put something in place of a file of the bundle, and seal it."""

    def prepare(here):
        instead(name, make)(here)
        reseal(here)

    return prepare


def golden(**arrays):
    """Change arrays of the recorded ones, and seal; ``input_row`` stands for ``input.row``."""

    def prepare(here):
        path = here / "bundle/golden.npz"
        with np.load(path) as found:
            changes = {name.replace("_", "."): value for name, value in arrays.items()}
            np.savez(path, **{**found, **changes})
        reseal(here)

    return prepare


def bomb(path):
    """Write an archive whose entry says that it unpacks to 4 GB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input.row.npy", bytes(1000))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 0xF0000000)
    path.write_bytes(bytes(content))


def locked(path):
    """Write an archive whose entries say that they are encrypted."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input.row.npy", bytes(1000))
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(bytes(content))


def claims(path):
    """Write an array of inputs whose header claims 10 ** 15 rows."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 6), }"
    header = header.ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input.row.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())


def verdicts(change):
    """Change the verdicts, and seal; only a manifest that contradicts itself cannot be sealed by whet itself."""

    def prepare(here):
        made = read(here)
        put(here, {**made, "verdicts": [change(item) for item in made["verdicts"]], "answer": "PASS"})

    return prepare


def torch_bundle(here, source=SOURCE, structure=None, keep_source=True):
    """Make of the genuine bundle one of a torch module that a stranger's ``source.py`` builds."""
    import onnx
    from onnx import numpy_helper
    from safetensors.numpy import save_file

    bundle, made = here / "bundle", read(here)
    weights = {item.name: numpy_helper.to_array(item) for item in onnx.load(here / "good.onnx").graph.initializer}
    for path in bundle.glob("model*"):
        path.unlink()
    (bundle / "model").mkdir()
    save_file(
        {name: np.ascontiguousarray(array) for name, array in weights.items()}, bundle / "model/weights.safetensors"
    )
    origin = {"origin": "factory", "format": "torch", "path": "source.py", "factory": "rows"}
    (bundle / "model/model.json").write_text(json.dumps(structure or {"origin": origin, "edits": []}))
    if keep_source:
        (bundle / "source.py").write_text(source.replace("HERE", str(here)))
    rows = np.load(here / "good.npz")["x_test"][:4]
    answers = np.maximum(rows @ weights["hidden"], 0) @ weights["out"]
    np.savez(bundle / "golden.npz", **{"input.row": rows, "output.answer": answers})
    numbers = [item for item in json.loads((bundle / "metrics.json").read_text()) if item["metric"] != "size_bytes"]
    (bundle / "metrics.json").write_text(json.dumps(numbers))
    put(here, {
        **made, "format": "torch", "file": "model", "verdicts": [], "answer": "", "source": origin, "needs": [],
        "deployment": {"runtime": "torch", "threads": 1, "options": {}}, "history": [],
        "golden": {"samples": 4, "tolerance": {"answer": 1e-3}},
    })  # fmt: skip
    seal(here)


def of_torch(**how):
    """Make a bundle of a torch module; see ``torch_bundle``."""
    return lambda here: torch_bundle(here, **how)


def evil(here):
    """Return a pickle that makes a file ``pwned``, as JSON holds bytes."""

    class Evil:
        def __reduce__(self):
            return open, (str(here / "pwned"), "w")

    return base64.b64encode(pickle.dumps(Evil())).decode()


def pickled_origin(here):
    origin = {"origin": "memory", "format": "torch", "factory": "Net", "memory": evil(here)}
    torch_bundle(here, structure={"origin": origin, "edits": []}, keep_source=False)


def pickled_source(here):
    pickled_origin(here)
    made = read(here)
    put(here, {**made, "source": {"origin": "memory", "format": "torch", "factory": "Net", "memory": evil(here)}})
    seal(here)


def pickled_student(here):
    student = {"origin": "memory", "format": "torch", "factory": "Net", "memory": evil(here)}
    torch_bundle(here, structure={"origin": None, "edits": [{"edit": "student", "origin": student}]})


def student_outside(here):
    """Name a file outside of the bundle as the student's: it would run, and none would know."""
    (here / "other.py").write_text(f"open({str(here / 'pwned')!r}, 'w')\n" + SOURCE)
    student = {"origin": "factory", "format": "torch", "path": str(here / "other.py"), "factory": "rows"}
    torch_bundle(here, structure={"origin": None, "edits": [{"edit": "student", "origin": student}]})


def origin_outside(here):
    """Name a file outside of the bundle as the origin's, and bring none."""
    (here / "other.py").write_text(f"open({str(here / 'pwned')!r}, 'w')\n" + SOURCE)
    origin = {"origin": "factory", "format": "torch", "path": str(here / "other.py"), "factory": "rows"}
    torch_bundle(here, structure={"origin": origin, "edits": []}, keep_source=False)


def keras_names(**names):
    """Describe a Keras model whose names are Python: torch writes a graph's names into code."""

    def prepare(here):
        inject = f"__import__('pathlib').Path({str(here / 'pwned')!r}).touch()"
        given = {key: value.replace("CODE", inject) for key, value in names.items()}
        description = {
            "inputs": [{"name": given.get("input", "row"), "tensor": 0, "shape": [None, 6]}],
            "calls": [{
                "layer": given.get("layer", "dense"), "kind": "Dense", "inputs": [0], "output": 1,
                "shape": [None, 3], "arguments": [], "named": [],
                "config": {"units": 3, "use_bias": False, "activation": "linear"},
            }],
            "outputs": [{"name": "answer", "tensor": 1}],
        }  # fmt: skip
        torch_bundle(here, keep_source=False)
        (here / "bundle/model/keras.json").write_text(json.dumps(description))
        reseal(here)

    return prepare


def external_data(place):
    """Have the model read its weights from a file that is not the bundle's."""

    def prepare(here):
        import onnx
        from onnx.external_data_helper import set_external_data

        proto = onnx.load(here / "bundle/model.onnx")
        tensor = max(proto.graph.initializer, key=lambda item: len(item.raw_data))
        set_external_data(tensor, place.replace("HERE", str(here)), 0, len(tensor.raw_data))
        tensor.ClearField("raw_data")
        content = proto.SerializeToString()
        (here / "bundle/model.onnx").write_bytes(content)
        numbers = json.loads((here / "bundle/metrics.json").read_text())
        (here / "bundle/metrics.json").write_text(json.dumps([n for n in numbers if n["metric"] != "size_bytes"]))
        put(here, {**read(here), "verdicts": [], "answer": ""})
        reseal(here)
        seal(here)

    return prepare


def untouched(here, _ended):
    """Tell whether a forged bundle's code has run."""
    return "code of the bundle has run" if any(here.rglob("pwned*")) else None


def no_bytecode(here, _ended):
    """Tell whether bytecode was written into the bundle."""
    return "bytecode in the bundle" if any(here.rglob("*.pyc")) else None


def fifo(path):
    os.mkfifo(path)


def with_traces(here):
    """Write the folder of the case into the model, as torch's exporter writes stack traces."""
    import onnx

    proto = onnx.load(here / "good.onnx")
    for node in proto.graph.node:
        node.doc_string = f'File "{here}/net.py", line 7'
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.stack_trace", f'File "{here}/net.py", line 7'
    proto.doc_string = f"exported to {here}/good.onnx"
    onnx.save(proto, here / "traced.onnx")


def factory(here):
    """Write a factory that imports a file of its own, and a recipe with a student."""
    (here / "parts.py").write_text(SOURCE)
    (here / "net.py").write_text("from parts import rows as build\n\ndef net():\n    return build()\n")
    (here / "student.toml").write_text(f'[[steps]]\npass = "distill"\nepochs = 1\nstudent = "{here}/net.py:net"\n')


def names_no_folder(bundle):
    """Return a check that no file of a bundle names the folder of the case."""

    def check(here, _ended):
        files = [path for path in (here / bundle).rglob("*") if path.is_file()]
        found = [path.name for path in files if str(here).encode() in _unpacked(path)]
        return f"these name the folder: {found}" if found or not files else None

    return check


def _unpacked(path):
    if path.suffix != ".npz":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())
