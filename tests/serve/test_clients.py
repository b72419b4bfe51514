"""The official clients get what the models write alone, whole and streamed."""

import asyncio
import json
import random

import httpx
import openai
import pytest
from libretranslatepy import LibreTranslateAPI
from tiny_server import TEXT

WORDS = TEXT.split()


def texts(count, seed=0):
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def test_completions_are_what_the_model_writes(client, models):
    prompts = texts(3)
    expected = models["generator"].generate(prompts, 2, max_tokens=12)
    done = client.completions.create(model="generator", prompt=prompts, max_tokens=12, logprobs=1)
    assert [choice.text for choice in done.choices] == [each.text for each in expected]
    for choice, alone in zip(done.choices, expected, strict=True):
        values = list(alone.scores[: len(alone.tokens)])
        assert choice.logprobs.token_logprobs == pytest.approx(values, abs=2e-6)
        assert choice.finish_reason == ("length" if alone.ending == "limit" else "stop")
    assert done.usage.completion_tokens == sum(len(each.scores) for each in expected)


def test_a_stream_joined_is_the_whole_text_and_has_one_event_a_group(client, models):
    [alone] = models["generator"].generate(["The battle"], 4, max_tokens=20)
    events = list(
        client.completions.create(
            model="generator",
            prompt="The battle",
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"group_size": 4},
        )
    )
    choices = [event.choices[0] for event in events if event.choices]
    assert "".join(choice.text for choice in choices) == alone.text
    assert len(choices) == len(alone.trace)
    assert [event.multistride["accepted"] for event in events if event.choices] == [
        len(group.tokens) for group in alone.trace
    ]
    assert events[-1].usage.total_tokens == events[-1].usage.prompt_tokens + len(alone.scores)


def test_an_answer_can_be_sent_back(client, server):
    # Guards: a message of this server's own that is refused in the next turn, as all chats send it.
    turns = [{"role": "user", "content": "The battle"}]
    asked = {"model": "generator", "max_tokens": 8}
    first = client.chat.completions.create(messages=turns, **asked)
    turns += [first.choices[0].message, {"role": "user", "content": "of Hastings"}]
    assert client.chat.completions.create(messages=turns, **asked).choices[0].message.content
    raw = httpx.post(server.url + "/v1/chat/completions", json={**asked, "messages": turns[:1]})
    sent = [*turns[:1], raw.json()["choices"][0]["message"], turns[2]]
    again = httpx.post(server.url + "/v1/chat/completions", json={**asked, "messages": sent})
    assert again.status_code == 200, again.text
    sent[1]["tool_calls"] = [{"id": "1"}]
    assert (
        httpx.post(server.url + "/v1/chat/completions", json={**asked, "messages": sent})
        .json()["error"]["message"]
        .startswith("messages.1.tool_calls: this server supports null")
    )


def test_a_stream_by_token_has_one_event_a_token(client, models):
    [alone] = models["generator"].generate(["The battle"], 4, max_tokens=10)
    events = list(
        client.completions.create(
            model="generator",
            prompt="The battle",
            max_tokens=10,
            stream=True,
            logprobs=1,
            extra_body={"group_size": 4, "stream_granularity": "token"},
        )
    )
    assert "".join(event.choices[0].text for event in events) == alone.text
    assert len(events) == len(alone.scores)


def test_chat_is_a_prompt_in_the_template(client, models):
    messages = [{"role": "system", "content": "Rule."}, {"role": "user", "content": "Who?"}]
    [alone] = models["generator"].generate(
        ["system: Rule.\nuser: Who?\nassistant:"], 2, max_tokens=9
    )
    asked = {"model": "generator", "messages": messages, "max_tokens": 9}
    done = client.chat.completions.create(**asked, logprobs=True)
    assert done.choices[0].message.content == alone.text
    assert len(done.choices[0].logprobs.content) == len(alone.tokens)
    parts = list(client.chat.completions.create(**asked, stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content for part in parts) == alone.text
    assert parts[-1].choices[0].finish_reason in ("stop", "length")


def test_seeds_repeat_and_choices_differ(client):
    asked = {"model": "generator", "prompt": "The", "max_tokens": 16, "temperature": 1.5, "n": 2}
    first, second = (client.completions.create(**asked, seed=5) for _ in range(2))
    written = [choice.text for choice in first.choices]
    assert written == [choice.text for choice in second.choices]
    assert written[0] != written[1]


def test_without_a_seed_each_request_draws_anew(client):
    # Guards: a second try that is the first one again.
    asked = {"model": "generator", "prompt": "The", "max_tokens": 16, "temperature": 1.5}
    assert len({client.completions.create(**asked).choices[0].text for _ in range(4)}) > 1
    several = client.completions.create(**asked, n=3).choices
    assert len({choice.text for choice in several}) > 1


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"extra_body": {"group_size": 9}}, "group_size"),
        ({"extra_body": {"top_k": 3}}, "top_k"),
        ({"extra_body": {"min_p": 0.3}}, "min_p"),
        ({"top_p": 0.3}, "top_p"),
        ({"extra_body": {"threshold": 0.5, "mode": "exact"}}, "threshold"),
        ({"temperature": -1}, "temperature"),
        ({"seed": 2**63, "temperature": 1}, "seed"),
    ],
)
def test_errors_name_the_field(client, asked, field):
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"model": "generator", "prompt": "The", **asked})
    assert refused.value.body["param"] == field


