"""Errors as HTTP: OpenAI's body, the right status, one line that says what to do.

Source of the body and of `type`: OpenAI API reference, "Error codes".
"""

from __future__ import annotations

import json
import re
from itertools import takewhile
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from multistride.errors import DataError, UserError

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
"""`type` by status; other statuses from 500 on are `server_error`, the rest invalid requests."""


class ErrorObject(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error of the routes under `/v1`."""

    error: ErrorObject


NOT_JSON = "the body is not valid JSON in UTF-8: send a JSON object"

LIBRETRANSLATE = frozenset({"/translate", "/languages", "/detect"})
"""Routes of LibreTranslate. An error is `{"error": message}` there, whoever found it; its clients
send the API key in the body of the first, and for the other two none.
"""

STATUSES = {
    400: "A value is wrong: the message names the field and what is allowed.",
    401: "The API key is missing or wrong.",
    404: "There is no model or route of this name.",
    405: "The route takes another method.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    429: "Too many requests wait; the header Retry-After says when to come back.",
    500: "The server failed on this request.",
    503: "The server is shutting down, or the model failed.",
}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorBody, "description": text} for status, text in STATUSES.items()},
    "default": {"model": ErrorBody, "description": "Any other error."},
}
"""Error responses of the OpenAPI schema. `default` keeps FastAPI from adding its 422."""


QUOTED = 40
"""Most characters of a text that an error quotes."""


NAMED = re.compile(
    r"(group[_ ]size|mode|threshold|drafts|temperature|top_k|top_p|min_p|seed|stop|max_tokens|"
    r"prefix)\b"
)
"""Fields that a message may begin with, as a sentence does."""

TYPE = re.compile(r"str|int|(list|literal)\[.*\]")
"""The name of a type in the location of a problem, where a field takes one of several."""

HALF = "a text has half of a character (a lone surrogate): remove it"

LONG_NUMBER = re.compile(r"(\d{20})\d{10,}")


class HttpProblem(Exception):
    """An answer that is an error: its status, its one line, and the field that caused it."""

    def __init__(
        self,
        status: int,
        message: str,
        field: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field, self.code = status, message, field, code
        self.headers = headers or {}

    def of_text(self, text: str) -> HttpProblem:
        """Return this problem with the beginning of the text that has it."""
        start = text if len(text) <= QUOTED else text[:QUOTED].rstrip() + "…"
        readable = start.encode("utf-8", "replace").decode()  # a lone surrogate is no text
        message = f"{json.dumps(readable, ensure_ascii=False)}: {self.message}"
        return HttpProblem(self.status, message, self.field, self.code, self.headers)

    def of_prompt(self, index: int) -> HttpProblem:
        """Return this problem with the index of the prompt that has it."""
        message = f"prompt[{index}]: {self.message.removeprefix('prompt: ')}"
        return HttpProblem(self.status, message, "prompt", self.code, self.headers)

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = TYPES.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.field,
                "code": self.code,
            }
        }

    def response(self, path: str) -> JSONResponse:
        """Return the HTTP response of the route at `path`."""
        body = {"error": self.message} if path in LIBRETRANSLATE else self.body()
        return JSONResponse(body, self.status, self.headers)


class WrongKey(HttpProblem):
    """401: the API key is missing or wrong."""

    def __init__(self) -> None:
        super().__init__(
            401,
            "the API key is missing or wrong: send the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


class QueueFull(HttpProblem):
    """429: more requests wait than are allowed to."""

    def __init__(self, waiting: int, most: int, seconds: float) -> None:
        retry = str(max(1, round(seconds)))
        super().__init__(
            429,
            f"{waiting} requests are waiting, at most {most} may: try again in {retry} s",
            code="queue_full",
            headers={"Retry-After": retry},
        )


class Draining(HttpProblem):
    """503: the server is shutting down and finishes what it has."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "the server is shutting down and takes no new requests: send it to another one",
            code="draining",
            headers={"Retry-After": "5", "Connection": "close"},
        )


class Gone(HttpProblem):
    """503: nothing decodes this model any more."""

    def __init__(self, name: str) -> None:
        super().__init__(
            503,
            f"model {name} failed and decodes no more: restart the server",
            code="model_failed",
        )


def of_user_error(error: UserError) -> HttpProblem:
    """Return the 400 for a value that a model or a mode does not take."""
    code = "invalid_input" if isinstance(error, DataError) else "invalid_value"
    text = LONG_NUMBER.sub(r"\1…", str(error).removeprefix("decoding: "))
    named = re.match(r"(\w+): ", text) or NAMED.match(text)
    return HttpProblem(400, text, named[1].replace(" ", "_") if named else None, code)


def of_framework(method: str, path: str, error: HTTPException) -> HttpProblem:
    """Return the problem of a request that reached no route, or whose body could not be read."""
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = headers.get("Allow", "another method")
        reason = f"{method} was sent to {path[:200]}, which takes {allowed}: see /docs"
        return HttpProblem(405, reason, code="method_not_allowed", headers=headers)
    if error.status_code == 404:
        return HttpProblem(404, f"there is no route {path[:200]}: see /docs", code="not_found")
    if error.status_code == 400:  # FastAPI could not read the body: no UTF-8, too deep, too long
        return HttpProblem(400, NOT_JSON, code="invalid_json")
    return HttpProblem(error.status_code, str(error.detail), headers=headers)


def of_validation(error: RequestValidationError) -> HttpProblem:
    """Return the 400 for a body that does not fit: the first problem and the field it is in."""
    problems = error.errors()
    first = problems[0]
    location = _location(first)
    if first["type"] == "json_invalid":
        return HttpProblem(400, NOT_JSON, code="invalid_json")
    if first["type"] == "missing" and not location:
        return HttpProblem(400, "the body is missing: send a JSON object", code="invalid_json")
    if first["type"] == "string_unicode" and not location:
        return HttpProblem(400, f"the name of a field: {HALF}", code="invalid_value")
    if not location:
        reason = "the body is not a JSON object: send one, with Content-Type: application/json"
        return HttpProblem(400, reason, code="invalid_json")
    field = next((part for part in location if not part.isdigit()), None)
    reason = LONG_NUMBER.sub(r"\1…", str(first["msg"]).removeprefix("Value error, "))
    place = _untyped(location)
    tried = [each for each in problems if _untyped(_location(each)) == place]
    if first["type"] == "missing":
        reason = "this field is missing: give it"
    elif first["type"] == "extra_forbidden":
        reason = "this field is unknown: leave it out"
    elif any(each["type"] == "string_unicode" for each in tried):
        location, reason = place, HALF
    elif len(tried) > 1:  # one problem for each of several allowed types
        allowed = dict.fromkeys(str(each["msg"]) for each in tried)
        kinds = " or ".join(text.removeprefix("Input should be ") for text in allowed)
        location, reason = place, f"allowed is {kinds}"
    return HttpProblem(400, f"{'.'.join(location)}: {reason}", field, "invalid_value")


def _location(problem: Any) -> list[str]:
    """Return the names that lead to a problem, each as one line can hold it."""
    names = [str(part) for part in problem["loc"] if part not in ("body", "query")]
    short = [name if len(name) <= QUOTED else name[:QUOTED] + "…" for name in names]
    return [name if name.strip() and name.isprintable() else json.dumps(name) for name in short]


def _untyped(location: list[str]) -> list[str]:
    """Return the names up to the first type of several that was tried for a value."""
    return list(takewhile(lambda name: not TYPE.fullmatch(name), location))
