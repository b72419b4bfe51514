"""What a server must stand: clients that leave, requests that fail, bodies that are no requests."""

import asyncio
import contextlib
import copy
import json
import logging
import signal
import socket
import time

import httpx
import openai
import pytest
from libretranslatepy import LibreTranslateAPI
from tiny_server import KEY, Running, tiny

import multistride.serve.server as server_module
from multistride.decode.choosing.auto import Offer
from multistride.errors import UserError
from multistride.serve.app import Limits
from multistride.serve.errors import HttpProblem
from multistride.serve.orders import Capacity
from multistride.serve.served import languages_of
from multistride.serve.server import bound
from multistride.translator import Translator

MESSAGES = [{"role": "user", "content": "The battle"}]
LONG = {"model": "generator", "prompt": "The", "max_tokens": 90, "group_size": 1}


def until(condition, seconds=10):
    """Wait until something is so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.005)


def rounds_of(running, name="generator"):
    """Return the rounds of a model, which run in a thread of this process."""
    return running.served.models[name].scheduler._link.rounds


def slowed(rounds, seconds):
    """Make every pass take this long."""
    advance = rounds._advance

    def slow(batch):
        time.sleep(seconds)
        advance(batch)

    rounds._advance = slow


def test_state_routes(server):
    assert httpx.get(server.url + "/health").json() == {"status": "ok"}
    assert httpx.get(server.url + "/ready").status_code == 200
    assert "version" in httpx.get(server.url + "/version").json()
    assert "multistride_num_requests_running" in httpx.get(server.url + "/metrics").text
    assert "<html" in httpx.get(server.url + "/").text
    assert httpx.get(server.url + "/docs").status_code == 200
    assert httpx.get(server.url + "/nowhere").status_code == 404
    paths = httpx.get(server.url + "/openapi.json").json()["paths"]
    answers = paths["/v1/completions"]["post"]["responses"]
    assert {"400", "401", "404", "413", "429", "503"} < set(answers)
    assert "422" not in answers  # FastAPI's default, which this server never sends


def test_a_request_id_comes_in_and_goes_out(server):
    answer = httpx.get(server.url + "/health", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    answer = httpx.get(server.url + "/health", headers={"X-Request-Id": "a b" * 100})
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"prompt": "a"', {}, 400),
        (b"\xff\xfe", {}, 400),
        (b'{"prompt": "\xff"}', {}, 400),
        (b"[]", {}, 400),
        (b"", {}, 400),
        (b'{"prompt": "\\ud800"}', {}, 400),
        (b"[" * 5000, {}, 400),
        (b'{"prompt": "a"}' + b" " * (1 << 20), {}, 413),
    ],
)
def test_broken_bodies(server, body, headers, status):
    headers = {"content-type": "application/json", **headers}
    answer = httpx.post(server.url + "/v1/completions", content=body, headers=headers)
    assert answer.status_code == status
    if answer.headers.get("content-type") == "application/json":
        assert "\n" not in answer.json()["error"]["message"]


def test_a_long_text_does_not_hold_up_others(server, models, monkeypatch):
    # Guards: a megabyte that is encoded on the event loop, where /health waits for it.
    encode = models["generator"].encode

    def slow(texts):
        time.sleep(0.5)
        return encode(texts)

    monkeypatch.setattr(models["generator"], "encode", slow)

    async def ask():
        async with httpx.AsyncClient(base_url=server.url) as client:
            body = {"model": "generator", "prompt": "battle " * 1000}
            long = asyncio.create_task(client.post("/v1/completions", json=body))
            await asyncio.sleep(0.1)
            began = time.perf_counter()
            await client.get("/health")
            return time.perf_counter() - began, (await long).status_code

    seconds, status = asyncio.run(ask())
    assert status == 400
    assert seconds < 0.3


def chunks(*parts, wait=0.0):
    for part in parts:
        yield part
        time.sleep(wait)


def test_a_body_in_chunks_is_bounded_too(server):
    # Guards: bodies without Content-Length, which FastAPI takes for broken ones.
    for path in ("/v1/completions", "/translate"):
        headers = {"content-type": "application/json"}
        parts = chunks(*[b" " * 100_000] * 30)
        answer = httpx.post(server.url + path, content=parts, headers=headers)
        assert answer.status_code == 413
        error = answer.json()["error"]
        assert "larger than" in (error if path == "/translate" else error["message"])


def test_a_body_that_does_not_come_is_not_waited_for(models):
    with Running(models, Limits(body_seconds=0.5)) as running:
        headers = {"content-type": "application/json"}
        answer = httpx.post(
            running.url + "/v1/completions", content=chunks(b"{", b"}", wait=1.5), headers=headers
        )
        assert answer.status_code == 408
        assert httpx.post(running.url + "/v1/completions", json=LONG).status_code == 200


def test_a_header_bomb_and_half_a_request_leave_the_server_alive(server):
    host, port = server.url.removeprefix("http://").split(":")
    for data in (b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000, b"GET / HT", b"\x00\x01\x02\r\n\r\n"):
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(data)
    assert httpx.get(server.url + "/health").status_code == 200


CHUNKED = b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_headers_are_bounded_wherever_they_stand(server, caplog):
    """The C parser takes headers and trailers of any size, and keeps them."""
    header = b"X: " + b"a" * 1000 + b"\r\n"
    flood(server, b"GET /health HTTP/1.1\r\n", header)
    flood(server, b"GET /", b"a" * 1000)
    flood(server, CHUNKED + b"1\r\n{\r\n0\r\n", header)
    assert sum("headers are larger than 32,768 bytes" in line for line in caplog.messages) == 3


@pytest.mark.parametrize(("size", "status"), [(30_000, b" 200 "), (33_000, b" 431 ")])
def test_headers_in_one_piece_with_their_request_are_bounded_too(server, size, status):
    with connected(server) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nX: " + b"a" * size + b"\r\n\r\n")
        assert status in raw.recv(1000)
    with connected(server) as raw:  # a large body is no header, even in pieces of a byte
        raw.sendall(CHUNKED + b"1\r\n{\r\n" * 20_000 + b"0\r\n\r\n")
        assert b" 400 " in raw.recv(100)
    body = b"0" * 500_000
    assert httpx.post(server.url + "/v1/completions", content=body).status_code == 400


BODY = b'{"model": "translator", "text": "They rode", "max_tokens": 3}'
UPGRADE = (
    b"POST /v1/translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\nContent-Length: %d\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n\r\n" % len(BODY)
)


@pytest.mark.parametrize("turns", [1, 2])
def test_a_client_that_asks_for_another_protocol_is_answered_in_this_one(server, turns):
    """Java's HttpClient and `curl --http2`: the body was taken for that protocol, and lost."""
    with connected(server) as raw:
        for _ in range(turns):
            raw.sendall(UPGRADE)
            raw.sendall(BODY)
            answer = raw.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b'"translations"' in answer


