"""One model call as its client sees it, bound to the dialect of whatever route is tried."""

from collections.abc import Collection, Container, Iterator, Sequence, Set
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from anos import chat_answers, chat_requests, dialect_chat, dialect_responses, items
from anos.bounds import unbounded_in_chat, unbounded_in_responses
from anos.chat_passthrough import ChatPassthrough
from anos.chat_stream import ChunkWriter
from anos.chat_stream import Reader as ChatReader
from anos.errors import reported
from anos.events import EventWriter
from anos.extract import (
    Found,
    chat_texts,
    completion_texts,
    joined_texts,
    output_texts,
    reason_texts,
    response_texts,
    responses_texts,
)
from anos.items import Answer, Item, Turn
from anos.passthrough import ResponsesPassthrough
from anos.routing import Route
from anos.shapes import read_body
from anos.stream import Stream
from anos.surrogates import mended
from anos.translated import Translated

if TYPE_CHECKING:
    from anos.scanner_parts import Dialect

_ENCRYPTED = "reasoning.encrypted_content"
# The fields of a request, beside the items of a turn, whose strings the model reads.
_READ = ("instructions", "tools", "text")
_CHAT_READ = ("messages", "tools", "functions", "response_format", "prediction")


class Call(Protocol):
    """What the pipeline asks of a call; `response_id` and `created_s` are the response's own."""

    model: str
    stream: bool
    store: bool
    background: bool
    response_id: str
    created_s: int
    base: dict[str, Any]
    sent: Container[str]  # the settings that the client has sent

    def texts(self) -> list[str]:
        """Every string the model will see."""

    def found(
        self, resolved: Sequence[Item], recalled: Collection[int], with_tools: bool
    ) -> list[Found]:
        """The same with sources and places, but for what was cleared before.

        `resolved` are the items of the request before some were left out, if any were; the store
        had those at the positions `recalled`. Of the source `tools` only `with_tools`.
        """

    def joined(self) -> Iterator[Found]:
        """What of that a chat upstream is given in one text and stands apart here, as it is now."""

    def masked(self) -> None:
        """Something that was `found` was replaced: what was made of it before is made again."""

    def answered(self, answer: Answer) -> list[Found]:
        """Every string of a whole answer that the client would read."""

    def together(self, answer: Answer) -> Iterator[Found]:
        """What of that a client of Chat Completions reads in one text, as it is now."""

    def masked_answer(self) -> None:
        """Something that was `answered` was replaced."""

    def events(self, now_ms: int) -> "Dialect":
        """How guards read the client's stream."""

    def extra(self) -> str | None:
        """The field that asks for what no budget can bound, if one does."""

    def cap(self) -> int | None:
        """The most tokens the upstream may make, all choices together; None: nobody has said."""

    def set_cap(self, tokens: int) -> None:
        """Let the upstream make no more than so many tokens for each choice."""

    def request(self, route: Route) -> bytes:
        """The upstream's request body; raises InvalidRequest for what its dialect cannot carry."""

    def read(self, route: Route, body: bytes, now_ms: int) -> Answer:
        """The answer in an upstream's body; raises UpstreamError if there is none."""

    def open(self, route: Route, now_ms: int) -> Stream:
        """The translation of an upstream's stream."""

    def shown(self, response: dict[str, Any]) -> dict[str, Any]:
        """The Response as this client sees it."""

    def reply(self, answer: Answer, response: dict[str, Any]) -> bytes:
        """The client's 200 body."""


