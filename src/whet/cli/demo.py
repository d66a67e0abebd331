"""``whet demo``."""

from __future__ import annotations

from typing import Any

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("demo", cls=Verb)
@click.option(
    "--out", default="demo-run", show_default=True, metavar="RUN", help="The folder; the same command resumes."
)
@opt.json_flag
def command(out: str, as_json: bool) -> int:
    """Train a small CNN on handwritten digits in seconds, then optimize it: the whole story, offline."""
    from whet import api, plain
    from whet.cli import console

    with console.Show() as show:
        outcome = _demo(api, out, show)
    if as_json:
        click.echo(plain.dumps(outcome), nl=False)
    else:
        from pathlib import Path

        console.outcome_table(outcome, Path(out))
    return console.exit_code(outcome)


def _demo(api: Any, out: str, show: Any) -> Any:

    from whet import demo
    from whet.isolate import call
    from whet.search import run_folder

    run = run_folder.resolved(out)
    run_folder.check(run)  # before anything is put beside it
    model, weights = demo.files(run)
    if not weights.exists():
        call(demo.train, weights, on_event=show)
    return api.optimize(f"{model}:digits_cnn", "digits", out, weights=weights, recipes=demo.RECIPES, on_event=show)
