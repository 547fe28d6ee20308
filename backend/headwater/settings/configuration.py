"""Settings and their origins: a flag over its variable over the file over the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headwater.settings import file
from headwater.settings.error import SettingsError
from headwater.settings.options import BY_FLAG, OPTIONS, Given, Option
from headwater.settings.settings import Settings


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from."""

    where: str
    """"default", "headwater.toml:12", "HEADWATER_ZONE" or "--zone"."""
    key: str = ""
    """In a file: "[served] zone"."""

    def __str__(self) -> str:
        return f"{self.where}, {self.key}" if self.key else self.where


DEFAULT: Final = Origin("default")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings in force; `origins` by flag."""

    settings: Settings
    origins: Mapping[str, Origin]


def configure(flags: Mapping[str, object], variables: Mapping[str, str], path: str | None = None) -> Configuration:
    """Put flags, variables and a file together.

    `flags` are by name ("--zone"): a text, a tuple of texts or, for a switch, a
    bool; None and () mean that it was not given. `variables` is the
    environment. `path` is the file of --config, None for the one that
    HEADWATER_CONFIG names, if it names one.
    Raises SettingsError, which names the flag and the origin of its value.
    """
    origins = dict.fromkeys(BY_FLAG, DEFAULT)
    origins[file.FLAG] = Origin(file.FLAG)
    if path is None and (path := variables.get(file.VARIABLE) or None):
        origins[file.FLAG] = Origin(file.VARIABLE)
    try:
        entries = {entry.option.flag: entry for entry in file.read(path)} if path is not None else {}
        values: dict[str, Any] = {}
        for option in OPTIONS:
            given = _outside(option, flags.get(option.flag), variables, origins)
            if given is None and (entry := entries.get(option.flag)):
                key = f"[{option.topic.name}] {option.key}"
                origins[option.flag] = Origin(f"{file.printable(path or '')}:{entry.line}", key)
                given = option.of_toml(entry.value)
            if given is not None:
                values[option.field] = option.setting(given)
        return Configuration(Settings(**values), origins)
    except SettingsError as error:
        raise located(error, origins) from None


def _outside(option: Option, flag: object, variables: Mapping[str, str], origins: dict[str, Origin]) -> Given | None:
    """The value of the flag, else of its variable.

    None without both. An empty variable counts as none.
    """
    if flag is not None and flag != ():
        origins[option.flag] = Origin(option.flag)
        match flag:
            case bool() | tuple():
                return flag
        return option.of_text(str(flag))
    if text := variables.get(option.variable):
        origins[option.flag] = Origin(option.variable)
        return option.of_text(text)
    return None


def located(error: SettingsError, origins: Mapping[str, Origin]) -> SettingsError:
    """The same error, with the origins of values that are not on the command line."""
    known = [(flag, origin) for flag in (error.flag, *error.others) if (origin := _told(flag, origins))]
    if not known:
        return error
    if len(known) == 1 and known[0][0] == error.flag:
        where = known[0][1]
    else:
        where = "; ".join(f"{flag}: {text}" for flag, text in known)
    problem = str(error).removeprefix(f"{error.flag}: ")
    return SettingsError(error.flag, f"{problem} ({where})", *error.others)


def _told(flag: str, origins: Mapping[str, Origin]) -> str:
    """The origin of a value in words; none for the command line, or without a value."""
    origin = origins.get(flag)
    if origin is None or origin.where == flag:
        return ""
    if origin is DEFAULT:
        return "the default" if BY_FLAG[flag].default else ""
    return f"set by {origin}"
