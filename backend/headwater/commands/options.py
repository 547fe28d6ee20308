"""The options of `settings.options` as click's, for every command with the flags of `serve`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Final

import click

from headwater.commands.help import Formatted, flag, help_all
from headwater.process import early
from headwater.settings.configuration import configure, located
from headwater.settings.error import SettingsError
from headwater.settings.options import OPTIONS, Given, Option
from headwater.settings.settings import Settings

_CONFIG: Final = "Configuration"
_EPILOG: Final = (
    "Every flag has a variable and a key in the file of --config: --state-dir is HEADWATER_STATE_DIR, and state-dir "
    "in [state]. A flag goes before its variable, a variable before the file. `headwater config` shows what is in "
    "force."
)


class _Choice(click.Choice[str]):
    """Choices for the shell's completion only. The table of options refuses other values."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        return value


def settings_command(help_: str, **attributes: Any) -> Callable[[Callable[..., int]], click.Command]:
    """Make a command that takes every option of `serve` and is called with a Configuration.

    An error about a setting says where its value came from, even if the command finds it later.
    """

    def decorate(function: Callable[..., int]) -> click.Command:
        @functools.wraps(function)
        def run(config: str | None, **parameters: Any) -> int:
            flags = {option.flag: parameters.pop(option.field) for option in OPTIONS}
            with early.stopping_at_once():  # the file may be a pipe that nobody writes to
                configuration = configure(flags, os.environ, config)
            try:
                return function(configuration, **parameters)
            except SettingsError as error:
                raise located(error, configuration.origins) from None

        decorated: Any = help_all(run)
        for option in reversed(OPTIONS):
            decorated = _declared(option)(decorated)
        text = "Read settings without a flag or a variable from this file (TOML)."
        decorated = flag("--config", group=_CONFIG, metavar="FILE", help=text)(decorated)
        return click.command(cls=Formatted, help=help_, epilog=_EPILOG, **attributes)(decorated)

    return decorate


def _declared(option: Option) -> Callable[[Any], Any]:
    """Declare an option that yields text.

    The values of flags, variables and files are parsed together.
    """
    shown = default_text(option.default, option.unset)
    text = f"{option.help} [{shown}]" if shown else option.help
    place: dict[str, Any] = {"group": option.topic.title, "basic": option.basic, "default": None, "help": text}
    if option.kind == "switch":
        return flag(f"{option.flag}/--no-{option.key}", option.field, **place)
    kind = _Choice(option.choices) if option.choices else str
    return flag(option.flag, option.field, metavar=option.metavar, multiple=option.many, type=kind, **place)


def default_text(default: Given | None, unset: str) -> str:
    """Return a default as help and documentation show it; "" if there is none."""
    if default is None or default is False or default in ((), ""):
        return unset
    return " ".join(default) if isinstance(default, tuple) else str(default)


def settings_of(arguments: list[str]) -> Settings:
    """Return the Settings that `headwater serve` makes of these arguments.

    Raises SettingsError, click.UsageError.
    """
    from headwater.commands.serve import command

    with command.make_context("serve", list(arguments)) as context:
        flags = {option.flag: context.params[option.field] for option in OPTIONS}
        return configure(flags, os.environ, context.params["config"]).settings
