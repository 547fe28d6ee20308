"""The API server: credentials, a list's pages and a watch's lines, as bytes.

The `kubernetes` package does what it is good at (kubeconfig, exec plugins,
in-cluster tokens, TLS, proxies) and nothing else: its models cost 150 times
what the reduced objects do. This is the only module that imports it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import urlencode

import urllib3
import yaml
from kubernetes import config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.config.config_exception import ConfigException

from headwater.cluster.objects import Resource
from headwater.cluster.reflector import RequestFailed, Trouble
from headwater.cluster.refusals import PATHS, failure
from headwater.cluster.timing import USUAL, Timing
from headwater.settings.error import SettingsError
from headwater.settings.selectors import Selector

#: Pods that no longer own their address are left out by the server.
_POD_FIELDS: Final = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"

_JSON: Final = "application/json"
#: Names and versions only, where the server can do that (every one since 1.15).
_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
#: An error's body is read no further than this.
_ERROR_BODY: Final = 64 * 1024


class ApiServer:
    """Credentials for one API server, and requests to it. One for each thread."""

    def __init__(
        self,
        kubeconfig: str | None,
        context: str | None,
        selectors: Mapping[Resource, Selector],
        timing: Timing = USUAL,
    ) -> None:
        """A kubeconfig file (or $KUBECONFIG's), or the pod's own service account when there is none.

        `selectors`: which objects of a resource are asked for, where not all of them are.
        Raises SettingsError with what is wrong with the kubeconfig.
        """
        self._kubeconfig = kubeconfig
        self._context = context
        self._selectors = selectors
        self._timing = timing
        self._client = self._connect()
        self._watching: Any = None

    def _connect(self) -> ApiClient:
        configuration = Configuration()
        try:
            if self._kubeconfig is None and self._context is None:
                config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            else:
                config.load_kube_config(self._kubeconfig, self._context, configuration)  # type: ignore[no-untyped-call]
        except ConfigException as error:
            flag = "--kubeconfig" if self._context is None else "--context"
            raise SettingsError(flag, str(error).strip()) from None
        except yaml.YAMLError as error:
            problem = f"{self._kubeconfig!r} is not valid YAML: {str(error).splitlines()[0]}"
            raise SettingsError("--kubeconfig", problem) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError("--kubeconfig", f"{self._kubeconfig!r} cannot be used: {error}") from None
        configuration.retries = False
        client = ApiClient(configuration)
        client.user_agent = "headwater"
        return client

    @property
    def host(self) -> str:
        """The server's URL."""
        return cast("str", self._client.configuration.host)

    def reload(self) -> None:
        """Read the credentials again: tokens rotate, exec plugins hand out short-lived ones."""
        self._client = self._connect()

    def page(self, resource: Resource, limit: int, continue_token: str, *, metadata_only: bool = False) -> bytes:
        """One page of a list, as the server's JSON. Raises RequestFailed."""
        query = {"limit": str(limit)}
        if continue_token:
            query["continue"] = continue_token
        accept = _METADATA if metadata_only else _JSON
        response = self._get(resource, query, (self._timing.connect, self._timing.page), accept)
        try:
            return cast("bytes", response.read())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RequestFailed(Trouble.UNREACHABLE, f"the list broke off: {error}") from None
        finally:
            response.release_conn()

    def watch(
        self, resource: Resource, resource_version: str, seconds: int, *, initial: bool = False
    ) -> Iterator[bytes]:
        """The lines of a watch, each one event; ends when the server ends it. Raises RequestFailed.

        `initial`: beginning with every object there is (WatchList), as of no older version than the one given.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if resource_version:
            query["resourceVersion"] = resource_version
        if initial:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        response = self._get(resource, query, (self._timing.connect, self._timing.silence))
        self._watching = response
        return self._lines(response)

    def hang_up(self) -> None:
        """Break off the watch that is under way. From any thread."""
        response, self._watching = self._watching, None
        if response is not None:
            with contextlib.suppress(Exception):
                # Only shutdown wakes a thread that is reading; close would wait for it.
                response.shutdown()

    def _lines(self, response: Any) -> Iterator[bytes]:
        rest: list[bytes] = []
        try:
            for chunk in response.stream(None, decode_content=True):
                *lines, last = chunk.split(b"\n")
                for line in lines:
                    if rest:
                        rest.append(line)
                        line = b"".join(rest)
                        rest.clear()
                    if line:
                        yield line
                if last:
                    rest.append(last)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RequestFailed(Trouble.UNREACHABLE, f"the watch broke off: {error}") from None
        finally:
            response.close()

    def _get(self, resource: Resource, query: dict[str, str], timeout: tuple[float, float], accept: str = _JSON) -> Any:
        if resource == "pods":
            query["fieldSelector"] = _POD_FIELDS
        if selector := str(self._selectors.get(resource, "")):
            query["labelSelector"] = selector
        response = self._send(f"{PATHS[resource]}?{urlencode(query)}", timeout, accept)
        if response.status == 200:
            return response
        error = _refusal(response, resource, "watch" if "watch" in query else "list")
        if error.trouble is Trouble.NOT_INSTALLED and not self._is_api_server():
            raise RequestFailed(Trouble.SERVER, f"{self.host}: 404, but not from an API server: {error}", error.status)
        raise error

    def _is_api_server(self) -> bool:
        """Whether one answers: a proxy that has lost it says 404 to everything, and that must not delete a name."""
        response = self._send("/version", (self._timing.connect, self._timing.connect))
        response.close()
        return response.status in (200, 401, 403)

    def _send(self, path: str, timeout: tuple[float, float], accept: str = _JSON) -> Any:
        """The response to a GET, its body unread. Raises RequestFailed."""
        client = self._client
        method, url, headers, _, _ = client.param_serialize(
            "GET",
            path,
            header_params={"Accept": accept, "Accept-Encoding": "identity"},
            auth_settings=["BearerToken"],
        )
        try:
            answer = client.call_api(method, url, headers, _request_timeout=timeout)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RequestFailed(Trouble.UNREACHABLE, f"{self.host} cannot be reached: {error}") from None
        return answer.response

    def close(self) -> None:
        self._client.rest_client.pool_manager.clear()


def _refusal(response: Any, resource: str, verb: str) -> RequestFailed:
    """What a status other than 200 means."""
    try:
        body = response.read(_ERROR_BODY)
    except (urllib3.exceptions.HTTPError, OSError):
        body = b""
    finally:
        response.close()
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace") or str(response.reason)
    return failure(response.status, message, resource, verb, _seconds(response.headers.get("Retry-After")))


def _seconds(retry_after: str | None) -> float:
    """Retry-After as seconds; its date form is not used by API servers."""
    try:
        return min(300.0, max(0.0, float(retry_after or 0)))
    except ValueError:
        return 0.0
