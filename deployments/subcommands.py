"""`sluice topics` and `sluice groups`: list topics and groups, and the subcommands `drop` and `reset`."""

from typing import Annotated

import typer

from deployments.options import AsJson, Yes, console

__all__ = ["groups", "topics"]

topics = typer.Typer(
    name="topics",
    help="List the topics. `sluice topics drop` deletes one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
groups = typer.Typer(
    name="groups",
    help="List the consumer groups of all topics. `sluice groups drop` and `sluice groups reset` change one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

_Topic = Annotated[str, typer.Argument(help="The topic, such as market.")]
_Group = Annotated[str, typer.Argument(help="The consumer group, such as movers.")]


@topics.callback()
def _list_topics(context: typer.Context, *, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        from deployments.commands.topics import list_topics  # noqa: PLC0415

        list_topics(console(), as_json=as_json)


@topics.command("drop")
def _drop_topic(topic: _Topic, *, yes: Yes = False) -> None:
    """Delete a topic: its entries, its groups with their dead letters, and every key beside it. Asks first.

    Refused while an inlet pumps into it or an outlet reads it. `sluice remove NAME --with-data` stops those first.
    """
    from deployments.commands.topics import drop_topic  # noqa: PLC0415

    drop_topic(console(), topic, yes=yes)


@groups.callback()
def _list_groups(context: typer.Context, *, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        from deployments.commands.groups import list_groups  # noqa: PLC0415

        list_groups(console(), as_json=as_json)


@groups.command("drop")
def _drop_group(topic: _Topic, group: _Group, *, yes: Yes = False) -> None:
    """Delete a consumer group on a topic: its position, pending entries, dead letters and retries. Asks first.

    The topic and its other groups stay. Refused while an outlet reads with the group. One that starts later creates the
    group anew, at its `start_from`.
    """
    from deployments.commands.groups import drop_group  # noqa: PLC0415

    drop_group(console(), topic, group, yes=yes)


@groups.command("reset")
def _reset_group(
    topic: _Topic,
    group: _Group,
    to: Annotated[str, typer.Option(help="Where the group goes on: beginning, end, an ISO time or an entry id.")],
    *,
    yes: Yes = False,
) -> None:
    """Move a consumer group to another position of its topic: it reads all later entries, also those it has read. Asks first.

    Acknowledges all that is pending in the group. Refused while an outlet reads with it. The flow `rewind` does the same.
    """
    from deployments.commands.groups import reset_group  # noqa: PLC0415

    reset_group(console(), topic, group, to, yes=yes)
