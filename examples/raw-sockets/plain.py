"""A governed server on `socket` alone: the `if` that lets a request through, and the cut through its response.

    python examples/raw-sockets/plain.py        and open http://127.0.0.1:8023/

It reads requests without a body, and is here to be read; do not put it on a network.
"""

import os
import socket
import threading
import time
import uuid
from pathlib import Path

from middleware import SocketRequest

from chio_core import ChioSettings, SyncChioClient
from chio_core.evaluation.exchange import prepare
from chio_core.evaluation.precheck import precheck, singleton_headers
from chio_core.identity import default_extractor
from chio_core.refusals.response import RequestRefused

PAGES = {"/": Path(__file__).with_name("page.html").read_bytes(), "/hello": b"hello from a socket"}


def application(path: str) -> bytes:
    """Return a whole response as bytes; the application knows nothing of Chio."""
    body = PAGES.get(path, b"not here")
    status = b"200 OK" if path in PAGES else b"404 Not Found"
    return b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def serve(connection: socket.socket, peer: str, client: SyncChioClient) -> None:
    """Answer the one request of a connection."""
    with connection:
        connection.settimeout(5)
        try:
            data = b""
            while b"\r\n\r\n" not in data and len(data) < 65536 and (piece := connection.recv(4096)):
                data += piece
            request = SocketRequest(data.partition(b"\r\n\r\n")[0], b"", peer)
            presented = precheck(request, client.settings, singleton_headers(client.settings))
        except (OSError, ValueError, RequestRefused):
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            return

        # PHASE 1, INBOUND: the application is called in one place, behind this `if`.
        # Only an allow whose receipt was verified has no denial.
        caller = default_extractor()(request)
        call = prepare(
            request, client.settings, request_id=str(uuid.uuid4()), now=time.time(), caller=caller, presented=presented
        )
        decision = client.evaluate(call)
        if decision.denial is None:
            answer = application(request.path)
        else:
            answer = f"HTTP/1.1 {decision.denial.status} \r\n\r\n{decision.denial.message}\n".encode()

        # PHASE 2, OUTBOUND: the response is cut where its head ends, and the receipt's id goes in between.
        # The body behind the cut is not touched.
        head, end, body = answer.partition(b"\r\n\r\n")
        connection.sendall(
            head + f"\r\nConnection: close\r\nX-Chio-Receipt: {decision.receipt_header}".encode() + end + body
        )


if __name__ == "__main__":
    client = SyncChioClient(
        ChioSettings(sidecar_url=os.environ.get("CHIO_SIDECAR_URL", "embedded:raw-sockets.sqlite3"))
    )
    with socket.create_server(("127.0.0.1", int(os.environ.get("RAW_SOCKETS_PORT", "8023")))) as listener:
        print(f"listening on {listener.getsockname()[1]}", flush=True)
        while True:  # a browser opens connections in advance, so each has a thread
            connection, (peer, _) = listener.accept()
            threading.Thread(target=serve, args=(connection, peer, client), daemon=True).start()
