"""kubeconfig files, and their exec credential plug-ins: with a time limit, and failures that raise.

The `kubernetes` package waits for a plug-in for ever. One that hangs (a login that asks a person, a
server that does not answer) would block the thread that needs its token. When a plug-in fails, the
package logs it and goes on without credentials. The API server then says 403, which looks like a
missing permission. There is no setting for either, so this module replaces names in the package's
modules.

It loads what reads a kubeconfig, 0.2 CPU-s and 18 MiB that a pod's own service account does not
need.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from types import SimpleNamespace
from typing import Any

from headwater.cluster.limited import PluginFailed, limit
from headwater.cluster.package import ConfigException, Configuration

# After `package`, which keeps this from loading all else.
from kubernetes.config import exec_provider, kube_config  # isort: skip


class _Provider(exec_provider.ExecProvider):  # type: ignore[misc, unused-ignore]
    """Runs a plug-in. Raises PluginFailed."""

    def run(self, previous_response: Any = None) -> Any:
        try:
            status = super().run(previous_response)  # type: ignore[no-untyped-call, unused-ignore]
        except Exception as error:  # noqa: BLE001 (whatever it is, there are no credentials)
            text = str(error)
            raise PluginFailed(text if text.startswith("exec: ") else f"exec: {text}") from None
        if isinstance(status, dict) and (
            status.get("token") or (status.get("clientCertificateData") and status.get("clientKeyData"))
        ):
            return status
        raise PluginFailed("exec: it gives neither a token nor a certificate with its key")


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
        most = limit()
        try:
            return super().communicate(input, most if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                if self._group:
                    os.killpg(self.pid, signal.SIGKILL)
                self.kill()
            for stream in (self.stdout, self.stderr):
                if stream is not None:
                    stream.close()
            self.wait()
            raise ConfigException(f"exec: {self._command} has not ended in {most:g} s") from None


def load(kubeconfig: str | None, context: str | None, configuration: Configuration) -> None:
    """Read a kubeconfig file (or $KUBECONFIG's) into the configuration.

    Raises ConfigException, yaml.YAMLError, and anything for half a file.
    """
    kube_config.load_kube_config(kubeconfig, context, configuration)  # type: ignore[no-untyped-call]


vars(kube_config)["ExecProvider"] = _Provider
vars(exec_provider)["subprocess"] = SimpleNamespace(Popen=_Plugin, PIPE=subprocess.PIPE)