@pytest.mark.parametrize("cut", [UPGRADE.index(b"h2c"), UPGRADE.index(b"pgrade: h2c")])
def test_a_body_behind_another_protocol_is_no_request(server, cut):
    """Headers in pieces, where the parser sees what is asked for: its body is no second request."""
    with connected(server) as raw:
        raw.sendall(UPGRADE[:cut])
        time.sleep(0.2)
        raw.sendall(UPGRADE[cut:])
        raw.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        # The server closes before it has read what follows: behind its answer that is a reset.
        with contextlib.suppress(ConnectionResetError):
            while piece := raw.recv(10_000):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/docs"])
def test_what_can_be_got_can_be_asked_after(server, path):
    """HEAD, as monitors send it, got 405."""
    asked, got = httpx.head(server.url + path), httpx.get(server.url + path)
    assert asked.status_code == got.status_code == 200
    assert asked.headers["content-length"] == got.headers["content-length"]
    assert asked.content == b""


def test_nobody_is_sent_to_the_host_that_a_request_names(server):
    answer = httpx.post(server.url + "/translate/", headers={"Host": "evil"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


def connected(server):
    """Return a socket to a server."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def flood(server, head, piece):
    """Send a request that never ends until the server closes the connection."""
    with connected(server) as raw, pytest.raises(ConnectionError):
        raw.sendall(head + 100_000 * piece)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/v1/completions", b'{"prompt": "\xff"}', 400, "is not valid JSON in UTF-8"),
        ("POST", "/v1/completions", b'{"n":' + b"9" * 9999 + b"}", 400, "is not valid JSON"),
        ("POST", "/v1/translate", b"{}", 400, "text: this field is missing"),
        ("POST", "/v1/translate", b'{"text": "a", "\\n": 1}', 400, '"\\n": this field is unknown'),
        ("POST", "/v1/translate", b'{"text": "a", "": 1}', 400, '"": this field is unknown'),
        (
            "POST",
            "/v1/translate",
            b'{"text": "a", "%s": 1}' % (b"b" * 999),
            400,
            "bbb…: this field",
        ),
        (
            "POST",
            "/v1/translate",
            b'{"text": "a", "\\ud800": 1}',
            400,
            "the name of a field: a text",
        ),
        (
            "POST",
            "/v1/translate",
            b'{"text": "a", "mode": "\\ud800"}',
            400,
            "mode: a text has half",
        ),
        (
            "POST",
            "/v1/translate",
            b'{"text": "a", "group_size": "\\ud800"}',
            400,
            "e: a text has half",
        ),
        (
            *("POST", "/v1/chat/completions"),
            *(b'{"messages": [{"role": "me", "content": 5}]}', 400),
            "messages.0.role: Input should be 'system', 'developer', 'user' or 'assistant'",
        ),
        (
            *("POST", "/v1/chat/completions"),
            *(b'{"messages": [{"role": "user", "content": 5}]}', 400),
            "messages.0.content: allowed is a valid string or a valid list",
        ),
        ("GET", "/v1/completions", b"", 405, "GET was sent to /v1/completions, which takes POST"),
        ("GET", "/..%2f..%2fetc/passwd", b"", 404, "see /docs"),
    ],
)
def test_errors_say_what_to_do(server, method, path, body, status, said):
    """The framework's own words: "Not Found", "There was an error parsing the body".

    Guards: what is allowed for other fields in the message of one, names of fields that break it.
    """
    headers = {"content-type": "application/json"}
    answer = httpx.request(method, server.url + path, content=body, headers=headers)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_an_error_names_what_its_own_field_takes(server):
    # Guards: "group_size: allowed is a valid integer or 'auto' or 'fast', 'adaptive' or 'exact'".
    body = {"text": "a", "group_size": "x", "mode": "y"}
    answer = httpx.post(server.url + "/v1/translate", json=body)
    said = answer.json()["error"]["message"]
    assert said == "group_size: allowed is a valid integer or 'auto'"


def test_headers_that_do_not_come_are_not_waited_for(server, monkeypatch):
    """Connections that are held for ever by half a request."""
    monkeypatch.setattr(server_module, "PATIENCE", 0.1)
    for half in (b"", b"GET /health HTTP/1.1\r\n"):
        with connected(server) as raw:
            raw.sendall(half)
            assert raw.recv(100) == b""
    with connected(server) as raw:  # one that is complete has all the time it needs
        raw.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert b" 200 " in raw.recv(1000)
        time.sleep(0.3)
        raw.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert b" 200 " in raw.recv(1000)


def test_keys(models):
    with Running(models, Limits(api_key=KEY)) as running:
        assert httpx.get(running.url + "/health").status_code == 200
        assert httpx.get(running.url + "/v1/models").status_code == 401
        wrong = {"Authorization": "Bearer sécret".encode("latin-1")}
        assert httpx.get(running.url + "/v1/models", headers=wrong).status_code == 401
        lower = {"Authorization": f"bearer  {KEY}"}
        assert httpx.get(running.url + "/v1/models", headers=lower).status_code == 200
        with openai.OpenAI(base_url=running.url + "/v1", api_key=KEY) as client:
            assert len(list(client.models.list())) == 2
        asked = {"q": "The", "source": "en", "target": "de"}
        assert httpx.post(running.url + "/translate", json=asked).status_code == 401
        assert httpx.post(running.url + "/v1/translate", json={"text": "a"}).status_code == 401
        lone = b'{"q": "The", "source": "en", "target": "de", "api_key": "\\ud800"}'
        headers = {"content-type": "application/json"}
        answer = httpx.post(running.url + "/translate", content=lone, headers=headers)
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        keyed = LibreTranslateAPI(running.url + "/", KEY)
        assert isinstance(keyed.translate("The battle", "en", "de"), str)


@pytest.mark.parametrize("form", ["utf-8", "latin-1"])
def test_a_key_may_hold_any_letters(models, form):
    # Guards: a key that curl, which writes UTF-8, cannot give; one of which a part will do.
    with Running(models, Limits(api_key="schlüssel")) as running:
        right = {"Authorization": "Bearer schlüssel".encode(form)}
        assert httpx.get(running.url + "/v1/models", headers=right).status_code == 200
    with Running(models, Limits(api_key="→k")) as running:
        part = {"Authorization": "Bearer k"}
        assert httpx.get(running.url + "/v1/models", headers=part).status_code == 401


@pytest.mark.parametrize("path", ["/translate", "/v1/translate"])
def test_a_client_that_leaves_in_its_body_is_no_fault_of_the_server(server, caplog, path):
    head = f"POST {path} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
    with connected(server) as raw:
        raw.sendall(head.encode())
        time.sleep(0.2)
    until(lambda: httpx.get(server.url + "/health").status_code == 200)
    time.sleep(0.2)
    assert "failed" not in caplog.text


def test_a_client_that_leaves_frees_its_row(models):
    with Running(models) as running:
        scheduler = running.served.models["generator"].scheduler
        slowed(rounds_of(running), 0.02)
        with httpx.stream(
            "POST", running.url + "/v1/completions", json={**LONG, "stream": True}
        ) as answer:
            next(answer.iter_lines())
            assert scheduler.load == 1
        until(lambda: scheduler.load == 0, 1.0)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(running.url + "/v1/completions", json=LONG, timeout=0.1)
        until(lambda: scheduler.load == 0, 1.0)


def counted(url, reason):
    """Return how many requests ended for a reason."""
    start = f'multistride_request_success_total{{finished_reason="{reason}",model="generator"}} '
    lines = httpx.get(url + "/metrics").text.splitlines()
    return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))


def test_a_client_that_leaves_is_counted(models):
    with Running(models) as running:
        slowed(rounds_of(running), 0.02)
        before = counted(running.url, "abort")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(running.url + "/v1/completions", json=LONG, timeout=0.1)
        until(lambda: counted(running.url, "abort") == before + 1, 2.0)


def test_drafts_without_training_take_limits_and_auto(untrained):
    # Guards: 400 "trained for 1" of what the plan takes, as soon as max_tokens is sent; auto that
    # never drafts.
    asked = {"prompt": "The battle", "mode": "exact", "stream": True}
    for more in ({"group_size": 4, "max_tokens": 9}, {"max_tokens": 9}, {"drafts": "text"}):
        answer = httpx.post(untrained.url + "/v1/completions", json={**asked, **more})
        assert answer.status_code == 200, answer.text
        events = [
            json.loads(line[6:]) for line in answer.text.splitlines() if "multistride" in line
        ]
        assert max(event["multistride"]["group_size"] for event in events) == 4
    too_large = httpx.post(untrained.url + "/v1/completions", json={**asked, "group_size": 17})
    assert "from 1 to 16" in too_large.json()["error"]["message"]


def test_a_forced_first_token_is_no_prefix_of_the_request():
    # Guards: 400 "the prefix has 1 tokens" for max_tokens 1, where nobody gave a prefix.
    body = {"text": "They rode", "max_tokens": 1}
    with Running({"translator": tiny(Translator, first_token=9)}) as running:
        answer = httpx.post(f"{running.url}/v1/translate", json=body)
        assert answer.json()["translations"][0]["tokens"] == [9]
        refused = httpx.post(f"{running.url}/v1/translate", json={**body, "prefix": "T"})
        assert (refused.status_code, refused.json()["error"]["message"][:10]) == (400, "the prefix")


def test_a_model_says_the_largest_group_that_it_takes(untrained, server):
    def largest(running):
        card = httpx.get(running.url + "/v1/models").json()["data"][-1]["multistride"]
        return card["largest_group_size"], card["largest_exact_group_size"]

    assert largest(untrained) == (1, 16)
    assert largest(server) == (4, 4)


@pytest.mark.parametrize("name", ["stream", "n", "logprobs", "stop", "seed", "top_p", "max_tokens"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_null_is_the_default(server, path, name):
    prompt = {"prompt": "The"} if "chat" not in path else {"messages": MESSAGES}
    body = {"model": "generator", "max_tokens": 4, **prompt}
    expected = httpx.post(server.url + path, json=body).json()["choices"]
    body = {**body, name: None}
    if name == "max_tokens":
        assert httpx.post(server.url + path, json=body).status_code == 200
    else:
        assert httpx.post(server.url + path, json=body).json()["choices"] == expected
    wrong = httpx.post(server.url + path, json={**body, "nonsense": None})
    assert "nonsense: this field is unknown" in wrong.json()["error"]["message"]


def test_tokens_of_no_text_are_blank(server):
    # Guards: 200 and an empty text for no tokens, where an empty text is refused.
    for prompt in ("", [""], [[]]):
        body = {"model": "translator", "prompt": prompt}
        answer = httpx.post(server.url + "/v1/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            400,
            "the text is blank: write something",
        )


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["The", " ", "The"], "prompt[1]: the text is blank: write something"),
        ([[5], []], "prompt[1]: the text is blank: write something"),
        ([[5], [6], [-1]], "prompt[2]: token -1 was given"),
    ],
)
def test_one_of_several_prompts_is_named(server, prompts, said):
    # Guards: 400 for a prompt of 100, and not a word which.
    body = {"model": "translator", "prompt": prompts}
    answer = httpx.post(server.url + "/v1/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "prompt")
    assert error["message"].startswith(said)


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlanguage: [en, de]\n---\n# Model", ("en", "de")),
        ("---\nlanguage:\n- en\n- de\ntags:\n- translation\n---\n# Model", ("en", "de")),
        ("---\r\nlanguage:\r\n  - en\r\n  - no\r\n---\r\n", ("en", "no")),
        ("---\nlanguage: en\n---\n", ("en",)),
        ("---\nlicence: mit\n---\nlanguage: [en, de]\n", ()),
        ("# Model\n---\nlanguage: [en, de]\n---\n", ()),
        ("---\nlanguage: [en\n---\n", ()),
        ("---\n- a\n---\n", ()),
        ("", ()),
    ],
)
def test_languages_of_a_card(tmp_path, card, found):
    # Guards: a list in block form, as most cards have it, that is not seen.
    (tmp_path / "README.md").write_bytes(card.encode())
    assert languages_of(tmp_path) == found


def test_auto_counts_what_rounds_take_beside_their_steps(models, monkeypatch):
    """K=1 under load, because a step alone is cheap: what each text costs besides came on top."""
    with Running(models) as running:
        model = running.served.models["generator"]
        offered = [Offer(1, 1.0, 1.0), Offer(4, 2.0, 4.0)]
        plans, scheduler, rounds = model.plans, model.scheduler, rounds_of(running)
        monkeypatch.setattr(plans, "offers", lambda load, *choices: offered)
        assert plans.size({"mode": "fast"}, 1, scheduler.overhead) == 1
        monkeypatch.setattr(plans, "cost", lambda rows, plan: 0.0)
        slowed(rounds, 0.01)
        assert httpx.post(running.url + "/v1/completions", json=LONG).status_code == 200
        assert scheduler.overhead > 5
        assert plans.size({"mode": "fast"}, 1, scheduler.overhead) == 4
        monkeypatch.setattr(plans, "cost", lambda rows, plan: None)  # nothing is learned of these
        assert httpx.post(running.url + "/v1/completions", json=LONG).status_code == 200
        before = rounds.overhead  # the round that ended the first request is over by now
        assert httpx.post(running.url + "/v1/completions", json=LONG).status_code == 200
        assert rounds.overhead == before


def test_a_full_queue_says_when_to_come_back(models):
    with Running(models, capacity=Capacity(batch_tokens=1, waiting=2)) as running:
        slowed(rounds_of(running), 0.02)

        async def crowd():
            async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
                return await asyncio.gather(
                    *(
                        client.post("/v1/completions", json={**LONG, "max_tokens": 9})
                        for _ in range(8)
                    )
                )

        answers = asyncio.run(crowd())
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert sum(answer.status_code == 200 for answer in answers) >= 2


def test_a_poisoned_request_fails_alone(models, caplog):
    """One request whose decoding raises takes others with it."""
    with Running(models) as running:
        rounds = rounds_of(running)
        begun, poison = rounds._begun, models["generator"].encode(["Harold"])[0]

        def poisoned(jobs, alone):
            if any(list(job.work.tokens) == poison for job in jobs):
                raise ZeroDivisionError("poison")
            return begun(jobs, alone)

        rounds._begun = poisoned
        slowed(rounds, 0.01)  # so that they arrive during a pass and begin together

        async def ask():
            async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
                prompts = ["The", "battle", "Harold", "ruled", "William"]
                bodies = [{**LONG, "prompt": each, "max_tokens": 9} for each in prompts]
                return await asyncio.gather(
                    *(client.post("/v1/completions", json=body) for body in bodies)
                )

        statuses = [answer.status_code for answer in asyncio.run(ask())]
        assert statuses == [200, 200, 500, 200, 200]
        assert "poison" in caplog.text


def test_draining_finishes_what_runs_and_refuses_what_comes(models):
    with Running(models) as running:
        slowed(rounds_of(running), 0.01)
        with httpx.stream(
            "POST", running.url + "/v1/completions", json={**LONG, "stream": True}
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.served.drain()
            refused = httpx.post(running.url + "/v1/completions", json=LONG)
            assert refused.status_code == 503
            assert httpx.get(running.url + "/ready").status_code == 503
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2][6:])["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_request_of_many_texts_that_has_begun_is_finished(models, monkeypatch):
    """A stop between two texts of a request, which refused the second and so the whole request."""
    with Running(models) as running:
        model = running.served.translator(None)
        encode, encoded = model.encode, []

        async def stopped_at_the_second(text):
            encoded.append(text)
            if len(encoded) == 2:
                running.served.drain()
            return await encode(text)

        monkeypatch.setattr(model, "encode", stopped_at_the_second)
        texts = ["a b", "b a", "a"]
        answer = httpx.post(running.url + "/v1/translate", json={"text": texts}, timeout=60)
        assert len(answer.json()["translations"]) == 3
        assert httpx.post(running.url + "/v1/translate", json={"text": texts}).status_code == 503


def test_who_asks_while_the_server_shuts_down_is_answered(models):
    """A connection that is reset because its request was not read yet."""
    with Running(models) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as asking:
            asking.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
            came = b""
            while b'{"status":"ok"}' not in came:
                came += (part := asking.recv(4096))
                assert part, "the server closed the connection"
            running._server.handle_exit(signal.SIGTERM, None)
            time.sleep(0.2)  # the server has seen it
            asking.sendall(b"GET /v1/models HTTP/1.1\r\nHost: here\r\n\r\n")
            assert b" 503 " in asking.recv(4096)


def test_a_second_ctrl_c_ends_the_server_at_once(monkeypatch, caplog):
    """Tracebacks of all that ran, and exit code 0 though answers were cut off."""
    ended, drained = [], []
    monkeypatch.setattr(server_module.os, "_exit", ended.append)
    server = server_module.Server(None, lambda: drained.append(1))
    server.handle_exit(signal.SIGINT, None)
    assert (ended, drained) == ([], [1])
    server.handle_exit(signal.SIGINT, None)
    assert ended == [130]
    assert "cut off" in caplog.text


def test_a_language_that_two_models_write_is_named_once(server, monkeypatch):
    served = server.served
    monkeypatch.setitem(served.models, "second", served.models["translator"])
    assert served.languages()[0]["targets"] == ["de"]


def test_auto_is_refused_where_several_languages_fit(server, monkeypatch):
    served = server.served
    french = copy.copy(served.models["translator"])
    french.languages = ("fr", "de")
    monkeypatch.setitem(served.models, "second", french)
    with pytest.raises(HttpProblem, match="source auto fits several models here: give en or fr"):
        served.for_languages("auto", "de")
    assert served.for_languages("fr", "de") is french


def test_an_unexpected_fault_is_answered_and_logged_like_all_others(models, caplog):
    """A 500 without a request id, logged as status 0."""
    caplog.set_level(logging.INFO)
    with Running(models) as running:
        served = running.served
        served.languages = lambda: 1 / 0
        answer = httpx.get(running.url + "/languages", headers={"x-request-id": "mine"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")
        assert answer.json() == {"error": "the server failed on this request"}
    assert any('"id": "mine"' in line and '"status": 500' in line for line in caplog.messages)


def test_what_can_never_wait_at_once_is_not_asked_to_come_again(models):
    with Running(models, capacity=Capacity(waiting=3)) as running:
        asked = {"model": "generator", "prompt": ["The"] * 2, "n": 2, "temperature": 1}
        refused = httpx.post(running.url + "/v1/completions", json=asked)
        assert refused.status_code == 413
        assert "4 texts were asked for at once, and at most 3 may wait" in refused.text
        texts = {"text": ["They", "", "They", "They"], "max_tokens": 2}
        assert httpx.post(running.url + "/v1/translate", json=texts).status_code == 200
        body = {"q": "They. " * 4, "source": "en", "target": "de"}
        assert httpx.post(running.url + "/translate", json=body).status_code == 413


def test_a_port_in_use_is_one_line():
    with bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use: give another --port"):
            bound("127.0.0.1", port)


def test_a_fault_of_the_loop_itself_is_no_silence(models, caplog):
    """A thread that died, behind a server that says it is ready and never answers."""
    with Running(models) as running:

        def broken():
            raise ZeroDivisionError("loop")

        rounds_of(running)._join = broken
        answer = httpx.post(running.url + "/v1/completions", json=LONG, timeout=10)
        assert answer.status_code == 500
        ready = httpx.get(running.url + "/ready")
        assert (ready.status_code, "restart the server" in ready.json()["reason"]) == (503, True)
        refused = httpx.post(running.url + "/v1/completions", json=LONG)
        assert refused.status_code == 503
        assert "failed and decodes no more: restart the server" in refused.text
        assert refused.json()["error"]["code"] == "model_failed"
        assert "ended by a fault" in caplog.text


def test_a_fault_between_two_texts_of_a_request_is_a_fault(models, monkeypatch):
    """The second text was refused as if the server were shutting down."""
    with Running(models) as running:
        model = running.served.translator(None)
        encode, encoded = model.encode, []

        async def lost_at_the_second(text):
            encoded.append(text)
            if len(encoded) == 2:
                model.scheduler._lost()
            return await encode(text)

        monkeypatch.setattr(model, "encode", lost_at_the_second)
        answer = httpx.post(running.url + "/v1/translate", json={"text": ["a", "b"]}, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
