"""A content-moderation service as a judge: OpenAI-compatible `POST /v1/moderations`.

Texts are sent in batches, and answers are cached on disk by a hash of model and text, so that no
text is paid for twice. Transient failures (a busy or stalled service, a garbled answer) are
retried, with exponential backoff or the pause that the service requests. A text whose answers stay
garbled is left unscored with the reason. A service that cannot be reached ends the run; the same
command resumes it.

The key is read from the environment when a request is sent. It appears in no message and no file.
"""

import dataclasses
import email.utils
import hashlib
import json
import os
import time
import urllib.parse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

from safety_jax.base import files, hosts
from safety_jax.base.errors import ConfigError
from safety_jax.judges.judge import Conversation, JudgeCard, Score, scored, unscored

_TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_OPEN = {"localhost", "127.0.0.1", "::1"}  # hosts to which a key may be sent without TLS


class GarbledReply(Exception):
    """An answer that violates the interface; the message says how."""


class TransientFailure(Exception):
    """No answer this time; `pause_seconds` is the pause that the service requests, if any."""

    def __init__(self, reason: str, pause_seconds: float | None):
        super().__init__(reason)
        self.pause_seconds = pause_seconds


class RefusedInput(Exception):
    """The service rejects the input (HTTP 400, 413, 422)."""


@dataclasses.dataclass(frozen=True)
class Service:
    """The address of the service, and the retries of its client.

    Attributes:
        url: the base URL, such as `https://api.openai.com/v1`.
        key_variable: the environment variable that holds the key; "" for a service without one.
        batch_size: texts in a request.
        attempts: requests for one batch before giving up.
        timeout_seconds: how long the service may stay silent.
        pause_seconds, longest_pause_seconds: the first pause, which then doubles, and the longest.
    """

    url: str
    model: str
    key_variable: str
    batch_size: int
    attempts: int
    timeout_seconds: float
    pause_seconds: float
    longest_pause_seconds: float

    def check(self) -> None:
        """Raises a ConfigError for a value that cannot work; sends nothing."""
        address = urllib.parse.urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigError(f"moderation url {self.url!r}: expected https://HOST/v1")
        if address.scheme == "http" and self.key_variable and address.hostname not in _OPEN:
            raise ConfigError(
                f"moderation url {self.url!r} would send the key unencrypted; use https"
            )
        if self.key_variable and not os.environ.get(self.key_variable):
            raise ConfigError(
                f"the environment variable {self.key_variable} is not set; expected the key of the "
                f"moderation service at {self.url}"
            )
        for name in ("batch_size", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"moderation {name} is {getattr(self, name)}; expected 1 or more")

    def ask(self, session: requests.Session, texts: Sequence[str]) -> list[dict[str, Any]]:
        """One request: a result for each text, with numbers under `category_scores`.

        Raises:
            ConfigError: the service rejects the key or the address.
            TransientFailure, GarbledReply, RefusedInput: see there.
        """
        try:
            reply = session.post(
                f"{self.url.rstrip('/')}/moderations",
                json={"model": self.model, "input": list(texts)},
                auth=self._authorize,
                timeout=self.timeout_seconds,
                allow_redirects=False,
            )
        except ValueError:
            # Raised before anything is sent, such as for a key with a line break; its message
            # would quote the key.
            raise ConfigError(
                f"no request can be made to {self.url}; check the url and the key in "
                f"{self.key_variable or '(none)'}"
            ) from None
        except requests.RequestException as error:
            raise TransientFailure(type(error).__name__, None) from None
        if reply.status_code in _TRANSIENT:
            raise TransientFailure(f"HTTP {reply.status_code}", _retry_after(reply))
        if reply.status_code in (400, 413, 422):
            raise RefusedInput(f"HTTP {reply.status_code}")
        if reply.status_code != 200:
            raise ConfigError(
                f"the moderation service at {self.url} answers HTTP {reply.status_code}; check "
                f"its url, model {self.model!r} and the key in {self.key_variable or '(none)'}"
            )
        return _results(reply, len(texts))

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Passed as `auth`, so that requests reads no .netrc file.
        if self.key_variable:
            request.headers["Authorization"] = f"Bearer {os.environ.get(self.key_variable, '')}"
        return request


