"""The JSON schema of recipes, for editors that complete and check TOML."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from whet.passes.registry import names, pass_class


def schema() -> dict[str, Any]:
    """Return the schema of a recipe file, with every pass and its settings."""
    definitions: dict[str, Any] = {}
    variants = []
    for name in names():
        kind = pass_class(name)
        (found,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
        definitions.update(parts)
        body = definitions.pop(kind.__name__) if "$ref" in found else found
        body["properties"] = {"pass": {"const": name}, **body.get("properties", {})}
        body["required"] = ["pass"]
        body["additionalProperties"] = False
        body["description"] = kind.__doc__
        definitions[name] = body
        variants.append({"$ref": f"#/$defs/{name}"})
    for body in definitions.values():
        body["description"] = _summary(body.get("description"))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A whet recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["steps"],
        "properties": {
            "name": {"type": "string", "description": "Of the candidate and its folder."},
            "description": {"type": "string", "description": "A line for the report."},
            "seed": {"type": "integer", "minimum": 0, "default": 0, "description": "For whatever the steps draw."},
            "steps": {"type": "array", "minItems": 1, "items": {"oneOf": variants}},
        },
        "$defs": definitions,
    }


def _summary(docstring: str | None) -> str:
    """Return the first paragraph of a docstring as one line.

    Whether the other lines of a docstring are indented depends on the versions of Python and msgspec.
    """
    return " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())
