"""Prefect's UI in a real browser: forms, schedules, reports."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pandas as pd
import pytest
from playwright.sync_api import Page, expect
from prefect.client.schemas.objects import FlowRun

from flows.market import quotes, with_prefix
from flows.vitals import vitals
from tasks.base.plain_text import in_markdown, one_line
from tasks.report import pipeline as report
from tasks.reservoir import Reservoir
from tests.support.browser import PATIENCE_MS, Browser, browser_on, find_chromium
from tests.support.plain import SECRET, Plain, entries
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # on a busy machine of two cores: three servers, three flow runs
    pytest.mark.usefixtures("chromium"),  # first, because without a browser no server is needed
]


@pytest.fixture(scope="session")  # as the servers; otherwise it would start after them
def chromium() -> str:
    return find_chromium()


@pytest.fixture(scope="module")
def browser(prefect_server: Plain, chromium: str, request: pytest.FixtureRequest) -> Iterator[Browser]:
    folder = request.config.getoption("--screenshots")
    with browser_on(
        prefect_server.env["PREFECT_API_URL"], chromium, Path(folder) if folder else None, secret=SECRET
    ) as browser:
        yield browser


def described(page: Page, parameter: str) -> str:
    """Return the description of a parameter in the form."""
    label = page.locator("label", has_text=re.compile(rf"^{parameter} \(Optional\)$"))
    return label.locator("xpath=following-sibling::p").inner_text()


def submitted(plain: Plain, browser: Browser) -> FlowRun:
    """Submit the form and return the created run."""
    made = browser.send(browser.page.get_by_role("button", name="Submit").click, "**/create_flow_run").json()
    browser.page.wait_for_url("**/deployment/*?tab=Runs")  # the page after the form
    browser.leave()
    return plain.client.read_flow_run(UUID(made["id"]))


def test_the_form_of_an_inlet_describes_all_parameters_and_runs_it(plain: Plain, browser: Browser) -> None:
    page = browser.open_run_form(plain.deployment("quotes/quotes"))
    assert described(page, "seed") == "Seed of the simulated exchange. Each seed is another market."
    assert (
        described(page, "threads")
        == "Maximum number of pump calls at once. With 0, one call at a time, in the run's own thread."
    )
    browser.shoot("inlet-form", height=1400)
    page.get_by_label("topic (Optional)", exact=True).fill("quoted")
    page.get_by_label("window (Optional)", exact=True).fill("45s")
    run = submitted(plain, browser)
    assert (run.parameters["topic"], run.parameters["window"]) == ("quoted", "45s")
    wait_until(lambda: entries(plain.redis_url, "quoted"), "its first quotes")


@contextmanager
def vital_signs(url: str) -> Iterator[None]:
    """Push the values of the inlet `vitals` within this context."""
    reservoir, stop = Reservoir.from_url(url), threading.Event()

    def pump() -> None:
        while not stop.wait(0.5):
            reservoir.push("machine", vitals.pump())

    thread = threading.Thread(target=pump)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_an_outlet_started_from_its_form_draws_its_pipeline_and_can_be_cancelled(
    plain: Plain, browser: Browser
) -> None:
    page = browser.open_run_form(plain.deployment("busiest/busiest"))
    assert described(page, "top") == "Number of processes shown."
    assert described(page, "group") == "Consumer group. Each group sees every entry; the runs of one group share them."
    browser.shoot("outlet-form", height=1650)
    page.get_by_label("top (Optional)", exact=True).fill("4")
    with vital_signs(plain.redis_url):
        run = submitted(plain, browser)
        wait_until(lambda: "latest result" in str(plain.artifact(run.id)), "its report")
        artifact = plain.artifact(run.id)
        assert artifact
        drawn = browser.open_drawn(artifact.id)
        for node in ("from_redis", "filter(has(vitals))", "pluck", "sliding_window", "map(most_used)", "to_redis"):
            assert node in drawn
        assert re.search(r"[1-9]/s", drawn)
        expect(page.locator("table").first.locator("tr")).to_have_count(1 + 4, timeout=PATIENCE_MS)
        browser.shoot("live-diagram", height=2000)

    browser.open(f"runs/flow-run/{run.id}")
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Cancel").click()
    browser.send(page.get_by_role("button", name="Cancel Flow Run").click, "**/set_state")
    browser.leave()
    wait_until(lambda: plain.state(run.id) == "Cancelled", "its end")


def test_a_schedule_is_paused_and_resumed_with_its_switch(plain: Plain, browser: Browser) -> None:
    def active() -> bool:
        (schedule,) = plain.client.read_deployment_by_name("slow_seconds/slow_seconds").schedules
        return bool(schedule.active)

    page = browser.open(f"deployments/deployment/{plain.deployment('slow_seconds/slow_seconds')}")
    switch = page.get_by_role("switch", name="toggle Every 10 minutes")
    assert active()
    browser.send(switch.click, "**/schedules/*")
    assert not active()
    browser.shoot("schedule", height=700)
    browser.send(switch.click, "**/schedules/*")
    assert active()


def test_replay_shows_its_progress(plain: Plain, browser: Browser) -> None:
    frame = with_prefix(quotes.pump(), "150")
    reservoir = Reservoir.from_url(plain.redis_url)
    for _ in range(100 if browser.shoots else 3):  # the screenshot shows a replay in progress
        reservoir.push_many("replayed", [{"quotes": frame}] * 10)
    replay = plain.client.create_flow_run_from_deployment(
        plain.deployment("movers/movers-replay"), parameters={"topics": "replayed"}
    )

    def percent() -> float:
        progress = plain.artifact(replay.id, "progress")
        return float(str(progress.data)) if progress else -1

    wait_until(lambda: percent() >= (20 if browser.shoots else 0), "its progress", deadline=120)
    report, progress = plain.artifact(replay.id), plain.artifact(replay.id, "progress")
    assert report
    assert progress
    browser.open_drawn(report.id)
    browser.shoot("replay-progress", height=700)
    browser.leave()
    wait_until(lambda: plain.state(replay.id) == "Completed", "its end", deadline=120)
    browser.open(f"artifacts/artifact/{progress.id}").get_by_text("Progress: 100%").wait_for()
    browser.open(f"artifacts/artifact/{report.id}").get_by_text("100 % of a replay up to replayed").wait_for()


def test_the_report_of_an_inlet_counts_its_ticks(plain: Plain, browser: Browser) -> None:
    ticks = 12 if browser.shoots else 1
    run = plain.client.create_flow_run_from_deployment(
        plain.deployment("quotes/quotes"), parameters={"topic": "reported", "window": f"{5 * ticks}s"}
    )
    wait_until(lambda: plain.artifact(run.id), "its report", deadline=120)  # it is published at the end
    artifact = plain.artifact(run.id)
    assert artifact
    page = browser.open(f"artifacts/artifact/{artifact.id}")
    for count in ("ticks due", "pushed", "entries"):
        row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=count, exact=True))
        expect(row.get_by_role("cell").last).to_have_text(str(ticks))
    browser.shoot("inlet-report", height=1000)


def test_lag_over_time_is_drawn_in_a_colour_that_is_seen(plain: Plain, browser: Browser, levels_run: UUID) -> None:
    artifact = plain.artifact(levels_run)
    assert artifact
    drawn = browser.open_drawn(artifact.id)
    assert "movers on market" in drawn
    line = browser.page.locator("svg[id^=mermaid] path[stroke='#c0392b']")
    expect(line).to_have_count(1, timeout=PATIENCE_MS)
    browser.shoot("levels", height=1900)


# Texts that a browser could interpret: markup, three kinds of links, columns, diagrams' syntax, line breaks.
TEXTS = [
    "![x](http://127.0.0.1:1/x.png)", "[x](http://127.0.0.1:1/)", "http://127.0.0.1:1/", "www.example.com", "me@example.com",
    "[x]: http://127.0.0.1:1/", "<b>x</b> <img src=x>", "**x** _x_ ~~x~~ `x` # x", "a|b \\| c", "| x | y |", "a &lt; b &#60;",
    "- x", "1. x", "x\n\n# y", '"]; click n0 "x"', "@`|`",
]  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_text_of_unknown_origin_is_text_in_a_report(prefect_server: Plain, browser: Browser, version: int) -> None:
    n = len(TEXTS)
    flow = report.GraphCounts(tuple(TEXTS), (0,) * n, (None,) * n, (0,) * n, (0,) * n, (0.0,) * n, {}, 0.0)
    parts = [f"# {in_markdown(text)}" for text in TEXTS]
    parts += [report.result_table(pd.DataFrame({text: [text] for text in TEXTS[at : at + 2]})) for at in range(0, n, 2)]
    parts += [report.nodes_table(flow), report.diagram(flow), report.result_table(TEXTS)]
    data = {"type": "markdown", "description": in_markdown("; ".join(TEXTS)), "data": "\n\n".join(parts)}
    made = prefect_server.client.request("POST", "/artifacts/", json=data).json()["id"]
    asked: list[str] = []
    browser.page.on("request", lambda request: asked.append(request.url))
    page = browser.open(f"artifacts/artifact/{made}", version=version)
    page.get_by_role("table").nth(n // 2).wait_for()
    if version == 2:
        drawn = str(page.locator("svg[id^=mermaid]").text_content())
        assert all(one_line(text) in drawn for text in TEXTS)
    meant = [one_line(text) for text in TEXTS]
    assert page.get_by_role("table").last.locator("td:first-child").all_inner_texts() == meant
    frames = [page.get_by_role("table").nth(at) for at in range(n // 2)]
    assert [text for each in frames for text in each.locator("th").all_inner_texts() if text] == meant
    assert [text for each in frames for text in each.locator("td").all_inner_texts()[1:]] == meant
    assert set(meant[:-1]) <= set(
        page.locator("h1").all_inner_texts()
    )  # outside a table, the last one gets a backslash
    assert page.locator("table img, table a, h1 a, h1 img, p img, p a, svg a, svg image").count() == 0
    assert not [url for url in asked if "127.0.0.1:1/" in url]
    browser.leave()