def test_stop_texts_are_cut(client, models):
    [alone] = models["generator"].generate(["The battle"], 2, max_tokens=30)
    stop = alone.text[3:5]
    [expected] = models["generator"].generate(["The battle"], 2, max_tokens=30, stop=(stop,))
    asked = {"model": "generator", "prompt": "The battle", "max_tokens": 30, "stop": stop}
    assert client.completions.create(**asked).choices[0].text == expected.text
    parts = client.completions.create(**asked, stream=True)
    assert "".join(part.choices[0].text for part in parts) == expected.text


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["translator", "generator"]
    assert client.models.retrieve("generator").id == "generator"


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"model": "none"}, 404, "there is no model 'none' here: translator, generator"),
        ({"temperature": -1}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"seed": -1, "temperature": 1}, 400, "seed: "),
        ({"extra_body": {"top_k": -1}, "temperature": 1}, 400, "top_k: "),
        ({"max_tokens": "5"}, 400, "max_tokens: Input should be a valid integer"),
        ({"prompt": ["a", 5]}, 400, "prompt: allowed is a valid string or "),
        ({"extra_body": {"group_size": 9}}, 400, "group size"),
        ({"extra_body": {"colour": 1}}, 400, "colour: this field is unknown"),
        ({"extra_body": {"threshold": 0.5, "mode": "exact"}}, 400, "threshold"),
        ({"n": 2}, 400, "temperature above 0"),
        ({"n": 10**9}, 400, "n: "),
        ({"extra_body": {"group_size": int("9" * 100)}}, 400, "9" * 20 + "…"),
        ({"best_of": 3}, 400, "best_of"),
        ({"seed": 4, "temperature": 0}, 200, ""),
        ({"stop": "x" * 2_000_000}, 413, "larger than"),
        ({"stop": "x" * 2_000}, 400, "stop text is too long"),
        ({"prompt": "a " * 5000}, 400, "cannot be decoded"),
        ({"prompt": [1, 100_000]}, 400, "token 100000 was given"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"presence_penalty": 1}, 400, "this server supports 0 or null only"),
    ],
)
def test_bad_values_are_refused_in_one_line(client, asked, status, said):
    base = {"model": "generator", "prompt": "The", "max_tokens": 3}
    if status == 200:
        client.completions.create(**{**base, **asked})
        return
    with pytest.raises(openai.APIStatusError) as refused:
        client.completions.create(**{**base, **asked})
    assert refused.value.status_code == status
    error = refused.value.body
    assert said in error["message"]
    assert "\n" not in error["message"]


def test_libretranslate_client(server, models):
    api = LibreTranslateAPI(server.url + "/")
    [alone] = models["translator"].translate(["The battle"], 2)
    assert api.translate("The battle", "en", "de") == alone.text
    assert api.languages()[0] == {"code": "en", "name": "English", "targets": ["de"]}
    refused = httpx.post(server.url + "/translate", json={"q": "a", "source": "fr", "target": "de"})
    assert (refused.status_code, "en to de" in refused.json()["error"]) == (400, True)
    assert httpx.post(server.url + "/detect", json={"q": "a"}).status_code == 400


def test_libretranslate_keeps_lines_and_translates_sentence_by_sentence(server, models):
    """Paragraphs that run together, and sentences that a model of single ones leaves out."""
    [battle, he, they] = models["translator"].translate(["The battle.", "He ruled.", "They"], 2)
    text = "The battle. He ruled.\n\n They\n"
    body = {"q": [text, "", "They"], "source": "en", "target": "de"}
    done = httpx.post(server.url + "/translate", json=body).json()["translatedText"]
    assert done == [f"{battle.text} {he.text}\n\n{they.text}\n", "", they.text]
    for given in (["They"] * 257, "They. " * 1025):
        refused = httpx.post(server.url + "/translate", json={**body, "q": given})
        assert refused.status_code == 413
        assert "at most 256 texts and 1,024 sentences" in refused.json()["error"]


