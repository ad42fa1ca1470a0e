"""Keys, names, headers, logs and the page: who comes in, and what leaves."""

from __future__ import annotations

import hmac
import io
import json
import re
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from preftilt.server.middleware import AccessPolicy, is_loopback
from preftilt.server.openapi import document
from tests.server.odd import Odd
from tests.server.serving import QUESTION, WISH, Running, ask, serving


def test_the_key_is_needed_for_the_api_and_for_nothing_else(log: io.StringIO) -> None:
    with serving(key="correct horse") as server, server.http as http:
        body = {"model": "toy", "messages": QUESTION, "preftilt": WISH}
        for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": "correct horse"}):
            said = http.post("/v1/chat/completions", json=body, headers=wrong)
            assert said.status_code == 401
            assert said.json()["error"]["type"] == "authentication_error"
            assert said.headers["www-authenticate"] == "Bearer"
        assert http.get("/v1/models").status_code == 401
        assert http.get("/health").status_code == 200
        right = {"authorization": "Bearer correct horse"}
        assert http.post("/v1/chat/completions", json=body, headers=right).status_code == 200
    assert "horse" not in log.getvalue()


def test_the_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    access = AccessPolicy(key="käse")
    given = Headers(raw=[(b"authorization", b"Bearer k\xe4s")])
    assert access.refusal("/v1/models", given) is not None
    assert compared == [(b"k\xe4s", "käse".encode())]


def test_without_a_key_only_a_local_name_is_answered() -> None:
    access = AccessPolicy(local_only=True)
    for host, fine in (
        ("127.0.0.1:8100", True),
        ("localhost", True),
        ("[::1]:8100", True),
        ("evil.example:8100", False),
        ("", False),
    ):
        refusal = access.refusal("/v1/models", Headers({"host": host}))
        assert (refusal is None) == fine
    assert not is_loopback("0.0.0.0")


def test_request_ids_are_echoed_if_they_are_plain_words(server: Running) -> None:
    with server.http as http:
        assert http.get("/health", headers={"x-request-id": "a-1"}).headers["x-request-id"] == "a-1"
        for bad in ("a b", "x" * 65, 'a"}'):
            given = http.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
            assert re.fullmatch("[0-9a-f]{32}", given)


def test_the_log_has_counts_and_ids_but_no_words(log: io.StringIO) -> None:
    with serving() as server:
        said = ask(server)
        ask(server, model="toy\n{}")
        with server.http as http:
            http.get("/%0a%7B%22level%22%3A1%7D")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 404, 404]
    assert requests[0]["request_id"] == said.headers["x-request-id"]
    assert requests[0]["sampled"] == said.json()["usage"]["preftilt"]["sampled"]
    assert requests[2]["path"] == '/\n{"level":1}'
    for words in (QUESTION[0]["content"], WISH["preference"]):
        assert words not in log.getvalue()


def test_the_log_has_the_words_if_the_operator_asks_for_them(log: io.StringIO) -> None:
    with serving(log_words=True) as server:
        ask(server)
    assert WISH["preference"] in log.getvalue()


def test_a_failure_is_logged_by_its_place_not_by_its_words(log: io.StringIO) -> None:
    with serving(Odd(failure=RuntimeError("my secret wish"))) as server:
        ask(server)
    assert "RuntimeError" in log.getvalue()
    assert "odd.py" in log.getvalue()
    assert "secret" not in log.getvalue()


def test_every_reply_has_safe_headers(server: Running) -> None:
    with server.http as http:
        for path in ("/health", "/nothing", "/metrics"):
            headers = http.get(path).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"


def test_the_page_is_served_if_it_is_there(tmp_path: Path, server: Running) -> None:
    with server.http as http:
        assert http.get("/").status_code == 404
    (tmp_path / "index.html").write_text("<h1>page</h1>", encoding="utf-8")
    (tmp_path.parent / "secret.txt").write_text("x", encoding="utf-8")
    with serving(page=tmp_path) as server, server.http as http:
        said = http.get("/")
        assert said.text == "<h1>page</h1>"
        assert said.headers["content-security-policy"].startswith("default-src 'self'")
        assert http.get("/..%2fsecret.txt").status_code == 404
        assert http.get("/v1/models").status_code == 200


def test_metrics_count_requests_and_tokens() -> None:
    with serving() as server:
        said = ask(server).json()
        with server.http as http:
            http.get("/made-up")
        requests = 'preftilt_requests_total{endpoint="%s",status="%s"}'
        assert server.metric(requests % ("/v1/chat/completions", 200)) == 1
        assert server.metric(requests % ("other", 404)) == 1
        sampled = server.metric('preftilt_tokens_total{kind="sampled"}')
        assert sampled == said["usage"]["completion_tokens"]
        assert server.metric("preftilt_admitted") == 0


def test_the_document_describes_every_route(server: Running) -> None:
    with server.http as http:
        served = http.get("/openapi.json").json()
        assert served == document("preftilt", served["info"]["version"])
        for path in served["paths"]:
            assert http.get(path.replace("{name}", "toy")).status_code in (200, 405)
    body = served["components"]["schemas"]["ChatBody"]["properties"]
    assert "Not implemented; only 0" in body["frequency_penalty"]["description"]
