"""The API server that a person's command asks, with the credentials that kubectl would take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.settings.error import SettingsError

if TYPE_CHECKING:
    from headwater.cluster.api import ApiServer


def kubeconfig(named: str | None) -> str | None:
    """Return the file of a flag, of KUBECONFIG, or the usual one; None in a pod, which has its own.

    Raises SettingsError when there is none.
    """
    found = named or os.environ.get("KUBECONFIG")
    if found is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
        usual = Path.home() / ".kube" / "config"
        if not usual.is_file():
            raise SettingsError("--kubeconfig", "there are no credentials: name a file")
        return str(usual)
    return found


def api_server(named: str | None, context: str | None) -> ApiServer:
    """Return the API server, not connected to before it is asked. Raises SettingsError."""
    from headwater.cluster.api import ApiServer

    return ApiServer(kubeconfig(named), context, {})
