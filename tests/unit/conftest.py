"""Outcomes by hand: what a run leaves, without a run."""

import numpy as np
import pytest

from whet.machine import Machine
from whet.measure.measurement import Interval, Measurement
from whet.measure.quality import ClassChange, Comparison, Quality
from whet.measure.statistics import paired_difference
from whet.measure.verdict import Answer, Budget, Verdict, overall
from whet.search.choice import rank
from whet.search.outcome import Outcome, Proof
from whet.trials.problem import Failure, Original, Result, StepReport
from whet.types import Skipped

MACHINE = Machine(
    "A Processor @ 2.0 GHz", ("avx2", "fma"), 2, 8 * 2**30, "Linux x86_64", "3.11.7", {"numpy": "2.0"}
)

# name, speed against the model as given at the first batch size, bytes, samples lost and won of 1,000
CANDIDATES = (
    ("float", 2.9, 1_100_000, 0, 0),
    ("graph-only", 3.0, 1_080_000, 0, 0),
    ("static-int8", 6.4, 300_000, 8, 5),
    ("dynamic-int8", 0.45, 330_000, 3, 2),
    ("half", 2.8, 560_000, 1, 0),
    ("static-int8-entropy", 6.3, 300_000, 26, 4),
    ("combined", 6.5, 299_000, 90, 10),
)
FAILED = (
    (
        "static-int8-edges",
        "NothingChanged",
        "step 3 (static-int8): static-int8 changed nothing;\nleave the step out",
    ),
    ("torch-half", "ChildCrashed", "died of SIGSEGV; its last words are in logs/build.log"),
)


def confusion(classes, wrong, seed=0, samples=1000):
    """Counts of 1,000 samples, of which some are wrong."""
    rng = np.random.default_rng(seed)
    counts = np.diag(np.bincount(np.arange(samples) % classes, minlength=classes))
    for _ in range(wrong):
        row = int(rng.integers(classes))
        if counts[row, row]:
            counts[row, row] -= 1
            counts[row, (row + 1 + int(rng.integers(classes - 1))) % classes] += 1
    return tuple(tuple(int(count) for count in row) for row in counts)


