"""`sluice dead`: what a group could not process, where and why, and how it gets it back."""

import shlex
from collections import Counter

from rich.console import Console
from rich.text import Text

from deployments.as_json import line
from deployments.tables import letters_table
from tasks.connection import connect
from tasks.deadletters import Letter, newest_letters
from tasks.plaintext import printable
from tasks.settings import dead_topic, redis_url

__all__ = ["dead", "told"]


def dead(console: Console, topic: str, group: str, n: int, *, tracebacks: bool = False, as_json: bool = False) -> None:
    """Print the newest `n` dead letters of a group, newest first, and the commands that look closer and give them back.

    raises    SettingsError: there is no such topic or group
    """
    client = connect(redis_url(), retries=0)
    letters = newest_letters(client, topic, group, n)
    if as_json:
        for letter in letters:
            print(line(_object(letter, topic, group)), flush=True)  # noqa: T201 - rich would wrap it
        return
    if not letters:
        console.print(f"group {group!r} has no dead letters of topic {topic!r}", highlight=False)
        return
    if tracebacks:
        for letter in letters:
            console.print(told(letter), soft_wrap=True)
    else:
        console.print(letters_table(letters, width=console.width))
    _say_what_to_do(console, topic, group, letters, total=client.xlen(dead_topic(topic, group)))  # type: ignore[arg-type]


def told(letter: Letter) -> Text:
    """Return a dead letter in full, with its traceback."""
    lines = (letter.traceback.rstrip() or letter.exception).splitlines()
    return Text.assemble(
        (f"letter {letter.id}", "bold"),
        printable(
            f"  entry {letter.entry_id}, node {letter.node}, deliveries {letter.deliveries}, replays {letter.retries}"
        ),
        ("".join(f"\n{printable(line)}" for line in lines), "red"),
        "\n",
    )


def _say_what_to_do(console: Console, topic: str, group: str, letters: list[Letter], *, total: int) -> None:
    replay = f"prefect deployment run replay_dead_letters/main --param topic={topic} --param group={group}"
    nodes = Counter(letter.node for letter in letters if letter.node).most_common(1)
    lines = [f"{len(letters)} of {total}"]
    lines += [f"what they hold           sluice peek {dead_topic(topic, group)}"]
    lines += [f"give all of them back    {replay}"]
    if nodes:
        lines += [f"those of one node        {replay} --param node={shlex.quote(nodes[0][0])}"]
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
        "deliveries": letter.deliveries,
        "replays": letter.retries,
    }