class ResponsesCall:
    """A client's POST /responses."""

    def __init__(
        self,
        turn: Turn,
        *,
        response_id: str,
        created_s: int,
        chat_fields: bool,
        input: Any,
        taken: Set[str] = frozenset(),
    ) -> None:
        """`taken` are the ids of the items before the answer."""
        request = turn.request
        self.turn = turn
        self.model = turn.model
        self.stream = turn.stream
        self.store = request.get("store") is not False
        self.background = request.get("background") is True
        self.response_id = response_id
        self.created_s = created_s
        self.base = items.base_response(
            request, id=response_id, model=turn.model, created_at=created_s
        )
        self.sent: Container[str] = frozenset(request)
        self._chat_fields = chat_fields
        self._taken = taken
        self._input = input  # as the client sent it, or None if it must be sent resolved
        self._shows_encrypted = _ENCRYPTED in (request.get("include") or ())

    def texts(self) -> list[str]:
        request = self.turn.request
        settings = [request[name] for name in _READ if request.get(name)]
        return items.texts([*settings, *self.turn.history, *self.turn.input])

    def found(
        self, resolved: Sequence[Item], recalled: Collection[int], with_tools: bool
    ) -> list[Found]:
        turn = self.turn
        history = turn.history[turn.cleared :]
        if resolved is turn.input:
            return responses_texts(turn.request, history, turn.input, (), with_tools)
        references = {id(resolved[index]) for index in recalled}
        sent = [at for at, item in enumerate(turn.input) if id(item) in references]
        seen = responses_texts(turn.request, history, turn.input, sent, with_tools)
        known = set(map(id, turn.input))
        unsent = [(at, item) for at, item in enumerate(resolved) if id(item) not in known]
        of_store = [n for n, (at, _) in enumerate(unsent) if at in recalled]
        return seen + responses_texts({}, [], [item for _, item in unsent], of_store)

    def joined(self) -> Iterator[Found]:
        for text in dialect_chat.joined(chain(self.turn.history, self.turn.input)):
            yield Found("assistant", text, None, "", False, False)

    def masked(self) -> None:
        self._input = None
        turn = self.turn
        self.base = items.base_response(
            turn.request, id=self.response_id, model=turn.model, created_at=self.created_s
        )

    def answered(self, answer: Answer) -> list[Found]:
        found = [found for item in answer.output for found in output_texts(item)]
        if (error := answer.error) is not None:
            found += [Found("other", error[n], error, n, False, True) for n in ("code", "message")]
        answer.extra = items.settings_told(answer.extra, self.sent)
        return found + reason_texts(answer) + response_texts(answer.extra)

    def together(self, answer: Answer) -> Iterator[Found]:
        return joined_texts(answer)

    def masked_answer(self) -> None:
        """The answer is made of its items."""

    def events(self, now_ms: int) -> "Dialect":
        from anos.scanner_responses import ResponsesEvents  # not loaded where no guard reads

        return ResponsesEvents(self.shown(self.base), now_ms, self.sent)

    def extra(self) -> str | None:
        return unbounded_in_responses(self.turn.request, self.turn.history, self.turn.input)

    def cap(self) -> int | None:
        return self.turn.request.get("max_output_tokens")

    def set_cap(self, tokens: int) -> None:
        self.turn.request["max_output_tokens"] = tokens

    def request(self, route: Route) -> bytes:
        if route.dialect == "chat":
            return orjson.dumps(dialect_chat.build_request(self.turn, route))
        return orjson.dumps(dialect_responses.build_request(self.turn, route, self._input))

    def read(self, route: Route, body: bytes, now_ms: int) -> Answer:
        if route.dialect == "chat":
            return chat_answers.parse_answer(read_body(body), now_ms)
        return dialect_responses.parse_answer(read_body(body), now_ms, self._taken)

    def open(self, route: Route, now_ms: int) -> Stream:
        writer = EventWriter(self.shown(self.base), now_ms, self._taken)
        if route.dialect == "chat":
            return Translated(ChatReader(writer), None, writer)
        return ResponsesPassthrough(
            writer, shows_encrypted=self._shows_encrypted, repair=route.quirks.repair
        )

    def shown(self, response: dict[str, Any]) -> dict[str, Any]:
        """The Response as this client sees it."""
        return shown(response, encrypted=self._shows_encrypted, chat_fields=self._chat_fields)

    def reply(self, answer: Answer, response: dict[str, Any]) -> bytes:
        return orjson.dumps(response)


