"""The API server: credentials, a list's pages and a watch's lines, as bytes.

The `kubernetes` package is only used for kubeconfig, exec plugins, in-cluster tokens, TLS and
proxies: its models cost 150 times as much as the reduced objects. `package` imports the parts of it
that every instance needs, and `plugins` those for a kubeconfig.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import http.client
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3

from headwater.cluster import chunked
from headwater.cluster.limited import limited
from headwater.cluster.objects import Resource
from headwater.cluster.package import (
    ApiException,
    ConfigException,
    Configuration,
    RESTClientObject,
    load_incluster_config,
)
from headwater.cluster.podport import PodPort, Unreachable
from headwater.cluster.reflector import RequestFailed, Trouble
from headwater.cluster.refusals import PATHS, failure
from headwater.cluster.timing import USUAL, Timing
from headwater.settings.error import SettingsError
from headwater.settings.selectors import Selector

_log = logging.getLogger(__name__)

#: Pods that no longer own their address are left out by the server.
_POD_FIELDS: Final = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"

_JSON: Final = "application/json"
#: Names and versions only, where the server can do that (every one since 1.15).
_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
#: Bytes of a body to ask for at a time; fewer may come.
_PIECE: Final = 1 << 18
#: The same of a connection: TLS gives 16 KiB at the most.
_SOME: Final = 1 << 14
#: The most bytes of a page: 500 slices of 100 endpoints are some 15 MiB. A longer page is asked for
#: in parts.
_MAX_BODY: Final = 48 << 20
#: The most bytes of an event: by default etcd takes objects of 1.5 MiB.
_MAX_LINE: Final = 16 << 20
#: For what a person waits for, in seconds.
_READ_TIMEOUT: Final = 10.0
#: The most bytes that are read of an error's body.
_ERROR_BODY: Final = 64 * 1024


class Client:
    """What a set of credentials makes of a request: its address, headers, and connection."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.rest = RESTClientObject(configuration)

    def headers(self) -> dict[str, str]:
        """Who asks, for one request: a token's file is read again once a minute, a plug-in runs.

        Raises ConfigException.
        """
        found = {"User-Agent": "headwater"}
        if (bearer := self.configuration.auth_settings().get("BearerToken")) is not None:
            found[bearer["key"]] = bearer["value"] or ""
        return found

    def url(self, path: str) -> str:
        return f"{self.configuration.host}{path}"


