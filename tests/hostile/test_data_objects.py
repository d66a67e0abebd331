"""Hostile Datasets and other objects that a function of the user's returns as data."""

from driver import table
from writers import file, refused

_DATASET = """
import numpy as np

class Data:
    count = 60
    def __len__(self):
        return self.count
    def __getitem__(self, at):
        if at >= 60:
            raise IndexError(at)
        return self.item(at)
    def item(self, at):
        return np.zeros(6, np.float32), at % 3

good = (np.zeros((60, 6), np.float32), np.arange(60) % 3)
"""


def items(name, body, *says, **others):
    """Return a case whose data is what ``data()`` returns, in the words of ``body``."""
    return refused(f"factory-{name}", "data.py:data", *says, prepare=file("data.py", _DATASET + body), **others)


def length(name, expression, *says):
    return items(
        f"length-{name}",
        f"class Odd(Data):\n def __len__(self): return {expression}\ndef data(): return {{'test': Odd()}}\n", *says,
    )  # fmt: skip


def item(name, lines, *says):
    return items(
        f"item-{name}",
        f"class Odd(Data):\n def item(self, at):\n  {lines}\ndef data(): return {{'test': Odd()}}\n",
        *says,
    )


def given(name, expression, *says):
    return items(name, f"def data(): return {expression}\n", *says)


OBJECTS = [
    length("negative", "-1", "the length of the Odd cannot be used (ValueError", "a whole number from 0 up"),
    length("float", "3.5", "the length of the Odd cannot be used (TypeError"),
    length("string", "'60'", "the length of the Odd cannot be used (TypeError"),
    length("raises", "1 // 0", "the length of the Odd cannot be used (ZeroDivisionError"),
    length("beyond-64-bits", "10**30", "the length of the Odd cannot be used (OverflowError"),
    length("billions", "60 * 10**9", "has 60,000,000,000 items by its length; a part has 100,000,000 at most"),
    length("lies-by-a-million", "60 * 10**6", "item 59999999 of the Odd raised", "that it has 60,000,000"),
    length("lies-by-ten", "70", "item 60 of the Odd raised IndexError: 60; its length says that it has 70"),
    length("zero", "0", "the test part is empty"),
    items("length-changes", "class Odd(Data):\n def __len__(self):\n  self.count -= 1\n  return self.count + 20\n"
          "def data(): return {'test': Odd()}\n", "raised IndexError: 60; its length says that it has"),
    item("raises-at-17", "return Data.item(self, at if at != 17 else 1 // 0)",
         "item 17 of the Odd raised ZeroDivision"),
    item("exits", "raise SystemExit(7)", "item 0 of the Odd raised SystemExit: 7"),
    item("none", "return None if at == 5 else (np.zeros(6, np.float32), 1)", "item 5 of the Odd is None"),
    item("generator", "return (x for x in (1, 2)), 1", "of type generator), not numbers"),
    item("ragged", "return [[1], [1, 2]], 1", "item 0 of the Odd is [[1], [1, 2]] (of type list)", "not numbers"),
    item("empty-dict", "return {}, 1", "item 0 of the Odd is an empty dict"),
    item("other-inputs", "return {('a' if at % 2 else 'row'): np.zeros(6, np.float32)}, 1",
         "of the Odd has the inputs", "give all items the same"),
    item("label-only-sometimes", "return (np.zeros(6, np.float32), 1 if at != 9 else None)",
         "item 9 of the Odd has no label, item 0 has one"),
    item("label-shape-changes", "return (np.zeros(6, np.float32), 1 if at != 9 else [1, 2])",
         "item 9 of the Odd has a label of shape [2]"),
    item("label-object", "return np.zeros(6, np.float32), object()", "the label of item 0 of the Odd is <object"),
    item("label-nan", "return np.zeros(6, np.float32), float('nan') if at == 3 else 1.0",
         "the label of sample 3 of test is nan"),
    item("too-many", "return 1, 2, 3", "this one has 3 elements", "item 0 of the Odd"),
    given("classes-a-text", "{'test': good, 'classes': 'abc'}",
         "classes are a list of texts, this is 'abc' (of type str)"),
    given("classes-a-number", "{'test': good, 'classes': 3}",
          "classes are a list of texts, this is 3 (of type int)"),
    given("classes-numbers", "{'test': good, 'classes': (1, 2)}",
          "classes are a list of texts, number 0 is 1 (of type int)"),
    given("classes-endless", "{'test': good, 'classes': iter(lambda: 'a', 'b')}", "more than 1,000,000 classes"),
    given("preprocess-a-text", "{'test': good, 'preprocess': 'scale=1'}",
         "preprocess is a whet.Preprocess or None"),
    given("labels-texts", "{'test': (good[0], ['a'] * 60)}", "the labels are <U1, not numbers"),
    given("labels-objects", "{'test': (good[0], [object()] * 60)}", "row 0 is of type object, not numbers"),
    given("labels-with-none", "{'test': (good[0], [1] * 30 + [None] * 30)}", "row 30 is None, not numbers"),
    given("labels-infinite", "{'test': (good[0], [float('inf')] * 60)}",
          "the label of sample 0 of test is inf, and 59 other values are not finite either"),
    given("iterator", "iter([1, 2])", "data is (train, test), (train, select, test) or whet.Data"),
    given("part-is-an-iterator", "{'test': (x for x in ())}", "generator has no length or no items by number"),
    given("endless-iterator", "{'test': iter(int, 1)}", "has no length or no items by number"),
    given("part-is-none", "{'test': None}", "the data has no test part"),
    given("part-unknown", "{'tset': good}", "data has no part 'tset'; did you mean 'test'?"),
    given("none", "None", "data is (train, test), (train, select, test) or whet.Data(...), this is a NoneType"),
    given("pairs", "{'test': [(np.zeros(6, np.float32), 1)] * 30 + [None]}", "item 30 of the list is None"),
    given("inputs-complex", "{'test': (np.zeros((60, 6), complex), good[1])}", "holds complex128, not numbers"),
    given("inputs-nan", "{'test': (good[0] + np.nan, good[1])}", "has a NaN or infinite value"),
    given("inputs-dates", "{'test': (np.zeros((60, 6), 'M8[s]'), good[1])}", "datetime64[s], not numbers"),
    items("raises", "def data(): raise KeyError('x')\n", "data.py:data raised KeyError"),
    items("recursion", "def data(): return data()\n", "data.py:data raised RecursionError"),
]  # fmt: skip

CASES = OBJECTS


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "factory-item-generator", "factory-raises",
)  # fmt: skip


@table(CASES, slow=SLOW)
def test_hostile(case, survives):
    survives(case)
