"""A real browser on Prefect's UI: Chromium as the system has it, driven by Playwright."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from uuid import UUID

import pytest
from playwright.sync_api import Page, Response, sync_playwright

__all__ = ["Browser", "browser_on", "find_chromium"]

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
_PATIENCE_MS = 60_000
_TRIES = 5


class Browser:
    """One page of Prefect's UI: version 2, which is what its root leads to, if nothing else is asked for.

    screenshots    the folder they go to; None: none are taken
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
        """Log in where the UI asks for it, once: it stores what it was given."""
        page = self.open()
        page.wait_for_url("**/login?**")
        page.locator("input[type=password]").fill(secret)
        page.get_by_role("button", name="Login").click()
        page.wait_for_url("**/dashboard?**")

    def leave(self) -> None:
        """Go where there is nothing to draw: a page of the UI costs a core while its spinners turn, without a GPU."""
        self.page.goto("about:blank")

    def open_run_form(self, deployment: UUID) -> Page:
        """Go to the form for a run of a deployment, where *Run*, *Custom run* leads."""
        page = self.open(f"deployments/deployment/{deployment}/run?parameters=%7B%7D")
        page.get_by_role("heading", name="Parameters").wait_for()
        return page

    def send(self, click: Callable[[], None], where: str) -> Response:
        """Do the click that sends a request, again where the server wants it again, and return its answer.

        A server on SQLite answers 503 at once when a transaction that began with reading comes to write and another has
        written meanwhile. Prefect's client then tries again; its UI says that there was an error, and does not repeat the
        request (3.9.1).

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
        """Go to an artifact, wait until all its diagrams are drawn, and return what is written in the first."""
        page = self.open(f"artifacts/artifact/{artifact}")
        drawing = page.locator("svg[id^=mermaid]").first
        drawing.wait_for()
        page.locator("[data-slot=skeleton]").wait_for(state="detached")
        return drawing.inner_html()

    def shoot(self, name: str, *, height: int = _HEIGHT) -> None:
        """Take a screenshot as wide as the page and `height` pixels high, if they are wanted."""
        if not self._screenshots:
            return
        self.page.set_viewport_size({"width": _WIDTH, "height": height})
        self.page.mouse.move(0, 0)
        self.page.wait_for_load_state("networkidle")
        self.page.screenshot(path=self._screenshots / f"{name}.png")
        self.page.set_viewport_size({"width": _WIDTH, "height": _HEIGHT})


def find_chromium() -> str:
    """Return where the system has a Chromium; skip the test if it has none."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip("nobody looked at Prefect's UI: there is no Chromium (Debian: apt-get install chromium)")
    return program


@contextmanager
def browser_on(api_url: str, program: str, screenshots: Path | None, *, secret: str) -> Iterator[Browser]:
    """Give a browser with an empty profile that reaches this machine and nothing else, and has logged in."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light")
        page.set_default_timeout(_PATIENCE_MS)
        try:
            browsing = Browser(page, api_url.removesuffix("/api"), screenshots)
            browsing.log_in(secret)
            yield browsing
        finally:
            browser.close()
