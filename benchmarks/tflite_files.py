"""What makes a TFLite file small, on ResNet-8 of MLPerf Tiny: bytes raw and deflated, without any training.

    python benchmarks/tflite_files.py

Sparse forms are those of a copy of which 80 % of the weights were zeroed by magnitude: their sizes are what is told
here, not their accuracy (``compression.py resnet8`` has that, trained).
"""

import sys
import tempfile
from pathlib import Path

import whet
from whet.measure.size import deflated_size
from whet.models.keras.adapter import KerasAdapter
from whet.models.source import source_of
from whet.passes.base import PassContext
from whet.recipe.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))
import compression
import models

EXPORT = {"pass": "export-tflite", "batch": 1}
CLEAN, PACK = {"pass": "clean-graph"}, {"pass": "pack"}
STATIC = {"pass": "static-int8", "calibration": "percentile"}
PRUNE = {"pass": "magnitude-prune", "sparsity": 0.8, "scope": "global"}
ZEROS = [{"pass": "to-torch"}, PRUNE, {"pass": "to-keras"}]
FORMS = {
    "float": [],
    "float16": [{"pass": "half"}],
    "INT8": [STATIC],
    "INT4 weights, INT8 activations": [{**STATIC, "weight_bits": 4}],
}


def applied(model, steps, context):
    for step in Recipe.of("sizes", steps).steps:
        model = step.apply(model, context).model
    return model


def tell(name, model, folder):
    """Print what a file takes."""
    path = folder / "model.tflite"
    path.write_bytes(model.payload)
    print(f"| {name} | {len(model.payload):,} | {deflated_size(path):,} |", flush=True)


def main():
    path = models.ASSETS / "models" / "mlperf-tiny" / "pretrainedResnet.h5"
    source, data = KerasAdapter().open(source_of(path), None), whet.dataset(compression.cifar10_pixels())
    print("| | raw | deflated |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        context = PassContext(Path(folder), data=data, original=lambda: source)
        for zeros, begin in (("", []), (", 80 % zeros", ZEROS)):
            exported = applied(source, [*begin, EXPORT], context)
            for form, steps in FORMS.items():
                made = applied(exported, steps, context)
                tell(form + zeros, made, context.folder)
                tell(f"{form}{zeros}, clean-graph", applied(made, [CLEAN], context), context.folder)
                if zeros and "INT4" not in form:
                    tell(f"{form}{zeros}, pack, clean-graph", applied(made, [PACK, CLEAN], context), context.folder)


if __name__ == "__main__":
    main()
