"""A sink that posts each delivery to an HTTP server as JSON, with an idempotency key."""

import email.utils
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import httpx

from tasks.checks import seconds
from tasks.codec.json_text import to_json
from tasks.errors import EncodeError, RejectedError, RetryLater, SettingsError, UnavailableError
from tasks.sinks.deliveries import Delivery

__all__ = ["HttpPost"]

_TOO_MANY, _UNAVAILABLE = 429, 503
# Besides those of 500 and above, the answers that another attempt may change: a time-out, a request with the same key that
# is still being processed, too early, too many requests.
_TRANSIENT = frozenset({408, 409, 425, 429})
_LONGEST_WAIT = 86_400.0  # seconds


class HttpPost:
    """Posts each delivery in a request of its own, in order; the server leaves out keys that it knows.

    The header `Idempotency-Key` holds the id of the delivery. A status below 300 counts as taken. 429, or 503 with a `Retry-After`,
    asks for time (`RetryLater`); other statuses from 500 on, 408, 409, 425, time-outs and lost connections are worth another
    attempt; all others refuse the element for good.

    url       where to post
    headers   further headers, such as one with a token
    timeout   the time limit for a connection, and for each part of an answer
    body      makes the bytes of the body; default: JSON, with dates and times, such as those of windows, as ISO 8601 text
    client    an `httpx.Client` to use, which stays yours to close; by default a new one
    raises    SettingsError: no HTTP address. On writing, RejectedError, RetryLater, UnavailableError
    """

    max_batch = 1

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: str | float | timedelta = "10s",
        body: Callable[[Any], bytes] | None = None,
        client: httpx.Client | None = None,
    ) -> None:
        try:
            is_http = httpx.URL(url).scheme in ("http", "https") and bool(httpx.URL(url).host)
        except (httpx.InvalidURL, TypeError):
            is_http = False
        if not is_http:
            msg = "HttpPost: expected an address that begins with http:// or https://, got another one"
            raise SettingsError(msg)
        self._url = url
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._timeout = seconds(timeout, name="timeout")
        self._body = body or (lambda value: to_json(_with_texts(value)))
        self._client = client
        self._own_client: httpx.Client | None = None

    def write(self, batch: Sequence[Delivery]) -> None:
        """Post deliveries one by one.

        raises    RetryLater: the server asks for time; RejectedError: it refuses one; UnavailableError: no answer, or a failure
        """
        for one in batch:
            self._post(one)

    def close(self) -> None:
        """Close connections; a later write opens new ones."""
        own, self._own_client = self._own_client, None
        if own is not None:
            own.close()

    def _post(self, one: Delivery) -> None:
        client = self._client or self._own_client
        if client is None:
            client = self._own_client = httpx.Client()
        try:
            body = self._body(one.value)
        except EncodeError as error:
            msg = f"expected an element that JSON can hold, got another: {error}"
            raise RejectedError(msg) from error
        headers = {**self._headers, "Idempotency-Key": one.id}
        try:
            answer = client.post(self._url, content=body, headers=headers, timeout=self._timeout)
        except httpx.TransportError as error:
            msg = f"expected an answer to a POST within {self._timeout:g} s, got none ({type(error).__name__})"
            raise UnavailableError(msg) from None  # httpx' error has the request, with the address
        _expect_taken(answer)


def _with_texts(value: Any) -> Any:
    """Return a value with dates and times as ISO 8601 text, also inside of lists and dicts."""
    if isinstance(value, date):  # also a datetime
        return value.isoformat()
    if type(value) is dict:
        return {name: _with_texts(one) for name, one in value.items()}
    return [_with_texts(one) for one in value] if type(value) is list else value


def _expect_taken(answer: httpx.Response) -> None:
    status = answer.status_code
    if answer.is_success:
        return
    if status in (_TOO_MANY, _UNAVAILABLE) and (wait := _retry_after(answer)) is not None:
        raise RetryLater(wait)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in _TRANSIENT:
        msg = f"expected a POST to be taken, got status {status}"
        raise UnavailableError(msg)
    msg = f"expected a POST to be taken, got status {status}, which refuses it for good"
    raise RejectedError(msg)


def _retry_after(answer: httpx.Response) -> float | None:
    """Return the seconds that a server asks to wait: RFC 9110 allows a number of them, or a date."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:  # noqa: PLR2004 - 30 years
        return min(float(text), _LONGEST_WAIT)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return min(max(at.timestamp() - time.time(), 0.0), _LONGEST_WAIT)
