"""The entry point. Verbs are imported when they are called, so that ``whet --help`` answers at once."""

from __future__ import annotations

import sys
from importlib import import_module

import click

VERBS = {
    "demo": "The whole story on built-in data, offline, in a few minutes.",
    "profile": "Where parameters, bytes, MACs and time go.",
    "optimize": "Search, prove, report, bundle.",
    "run": "Fixed recipes, compared side by side.",
    "lab": "An image classifier, compressed in every way and compared.",
    "bench": "Speed, size and memory of any models, in turns.",
    "evaluate": "What any models are worth on data.",
    "compare": "Any models against the first: quality, speed, size.",
    "verify": "Is a bundle what it says it is, here?",
    "report": "Write a run's report again, from its results.",
}


class Verbs(click.Group):
    """A group whose commands live in modules of their name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a first day."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        command = import_module(f"whet.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the closest verb for an unknown one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from whet.errors import did_you_mean

            raise click.UsageError(f"there is no verb {args[0]!r}{did_you_mean(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="whet", prog_name="whet")
def whet() -> None:
    """From a trained model to a smaller, faster one you can trust.

    Exit codes: 0 done (PASS), 1 a verdict FAIL, 2 your mistake, 3 INCONCLUSIVE, 130 interrupted.
    """


def main() -> None:
    """Run the command line and exit."""
    from whet.cli.streams import escape_what_cannot_be_written

    escape_what_cannot_be_written()
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Run a command line and return its exit code; a mistake is one line, our own bug keeps its traceback."""
    from whet.errors import WhetError

    try:
        code = whet.main(arguments or ["--help"], prog_name="whet", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"error: {_usage(error)}", err=True)
        return error.exit_code
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; what was finished is kept, and the same command goes on from there", err=True)
        return 130
    except WhetError as error:
        click.echo(f"error: {_one_line(str(error))}", err=True)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> str:
    """Return one line that says what is wrong with a command line, and where it is told how to write it."""
    text = _one_line(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    where = f"; see {context.command_path} --help" if context is not None else ""
    return f"{text[:1].lower()}{text[1:]}{where}"


def _one_line(text: str, limit: int = 2000) -> str:
    """Return a message in one printable line, cut in the middle where it is longer than anyone reads."""
    from whet.bounds import printable

    text = printable(text)
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
