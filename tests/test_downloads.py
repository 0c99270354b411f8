"""Files behind URLs: whole or not at all, within bounded time, without a trace of secrets."""

import base64
import gzip
import hashlib
import http.server
import json
import threading
import time

import datasets
import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import corpora, downloads, encode, prompts
from safety_jax.data.sources import open_source
from tests.tiny_tokenizers import qwen

ROWS = [{"prompt": f"Question {i}", "response": f"Answer {i}"} for i in range(40)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CUT = TEXT[: TEXT.index(b"\n", len(TEXT) // 2) + 1]  # at the end of a row
DIGEST = hashlib.sha256(TEXT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Answers as it is told to: for each request to come, a function of the handler."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked, self.stopped = [], [], threading.Event()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.close_connection = True
        try:
            self.server.answers.pop(0)(self)
        except ConnectionError:
            pass

    def answer(self, body, code=200, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def whole(handler):
    handler.answer(TEXT, Content_Length=len(TEXT))


def cut(handler):
    handler.answer(CUT, Content_Length=len(TEXT))


def cut_chunk(handler):
    handler.answer(b"%x\r\n" % len(TEXT) + CUT, Transfer_Encoding="chunked")


def busy(handler):
    handler.answer(b"", 503, Content_Length=0)


def reset(handler):
    handler.wfile.close()


def packed(handler):
    body = gzip.compress(TEXT)
    handler.answer(body, Content_Encoding="gzip", Content_Length=len(body))


def unmeasured(handler):
    handler.answer(TEXT)


def drip_body(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", len(TEXT))
    handler.end_headers()
    drip(handler, TEXT)


def drip_headers(handler):
    drip(handler, b"HTTP/1.1 200 OK\r\nX-Long: " + TEXT)


def drip(handler, text):
    for byte in text:
        if handler.server.stopped.wait(0.05):
            return
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()


def silent(handler):
    handler.server.stopped.wait(20)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache")
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0.01)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.stopped.set()
        running.shutdown()
        thread.join()


def read(server, *answers, spec="http://{}/a.jsonl"):
    server.answers[:] = answers
    return open_source(spec.format(server.address), "data.safety")


def kept(tmp_path):
    return sorted(file.read_bytes() for file in (tmp_path / "cache").iterdir())


def test_a_file_is_fetched_once(server, tmp_path):
    for _ in range(2):
        source = read(server, whole, spec="http://{}/a.jsonl?rows=2")
        assert list(source.rows) == ROWS and source.take == 2
        assert source.where[0] == "a.jsonl line 1" and source.name == "a"
    assert server.asked == [("/a.jsonl", None)] and kept(tmp_path) == [TEXT]


def test_a_corpus_knows_the_hash_of_what_was_fetched(server):
    server.answers[:] = [whole]
    tokenizer = qwen()
    template = prompts.load_template("plain", tokenizer)
    encoding = encode.Encoding(template, tokenizer, 64, "error", len(tokenizer))
    found = corpora.read(
        corpora.Rows((f"http://{server.address}/a.jsonl?rows=2",), "", 0, "error", 0),
        corpora.demonstrations,
        lambda rows, skipped: encode.encode(rows, encoding, train_on="response"),
        prompt=template.prompt,
        tokenizer=tokenizer,
    )
    assert found.files == {"a": DIGEST}


@pytest.mark.parametrize("first", [cut, cut_chunk, busy, reset])
def test_a_server_that_breaks_off_is_asked_again(server, tmp_path, first, capfd):
    assert list(read(server, first, first, whole).rows) == ROWS
    assert len(server.asked) == 3 and kept(tmp_path) == [TEXT]
    assert capfd.readouterr().err.count("asking again in 0.0") == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (cut, rf"broke off after {len(CUT):,} of {len(TEXT):,} bytes"),
        (cut_chunk, "broke off"),
        (busy, "HTTP Error 503"),
        (lambda handler: handler.answer(b"", 404, Content_Length=0), "HTTP Error 404"),
        (lambda h: h.answer(b"", Content_Length=0, Content_Encoding="br"), "packs it as 'br'"),
    ],
)
def test_half_a_file_is_no_file(server, tmp_path, answer, message):
    with pytest.raises(ConfigError, match=f"{message}.*set data.safety to its path") as error:
        read(server, *[answer] * 3)
    assert "\n" not in str(error.value) and kept(tmp_path) == []
    assert list(read(server, whole).rows) == ROWS


@pytest.mark.parametrize("answer", [drip_body, drip_headers, silent])
def test_a_server_that_drips_is_given_up(server, tmp_path, answer, monkeypatch, capfd):
    monkeypatch.setattr(downloads, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(downloads, "TOLD_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"bytes came in 0\.5 seconds|timed out"):
        read(server, answer)
    assert time.monotonic() - began < 5 and kept(tmp_path) == []
    assert "MB so far" in capfd.readouterr().err


def test_servers_that_pack_and_servers_that_do_not_say_how_much(server, tmp_path, capfd):
    assert list(read(server, packed, spec="http://{}/packed.jsonl").rows) == ROWS
    assert "how long" not in capfd.readouterr().err
    assert list(read(server, unmeasured, spec="http://{}/b.jsonl").rows) == ROWS
    assert "does not say how long it is; add sha256= to be sure" in capfd.readouterr().err
    assert kept(tmp_path) == [TEXT, TEXT]


def test_a_hash_decides_what_is_kept(server, tmp_path):
    spec = "http://{}/a.jsonl?sha256=" + DIGEST
    with pytest.raises(ConfigError, match=f"its sha256 is .*, not {DIGEST}"):
        read(server, lambda handler: handler.answer(CUT, Content_Length=len(CUT)), spec=spec)
    assert kept(tmp_path) == []
    read(server, lambda handler: handler.answer(CUT, Content_Length=len(CUT)))
    assert list(read(server, whole, spec=spec).rows) == ROWS  # not what is in the cache
    assert kept(tmp_path) == [TEXT]


def test_what_cannot_be_read_is_not_kept(server, tmp_path):
    """A file that was broken on its server, and was mended there."""
    body = gzip.compress(TEXT)
    spec = "http://{}/a.jsonl.gz"
    for broken in (body[:-9], body[:-1] + b"\xff"):
        with pytest.raises(DataError, match="cannot be read"):
            read(server, lambda h, b=broken: h.answer(b, Content_Length=len(b)), spec=spec)
    found = read(server, lambda h: h.answer(body, Content_Length=len(body)), spec=spec)
    assert list(found.rows) == ROWS and kept(tmp_path) == [body]


def test_a_password_goes_to_its_host_and_nowhere_else(server, tmp_path, capfd):
    def elsewhere(handler):
        place = f"http://localhost:{server.server_port}/b.jsonl"
        handler.answer(b"", 302, Location=place, Content_Length=0)

    spec = "http://ann:S3CR%20ET@{}/a b.jsonl?key=S3CRET?rows=3"
    source = read(server, busy, elsewhere, whole, spec=spec)
    word = "Basic " + base64.b64encode(b"ann:S3CR ET").decode()
    asked = ("/a%20b.jsonl?key=S3CRET", word)
    assert server.asked == [asked, asked, ("/b.jsonl", None)]
    with pytest.raises(ConfigError) as error:
        read(server, *[busy] * 3, spec="http://ann:S3CRET@{}/c.jsonl?key=S3CRET?")
    told = f"{source} {error.value} {capfd.readouterr().err}"
    assert "asking again" in told and "S3CR" not in told.replace(str(source.path), "")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http://127.0.0.1:9/a.json", "cannot be fetched.*set data.train to its path"),
        ("http://[::1/a.json", "is no URL"),
        ("http://host:port/a.json", "cannot be fetched"),
        ("http:///a.json", "it names no host"),
        ("https://host/download?file=a.jsonl?", "data.train: download: unknown kind of source"),
    ],
)
def test_addresses_that_lead_nowhere(spec, message):
    with pytest.raises(ConfigError, match=message):
        open_source(spec)
