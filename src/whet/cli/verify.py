"""``whet verify``."""

from __future__ import annotations

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("verify", cls=Verb)
@click.argument("bundle")
@opt.json_flag
def command(bundle: str, as_json: bool) -> int:
    """Check that BUNDLE is as it was sealed, and that it runs and answers here as it did then."""
    from pathlib import Path

    from whet.errors import UserError

    if not Path(bundle).is_dir():
        raise UserError(f"{bundle} is not a folder; name a bundle, such as RUN/bundle")
    from whet import api, plain

    checks = api.verify(bundle)
    if as_json:
        click.echo(plain.dumps({"ok": all(check.ok for check in checks), "checks": checks}), nl=False)
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.kind:<10} {check.detail}")
    return 0 if all(check.ok for check in checks) else 1