class ApiServer:
    """Credentials for one API server, and requests to it. One for each thread."""

    def __init__(
        self,
        kubeconfig: str | None,
        context: str | None,
        selectors: Mapping[Resource, Selector],
        timing: Timing = USUAL,
    ) -> None:
        """A kubeconfig file (or $KUBECONFIG's), else the pod's own service account.

        `selectors`: those of a resource, if not all its objects are asked for. The
        credentials are read by `reload`, or with the first request.
        """
        self._kubeconfig = kubeconfig
        self._context = context
        self._selectors = selectors
        self._timing = timing
        self._client: Client | None = None
        self._watching: Any = None
        self._read = -math.inf
        self.confirmed = False
        """What is known of whether it is of the store's cluster (`recognition`)."""

    @property
    def host(self) -> str:
        """The server's URL; "" before its credentials are read."""
        return "" if self._client is None else self._client.configuration.host

    def reload(self) -> None:
        """Read the credentials again: tokens rotate, and exec plugins give short-lived ones.

        When it fails, the earlier ones stay. Raises SettingsError with the reason.
        """
        self.confirmed = False
        self._client = self._connect()

    def prepare(self) -> Client:
        """Read the credentials, if they were never read. Raises RequestFailed."""
        try:
            if self._client is None:
                self.reload()
        except SettingsError as error:
            raise RequestFailed(Trouble.CREDENTIALS, str(error)) from None
        assert self._client is not None
        return self._client

    def reload_if_due(self) -> None:
        """The same, but not too often: a plug-in costs a process."""
        if time.monotonic() - self._read > self._timing.credentials:
            self.reload()

    def _connect(self) -> Client:
        self._read = time.monotonic()
        configuration = Configuration()
        try:
            if self._kubeconfig is None and self._context is None:
                load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            else:
                from headwater.cluster import plugins

                with limited(self._timing.plugin):
                    plugins.load(self._kubeconfig, self._context, configuration)
        except ConfigException as error:
            flag = "--kubeconfig" if self._context is None else "--context"
            raise SettingsError(flag, str(error).strip()) from None
        except Exception as error:  # noqa: BLE001 (half a file can be anything, and the package checks little)
            import yaml

            if isinstance(error, yaml.YAMLError):
                problem = f"{self._kubeconfig!r} is not valid YAML: {str(error).splitlines()[0]}"
            else:
                problem = f"{self._kubeconfig!r} cannot be used: {type(error).__name__}: {error}"
            raise SettingsError("--kubeconfig", problem) from None
        # urllib3 would follow a redirect otherwise, to anywhere.
        configuration.retries = False
        if not configuration.verify_ssl:
            _say_unverified(str(configuration.host))
        return Client(configuration)

    def page(self, resource: Resource, limit: int, continue_token: str, *, metadata_only: bool = False) -> bytes:
        """One page of a list, as the server's JSON. Raises RequestFailed."""
        query = {"limit": str(limit)}
        if continue_token:
            query["continue"] = continue_token
        accept = _METADATA if metadata_only else _JSON
        response = self._get(resource, query, (self._timing.connect, self._timing.page), accept)
        return self._body(response, f"list {resource}")

    def kube_system(self) -> bytes:
        """The list of namespaces, reduced to kube-system and its metadata, as JSON.

        Raises RequestFailed.
        """
        query = urlencode({"fieldSelector": "metadata.name=kube-system"})
        timeout = (self._timing.connect, self._timing.recognize)
        response = self._send(f"{PATHS['namespaces']}?{query}", timeout, _METADATA)
        if response.status != 200:
            raise _refusal(response, "namespaces", "list")
        return self._body(response, "namespace kube-system")

    def _body(self, response: Any, what: str) -> bytes:
        """All of a response. Raises RequestFailed when it breaks off, drips, or is too large."""
        pieces: list[bytes] = []
        size, end = 0, time.monotonic() + self._timing.whole_page
        whole = False
        try:
            for piece in _pieces(response):
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_BODY:
                    raise RequestFailed(Trouble.TOO_LARGE, f"{what}: a body of more than {_MAX_BODY >> 20} MiB")
                if time.monotonic() > end:
                    text = f"{what}: not at its end after {self._timing.whole_page:g} s"
                    raise RequestFailed(Trouble.UNREACHABLE, text)
            whole = True
        except (urllib3.exceptions.HTTPError, OSError, chunked.Malformed) as error:
            raise RequestFailed(Trouble.UNREACHABLE, f"the list broke off: {error}") from None
        finally:
            if whole:
                response.release_conn()
            else:
                response.close()
        return b"".join(pieces)

    def read(self, path: str) -> bytes | None:
        """The JSON of any object or list; None without one. Raises RequestFailed."""
        response = self._send(path, (self._timing.connect, _READ_TIMEOUT))
        if response.status == 200:
            return self._body(response, f"get {path}")
        error = _refusal(response, path.partition("?")[0].removeprefix("/"), "get")
        if error.status == 404 and self._is_api_server():
            return None
        raise error

    def watch(
        self, resource: Resource, resource_version: str, seconds: int, *, initial: bool = False
    ) -> Iterator[bytes]:
        """The lines of a watch, each one event; ends when the server ends it. Raises RequestFailed.

        `initial`: the watch begins with all objects (WatchList), as of the given version or a later
        one.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if resource_version:
            query["resourceVersion"] = resource_version
        if initial:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        response = self._get(resource, query, (self._timing.connect, self._timing.silence))
        self._watching = response
        return self._lines(response)

    def beside(self) -> ApiServer:
        """One for another thread, which has the same credentials and connections."""
        other = copy.copy(self)
        other._watching = None
        return other

    def hang_up(self) -> None:
        """Interrupt the watch under way. From any thread."""
        response, self._watching = self._watching, None
        if response is not None:
            with contextlib.suppress(Exception):
                # Only shutdown wakes a thread that is reading; close would wait for it.
                response.shutdown()

    def _lines(self, response: Any) -> Iterator[bytes]:
        rest: list[bytes] = []
        size, began = 0, 0.0
        try:
            for piece in _pieces(response):
                *lines, last = piece.split(b"\n")
                for line in lines:
                    if rest:
                        rest.append(line)
                        line = b"".join(rest)
                        rest.clear()
                        size = 0
                    if line:
                        yield line
                if last:
                    if not rest:
                        began = time.monotonic()
                    rest.append(last)
                    size += len(last)
                    if size > _MAX_LINE:
                        raise RequestFailed(Trouble.SERVER, f"the watch has a line of more than {_MAX_LINE >> 20} MiB")
                    if time.monotonic() - began > self._timing.silence:
                        text = f"the watch has a line that does not end in {self._timing.silence:g} s"
                        raise RequestFailed(Trouble.UNREACHABLE, text)
        except (urllib3.exceptions.HTTPError, OSError, chunked.Malformed) as error:
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
        """Whether an API server answers: a proxy without one says 404, and that deletes no name."""
        response = self._send("/version", (self._timing.connect, self._timing.connect))
        response.close()
        return response.status in (200, 401, 403)

    def _send(self, path: str, timeout: tuple[float, float], accept: str = _JSON) -> Any:
        """The response to a GET, its body unread. Raises RequestFailed."""
        client = self.prepare()
        try:
            with limited(self._timing.plugin):  # one whose token has expired runs again
                headers = client.headers() | {"Accept": accept, "Accept-Encoding": "identity"}
            answer = client.rest.request("GET", client.url(path), headers, _request_timeout=timeout)  # type: ignore[no-untyped-call]
        except ConfigException as error:  # a token's file, read again in the course of it
            raise RequestFailed(Trouble.CREDENTIALS, f"{self.host}: {error}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RequestFailed(Trouble.UNREACHABLE, f"{self.host} cannot be reached: {error}") from None
        except ApiException as error:  # what the package makes of urllib3's SSLError
            raise RequestFailed(Trouble.UNVERIFIED, f"{self.host}: {' '.join(str(error.reason).split())}") from None
        return answer.response

    def open_port(self, namespace: str, pod: str, port: int) -> PodPort:
        """Connect to a port of a pod (`pods/portforward`). It reaches what listens on loopback.

        Raises RequestFailed, and Unreachable when the server cannot be talked to. Several threads
        may call it.
        """
        # Here, because it loads 2 MiB that serving does not need.
        import websocket
        from kubernetes.stream import ws_client

        client = self.prepare()
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/portforward"
        try:
            with limited(self._timing.plugin):
                headers = client.headers()
            websocket.setdefaulttimeout(_READ_TIMEOUT)
            address = ws_client.get_websocket_url(client.url(path), [("ports", str(port))])  # type: ignore[no-untyped-call]
            headers["sec-websocket-protocol"] = ws_client.V4_CHANNEL_PROTOCOL
            connection = ws_client.create_websocket(client.configuration, address, headers)  # type: ignore[no-untyped-call]
        except websocket.WebSocketBadStatusException as error:
            text = _message(error.resp_body or b"")
            raise failure(error.status_code, text, "pods/portforward", "create") from None
        except ConfigException as error:
            raise RequestFailed(Trouble.CREDENTIALS, f"{self.host}: {error}") from None
        except (websocket.WebSocketException, OSError, ValueError) as error:
            raise Unreachable(f"{self.host}: no WebSocket: {error}") from None
        return PodPort(connection)

    def close(self) -> None:
        if self._client is not None:
            self._client.rest.pool_manager.clear()


@functools.cache
def _say_unverified(host: str) -> None:
    """Once, where urllib3 would warn at each request."""
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    _log.warning("%s: its certificate is not verified (insecure-skip-tls-verify): anybody between may answer", host)


def _pieces(response: Any) -> Iterator[bytes]:
    """A response's body, as it comes. Raises HTTPError, OSError, Malformed."""
    raw = getattr(response, "_original_response", None)
    if (
        isinstance(raw, http.client.HTTPResponse)
        and raw.chunked
        and raw.chunk_left is None  # nobody has read any of it
        and not response.headers.get("Content-Encoding")
    ):
        yield from chunked.pieces(functools.partial(raw.fp.read1, _SOME))
        raw.close()  # the connection may be used again
        return
    while piece := response.read1(_PIECE, decode_content=True):
        yield piece


def _refusal(response: Any, resource: str, verb: str) -> RequestFailed:
    """The failure of a status other than 200."""
    try:
        body = response.read(_ERROR_BODY)
    except (urllib3.exceptions.HTTPError, OSError):
        body = b""
    finally:
        response.close()
    message = _message(body) or str(response.reason)
    return failure(response.status, message, resource, verb, _seconds(response.headers.get("Retry-After")))


def _message(body: bytes) -> str:
    """Return the message of a Status, or the beginning of another body."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def _seconds(retry_after: str | None) -> float:
    """Retry-After as seconds; its date form is not used by API servers."""
    try:
        return min(300.0, max(0.0, float(retry_after or 0)))
    except ValueError:
        return 0.0
