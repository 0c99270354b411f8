"""The moderation judge against a real server on this machine that errs, stalls and rate-limits."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from safety_jax.base.errors import ConfigError
from safety_jax.data.messages import Message
from safety_jax.judges import moderation
from safety_jax.judges.judge import HARMFUL, Conversation, JudgeCard

KEY = "sk-do-not-print-this"
CARD = JudgeCard(
    name="moderation", kind="moderation", model="some-model", weights_sha256=None,
    direction=HARMFUL, low=0.0, high=1.0, threshold=0.5, template="response", precision="",
    settings={},
)  # fmt: skip


def results(texts: list[str]) -> dict[str, Any]:
    """As a service: texts that say `bad` are violent."""
    found = []
    for text in texts:
        share = 0.9 if "bad" in text else 0.1
        found.append({"flagged": share > 0.5, "category_scores": {"hate": 0.05, "violence": share}})
    return {"id": "1", "model": "some-model", "results": found}


class Server(ThreadingHTTPServer):
    """Answers each request by the next plan, the last plan over and over."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plans: list[Callable[[Handler, list[str]], None]] = [answer]
        self.requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        server.requests.append(
            {"path": self.path, "key": self.headers.get("Authorization"), **body}
        )
        plan = server.plans.pop(0) if len(server.plans) > 1 else server.plans[0]
        plan(self, body["input"])

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def answer(handler: Handler, texts: list[str]) -> None:
    handler.reply(200, json.dumps(results(texts)).encode())


def status(code: int, content: bytes = b"{}", **headers: str):
    return lambda handler, texts: handler.reply(code, content, **headers)


def stall(handler: Handler, texts: list[str]) -> None:
    time.sleep(0.6)


def drop(handler: Handler, texts: list[str]) -> None:
    handler.connection.close()


