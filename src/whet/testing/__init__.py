"""Conformance suites for extensions: subclass one, say how yours is made, and let pytest collect it.

class TestMyPass(PassContract):
    def make_pass(self): return MyPass()
    def make_model(self): return whet.load("tiny.onnx")
"""

from whet.testing.adapter import AdapterContract
from whet.testing.passes import PassContract
from whet.testing.runtime import RuntimeContract

__all__ = ["AdapterContract", "PassContract", "RuntimeContract"]
