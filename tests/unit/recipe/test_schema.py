"""The JSON schema, by a small validator of the keywords that it uses."""

import inspect
import tomllib

import msgspec
import pytest

from whet.passes import registry
from whet.recipe import presets
from whet.recipe.schema import _summary, schema
from whet.types import Format

SCHEMA = schema()
TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip
BOUNDS = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
    "minItems": lambda value, bound: len(value) >= bound,
    "const": lambda value, bound: value == bound,
    "enum": lambda value, known: value in known,
}
NOTES = {"$schema", "$defs", "title", "description", "default"}
HANDLED = {*BOUNDS, *NOTES, "$ref", "oneOf", "type", "properties", "required", "additionalProperties", "items"}


def valid(value, rule) -> bool:
    """Tell whether a value meets a rule (JSON Schema 2020-12, the part that whet uses)."""
    assert set(rule) <= HANDLED, set(rule) - HANDLED
    if "$ref" in rule:
        return valid(value, SCHEMA["$defs"][rule["$ref"].removeprefix("#/$defs/")])
    if "oneOf" in rule:
        return sum(valid(value, one) for one in rule["oneOf"]) == 1
    kind = rule.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (kind != "boolean" and isinstance(value, bool))):
        return False
    if not all(meets(value, rule[key]) for key, meets in BOUNDS.items() if key in rule):
        return False
    if kind == "array":
        return all(valid(item, rule.get("items", {})) for item in value)
    if kind != "object":
        return True
    known = rule["properties"]
    return (
        set(rule.get("required", ())) <= set(value)
        and (rule.get("additionalProperties", True) or set(value) <= set(known))
        and all(valid(item, known[key]) for key, item in value.items() if key in known)
    )


@pytest.mark.parametrize("source", [Format.ONNX, Format.TORCH])
@pytest.mark.parametrize("name", presets.NAMES)
def test_every_presets_own_toml_is_valid(name, source):
    assert valid(tomllib.loads(presets.preset(name, source).dumps()), SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "[[steps]]\npass = 'half'",
        "name = 'a'\nseed = 3\ndescription = 'b'\n[[steps]]\npass = 'magnitude-prune'\nexclude = ['fc']",
    ],
)
def test_what_whet_reads_is_valid(text):
    assert valid(tomllib.loads(text), SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "nam = 'a'\n[[steps]]\npass = 'half'",
        "steps = []",
        "name = 'a'",
        "seed = 'x'\n[[steps]]\npass = 'half'",
        "seed = -1\n[[steps]]\npass = 'half'",
        "[[steps]]\npass = 'xyzzy'",
        "[[steps]]\nsparsity = 0.3",
        "[[steps]]\npass = 'half'\nsparsity = 0.3",
        "[[steps]]\npass = 'magnitude-prune'\nsparsty = 0.3",
        "[[steps]]\npass = 'magnitude-prune'\nsparsity = 1.0",
        "[[steps]]\npass = 'magnitude-prune'\nexclude = [1]",
        "[[steps]]\npass = 'static-int8'\ncalibration = 'none'",
        "[[steps]]\npass = 'static-int8'\nper_channel = 1",
    ],
)
def test_what_whet_refuses_is_invalid(text):
    assert not valid(tomllib.loads(text), SCHEMA)


def test_every_pass_and_every_setting_is_described():
    for name in registry.names():
        rule = SCHEMA["$defs"][name]
        assert rule["description"]
        assert all("description" in item for key, item in rule["properties"].items() if key != "pass")


RAW = "Train it.\n\n    More of it\n    and more.\n    "


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        (RAW, "Train it."),
        (inspect.cleandoc(RAW), "Train it."),  # as Python 3.13 and msgspec 0.23 have it
        ("\n    Train it\n    well.\n\n    More.", "Train it well."),
        ("Train it\nwell.", "Train it well."),
        ("Train it.", "Train it."),
        ("", ""),
        (None, ""),
    ],
)
def test_a_summary_does_not_depend_on_how_a_docstring_is_indented(docstring, summary):
    assert _summary(docstring) == summary


@pytest.mark.parametrize("form", [inspect.cleandoc, lambda text: text.replace("\n", "\n        "), str.strip])
def test_the_schema_is_the_same_however_msgspec_hands_docstrings_on(monkeypatch, form):
    made = msgspec.json.schema_components

    def formed(types, **options):
        found, parts = made(types, **options)
        for part in parts.values():
            part["description"] = form(part["description"])
        return found, parts

    monkeypatch.setattr(msgspec.json, "schema_components", formed)
    assert schema() == SCHEMA
