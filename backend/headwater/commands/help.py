"""Format `--help`: flags in groups, in one column; the rare ones only with `--help-all`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

#: The widest flag whose text begins on the same line.
_WIDEST: Final = 28
_GAP: Final = 2
#: Text that is not broken between lines if possible: a default at the end, a command in backticks.
_TOGETHER: Final = re.compile(r"\[[^\]]{1,40}\]$|`[^`]{1,30}`|'[^']{1,30}'|(?<= )-\w \w+")
#: Characters at which textwrap does not break a line, and those that they stand for.
_UNBROKEN: Final = str.maketrans({" ": "\N{NO-BREAK SPACE}", "-": "\N{NON-BREAKING HYPHEN}"})
_BROKEN: Final = str.maketrans({"\N{NO-BREAK SPACE}": " ", "\N{NON-BREAKING HYPHEN}": "-"})
#: A key of a context's `meta`: whether all flags are shown.
_ALL: Final = "headwater.help_all"

#: The group of flags that belong to no other group.
OPTIONS: Final = "Options"


class Flag(click.Option):
    """A flag that belongs to a group of the help."""

    def __init__(self, *names: Any, group: str = OPTIONS, basic: bool = True, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.group = group
        self.basic = basic


def flag(*names: str, **attributes: Any) -> Callable[[_F], _F]:
    """Call `click.option` with a `group` of the help; `basic` is false
    for a flag of --help-all only.
    """
    return click.option(*names, cls=Flag, **attributes)


class Formatted(click.Command):
    """A command whose help shows its flags in groups, in one column."""

    def get_help(self, ctx: click.Context) -> str:
        return super().get_help(ctx).translate(_BROKEN)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = [option for option in self.get_params(ctx) if isinstance(option, click.Option) and not option.hidden]
        rare = [] if ctx.meta.get(_ALL) else [option for option in shown if not getattr(option, "basic", True)]
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in shown:
            if option not in rare:
                groups.setdefault(getattr(option, "group", OPTIONS), []).append((_names(option), option.help or ""))
        # click puts --help last; it comes last here too, with the flags of no group.
        last = groups.pop(OPTIONS, [])
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        if rare:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(f"These are the usual flags; --help-all shows {len(rare)} more.")
        write_rows(formatter, {**groups, OPTIONS: last})


def write_rows(formatter: click.HelpFormatter, groups: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write titles with rows of two columns.

    The second column begins at the same place in all groups.
    """
    names = [name for rows in groups.values() for name, _ in rows if len(name) <= _WIDEST]
    width = max(map(len, names), default=0)
    for title, rows in groups.items():
        if rows:
            with formatter.section(click.style(title, bold=True)):
                formatter.write_dl([(name.ljust(width), _together(text)) for name, text in rows], width, _GAP)


def _together(text: str) -> str:
    return _TOGETHER.sub(lambda match: match[0].translate(_UNBROKEN), text)


def _names(option: click.Option) -> str:
    """Return a flag with its value: "-h, --help", "--zone ZONE", "--[no-]zonal"."""
    if option.secondary_opts:
        return f"--[no-]{option.opts[0].removeprefix('--')}"
    names = ", ".join(sorted(option.opts, key=len))
    return names if option.is_flag else f"{names} {option.metavar}"


def help_all(function: Any) -> Any:
    """Add the flag `--help-all` to a command."""

    def show(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
        if asked and not ctx.resilient_parsing:
            ctx.meta[_ALL] = True
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    return flag("--help-all", is_flag=True, expose_value=False, is_eager=True, callback=show,
                        help="Show every flag and exit.")(function)  # fmt: skip
