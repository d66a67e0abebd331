"""``whet optimize``."""

from __future__ import annotations

from typing import Any

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("optimize", cls=Verb)
@click.argument("model")
@opt.weights
@opt.data
@opt.data_options
@opt.model_options
@opt.budget_options
@opt.batch_sizes
@opt.runtime
@opt.machine_options
@click.option("--within", type=opt.Duration(), help="Begin no further candidate after so long: 20m.")
@click.option(
    "--recipe", "recipes", multiple=True, help="Try this preset or .toml in place of the usual set. Repeatable."
)
@click.option(
    "--robustness/--no-robustness",
    default=True,
    show_default=True,
    help="Also try what is chosen on corrupted inputs.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check everything that can be checked without work, and say what would be done."
)
@opt.out
@opt.json_flag
def command(model: str, data: str, out: str, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Make MODEL smaller and faster, and prove on the shipped file that it is still good enough.

    MODEL is a file (.onnx .pt2 .tflite .keras .h5), a SavedModel folder, hf:owner/name, or file.py:function with
    --weights.
    """
    from whet import api

    options["budget"] = opt.budget(options)
    options["recipes"] = options["recipes"] or None
    if dry_run:
        return _dry_run(api.plan("optimize", model, data, out, **options), as_json)
    return carry_out("optimize", model, data, out, as_json=as_json, **options)


def carry_out(kind: str, model: str, data: str, out: str, *, as_json: bool, **options: Any) -> int:
    """Run ``optimize`` or ``run`` with progress, print the result, and return the exit code."""
    from pathlib import Path

    from whet import api
    from whet.cli import console

    with console.Show() as show:
        verb = api.optimize if kind == "optimize" else api.run
        outcome = verb(model, data, out, on_event=show, **options)
    if as_json:
        from whet import plain

        click.echo(plain.dumps(outcome), nl=False)
    else:
        console.outcome_table(outcome, Path(out))
    return console.exit_code(outcome)


def _dry_run(order: Any, as_json: bool) -> int:
    from whet import plain

    recipes = {item.name: item.recipe for item in order.candidates}
    if as_json:
        click.echo(plain.dumps({**order.command, "dry_run": True}), nl=False)
        return 0
    source = order.problem.source
    click.echo(f"model   {source.path}:{source.factory}" if source.factory else f"model   {source.path}")
    click.echo(f"data    {order.problem.data.name}")
    click.echo(f"folder  {order.problem.folder}")
    for name, recipe in recipes.items():
        click.echo(f"  {name:<22} {' > '.join(step.name for step in recipe.steps)}")
    click.echo("Nothing was opened or written.")
    return 0
