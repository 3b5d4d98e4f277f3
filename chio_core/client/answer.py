"""AnswerReader: the one place where the bytes of an answer are understood, for both kinds of carrier."""

from __future__ import annotations

import httptools

from chio_core.client.carrier import MAX_ANSWER_BYTES
from chio_core.errors import EvaluationFailed
from chio_core.evaluation.exchange import Answer


class AnswerReader:
    """Reads one answer with `httptools` (llhttp). The methods named `on_…` are for the parser.

    Interim answers (1xx) are passed over. An answer whose length is not announced never ends: the end of a
    connection is no end of an answer, since nobody could tell it from one that was cut off.
    """

    __slots__ = ("_content_type", "_finished", "_parser", "_parts", "_size", "keep_alive")

    def __init__(self) -> None:
        self.keep_alive = False
        # The parser holds our methods, so we let go of it at the end: no cycle is left for the collector.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self._content_type = ""
        self._finished: Answer | None = None

    def feed(self, data: bytes) -> Answer | None:
        """Take the bytes that came next; return the answer once it is whole, and None before.

        Afterwards `keep_alive` says whether the connection can carry another exchange.

        Raises:
            EvaluationFailed: this is no HTTP, or too long. Heads and interim answers count too.
        """
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            raise EvaluationFailed("Chio sidecar's answer is too long")
        parser = self._parser
        if parser is None:
            raise EvaluationFailed("Chio sidecar's answer was over already")
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._parser = None
            if self._finished is None:
                raise EvaluationFailed("Chio sidecar's answer is not HTTP") from None
            self.keep_alive = False  # the answer is whole; what follows it is nothing to build on
        return self._finished

    def on_message_begin(self) -> None:
        """Notice bytes that follow a finished answer."""
        if self._finished is not None:
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Remember what the answer says that it is."""
        if self._finished is None and name.lower() == b"content-type":
            self._content_type = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Finish, unless this was an interim answer."""
        parser = self._parser
        if parser is None:
            return
        status = parser.get_status_code()
        if 100 <= status < 200:
            self._parts, self._content_type = [], ""
            return
        self.keep_alive = parser.should_keep_alive()
        self._parser = None
        self._finished = Answer(status, self._content_type, b"".join(self._parts))
