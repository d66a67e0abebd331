"""Print every requirement of pyproject.toml without its upper bound: what `make test-latest` lets uv install.

Of a range (``>=1.31,<1.32``) the lower bound is left, of a pin (``==0.10.0``) a lower bound is made.
"""

import re
import sys
import tomllib
from pathlib import Path


def overrides(requirements: list[str]) -> list[str]:
    """Return the requirements of other packages, each once, without upper bounds, extras of whet left out."""
    found = {}
    for requirement in requirements:
        name, bounds = re.fullmatch(r"([A-Za-z0-9_.-]+(?:\[[^\]]*\])?)\s*([^;]*)", requirement).groups()
        lower = [bound.replace("==", ">=") for bound in bounds.split(",") if bound.startswith((">=", "=="))]
        if not name.startswith("whet["):
            found[name] = name + ",".join(lower)
    return sorted(found.values())


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    sys.stdout.writelines(f"{line}\n" for line in overrides([*project["dependencies"], *extras]))