def _retry_after(reply: requests.Response) -> float | None:
    """The seconds in the Retry-After header, a number or a date; None without one."""
    text = reply.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _results(reply: requests.Response, count: int) -> list[dict[str, Any]]:
    try:
        results = reply.json()["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise GarbledReply(f"no results in the reply ({type(error).__name__})") from None
    if not isinstance(results, list) or len(results) != count:
        found = len(results) if isinstance(results, list) else type(results).__name__
        raise GarbledReply(f"{found} results for {count} texts")
    if not all(map(_is_result, results)):
        raise GarbledReply("a result without category scores from 0 to 1")
    return results


def _is_result(result: Any) -> bool:
    scores = result.get("category_scores") if isinstance(result, dict) else None
    return isinstance(scores, dict) and bool(scores) and all(map(_is_share, scores.values()))


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


class ModerationJudge:
    """The highest category score of a response, or the score of one category.

    Args:
        category: a category of the service, or "" for the highest of all.
        cache: folder of cached answers.
        sleep: waits for a number of seconds.

    Raises:
        ConfigError: see `Service.check`.
    """

    def __init__(
        self,
        card: JudgeCard,
        service: Service,
        *,
        category: str,
        cache: Path,
        sleep: Callable[[float], None] = time.sleep,
    ):
        service.check()
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"moderation cache {cache}: {error.strerror}; expected a folder that can be written"
            ) from error
        self.card = card
        self._service, self._category, self._cache, self._sleep = service, category, cache, sleep

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """One score for each response; empty ones are not sent.

        Raises:
            ConfigError: the service cannot be reached, or rejects the key.
        """
        texts = list(dict.fromkeys(c.response for c in conversations if c.response.strip()))
        kept = hosts.first_says(lambda: self._ask_about(texts))  # only process 0 asks
        return [
            self._score(kept[c.response])
            if c.response in kept
            else unscored("the response is empty")
            for c in conversations
        ]

    def _ask_about(self, texts: Sequence[str]) -> dict[str, Any]:
        """Results by text, cached or fetched; for a text without one, the reason as a string."""
        kept: dict[str, Any] = {text: self._kept(text) for text in texts}
        missing = [text for text, result in kept.items() if result is None]
        with requests.Session() as session:
            for start in range(0, len(missing), self._service.batch_size):
                batch = missing[start : start + self._service.batch_size]
                kept |= dict(zip(batch, self._fetch(session, batch), strict=True))
        return kept

    def _fetch(self, session: requests.Session, texts: Sequence[str]) -> list[Any]:
        """Results in order; for a text without one, the reason as a string."""
        try:
            results = self._ask(session, texts)
        except (GarbledReply, RefusedInput) as error:
            if len(texts) > 1:  # one bad text must not cost the others their scores
                return [found for text in texts for found in self._fetch(session, [text])]
            return [f"the moderation service: {error}"]
        for text, result in zip(texts, results, strict=True):
            self._keep(text, result)
        return list(results)

    def _ask(self, session: requests.Session, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Asks with retries."""
        service, pause = self._service, self._service.pause_seconds
        for attempt in range(1, service.attempts + 1):
            try:
                return service.ask(session, texts)
            except GarbledReply:
                if attempt == service.attempts:
                    raise
                requested = None
            except TransientFailure as failure:
                if attempt == service.attempts:
                    raise ConfigError(
                        f"the moderation service at {service.url} failed {attempt} times (last: "
                        f"{failure}); what was scored is kept, run the same command to continue"
                    ) from None
                requested = failure.pause_seconds
            wait = pause if requested is None else requested
            self._sleep(min(wait, service.longest_pause_seconds))
            pause *= 2
        raise AssertionError("attempts are at least 1")

    def _score(self, result: Any) -> Score:
        if isinstance(result, str):
            return unscored(result)
        scores = result["category_scores"]
        if self._category and self._category not in scores:
            return unscored(f"the service has no category {self._category!r}")
        top = self._category or max(scores, key=lambda name: scores[name])
        label = "flagged" if result.get("flagged") is True else "not flagged"
        return scored(float(scores[top]), label, category=top)

    def _file(self, text: str) -> Path:
        facts = json.dumps([self._service.url, self._service.model, text])
        return self._cache / f"{hashlib.sha256(facts.encode()).hexdigest()}.json"

    def _kept(self, text: str) -> dict[str, Any] | None:
        try:
            kept = json.loads(self._file(text).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return kept if _is_result(kept) else None  # an edited file counts as missing

    def _keep(self, text: str, result: dict[str, Any]) -> None:
        files.write(self._file(text), json.dumps(result, sort_keys=True))
