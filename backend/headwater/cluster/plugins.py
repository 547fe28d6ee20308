"""Exec credential plug-ins have a time limit, and their failure is one.

The `kubernetes` package waits for them for ever: one that hangs (a login that asks a person, a
server that does not answer) would keep the thread that needs its token. And it logs that one has
failed, and goes on as nobody: the API server says 403 then, which looks like a missing permission.
There is no setting for either, so the names that its modules use stand for other things here.
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
    """Plug-ins that this thread starts within the block may take so long.

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
    """A plug-in's process, with the limit that its thread has."""

    def __init__(self, arguments: list[str], **options: Any) -> None:
        # A group of its own, to be killed with all that it started; one that asks a person keeps the terminal.
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
