"""``whet verify``."""

from __future__ import annotations

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("verify", cls=Verb)
@click.argument("bundle")
@opt.trust_code
@click.option(
    "--digest", metavar="SHA256",
    help="What the digest of the manifest must be, as verify printed it where the bundle was made: sha256:4f2a...",
)  # fmt: skip
@opt.json_flag
def command(bundle: str, digest: str | None, trust_code: bool, as_json: bool) -> int:
    """Check that BUNDLE is as it was sealed, and that it runs and answers here as it did then.

    Checksums show damage, not forgery: who can write to the folder can seal it again. Give --digest for that.
    """
    from pathlib import Path

    from whet.errors import UserError

    if not Path(bundle).is_dir():
        raise UserError(f"{bundle} is not a folder; name a bundle, such as RUN/bundle")
    from whet import api, plain

    checks = api.verify(bundle, trust_code=trust_code, digest=digest)
    whole = all(check.ok for check in checks)
    if as_json:
        click.echo(plain.dumps({"ok": whole, "digest": checks.digest, "checks": checks}), nl=False)
        return 0 if whole else 1
    for check in checks:
        click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.kind:<10} {check.detail}")
    if checks.digest:
        click.echo(f"digest of the manifest: {checks.digest}")
    return 0 if whole else 1
