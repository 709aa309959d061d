"""Names and messages of servers are printed as plain text."""

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deployments.checks.findings import failure
from deployments.commands import restart, status
from deployments.commands.dead import in_full
from deployments.commands.doctor import _drawn
from deployments.show.tables import letters_table, levels_table
from deployments.show.terminal import Terminal, print_aside
from tasks.group.dead_letters import Letter
from tasks.reservoir.levels import GroupLevel, TopicLevel

BAD = "[/red] :smile: \x1b]0;x\x07\x9b2J\r\u202e [bold]"
SHOWN = "[/red] :smile: ]0;x 2J [bold]"  # with any number of spaces in between
GROUP = GroupLevel(BAD, 1, 0, 0, 0)
LETTER = Letter("1-0", BAD, BAD, BAD, traceback=f"{BAD}\n{BAD}")


def printed(*what: RenderableType, **options: Any) -> str:
    console = Terminal(width=200, **options)
    with console.capture() as capture:
        console.print(*what)
    return re.sub(" +", " ", capture.get())


def table(cell: str) -> Table:
    made = Table()
    made.add_column(Text(cell), min_width=60)
    made.add_row(Text(cell))
    return made


@pytest.mark.parametrize(
    "what",
    [
        BAD,
        Text(BAD, style="red"),
        Group(Text(BAD), Text(BAD)),
        in_full(LETTER),
        letters_table([LETTER]),
        levels_table([TopicLevel(BAD, 1, "1-0", "1-0", (GROUP,))], width=200),
        _drawn(failure(BAD, BAD, BAD)),
        status._drawn(
            status.Status(
                Path(BAD),
                1,
                status.PrefectStatus("", workers=(BAD,), deployments=(status.Deployed(BAD, BAD, BAD, BAD),)),
                status.RedisStatus(error=BAD),
            ),
            200,
        ),
        status._drawn(
            status.Status(Path(BAD), 1, status.PrefectStatus(error=BAD), status.RedisStatus(BAD)), 200, is_watched=True
        ),
    ],
)
def test_texts_of_servers_and_entries_are_printed_without_control_or_style(what: RenderableType) -> None:
    assert SHOWN in printed(what)
    assert re.fullmatch(r"(?:[^\W\d_]|[\x20-\x7e\n─│┌┐└┘├┤┬┴┼━┃┏┓┗┛┡┩╇┳╰╯╭╮…]|\d)*", printed(what))


def test_a_live_table_moves_the_cursor_and_nothing_in_it_does() -> None:
    console = Terminal(width=80, force_terminal=True)
    with console.capture() as capture, Live(console=console, auto_refresh=False) as live:
        for _ in range(2):
            live.update(table(BAD), refresh=True)
    assert SHOWN in re.sub(" +", " ", capture.get())
    assert "\x1b[2K" in capture.get(), "the table is drawn in place"
    assert not re.search("\x1b]|\x9b|\u202e|\x07", capture.get())


def test_colours_and_line_breaks_of_our_own_stay() -> None:
    assert (
        printed(Text("a\nb", style="red"), force_terminal=True, color_system="standard")
        == "\x1b[31ma\x1b[0m\n\x1b[31mb\x1b[0m\n"
    )


def test_an_error_is_printed_without_controls(capsys: pytest.CaptureFixture[str]) -> None:
    print_aside(f"sluice: {BAD}\nsecond")
    assert capsys.readouterr().err == f"sluice: {''.join(one if one.isprintable() else ' ' for one in BAD)}\nsecond\n"


def test_a_runs_name_is_printed_literally() -> None:
    class Run:
        name, state_name = BAD, BAD

    console = Terminal(width=300)
    with console.capture() as capture:
        restart._print_ended(console, BAD, [Run()])  # type: ignore[list-item]
    assert re.sub(" +", " ", capture.get()).count(SHOWN) == 3
