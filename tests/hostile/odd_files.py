"""Files of weights, of Keras, of TFLite and folders of transformers that mean harm; each function writes one."""

import io
import json
import os
import socket
import struct
import zipfile
from pathlib import Path

import numpy as np

DEEP = "[" * 100_000 + "]" * 100_000
NETWORK = """
import torch


def build():
    return torch.nn.Linear(6, 3)
"""
CRASH = """
import os
import signal


def build():
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def content(name, data):
    """Return what writes a file of these bytes."""
    return lambda here: (here / name).write_bytes(data.encode() if isinstance(data, str) else data)


def fifo(here):
    os.mkfifo(here / "odd.onnx")


def unix_socket(here):
    """Make a socket; its path may be too long for the system to bind, so it is bound by a short name."""
    back = Path.cwd()
    os.chdir(here)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("odd.onnx")
    finally:
        os.chdir(back)


def link(target):
    return lambda here: (here / "odd.onnx").symlink_to(target)


def network(write):
    """Return what writes a network of torch and a file of weights, ``odd.pt``, by ``write(path)``."""

    def prepare(here):
        (here / "net.py").write_text(NETWORK)
        write(here / "odd.pt")

    return prepare


def compressed(count):
    """Write a checkpoint of so many zeros whose records are compressed, as torch never does."""

    def write(path):
        import torch

        plain = io.BytesIO()
        torch.save({"weight": torch.zeros(3, 6), "bias": torch.zeros(3)}, plain)
        with (
            zipfile.ZipFile(plain) as old,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
        ):
            for item in old.infolist():
                new.writestr(item.filename, old.read(item))
            with new.open("archive/data/99", "w", force_zip64=True) as file:
                for _ in range(count // 2**20):
                    file.write(bytes(2**20))

    return write


def expanded(path):
    """Write a weight of one number that claims to be 10^12 of them."""
    import torch

    torch.save({"weight": torch.zeros(1).expand(10**12), "bias": torch.zeros(3)}, path)


def pickled(path):
    """Write a pickle that would run a command."""
    import pickle

    class Harm:
        def __reduce__(self):
            return (os.system, ("touch harm",))

    data = pickle.dumps(Harm(), protocol=2)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", "3")


def safetensors(header, data=b"", length=None):
    """Return what writes a network, and weights as safetensors of this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()

    def prepare(here):
        (here / "net.py").write_text(NETWORK)
        size = len(text) if length is None else length
        (here / "odd.safetensors").write_bytes(struct.pack("<Q", size) + text + data)

    return prepare


def entry(shape, start, end, kind="F32"):
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def keras(structure, extra=None):
    """Return what writes a ``.keras`` file of this structure, with weights of nothing."""

    def prepare(here):
        import h5py

        weights = io.BytesIO()
        with h5py.File(weights, "w"):
            pass
        with zipfile.ZipFile(here / "odd.keras", "w") as file:
            if structure is not None:
                file.writestr("config.json", structure if isinstance(structure, str) else json.dumps(structure))
            file.writestr("metadata.json", "{}")
            file.writestr("model.weights.h5", weights.getvalue())
            for name, data in (extra or {}).items():
                file.writestr(name, data, zipfile.ZIP_DEFLATED)

    return prepare


def dense(**changes):
    """Return the structure of a model of one layer."""
    layers = [
        {"class_name": "InputLayer", "module": "keras.layers", "config": {"batch_shape": [None, 6], "name": "x"}},
        {"class_name": "Dense", "module": "keras.layers", "config": {"units": 3, "name": "d"}} | changes,
    ]
    return {"class_name": "Sequential", "module": "keras", "config": {"name": "net", "layers": layers}}


def h5(write):
    """Return what writes an ``.h5`` model whose arrays ``write(file)`` makes."""

    def prepare(here):
        import h5py

        with h5py.File(here / "odd.h5", "w") as file:
            file.attrs["model_config"] = json.dumps(dense())
            write(file)

    return prepare


def h5_chunks(file):
    file.create_dataset("model_weights/d/kernel", (10**6, 10**6), np.float32, chunks=(1000, 1000))


def h5_link(file):
    import h5py

    file["model_weights"] = h5py.ExternalLink("/etc/passwd", "/")


def saved_model(data):
    def prepare(here):
        (here / "odd").mkdir()
        (here / "odd" / "saved_model.pb").write_bytes(data)

    return prepare


def hub(config=None, files=None, tensors=None):
    """Return what writes a folder of transformers, ``odd``, of a tiny BERT's config changed so, and other files."""
    whole = {
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20,
        "max_position_embeddings": 16,
    }  # fmt: skip
    text = config if isinstance(config, str | bytes) else json.dumps({**whole, **(config or {})})

    def prepare(here):
        from safetensors.numpy import save_file

        folder = here / "odd"
        folder.mkdir()
        (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        save_file(tensors or {"x": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
        for name, data in (files or {}).items():
            (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return prepare


def index(name):
    return {"model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": {"w": name}})}


def flatbuffer(at=None, data=b"", cut=None):
    """Return what writes a TFLite file with bytes written over at a place, or cut off."""

    def prepare(here):
        import flat

        whole = bytearray(flat.connected())
        if at is not None:
            whole[at : at + len(data)] = data
        (here / "odd.tflite").write_bytes(bytes(whole)[:cut])

    return prepare
