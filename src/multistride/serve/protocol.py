"""The bodies of requests: OpenAI's, LibreTranslate's and our own, with the fields that K adds.

Unknown fields are errors, and so is every value that would be ignored: a client that asks for
something gets it or is told why not. Fields of OpenAI's API that have one harmless value (such as
`n=1` or `presence_penalty=0`) accept that value alone.

Source: OpenAI API reference, completions and chat completions; LibreTranslate API.
"""

from __future__ import annotations

import json
import secrets
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from multistride.decode.options import Drafts, Mode

MOST_CHOICES = 16
"""Largest `n`: how many completions one request may ask for."""

MOST_TEXTS = 256
"""Most texts in one request."""

MOST_SENTENCES = 1024
"""Most sentences in one request of LibreTranslate's route, which translates them one by one."""

MOST_SEED = 2**63 - 1
"""Largest random seed."""

MOST_STOPS = 16
"""Most stop texts in one request; OpenAI allows 4."""

LONGEST_STOP = 1000
"""Most characters of a stop text."""

NEUTRAL = "Not supported: only the neutral value is accepted."


def _only(*allowed: Any) -> BeforeValidator:
    """Accept the allowed values alone."""

    def check(value: Any) -> Any:
        if value not in allowed:
            others = [item for index, item in enumerate(allowed) if item not in allowed[:index]]
            names = " or ".join(map(json.dumps, others))
            raise ValueError(f"this server supports {names} only: leave it out")
        return value

    return BeforeValidator(check)


def _number(value: Any) -> Any:
    """Read a number in a form, where every value is a text."""
    return int(value) if isinstance(value, str) and value in ("0", "1") else value


