"""Explanations without a running instance: from a state directory, and from manifests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.answer.resolver import Resolver
from headwater.explain.explain import explained_from
from headwater.explain.explanation import Explanation
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, stored_identity
from headwater.store.identity import Identity


class Unusable(RuntimeError):  # noqa: N818 (what it is)
    """A store cannot be opened; the text says why, and what to do."""


@contextmanager
def opened(state_dir: Path, settings: Settings) -> Iterator[tuple[Reader, Resolver]]:
    """Open the store of a state directory, of any source. Raises Unusable."""
    try:
        stored = stored_identity(state_dir)
    except OSError as error:
        raise Unusable(str(error)) from None
    shape = settings.records_fingerprint()
    if stored.shape and stored.shape != shape:
        raise Unusable(
            f"{state_dir}: its records were made with other settings: give the flags that serve has, or its --config"
        )
    reader = Reader(state_dir, Identity(stored.source, shape))
    try:
        reader.follow()
        yield reader, Resolver(reader, settings)
    finally:
        reader.close()


def explained_offline(state_dir: Path, settings: Settings, name: str, qtype: str) -> Explanation:
    """Explain a name from a state directory.

    Raises Unusable, and ValueError for an unknown type.
    """
    with opened(state_dir, settings) as (reader, resolver):
        return explained_from(reader, resolver, settings, name, qtype)
