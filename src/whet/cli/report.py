"""``whet report``."""

from __future__ import annotations

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("report", cls=Verb)
@click.argument("run")
@opt.json_flag
def command(run: str, as_json: bool) -> int:
    """Write the report of RUN again from its results, and print the table; nothing is measured."""
    from pathlib import Path

    from whet import plain
    from whet.cli import console
    from whet.report.write import damaged_results, write
    from whet.search import outcome as outcomes

    outcome = outcomes.load(Path(run))
    with damaged_results(Path(run)):
        write(Path(run), outcome)
        if as_json:
            click.echo(plain.dumps(outcome), nl=False)
        else:
            console.outcome_table(outcome, Path(run))
    return 0
