"""The command line: `headwater COMMAND`, and how errors are printed. It has no other logic.

A command is a module of this room with the command's name, which defines a click command `command`.
The module is imported when its command is called. A new command is a new file and a line in
COMMANDS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final

import click

from headwater import __version__
from headwater.commands.help import Formatted, write_rows
from headwater.settings.error import SettingsError

#: The name and first sentence of each command, by purpose.
COMMANDS: Final[Mapping[str, Mapping[str, str]]] = {
    "Serve": {
        "serve": "Watch a cluster, or files, and answer CoreDNS.",
        "demo": "Serve the bundled example and show the first answers.",
    },
    "Prepare": {
        "check": "Try what `serve` needs, one line each.",
        "names": "List the names that manifests would have.",
        "config": "Print the settings in force, and where each comes from.",
        "corefile": "Print the Corefile block that makes CoreDNS ask here.",
    },
    "Ask": {
        "query": "Ask a running headwater over gRPC; print as dig does.",
        "explain": "Say why a name answers as it does, or does not.",
        "history": "Say what a name's answers were changed to, when and why.",
        "compare": "Ask another DNS server for every name, and compare.",
    },
}

#: Exit codes other than 0 (docs/operations.md): a failure at run time, bad usage, Ctrl-C.
FAILED: Final = 1
USAGE: Final = 2
#: The command worked, and its result is negative: the name has no answer, or the names differ.
NEGATIVE: Final = 3
INTERRUPTED: Final = 130


class Commands(Formatted, click.Group):
    """The commands of COMMANDS, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = import_module(f"headwater.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            near = _nearest(args[0].lower(), known)
            hint = f"do you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise click.UsageError(f"no command {args[0]!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        write_rows(formatter, {title: list(section.items()) for title, section in COMMANDS.items()})


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """Print the version, and what else a bug report needs."""
    if asked and not ctx.resilient_parsing:
        import platform

        system, machine = platform.system(), platform.machine()
        click.echo(f"headwater {__version__} (Python {platform.python_version()}, {system} {machine})")
        ctx.exit()


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `headwater demo`. `headwater COMMAND --help` explains a command.",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
              help="Show the version and exit.")  # fmt: skip
def cli() -> None:
    """A DNS backend for CoreDNS: every answer of a cluster, ready in wire format.

    CoreDNS forwards the cluster's zones over its grpc plugin; headwater watches Kubernetes and
    replies.
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the console script. An error that the user can mend is one line on standard error."""
    return run(cli, "headwater", arguments)


def run(command: click.Command, name: str, arguments: list[str] | None) -> int:
    """Run a console script of that name."""
    try:
        code = _run(command, name, arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # Nobody reads the output any more (`| head -1`), and the interpreter flushes once more
            # at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        raise
    return code


def _run(command: click.Command, name: str, arguments: list[str] | None) -> int:
    try:
        return int(command.main(arguments, prog_name=name, standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"{name}: {_one_line(error)}", err=True)
        return error.exit_code
    except SettingsError as error:
        click.echo(f"{name}: {error}", err=True)
        return USAGE


def _nearest(word: str, known: Sequence[str]) -> list[str]:
    """What was meant, if anything."""
    from difflib import get_close_matches  # only for a mistake

    return get_close_matches(word, known, 1)


def _one_line(error: click.ClickException) -> str:
    """Return click's error without its capital and full stop, because it follows "headwater: "."""
    if isinstance(error, click.NoSuchOption):
        near = _nearest(error.option_name, error.possibilities or ())
        return f"no option {error.option_name}{f': do you mean {near[0]}?' if near else ''}"
    text = " ".join(error.format_message().split())
    return text[:1].lower() + text[1:].removesuffix(".")