ASKED = {"q": "They", "source": "en", "target": "de"}
FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=here"
PART = '--here\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("kind", "body", "status", "said"),
    [
        ("Application/JSON; charset=utf-8", json.dumps(ASKED), 200, ""),
        (FORM, "q=They&source=en&target=de", 200, ""),
        (PARTS, "".join(PART % item for item in ASKED.items()) + "--here--\r\n", 200, ""),
        ("application/json", '{"q": "They", ', 400, "not valid JSON in UTF-8"),
        ("application/json", b'{"q": "\xff"}', 400, "not valid JSON in UTF-8"),
        ("application/json", "[" * 100_000, 400, "not valid JSON in UTF-8"),
        ("application/json", '["They"]', 400, "the body is not a JSON object"),
        ("application/json", "{}", 400, "q: this field is missing"),
        ("application/json", json.dumps({**ASKED, "colour": 1}), 400, "colour: this field is unkn"),
        ("application/json", json.dumps({**ASKED, "format": "html"}), 400, "format: "),
        ("application/json", json.dumps({**ASKED, "target": ""}), 400, "'en' to '' is not supp"),
        ("application/json", json.dumps({**ASKED, "q": "\ud800"}), 400, "UTF-8"),
        ("application/json", json.dumps({**ASKED, "q": "a " * 5000}), 400, "cannot be decoded"),
        ("text/plain", "They", 400, "Content-Type is text/plain"),
        (FORM, b"q=%ff&source=en&target=de", 400, "the form is not in UTF-8"),
        ("multipart/form-data", "q=They", 400, "the form could not be read"),
        (
            PARTS,
            b"".join((PART % item).encode("latin-1") for item in {**ASKED, "q": "M\xfcn"}.items())
            + b"--here--\r\n",
            400,
            "the form is not in UTF-8",
        ),
        (
            PARTS,
            "".join(PART % item for item in {**ASKED, "q": "M\xfcn"}.items()) + "--here--\r\n",
            200,
            "",
        ),
    ],
)
def test_libretranslate_refuses_in_its_own_shape(server, kind, body, status, said):
    answer = httpx.post(server.url + "/translate", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    if status != 200:
        assert list(answer.json()) == ["error"]
        assert said in answer.json()["error"]
        assert "\n" not in answer.json()["error"]


def test_libretranslate_errors_of_the_framework_have_its_shape_too(server):
    assert "takes POST" in httpx.get(server.url + "/translate").json()["error"]
    assert "takes GET" in httpx.post(server.url + "/languages").json()["error"]


def test_a_form_that_repeats_its_text_is_a_list(server):
    one = httpx.post(server.url + "/translate", data=ASKED).json()["translatedText"]
    two = httpx.post(server.url + "/translate", data={**ASKED, "q": ["They", "They"]})
    assert two.json()["translatedText"] == [one, one]


@pytest.mark.parametrize("route", ["/translate", "/v1/translate"])
def test_a_text_that_cannot_be_translated_is_named(server, route):
    long = "battle " * 3000
    asked = {"text": ["They", long]} if route == "/v1/translate" else {**ASKED, "q": ["They", long]}
    answer = httpx.post(server.url + route, json=asked)
    error = answer.json()["error"]
    message = error["message"] if route == "/v1/translate" else error
    assert answer.status_code == 400
    assert message.startswith('"battle battle battle battle battle battl…": the text cannot')


def test_a_prefix_as_long_as_the_limit_is_refused(server):
    asked = {"text": "They", "prefix": "Die Schlacht von Hastings", "max_tokens": 3}
    answer = httpx.post(server.url + "/v1/translate", json=asked)
    assert answer.status_code == 400
    assert "tokens and a translation at most 3" in answer.json()["error"]["message"]


def test_translate_route_has_tokens_and_steps(server, models):
    sources = ["The battle", "", "William then ruled"]
    expected = models["translator"].translate(sources, 4, "exact")
    body = {"text": sources, "group_size": 4, "mode": "exact"}
    done = httpx.post(server.url + "/v1/translate", json=body).json()["translations"]
    assert [each["text"] for each in done] == [each.text for each in expected]
    assert [tuple(each["tokens"]) for each in done] == [each.tokens for each in expected]
    assert [each["steps"] for each in done] == [len(each.trace) for each in expected]


WAYS = (
    {"group_size": 1},
    {"group_size": 4},
    {"group_size": 4, "mode": "exact"},
    {"group_size": 4, "mode": "adaptive", "threshold": 0.3},
    {"group_size": 2, "max_tokens": 5},
    {"group_size": 2, "temperature": 1.0, "seed": 3},
)


def test_many_requests_at_once_get_what_they_get_alone(server, models):
    """Rows that are mixed up, lost, or see each other."""
    jobs = [
        (name, text, WAYS[number % len(WAYS)])
        for name in ("generator", "translator")
        for number, text in enumerate(texts(18, seed=9))
    ]

    async def ask(client, name, text, way):
        body = {"model": name, "prompt": text, "stream": True, **way}
        written = ""
        async with client.stream("POST", "/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    written += json.loads(line[6:])["choices"][0]["text"]
        return written

    async def all_of_them():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(ask(client, *job) for job in jobs))

    for (name, text, way), written in zip(jobs, asyncio.run(all_of_them()), strict=True):
        model = models[name]
        alone = model.translate if name == "translator" else model.generate
        assert written == alone([text], **way)[0].text, (name, text, way)
