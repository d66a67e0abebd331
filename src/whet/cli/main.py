"""The entry point. Verbs are imported when they are called, so that ``whet --help`` answers at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from importlib import import_module
from types import FrameType

import click

from whet.errors import INTERNAL, INTERRUPTED

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

    Exit codes: 0 done (PASS), 1 a verdict FAIL or a bundle that fails its checks, 2 a mistake in the command,
    3 INCONCLUSIVE, 70 an internal error or a run in which every candidate failed, 130 interrupted by Ctrl-C
    (143 by SIGTERM, 129 by SIGHUP, 141 if nobody reads the output).
    """
    from whet.environment import moved_caches
    from whet.temporary import process_folder

    os.environ.update(moved_caches(process_folder() / "caches"))


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end; it unwinds as after Ctrl-C. ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNWIND_SECONDS = 5.0  # within which further signals are ignored, so that what is cleaned up is cleaned up whole


def main() -> None:
    """Run the command line and exit. SIGTERM and SIGHUP unwind it as Ctrl-C does."""
    from whet.cli.streams import escape_what_cannot_be_written

    escape_what_cannot_be_written()
    _handle_signals()
    code = invoke(sys.argv[1:])
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # nothing is left to interrupt but the interpreter's own exit
    sys.exit(code)


def _handle_signals() -> None:
    """Raise Stopped at the first signal; what is ignored already (``nohup``, jobs of a script) stays ignored."""
    first: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] < _UNWIND_SECONDS:
            return
        first[:] = [now]
        raise Stopped(number)

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def invoke(arguments: list[str]) -> int:
    """Run a command line and return its exit code; a mistake is one line, our own bug keeps its traceback."""
    from whet.errors import WhetError

    try:
        code = _run(arguments or ["--help"])
        sys.stdout.flush()  # here, where it is still known what a closed pipe means
    except click.ClickException as error:
        return _refuse(f"error: {_usage(error)}", error.exit_code)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, click.Abort) as stop:
        code = 128 + stop.number if isinstance(stop, Stopped) else INTERRUPTED
        return _refuse("interrupted; what was finished is kept, and the same command goes on from there", code)
    except WhetError as error:
        internal = "internal: " if error.exit_code == INTERNAL else ""
        return _refuse(f"error: {internal}{_one_line(str(error))}", error.exit_code)
    except BrokenPipeError:
        return _unread()
    except Exception as error:  # noqa: BLE001 - a bug of whet's own
        return _internal(error)
    return code if isinstance(code, int) else 0


def _run(arguments: list[str]) -> object:
    """Run a command. Click's own ``main`` takes every EOFError for an interruption, and hides a broken pipe."""
    if "_WHET_COMPLETE" in os.environ:  # the shell asks for completions
        whet.main(arguments, prog_name="whet")
    with whet.make_context("whet", arguments) as context:
        return whet.invoke(context)


def _refuse(line: str, code: int) -> int:
    """Print a line on standard error and return the exit code; control characters of a foreign text are escaped."""
    shown = "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in line)
    try:
        click.echo(shown, err=True)
    except OSError:  # nobody reads that either
        return code
    return code


def _unread() -> int:
    """End quietly because nobody reads the output any more, as a program that SIGPIPE ended."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # so that what is still in the buffer goes somewhere when the interpreter exits
    return 128 + signal.SIGPIPE


def _internal(error: Exception) -> int:
    """Print the traceback of a bug of whet's own, and a line that says what it is."""
    import traceback

    from whet.errors import in_one_line

    text = "".join(traceback.format_exception(error))
    kind = type(error).__name__
    return _refuse(
        f"{text}error: internal: {kind}: {in_one_line(error)}; this is a bug of whet: please report it with the "
        f"lines above and the command",
        INTERNAL,
    )


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
