"""``whet run``."""

from __future__ import annotations

from typing import Any

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("run", cls=Verb)
@click.argument("recipes", nargs=-1)
@click.option("--model", metavar="MODEL", help="An .onnx or .pt2 file, hf:name, or file.py:function.")
@opt.weights
@click.option("--data", metavar="DATA", help=opt.DATA)
@opt.data_options
@opt.model_options
@opt.budget_options
@opt.batch_sizes
@opt.runtime
@opt.machine_options
@click.option("--out", metavar="RUN", help="The folder; the same command on it resumes.")
@click.option(
    "--schema", is_flag=True, help="Print the JSON schema of recipe files, for editors, and do nothing else."
)
@opt.json_flag
def command(recipes: tuple[str, ...], schema: bool, as_json: bool, **options: Any) -> int:
    """Compare fixed RECIPES side by side on test samples; a recipe is a preset's name or a .toml file."""
    if schema:
        from whet import plain
        from whet.recipe.schema import schema as recipe_schema

        click.echo(plain.dumps(recipe_schema()), nl=False)
        return 0
    for name in ("model", "data", "out"):
        if not options[name]:
            raise click.UsageError(f"Missing option '--{name}'.")
    from whet.cli.optimize import carry_out

    options["budget"] = opt.budget(options)
    model, data, out = (options.pop(name) for name in ("model", "data", "out"))
    return carry_out("run", model, data, out, as_json=as_json, recipes=recipes, **options)
