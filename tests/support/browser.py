"""A real browser on Prefect's UI: the system's Chromium, driven by Playwright."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from uuid import UUID

import pytest
from playwright.sync_api import Page, Response, sync_playwright

__all__ = ["PATIENCE_MS", "Browser", "browser_on", "find_chromium"]

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the UI asks Amplitude for its settings (3.9.1)
]
_WIDTH, _HEIGHT = 1200, 900
PATIENCE_MS = 60_000
# The content of all diagrams, or '' until they are drawn. One look at the page, because React may replace a diagram between two.
_DRAWN = """() => document.querySelector("[data-slot=skeleton]") ? "" :
    [...document.querySelectorAll("svg[id^=mermaid]")].map((drawing) => drawing.innerHTML).join("")"""
_TRIES = 5


class Browser:
    """One page of Prefect's UI, in version 2 unless a call names another.

    screenshots    their folder; None takes none
    """

    def __init__(self, page: Page, root: str, screenshots: Path | None) -> None:
        self.page = page
        self.shoots = screenshots is not None
        self._root = root
        self._screenshots = screenshots

    def open(self, path: str = "", *, version: int = 2) -> Page:
        """Go to a page of the UI."""
        self.page.goto(f"{self._root}/{'v2/' if version == 2 else ''}{path}")
        return self.page

    def log_in(self, secret: str) -> None:
        """Log in at the UI's prompt; the UI stores the password."""
        page = self.open()
        page.wait_for_url("**/login?**")
        page.locator("input[type=password]").fill(secret)
        page.get_by_role("button", name="Login").click()
        page.wait_for_url("**/dashboard?**")

    def leave(self) -> None:
        """Open an empty page: without a GPU, the spinners of a page of the UI keep one core busy."""
        self.page.goto("about:blank")

    def open_run_form(self, deployment: UUID) -> Page:
        """Open the form of *Run*, *Custom run* for a deployment."""
        page = self.open(f"deployments/deployment/{deployment}/run?parameters=%7B%7D")
        page.get_by_role("heading", name="Parameters").wait_for()
        return page

    def send(self, click: Callable[[], None], where: str) -> Response:
        """Click to send a request, repeat the click while the server answers 503, and return the answer.

        A server on SQLite answers 503 if a transaction began with a read and another one has written before its first
        write. Prefect's client then retries; its UI only shows an error, and the user has to retry (3.9.1).

        where    a pattern of the request's URL
        """
        for _ in range(_TRIES):
            with self.page.expect_response(where) as answered:
                click()
            answer = answered.value
            if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
                break
        assert answer.ok, f"{answer.request.method} {answer.url}: {answer.status} {answer.text()}"
        return answer

    def open_drawn(self, artifact: UUID) -> str:
        """Open an artifact, wait until all its diagrams are drawn, and return the content of their SVGs."""
        page = self.open(f"artifacts/artifact/{artifact}")
        return str(page.wait_for_function(_DRAWN).json_value())

    def shoot(self, name: str, *, height: int = _HEIGHT) -> None:
        """Take a screenshot of the page, `height` pixels high, if there is a folder for it."""
        if not self._screenshots:
            return
        self.page.set_viewport_size({"width": _WIDTH, "height": height})
        self.page.mouse.move(0, 0)
        self.page.wait_for_load_state("networkidle")
        self.page.screenshot(path=self._screenshots / f"{name}.png")
        self.page.set_viewport_size({"width": _WIDTH, "height": _HEIGHT})


def find_chromium() -> str:
    """Return the path of the system's Chromium; skip the test if there is none."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip("Prefect's UI was not tested: there is no Chromium (Debian: apt-get install chromium)")
    return program


@contextmanager
def browser_on(api_url: str, program: str, screenshots: Path | None, *, secret: str) -> Iterator[Browser]:
    """Yield a logged-in browser with an empty profile that can reach this machine only."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light")
        page.set_default_timeout(PATIENCE_MS)
        try:
            browsing = Browser(page, api_url.removesuffix("/api"), screenshots)
            browsing.log_in(secret)
            yield browsing
        finally:
            browser.close()
