"""Our own translation route and LibreTranslate's.

Source: LibreTranslate API reference (`/translate`, `/languages`, `/detect`).
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any
from urllib.parse import parse_qsl

import orjson
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from multistride.data.sentences import split_sentences
from multistride.errors import UserError
from multistride.serve.errors import (
    DOCUMENTED,
    NOT_JSON,
    HttpProblem,
    WrongKey,
    of_user_error,
    of_validation,
)
from multistride.serve.protocol import (
    MOST_SENTENCES,
    MOST_TEXTS,
    LibreTranslateRequest,
    TranslateRequest,
)
from multistride.serve.scheduler import Ticket
from multistride.serve.served import Served, ServedModel
from multistride.serve.writing import Answer, Usage, until_gone, whole

REFUSED: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Any error, in LibreTranslate's shape.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}},
                    "required": ["error"],
                }
            }
        },
    }
}
"""Error responses of the OpenAPI schema."""

LIBRETRANSLATE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            media: {"schema": LibreTranslateRequest.model_json_schema()}
            for media in ("application/json", "application/x-www-form-urlencoded")
        },
    }
}


async def translated(
    request: Request, model: ServedModel, texts: list[str], choices: dict[str, Any], usage: Usage
) -> list[Answer]:
    """Return the translations of texts, blank ones blank, in order.

    Raises `HttpProblem` for a text that cannot be translated, and names it where it is one of many.
    """
    model.check_room(sum(bool(text.strip()) for text in texts))
    tickets = dict[int, Ticket]()
    try:
        for index, text in enumerate(texts):
            if index % 32 == 31:
                await asyncio.sleep(0)  # others have their turn
            if text.strip():
                try:
                    tokens = await model.encode(text)
                except (HttpProblem, UserError) as error:
                    problem = of_user_error(error) if isinstance(error, UserError) else error
                    raise (problem if len(texts) == 1 else problem.of_text(text)) from error
                usage.prompt += len(tokens)
                begun = bool(tickets)
                tickets[index] = model.submit(tokens, choices, request.state.id, True, begun)
        stops = choices.get("stop", ())
        work = asyncio.ensure_future(
            asyncio.gather(*(whole(model.model, each, stops, usage) for each in tickets.values()))
        )
        answers = dict(zip(tickets, await until_gone(request, work), strict=True))
    finally:
        for ticket in tickets.values():
            ticket.cancel()
    return [answers.get(index, Answer()) for index in range(len(texts))]


def router(served: Served) -> APIRouter:
    """Return the routes over the served models."""
    routes = APIRouter()

    @routes.post(
        "/v1/translate",
        tags=["Translation"],
        responses=DOCUMENTED,
        response_model=dict[str, Any],
    )
    async def translate(body: TranslateRequest, request: Request) -> Response:
        """Translate one text or several."""
        model = served.translator(body.model)
        texts = [body.text] if isinstance(body.text, str) else body.text
        choices = body.choices()
        for name in ("max_tokens", "prefix"):
            if getattr(body, name) is not None:
                choices[name] = getattr(body, name)
        usage = Usage()
        answers = await translated(request, model, texts, choices, usage)
        result = {
            "model": model.name,
            "translations": [
                {
                    "text": answer.text,
                    "tokens": answer.tokens,
                    "pieces": answer.pieces,
                    "log_probabilities": [round(value, 6) for value in answer.log_probabilities],
                    "steps": len(answer.steps),
                    "trace": answer.steps,
                    "finish_reason": answer.finish_reason,
                }
                for answer in answers
            ],
            "usage": usage.object(),
        }
        return Response(orjson.dumps(result), media_type="application/json")

    @routes.post(
        "/translate", tags=["LibreTranslate"], responses=REFUSED, openapi_extra=LIBRETRANSLATE_BODY
    )
    async def libretranslate(request: Request) -> Any:
        """Translate as LibreTranslate does, sentence by sentence; JSON or a form."""
        try:
            body = LibreTranslateRequest.model_validate(await _fields(request))
        except ValidationError as error:
            raise of_validation(RequestValidationError(error.errors())) from error
        _check_key(request, body.api_key)
        model = served.for_languages(body.source, body.target)
        texts = [body.q] if isinstance(body.q, str) else body.q
        written = await _by_sentences(request, model, texts)
        return {"translatedText": written[0] if isinstance(body.q, str) else written}

    @routes.get("/languages", tags=["LibreTranslate"])
    async def languages() -> list[dict[str, Any]]:
        """List the languages, and what each can be translated into."""
        return served.languages()

    @routes.post("/detect", tags=["LibreTranslate"], responses=REFUSED)
    async def detect() -> None:
        """Refuse: the served models do not recognise languages."""
        reason = "language detection is not supported: name the source language"
        raise HttpProblem(400, reason, code="not_supported")

    return routes


async def _by_sentences(request: Request, model: ServedModel, texts: list[str]) -> list[str]:
    """Return the translations of texts of several lines, made sentence by sentence."""
    pages = await asyncio.to_thread(_pages, texts)
    sentences = [each for page in pages for line in page for each in line]
    if len(texts) > MOST_TEXTS or len(sentences) > MOST_SENTENCES:
        raise HttpProblem(
            413,
            f"{len(texts):,} texts with {len(sentences):,} sentences were given: at most "
            f"{MOST_TEXTS} texts and {MOST_SENTENCES:,} sentences are allowed, send several "
            "requests",
        )
    answers = await translated(request, model, sentences, {}, Usage())
    done = (answer.text for answer in answers)
    return ["\n".join(" ".join(islice(done, len(line))) for line in page) for page in pages]


def _pages(texts: list[str]) -> list[list[list[str]]]:
    """Return the sentences of each line of each text."""
    return [[split_sentences(line) for line in text.split("\n")] for text in texts]


def _check_key(request: Request, given: str | None) -> None:
    """Raise `HttpProblem` 401 if neither the header nor the body has the key."""
    key = getattr(request.state, "key", None)
    if key is None:
        return
    text = (given or "").encode("utf-8", "surrogatepass")  # JSON can hold lone surrogates
    if not hmac.compare_digest(text, key.encode()):
        raise WrongKey


async def _fields(request: Request) -> dict[str, Any]:
    """Return the fields of a JSON object or a form; a field that a form repeats is a list.

    Raises `HttpProblem` 400 for a body that is neither.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        try:
            found = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise HttpProblem(400, NOT_JSON, code="invalid_json") from error
        if not isinstance(found, dict):
            raise HttpProblem(400, "the body is not a JSON object: send one", code="invalid_json")
        return found
    if kind == "multipart/form-data":
        try:
            body = await request.body()
            items: Sequence[tuple[str, Any]] = (await request.form()).multi_items()
        except HTTPException as error:
            reason = f"the form could not be read ({error.detail}): send multipart/form-data"
            raise HttpProblem(400, reason, code="invalid_form") from error
        # Starlette reads what is not UTF-8 as Latin-1: then its UTF-8 is not what was sent.
        if any(isinstance(value, str) and value.encode() not in body for _, value in items):
            raise HttpProblem(400, "the form is not in UTF-8", code="invalid_form")
    elif kind in ("application/x-www-form-urlencoded", ""):
        try:
            text = (await request.body()).decode("utf-8")
            items = parse_qsl(text, keep_blank_values=True, errors="strict")
        except ValueError as error:
            raise HttpProblem(400, "the form is not in UTF-8", code="invalid_form") from error
    else:
        reason = f"Content-Type is {kind}: send application/json or a form"
        raise HttpProblem(400, reason, code="invalid_header")
    fields: dict[str, list[Any]] = {}
    for name, value in chain(request.query_params.multi_items(), items):
        fields.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in fields.items()}
