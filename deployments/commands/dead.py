"""`sluice dead`: show a group's dead letters, and replay or discard chosen ones."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from deployments.show.as_json import line
from deployments.show.confirm import confirm
from deployments.show.tables import letters_table
from tasks.base.plain_text import printable
from tasks.base.shell import sluice_command
from tasks.group.dead_letters import DeadLetters, Letter, Outcome, mixing
from tasks.reservoir.connection import connect
from tasks.reservoir.keys import dead_topic
from tasks.settings import redis_url

__all__ = ["Action", "dead", "in_full"]

Action = Literal["replay", "discard"]


def dead(
    console: Console,
    topic: str,
    group: str,
    n: int = 10,
    *,
    choice: Mapping[str, Any] | None = None,
    action: Action | None = None,
    yes: bool = False,
    tracebacks: bool = False,
    as_json: bool = False,
) -> None:
    """Print the newest `n` dead letters of a group, newest first, or up to `n` chosen ones; or replay or discard them.

    choice    arguments of `DeadLetters.choose`; without them, the newest are shown, and an action takes all
    action    the action on the chosen letters; asks first, unless `yes`
    raises    SettingsError: no such topic or group, or the answer is no; nothing was changed
    """
    letters = DeadLetters(connect(redis_url(), retries=0), topic, group)
    newest = action is None and not choice
    if newest:
        chosen = list(letters.newest(n))
    else:
        chosen = letters.choose(**choice or {}, tracebacks=not action and (tracebacks or as_json))
    if action:
        _act(console, letters, chosen, action, f"{topic!r} and group {group!r}", yes=yes, as_json=as_json)
        return
    shown = chosen[:n]
    if as_json:
        for letter in shown:
            print(line(_object(letter, topic, group)), flush=True)  # noqa: T201 - rich would wrap it
        return
    if not chosen:
        none = f"group {group!r} has no dead letters of topic {topic!r}"
        console.print(none if newest else f"{none} for which that holds", highlight=False)
        return
    if tracebacks:
        for letter in shown:
            console.print(in_full(letter), soft_wrap=True)
    else:
        console.print(letters_table(shown, width=console.width))
    of = len(letters) if newest else f"{len(chosen)} chosen, {len(letters)} in all"
    _say_what_to_do(console, topic, group, shown, of=of)


def _act(
    console: Console,
    letters: DeadLetters,
    chosen: list[Letter],
    action: Action,
    whose: str,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Replay or discard the chosen letters after a confirmation, and print the outcomes."""
    mixes = mixing(chosen) if action == "replay" else ""
    if chosen and not yes:
        _confirm(console, len(chosen), action, whose, mixes)
    taken = letters.replay(chosen, into_windows=True) if action == "replay" else letters.discard(chosen)
    outcomes: dict[Letter, Outcome] = {}
    try:
        for letter, outcome in taken:
            outcomes[letter] = outcome
            if as_json:
                print(line({"letter": letter.id, "entry": letter.entry_id, "now": outcome}), flush=True)  # noqa: T201 - rich would wrap it
    finally:
        if not as_json:
            console.print(_counts(chosen, outcomes, left=len(letters)), highlight=False, markup=False, soft_wrap=True)


def _confirm(console: Console, number: int, action: Action, whose: str, mixes: str) -> None:
    if mixes:
        console.print(printable(mixes), style="yellow", highlight=False, markup=False, soft_wrap=True)
    for_good = " for good" if action == "discard" else ""
    confirm(f"{action} {number} dead letters of topic {whose}{for_good}?")


def _counts(chosen: Iterable[Letter], outcomes: Mapping[Letter, Outcome], *, left: int) -> str:
    counts = Counter(outcomes.get(letter, "not confirmed") for letter in chosen)
    became = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items()) or "none was chosen"
    return f"{became}; {left:,} are left"


def in_full(letter: Letter) -> Text:
    """Return a dead letter in full, with its traceback."""
    lines = (letter.traceback.rstrip() or letter.exception).splitlines()
    return Text.assemble(
        (f"letter {letter.id}", "bold"),
        printable(
            f"  entry {letter.entry_id}, node {letter.node}, attempts {letter.attempts}, "
            f"deliveries {letter.deliveries}, replays {letter.retries}"
        ),
        ("".join(f"\n{printable(line)}" for line in lines), "red"),
        "\n",
    )


def _say_what_to_do(console: Console, topic: str, group: str, letters: list[Letter], *, of: object) -> None:
    def this(options: str, *ids: str) -> str:
        return sluice_command("dead", topic, group, *ids, options=options)

    nodes = Counter(letter.node for letter in letters if letter.node).most_common(1)
    lines = [f"{len(letters)} of {of}"]
    lines += [f"what they hold           {sluice_command('peek', dead_topic(topic, group))}"]
    lines += [f"give all of them back    {this('--replay')}"]
    if nodes:
        lines += [f"those of one node        {this(f'--node {shlex.quote(nodes[0][0])} --replay')}"]
    lines += [f"remove some for good     {this('--discard', letters[-1].id, '...')}"]
    for text in lines:
        console.print(printable(text), style="dim", highlight=False, markup=False, soft_wrap=True)


def _object(letter: Letter, topic: str, group: str) -> dict[str, object]:
    return {
        "topic": topic,
        "group": group,
        "letter": letter.id,
        "time": letter.time,
        "entry": letter.entry_id,
        "node": letter.node,
        "exception": letter.exception,
        "traceback": letter.traceback,
        "attempts": letter.attempts,
        "deliveries": letter.deliveries,
        "replays": letter.retries,
        "combines": letter.combines,
    }
