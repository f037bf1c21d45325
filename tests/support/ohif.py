"""The OHIF viewer on one port, with a PACS behind it: its files, and Orthanc's DICOMweb."""

from __future__ import annotations

import contextlib
import http.client
import json
import mimetypes
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["OHIF", "VERSION"]

VERSION = "3.13.2"
# Resolved, so that a link to a viewer elsewhere passes the check that files lie inside of it.
_FOLDER = (Path(__file__).resolve().parents[2] / ".viewer" / f"ohif-{VERSION}").resolve()
_PREFIX = "/dicom-web"
_CONFIGURATION: dict[str, Any] = {
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "strictZSpacingForVolumeViewport": True,
    # Else the player of films opens over a series of modality OT.
    "customizationService": [{"autoCineModalities": {"$set": []}}],
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "pacs",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "pacs",
            "configuration": {
                "friendlyName": "PACS",
                "name": "pacs",
                "wadoUriRoot": _PREFIX,
                "qidoRoot": _PREFIX,
                "wadoRoot": _PREFIX,
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
                "omitQuotationForMultipartRequest": True,
            },
        }
    ],
}


class OHIF:
    """Serves the viewer, and passes ``/dicom-web`` on: one origin, as behind a hospital's proxy.

    Parameters
    ----------
    dicomweb_port : int
        Of Orthanc's HTTP server on this machine.
    """

    def __init__(self, dicomweb_port: int) -> None:
        handler = type("_Handler", (_Handler,), {"dicomweb_port": dicomweb_port})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> OHIF:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def study(self, uid: str) -> str:
        """Return the address that opens a study."""
        return f"{self.url}/viewer?StudyInstanceUIDs={uid}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    dicomweb_port = 0

    def do_GET(self) -> None:
        if self.path.startswith(_PREFIX + "/"):
            self._pass_on()
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/app-config.js":
            text = f"window.config = {json.dumps(_CONFIGURATION)};"
            self._answer(200, "text/javascript", text.encode())
            return
        file = (_FOLDER / path.lstrip("/")).resolve()
        if not file.is_relative_to(_FOLDER) or not file.is_file():
            if file.suffix:  # a file that is not there: never the application under its name
                self._answer(404, "text/plain", b"")
                return
            file = _FOLDER / "index.html"  # the address belongs to the application
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._answer(200, kind, file.read_bytes())

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        orthanc = http.client.HTTPConnection("127.0.0.1", self.dicomweb_port, timeout=60)
        # DICOMweb answers with addresses: they have to be those of this server.
        forwarded = f"host={self.headers['Host']};proto=http"
        headers = {"Accept": self.headers.get("Accept", "*/*"), "Forwarded": forwarded}
        if "Content-Type" in self.headers:
            headers["Content-Type"] = self.headers["Content-Type"]
        orthanc.request(self.command, self.path, body or None, headers)
        answer = orthanc.getresponse()
        content = answer.read()
        orthanc.close()
        self._answer(answer.status, answer.headers.get("Content-Type", ""), content)

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        with contextlib.suppress(ConnectionError):  # a viewer breaks off what it needs no more
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a browser asks for hundreds of files."""