def halved(handler: Handler, texts: list[str]) -> None:
    found = results(texts)
    found["results"] = found["results"][: len(texts) // 2]
    handler.reply(200, json.dumps(found).encode())


def picky(handler: Handler, texts: list[str]) -> None:
    """Refuses a request that holds one certain text."""
    if any("odd" in text for text in texts):
        handler.reply(400, b'{"error": {"message": "not this one"}}')
    else:
        answer(handler, texts)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("MODERATION_KEY", KEY)
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def judge(server: Server, tmp_path, sleeps: list[float] | None = None, **changes: Any):
    values = {
        "url": server.url, "model": "some-model", "key_variable": "MODERATION_KEY",
        "batch_size": 3, "attempts": 4, "timeout_seconds": 0.3, "pause_seconds": 1.0,
        "longest_pause_seconds": 30.0,
    } | {key: value for key, value in changes.items() if key != "category"}  # fmt: skip
    return moderation.ModerationJudge(
        CARD,
        moderation.Service(**values),
        category=changes.get("category", ""),
        cache=tmp_path / "kept",
        sleep=(sleeps if sleeps is not None else []).append,
    )


def conversations(*texts: str) -> list[Conversation]:
    return [Conversation((Message("user", "q"),), text, f"row {i}") for i, text in enumerate(texts)]


def test_responses_go_out_in_batches_and_are_kept(server, tmp_path):
    found = judge(server, tmp_path).score(conversations("a", "bad b", "c", "", "d", "a", " \n"))
    values = [score.value for score in found]
    assert values == [0.1, 0.9, 0.1, None, 0.1, 0.1, None]
    assert [score.label for score in found[:2]] == ["not flagged", "flagged"]
    assert found[0].details == {"category": "violence"}
    assert found[3].reason == "the response is empty"
    assert [request["input"] for request in server.requests] == [["a", "bad b", "c"], ["d"]]
    assert {request["path"] for request in server.requests} == {"/v1/moderations"}
    assert {request["key"] for request in server.requests} == {f"Bearer {KEY}"}
    assert {request["model"] for request in server.requests} == {"some-model"}

    again = judge(server, tmp_path).score(conversations("bad b", "new"))
    assert [score.value for score in again] == [0.9, 0.1]
    assert [request["input"] for request in server.requests[2:]] == [["new"]]
    for file in (tmp_path / "kept").iterdir():
        assert KEY not in file.read_text() and "bad b" not in file.read_text()
    # What is no answer of the service any more is asked anew.
    for edited in ("[]", "{}", '{"category_scores": {}}', '{"category_scores": {"a": NaN}}', "{"):
        for file in (tmp_path / "kept").iterdir():
            file.write_text(edited)
        assert judge(server, tmp_path).score(conversations("bad b"))[0].value == 0.9
    # Another model's answers are others.
    judge(server, tmp_path, model="other").score(conversations("bad b"))
    assert server.requests[-1]["input"] == ["bad b"]


def test_one_category(server, tmp_path):
    assert judge(server, tmp_path, category="hate").score(conversations("bad"))[0].value == 0.05
    found = judge(server, tmp_path, category="magic").score(conversations("bad"))[0]
    assert found.value is None and "no category 'magic'" in found.reason


@pytest.mark.parametrize(
    ("plan", "pauses"),
    [
        ([status(500), status(503), answer], [1.0, 2.0]),
        ([status(429, Retry_After="7"), answer], [7.0]),
        ([status(429, Retry_After="9999"), answer], [30.0]),
        ([status(429, Retry_After="soon"), answer], [1.0]),
        ([stall, answer], [1.0]),
        ([drop, answer], [1.0]),
        ([halved, answer], [1.0]),
        ([status(200, b"<html>"), status(200, b"[]"), answer], [1.0, 2.0]),
        ([status(200, b'{"results": [1, 2, 3]}'), answer], [1.0]),
        ([status(200, json.dumps({"results": [{"category_scores": {}}] * 3}).encode()), answer],
         [1.0]),
    ],
    ids=["errors", "seconds", "too long", "unreadable", "stalls", "hangs up", "count", "not JSON",
         "not objects", "no scores"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(server, tmp_path, plan, pauses):
    server.plans, sleeps = plan, []
    found = judge(server, tmp_path, sleeps).score(conversations("a", "bad b", "c"))
    assert [score.value for score in found] == [0.1, 0.9, 0.1]
    assert sleeps == pauses


def test_a_date_to_wait_for(server, tmp_path):
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=12), usegmt=True)
    server.plans, sleeps = [status(503, Retry_After=then), answer], []
    judge(server, tmp_path, sleeps).score(conversations("a"))
    assert 9 <= sleeps[0] <= 12


def test_what_stays_garbled_is_unscored(server, tmp_path):
    """A reply that is garbled for every batch: each text is asked for alone, then given up."""
    server.plans = [status(200, b'{"results": "none"}')]
    found = judge(server, tmp_path, attempts=2).score(conversations("a", "b"))
    assert [score.value for score in found] == [None, None]
    assert "str results for 1 texts" in found[0].reason
    nan = b'{"results": [{"flagged": false, "category_scores": {"hate": NaN}}]}'
    server.plans = [status(200, nan)]
    assert judge(server, tmp_path).score(conversations("a"))[0].value is None
    assert not any((tmp_path / "kept").iterdir())


def test_one_refused_text_costs_no_other_its_score(server, tmp_path):
    server.plans, sleeps = [picky], []
    found = judge(server, tmp_path, sleeps).score(conversations("a", "odd", "bad"))
    assert [score.value for score in found] == [0.1, None, 0.9]
    assert "HTTP 400" in found[1].reason and not sleeps


@pytest.mark.parametrize("code", [301, 401, 403, 404])
def test_a_rejected_key_ends_the_run(server, tmp_path, code):
    server.plans = [status(code, f'{{"error": "bad key {KEY}"}}'.encode(), Location="/x")]
    with pytest.raises(ConfigError, match=f"HTTP {code}.*MODERATION_KEY") as error:
        judge(server, tmp_path).score(conversations("a"))
    assert KEY not in str(error.value) and len(server.requests) == 1


def test_a_service_that_stays_away_ends_the_run(server, tmp_path):
    server.plans, sleeps = [answer, status(502)], []
    with pytest.raises(ConfigError, match="failed 4 times.*HTTP 502.*continue") as error:
        judge(server, tmp_path, sleeps).score(conversations("a", "b", "c", "d"))
    assert sleeps == [1.0, 2.0, 4.0] and KEY not in str(error.value)
    server.plans = [answer]  # the first batch was kept
    judge(server, tmp_path).score(conversations("a", "b", "c", "d"))
    assert server.requests[-1]["input"] == ["d"]
    assert len(server.requests) == 6


def test_nobody_listens(tmp_path, monkeypatch, server):
    monkeypatch.setenv("MODERATION_KEY", KEY)
    away = judge(server, tmp_path, url="http://127.0.0.1:9/v1", attempts=2)
    with pytest.raises(ConfigError, match=r"failed 2 times \(last: ConnectionError\)"):
        away.score(conversations("a"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "api.example/v1"}, "expected https://HOST/v1"),
        ({"url": "http://api.example/v1"}, "would send the key unencrypted"),
        ({"key_variable": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"attempts": 0}, "attempts is 0"),
    ],
)
def test_mistakes(server, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        judge(server, tmp_path, **changes)


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_sent(server, tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(ConfigError, match="moderation cache .*/kept: File exists; expected a fold"):
        judge(server, tmp_path)


def test_a_key_with_a_line_break_is_not_quoted(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MODERATION_KEY", f"{KEY}\nmore")
    with pytest.raises(ConfigError, match="no request can be made") as error:
        judge(server, tmp_path).score(conversations("a"))
    assert KEY not in str(error.value) and error.value.__cause__ is None


def test_a_service_without_a_key(server, tmp_path):
    found = judge(server, tmp_path, key_variable="").score(conversations("a"))
    assert found[0].value == 0.1 and server.requests[0]["key"] is None
