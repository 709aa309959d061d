"""`sluice topics`: lists the topics; `drop` deletes one with everything that belongs to it."""

from rich.console import Console
from rich.text import Text

from deployments.show.as_json import level_object, line
from deployments.show.confirm import confirm
from deployments.show.stored import topic_in_words
from deployments.show.tables import topics_table
from tasks.base.plain_text import printable
from tasks.base.shell import sluice_command
from tasks.errors import SettingsError
from tasks.group import removal
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect
from tasks.reservoir.folding import level_of
from tasks.reservoir.keys import derived_from
from tasks.reservoir.topic_names import check_topic
from tasks.settings import redis_url

__all__ = ["drop_topic", "list_topics"]


def list_topics(console: Console, *, as_json: bool = False) -> None:
    """Print a line for each topic with its content."""
    levels = Reservoir(connect(redis_url(), retries=0)).levels()
    if as_json:
        for level in levels:
            print(line(level_object(level)), flush=True)  # noqa: T201 - rich would wrap it
        return
    console.print(topics_table(levels, width=console.width) if levels else Text("no topics yet"))
    for level in levels:
        if level.unreadable:
            console.print(Text(printable(level.unreadable), style="red"))


def drop_topic(console: Console, topic: str, *, yes: bool = False) -> None:
    """Delete a topic with everything that belongs to it, after a confirmation.

    raises    SettingsError: no such topic, an inlet or outlet runs on it, or the answer is no; nothing was changed
    """
    reservoir = Reservoir(connect(redis_url(), retries=0))
    if derived := derived_from(topic):
        of, kind, group = derived
        cure = (
            sluice_command("dead", of, group, options="--discard")
            if kind == "dead"
            else sluice_command("groups drop", of, group)
        )
        msg = f"expected a topic, got {topic!r}, which belongs to group {group!r} of topic {of!r}; `{cure}` deletes it"
        raise SettingsError(msg)
    if not removal.has_keys(reservoir.client, check_topic(topic)):
        msg = f"expected a topic, got {topic!r}; the topics are: {', '.join(reservoir.topics()) or 'none yet'}"
        raise SettingsError(msg)
    if inlets := removal.running_inlets(reservoir.client, topic):
        msg = (
            f"topic {topic!r}: expected no inlet to pump into it, got {', '.join(inlets)}; nothing was dropped; pause the schedule, "
            "cancel the run (`sluice stop`), and try again; or `sluice remove NAME --with-data`"
        )
        raise SettingsError(msg)
    level = level_of(reservoir.client, topic)
    console.print(topic_in_words(topic, level, removal.inlets_of(reservoir.client, topic)), soft_wrap=True)
    if not yes:
        confirm(f"delete topic {topic!r} with all of that for good?")
    removal.drop_topic(reservoir.client, topic)
    console.print(f"topic {topic!r} is deleted", soft_wrap=True)
