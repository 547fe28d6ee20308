"""`headwater config`: print the settings in force as a `--config` file, each with its origin."""

from __future__ import annotations

import json
from typing import Final

import click

from headwater.commands.options import settings_command
from headwater.settings.configuration import Configuration
from headwater.settings.error import SettingsError
from headwater.settings.options import OPTIONS, TOPICS, Given, Option

_HEAD: Final = """\
# The settings in force, and where each comes from.
# `headwater serve --config FILE` reads them from a file like this.
"""
#: The column of the comments. A longer line pushes its comment to the right.
_COLUMN: Final = 44
#: A longer array has one line per item.
_LONG: Final = 72


@settings_command(
    "Print the settings in force, and where each comes from.\n\nThe output is TOML, as --config reads it."
)
def command(configuration: Configuration) -> int:
    click.echo(render(configuration), nl=False)
    return 0


def render(configuration: Configuration) -> str:
    """Return TOML with a final newline. Raises SettingsError for a value that TOML cannot hold."""
    parts = [_HEAD]
    for topic in TOPICS:
        lines = [_line(option, configuration) for option in OPTIONS if option.topic is topic]
        column = min(_COLUMN, max(len(line.partition("\n")[0]) for line, _ in lines))
        parts.append(f"\n[{topic.name}]\n")
        for line, where in lines:
            first, *rest = line.splitlines()
            parts += (f"{first:<{column}}  # {where}\n", *(f"{item}\n" for item in rest))
    return "".join(parts)


def _line(option: Option, configuration: Configuration) -> tuple[str, str]:
    """Return `key = value` and the value's origin. A setting without a value becomes a comment."""
    given = option.given(configuration.settings)
    origin = configuration.origins[option.flag].where
    if given is None:
        return f"# {option.key} =", f"{origin}: {option.unset}" if option.unset else f"{origin}: none"
    return f"{option.key} = {toml(given, option.flag)}", origin


def toml(given: Given, flag: str) -> str:
    """Return a value in TOML. Raises SettingsError for a text that is not UTF-8."""
    match given:
        case bool():
            return "true" if given else "false"
        case int():
            return str(given)
        case tuple():
            items = [toml(item, flag) for item in given]
            if sum(map(len, items)) > _LONG:
                return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
            return f"[{', '.join(items)}]"
    try:
        given.encode()
    except UnicodeEncodeError:
        raise SettingsError(flag, f"{given!r} is not UTF-8: no file for --config can hold it") from None
    # A string in JSON is one in TOML too, except for one control character.
    return json.dumps(given, ensure_ascii=False).replace("\x7f", "\\u007f")