class StreamOptions(BaseModel):
    """`stream_options` of OpenAI's API."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(False, description="Send a last event with the token counts.")
    include_obfuscation: Annotated[bool, _only(False)] = Field(
        False, description="Not supported: false only."
    )


class Decoding(BaseModel):
    """Fields of every route: how to write, and what ends a text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, description="Name of a served model; default: the first.")
    group_size: int | Literal["auto"] | None = Field(
        None, description="Tokens per step (K); auto chooses by the current load."
    )
    mode: Mode | None = Field(None, description="fast, adaptive or exact.")
    threshold: float | None = Field(
        None, description="adaptive: keep tokens while their joint probability is at least this."
    )
    drafts: Drafts | None = Field(None, description="exact: where drafts come from.")
    temperature: float | None = Field(None, description="Sampling temperature; 0 is greedy.")
    top_k: int | None = Field(
        None, description="Sample from this many most probable tokens (0: all)."
    )
    top_p: float | None = Field(
        None,
        description="Sample from the most probable tokens whose joint probability reaches this.",
    )
    min_p: float | None = Field(
        None,
        description="Sample from tokens at least this probable, relative to the most probable one.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MOST_SEED,
        description="Random seed. The same request and seed give the same text; default: a new "
        "one for every request.",
    )
    stop: str | list[str] | None = Field(
        None, description="One or several texts; the output ends before the first of them."
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, body: Any) -> Any:
        """Take null for a field that has a default as its default, as OpenAI's API does."""
        if not isinstance(body, dict):
            return body
        own = cls.model_fields
        return {
            name: value
            for name, value in body.items()
            if value is not None or name not in own or own[name].is_required()
        }

    @field_validator("stop")
    @classmethod
    def _bounded(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = _listed(value)
        if len(stops) > MOST_STOPS:
            raise ValueError(f"{len(stops)} stop texts were given: at most {MOST_STOPS}")
        if max(map(len, stops), default=0) > LONGEST_STOP:
            raise ValueError(f"a stop text is too long: at most {LONGEST_STOP} characters")
        return value

    def choices(self) -> dict[str, Any]:
        """Return the decoding options that were given, by the names of `DecodeOptions`.

        Where tokens are drawn there is always a seed: if none was given, one of chance.
        """
        names = ("group_size", "mode", "threshold", "drafts", "temperature", "top_k", "top_p")
        given = {name: getattr(self, name) for name in (*names, "min_p", "seed")}
        chosen = {name: value for name, value in given.items() if value is not None}
        if chosen.get("temperature") == 0:  # OpenAI's clients send neutral sampling values
            for name in ("top_p", "seed"):
                chosen.pop(name, None)
        elif "temperature" not in chosen:
            chosen.pop("seed", None)
            if chosen.get("top_p") == 1:
                chosen.pop("top_p")
        elif "seed" not in chosen:
            chosen["seed"] = secrets.randbelow(2**31)
        stops = _listed(self.stop)
        return {**chosen, "stop": tuple(stops)} if stops else chosen


def _listed(stop: str | list[str] | None) -> list[str]:
    return [stop] if isinstance(stop, str) else stop or []


class Streaming(Decoding):
    """Further fields of the routes that stream."""

    stream: bool = Field(False, description="Send server-sent events, one per committed group.")
    stream_options: StreamOptions | None = Field(
        None, description='`{"include_usage": true}` sends a last event with the token counts.'
    )
    stream_granularity: Literal["group", "token"] = Field(
        "group", description="One event per group, or one per token."
    )
    n: int = Field(1, ge=1, le=MOST_CHOICES, description="Completions per prompt.")
    user: str | None = Field(None, description="Accepted for compatibility, without effect.")
    presence_penalty: Annotated[float, _only(0, 0.0, None)] | None = Field(
        None, description=NEUTRAL
    )
    frequency_penalty: Annotated[float, _only(0, 0.0, None)] | None = Field(
        None, description=NEUTRAL
    )
    logit_bias: Annotated[dict[str, float] | None, _only(None, {})] = Field(
        None, description=NEUTRAL
    )


class CompletionRequest(Streaming):
    """The body of `POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="Text or tokens; for a translation model, the text to translate."
    )
    max_tokens: int | None = Field(None, ge=1, description="Maximum number of tokens.")
    logprobs: int | None = Field(None, ge=0, le=1, description="1: log-probabilities of tokens.")
    echo: Annotated[bool, _only(False)] = Field(False, description=NEUTRAL)
    suffix: Annotated[str | None, _only(None)] = Field(None, description=NEUTRAL)
    best_of: Annotated[int | None, _only(None, 1)] = Field(None, description=NEUTRAL)

    @field_validator("prompt")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("an empty list was given: give at least one prompt")
        if isinstance(value, list) and not isinstance(value[0], int) and len(value) > MOST_TEXTS:
            raise ValueError(f"{len(value)} prompts were given: at most {MOST_TEXTS}")
        return value

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, one or several, each a text or tokens."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        texts = [item for item in prompt if isinstance(item, str)]
        tokens = [item for item in prompt if isinstance(item, int)]
        lists = [item for item in prompt if isinstance(item, list)]
        return [*texts, *lists, *([tokens] if tokens else [])]


class TextPart(BaseModel):
    """One part of a message's content; only text is understood."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn of a conversation; what an answer of this server holds may be sent back."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: Annotated[str | None, _only(None)] = None
    refusal: Annotated[str | None, _only(None)] = None
    annotations: Annotated[list[Any] | None, _only(None, [])] = None
    audio: Annotated[Any, _only(None)] = None
    function_call: Annotated[Any, _only(None)] = None
    tool_calls: Annotated[list[Any] | None, _only(None, [])] = None

    def turn(self) -> dict[str, str]:
        """Return the message as chat templates read it."""
        parts = [self.content] if isinstance(self.content, str) else self.content
        content = "".join(part if isinstance(part, str) else part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(Streaming):
    """The body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(
        min_length=1, description="The turns of the conversation: `role` and `content`."
    )
    max_tokens: int | None = Field(None, ge=1, description="Maximum number of tokens.")
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Another name for max_tokens."
    )
    logprobs: bool = Field(False, description="Send the log-probability of every token.")
    top_logprobs: Annotated[int | None, _only(None, 0)] = Field(None, description=NEUTRAL)
    tools: Annotated[list[Any] | None, _only(None, [])] = Field(None, description=NEUTRAL)
    tool_choice: Annotated[Any, _only(None, "none")] = Field(None, description=NEUTRAL)
    response_format: Annotated[Any, _only(None, {"type": "text"})] = Field(
        None, description='Not supported: only `{"type": "text"}` is accepted.'
    )


class TranslateRequest(Decoding):
    """The body of `POST /v1/translate`."""

    text: str | list[str] = Field(description="One text or several.")
    max_tokens: int | None = Field(
        None, ge=1, description="Maximum number of tokens per translation."
    )
    prefix: str | None = Field(None, description="Text that every translation begins with.")

    @field_validator("text")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if isinstance(value, list) and not 1 <= len(value) <= MOST_TEXTS:
            raise ValueError(f"{len(value)} texts were given: 1 to {MOST_TEXTS} are allowed")
        return value


class LibreTranslateRequest(BaseModel):
    """The body of LibreTranslate's `POST /translate`."""

    model_config = ConfigDict(extra="forbid")

    q: str | list[str] = Field(description="One text or several.")
    source: str = Field(description="Language code, or auto where only one model fits.")
    target: str = Field(description="Language code.")
    format: Literal["text"] = Field("text", description="Only text: HTML is not understood.")
    alternatives: Annotated[int, _only(0), BeforeValidator(_number)] = Field(0, description=NEUTRAL)
    api_key: str | None = Field(None, description="The key, where the server asks for one.")
