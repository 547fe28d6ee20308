"""Exec credential plug-ins, with a time limit, and with failures that are raised.

The `kubernetes` package waits for a plug-in for ever. One that hangs (a login that asks a person, a
server that does not answer) would block the thread that needs its token. When a plug-in fails, the
package logs it and goes on without credentials. The API server then says 403, which looks like a
missing permission. There is no setting for either, so this module replaces names in the package's
modules.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from kubernetes.config import exec_provider, kube_config
from kubernetes.config.config_exception import ConfigException

_limit = threading.local()


class _PluginFailed(BaseException):
    """No Exception, for the package swallows these. Does not leave `limited`."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Limit the time of plug-ins that this thread starts within the block.

    Raises ConfigException for one that takes longer, fails, or gives no credentials.
    """
    _limit.seconds = seconds
    try:
        yield
    except _PluginFailed as error:
        raise ConfigException(str(error)) from None
    finally:
        _limit.seconds = None


class _Provider(exec_provider.ExecProvider):  # type: ignore[misc, unused-ignore]
    """Runs a plug-in. Raises _PluginFailed."""

    def run(self, previous_response: Any = None) -> Any:
        try:
            status = super().run(previous_response)  # type: ignore[no-untyped-call, unused-ignore]
        except Exception as error:  # noqa: BLE001 (whatever it is, there are no credentials)
            text = str(error)
            raise _PluginFailed(text if text.startswith("exec: ") else f"exec: {text}") from None
        if isinstance(status, dict) and (
            status.get("token") or (status.get("clientCertificateData") and status.get("clientKeyData"))
        ):
            return status
        raise _PluginFailed("exec: it gives neither a token nor a certificate with its key")


class _Plugin(subprocess.Popen[str]):
    """A plug-in's process, with the limit of its thread."""

    def __init__(self, arguments: list[str], **options: Any) -> None:
        # A group of its own, so that its children can be killed with it; one that asks a person
        # keeps the terminal.
        self._group = options.get("stdin") is None
        self._command = arguments[0]
        if self._group:
            options["stdin"] = subprocess.DEVNULL
        super().__init__(arguments, **options, start_new_session=self._group)

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:  # noqa: A002
        limit: float | None = getattr(_limit, "seconds", None)
        try:
            return super().communicate(input, limit if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                if self._group:
                    os.killpg(self.pid, signal.SIGKILL)
                self.kill()
            for stream in (self.stdout, self.stderr):
                if stream is not None:
                    stream.close()
            self.wait()
            raise ConfigException(f"exec: {self._command} has not ended in {limit:g} s") from None


vars(kube_config)["ExecProvider"] = _Provider
vars(exec_provider)["subprocess"] = SimpleNamespace(Popen=_Plugin, PIPE=subprocess.PIPE)
