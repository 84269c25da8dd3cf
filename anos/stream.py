"""What a stream on its way to the client is, whoever translates or screens it."""

from typing import Any, Protocol

from anos.items import Answer


class Stream(Protocol):
    """An upstream's event stream on its way to the client."""

    ended: bool  # the upstream said that it is done

    def feed(self, data: bytes) -> bytes:
        """What the client gets for bytes of the upstream, its terminal event excepted."""

    def finish(self) -> tuple[bytes, Answer]:
        """At the upstream's end: what closes the open items for the client, and the answer.

        Raises UpstreamError if the upstream reported an error or broke off.
        """

    def abort(self, status: str, error: dict[str, Any] | None) -> tuple[bytes, Answer]:
        """The same, where the stream is ended before the upstream's end."""

    def terminal(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """The end of the client's stream, written after the commit."""