class ChatCall:
    """A client's POST /chat/completions; nothing of it is stored but its exchange."""

    store = False
    background = False
    sent: Container[str] = ()

    def __init__(
        self, tree: dict[str, Any], *, response_id: str, created_s: int, now_ms: int
    ) -> None:
        self.model: str = tree["model"]
        self.stream = tree.get("stream") is True
        self.response_id = response_id
        self.created_s = created_s
        self.base: dict[str, Any] = {}
        self._tree = tree
        self._now_ms = now_ms
        self._turn: Turn | None = None
        self._body = b""  # the completion of a chat upstream, passed on as it is
        self._completion: dict[str, Any] | None = None  # the same, where guards have read it
        self._is_counted = True  # it has usage

    def texts(self) -> list[str]:
        tree = self._tree
        return items.texts([tree[name] for name in _CHAT_READ if tree.get(name)])

    def found(
        self, resolved: Sequence[Item], recalled: Collection[int], with_tools: bool
    ) -> list[Found]:
        return chat_texts(self._tree, with_tools)

    def joined(self) -> Iterator[Found]:
        return iter(())

    def masked(self) -> None:
        """The request is the tree itself."""

    def answered(self, answer: Answer) -> list[Found]:
        if not self._body:
            return [found for item in answer.output for found in output_texts(item)]
        self._completion = read_body(self._body)
        return completion_texts(self._completion)

    def together(self, answer: Answer) -> Iterator[Found]:
        return iter(()) if self._body else joined_texts(answer)

    def masked_answer(self) -> None:
        if self._completion is not None:
            self._body = orjson.dumps(self._completion)

    def events(self, now_ms: int) -> "Dialect":
        from anos.scanner_chat import ChatChunks

        return ChatChunks(wants_usage=self._wants_usage(), choices=self._tree.get("n") or 1)

    def _wants_usage(self) -> bool:
        return (self._tree.get("stream_options") or {}).get("include_usage") is True

    def extra(self) -> str | None:
        return unbounded_in_chat(self._tree)

    def cap(self) -> int | None:
        tree = self._tree
        tokens: int | None = tree.get("max_completion_tokens") or tree.get("max_tokens")
        return tokens and tokens * (tree.get("n") or 1)

    def set_cap(self, tokens: int) -> None:
        self._tree["max_completion_tokens"] = tokens

    def request(self, route: Route) -> bytes:
        if route.dialect == "chat":
            return orjson.dumps(chat_requests.forward_request(self._tree, route))
        return orjson.dumps(dialect_responses.build_request(self._canonical(), route, None))

    def read(self, route: Route, body: bytes, now_ms: int) -> Answer:
        tree = read_body(body)
        if route.dialect == "chat":
            answer = chat_answers.parse_answer(tree, now_ms)
            self._body, self._is_counted = mended(body), answer.usage is not None
        else:
            answer = dialect_responses.parse_answer(tree, now_ms)
        if answer.error is not None:  # a completion has no way to say that it failed
            raise reported(answer.error)
        return answer

    def open(self, route: Route, now_ms: int) -> Stream:
        wants_usage = self._wants_usage()
        if route.dialect == "chat":
            return ChatPassthrough(wants_usage=wants_usage)
        turn = self._canonical()
        base = items.base_response(
            turn.request, id=self.response_id, model=self.model, created_at=self.created_s
        )
        writer = EventWriter(base, now_ms)
        chunks = ChunkWriter(
            id=self.response_id, model=self.model, created=self.created_s, include_usage=wants_usage
        )
        return Translated(dialect_responses.Reader(writer, shows_encrypted=False), chunks, writer)

    def reply(self, answer: Answer, response: dict[str, Any]) -> bytes:
        if self._body and not self._is_counted and answer.usage is not None:
            usage = chat_answers.chat_usage(answer.usage)
            return orjson.dumps({**read_body(self._body), "usage": usage})
        if self._body:
            return self._body
        return orjson.dumps(
            chat_answers.completion(
                answer, id=self.response_id, model=self.model, created=self.created_s
            )
        )

    def shown(self, response: dict[str, Any]) -> dict[str, Any]:
        """A chat client is shown no Response."""
        return response

    def _canonical(self) -> Turn:
        if self._turn is None:
            self._turn = chat_requests.parse_request(self._tree, self._now_ms)
        return self._turn


def as_stream(route: Route, body: bytes) -> bytes:
    """A whole answer, given to a request for a stream, as a stream of the upstream's dialect."""
    make = chat_answers.as_stream if route.dialect == "chat" else dialect_responses.as_stream
    return make(read_body(body))


def shown(response: dict[str, Any], *, encrypted: bool, chat_fields: bool) -> dict[str, Any]:
    """A Response as a client sees it: encrypted reasoning if asked for, chat names unless off."""
    if not encrypted:
        response = {**response, "output": bare(response["output"])}
    return items.add_chat_fields(response) if chat_fields else response


def bare(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items without the encrypted content of reasoning."""
    if not any("encrypted_content" in item for item in output):
        return output
    return [
        {
            name: value
            for name, value in item.items()
            if name != "encrypted_content" or item["type"] != "reasoning"
        }
        for item in output
    ]