class Maker:
    """Makes outcomes that differ in what a test asks for."""

    def __init__(self, *, task="classification", classes=3, batches=(1, 32), failed=0, kind="optimize"):
        self.task, self.classes, self.batches, self.failed, self.kind = task, classes, batches, failed, kind
        self.regression = task == "regression"
        self.metric = {"classification": "accuracy", "regression": "rmse", "fidelity": "agreement"}[task]

    def value(self, lost, won):
        drop = (lost - won) / 1000
        return 0.31 * (1 + drop) if self.regression else 0.915 - drop

    def quality(self, lost=0, won=0):
        value = self.value(lost, won)
        counts = confusion(self.classes, 85 + lost - won) if self.task == "classification" else None
        return Quality(1000, {self.metric: value, "auc": None}, 0.009, counts)

    def comparison(self, lost, won):
        drop = (lost - won) / 1000
        interval = Interval(*paired_difference(lost, won, 1000, 0.95), 0.95, "gamma limits, paired", one_sided=True)
        pairs = (None, None) if self.regression else (lost, won)
        fidelity = {"explained": 0.98, "sqnr_db": 17.0} if self.regression else {"agreement": 0.97, "kl": 0.01}
        changes = tuple(
            ClassChange(
                label, 333, 0.92, 0.91, 0.01, Interval(-0.02, 0.04, 0.983, "gamma limits, paired", True), 5, 2
            )
            for label in range(self.classes if self.task == "classification" else 0)
        )
        return Comparison(
            self.metric, not self.regression, self.value(0, 0), self.value(lost, won), drop, interval, 1000, *pairs,
            fidelity, Interval(0.96, 0.98, 0.95, "Wilson", one_sided=True), changes,
        )  # fmt: skip

    def numbers(self, speed, size, lost, won):
        found = [Measurement(self.metric, self.value(lost, won), "", "", 1000, None, {"part": "select"})]
        for at, batch in enumerate(self.batches):
            here = speed / (1 + at)  # less is won at a large batch
            for name, of in (("original", 1.0), ("float", 2.9 / (1 + at)), ("candidate", here)):
                where = {"batch_size": batch, "contestant": name}
                found.append(Measurement("latency_p50_ms", 2.1 * batch**0.8 / of, "ms", "min", 900, None, where))
            for against, of in (("original", 1.0), ("float", 2.9 / (1 + at))):
                ratio, where = here / of, {"batch_size": batch, "against": against}
                interval = Interval(0.97 * ratio, 1.03 * ratio, 0.95, "median of paired rounds, exact")
                found.append(Measurement("speedup", ratio, "x", "max", 20, interval, where))
        return (
            *found,
            Measurement("size_bytes", size, "bytes", "min"),
            Measurement("deflated_bytes", 0.9 * size, "bytes", "min"),
            Measurement("deflation_percent", 10, "%", "max"),
            Measurement("peak_memory_bytes", 90 * 2**20, "bytes", "min", 0, None, {"batch_size": 32}),
        )

    def steps(self, name, size, lost, won):
        given = self.value(0, 0)
        found = [StepReport("original", "torch", "k0", 0.1, given, 1_150_000, 2.1)]
        if name == "combined":
            notes = {"sparsity": 0.4, "weight_sqnr_db_by_type": {"Conv2d": 9.5, "Linear": 12.0}}
            skipped = (Skipped("fc", "excluded by the recipe (fc)"), Skipped("bn", "a BatchNorm2d has no matrix"))
            given = self.value(55, 0)
            found.append(
                StepReport("magnitude-prune", "torch", "k1", 0.2, given, 1_150_000, 2.12, 20, skipped, notes)
            )
        notes = {"max_rel_difference": 2e-6, "subnormals_flushed": 11, "problem": "two\nlines | and a bar"}
        found.append(StepReport("export-onnx", "onnx", f"k2{name}", 4.0, given, 1_100_000, 0.7, 22, (), notes))
        last = StepReport("quantize", "onnx", f"k3{name}", 1.5, self.value(lost, won), size, None, 21)
        return tuple(found if name == "float" else [*found, last])

    def result(self, name, speed, size, lost, won):
        verdicts = ()
        if self.kind == "run" and name != "float":
            answer = Answer.FAIL if lost > 20 else Answer.INCONCLUSIVE if lost > 5 else Answer.PASS
            needed = 5200 if answer is Answer.INCONCLUSIVE else None
            verdicts = (Verdict(f"{self.metric} is worse by at most 0.01", answer, "0.915 before | after", needed),)
        return Result(
            name, f"fingerprint of {name}", f"What {name} does.", self.steps(name, size, lost, won), "key",
            self.numbers(speed, size, lost, won), self.quality(lost, won), self.comparison(lost, won),
            "test" if self.kind == "run" else "select", verdicts, None, 12.5,
        )  # fmt: skip

    def failure(self, name, kind, message):
        part = "test" if self.kind == "run" else "select"
        return Result(name, name, f"What {name} does.", part=part, failure=Failure(kind, message), seconds=3.2)

    def original(self):
        names = tuple(f"class {at}" for at in range(self.classes)) if self.task == "classification" else ()
        return Original(
            "resnet20.py:build", "torch", "k0", "k2float", None, "logits", self.task, self.metric,
            "min" if self.regression else "max", names, 270_000, 40_800_000, self.quality(),
            {"train": 0, "select": 1000, "test": 1000}, ("select was carved out of test",), "data",
        )  # fmt: skip

    def proof(self, chosen):
        verdicts = (
            Verdict("accuracy is worse by at most 0.01", Answer.INCONCLUSIVE, "0.915 before, 0.912 after", 5200),
            Verdict("at most 1,100,000 bytes on disk", Answer.PASS, "300,000 bytes on disk"),
            Verdict(
                "at least 1x as fast, batch 1",
                Answer.INCONCLUSIVE,
                "1.00x (0.99 to 1.01)",
                None,
                "blocks",
                "no number: it lies at the limit",
            ),
        )
        return Proof(
            chosen, verdicts, str(overall(verdicts)), self.comparison(8, 5), self.quality(8, 5), self.quality(), ()
        )

    def outcome(self, **changes):
        results = [self.result(*row) for row in CANDIDATES]
        results += [self.failure(*row) for row in FAILED[: self.failed]]
        ranking = tuple(rank(results, Budget())) if self.kind == "optimize" else ()
        proof = self.proof("static-int8") if self.kind == "optimize" else None
        given = {
            "command": {"model": "resnet20.py:build"}, "kind": self.kind, "original": self.original(),
            "results": tuple(results), "ranking": ranking, "not_tried": (), "proof": proof, "budget": Budget(),
            "warnings": (), "machine": MACHINE, "seconds": 321.0,
        }  # fmt: skip
        return Outcome(**{**given, **changes})


@pytest.fixture(scope="session")
def make():
    """Return a function that makes an outcome: ``make(failed=2, task="regression")``."""

    def build(changes=None, **asked):
        return Maker(**asked).outcome(**(changes or {}))

    return build


@pytest.fixture(scope="session")
def maker():
    """Return the class, for tests that put outcomes together themselves."""
    return Maker
