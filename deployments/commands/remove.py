"""`sluice remove` ends and deletes an inlet or an outlet and, with `--with-data`, its data."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from rich.console import Console

from deployments.commands.on_prefect import no_such_deployment, prefect_client
from deployments.show.confirm import confirm
from deployments.show.stored import group_in_words, topic_in_words
from tasks.base.quantities import counted
from tasks.errors import SettingsError
from tasks.group import removal
from tasks.reservoir.connection import connect
from tasks.reservoir.folding import level_of
from tasks.settings import redis_url

if TYPE_CHECKING:
    from deployments.rollout.removal import Removable
    from deployments.rollout.uses import Unshared

__all__ = ["remove"]

_POLL = 0.3


def remove(
    console: Console, name: str, *, root: Path, with_data: bool = False, yes: bool = False, timeout: float
) -> None:
    """End the runs of an inlet or an outlet, and delete its deployments, after a confirmation.

    name       a deployment, or a flow: then all of its deployments
    root       the folder of `prefect.yaml`
    with_data  also delete its groups or its topic, unless another deployment uses them, and what Prefect recorded
    timeout    seconds to wait at most for each deployment's runs to end, and for leases to expire
    raises     SettingsError: no such deployment, or the answer is no: nothing was changed; consumers are alive that are no
               runs of these deployments; UnavailableError: no server answers, or a run does not end
    """

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    with prefect_client() as client:
        from deployments.rollout import removal as on_prefect  # noqa: PLC0415 - only now, see find_server
        from deployments.rollout.uses import unshared  # noqa: PLC0415

        chosen, others = on_prefect.find_removable(client, name)
        if not chosen:
            raise no_such_deployment(client, name)
        data = unshared({each.name: each.uses for each in chosen}, others)
        store = connect(redis_url(), retries=0) if with_data else None
        for text in [*_deployments_in_words(chosen), *(_data_in_words(store, data) if store else ())]:
            say(text)
        names = " and ".join(each.name for each in chosen)
        if not yes:
            confirm(f"remove {names} for good?")
        for each in chosen:
            for text in on_prefect.halt(client, each, timeout=timeout):
                say(f"{each.name}: {text}")
        if store:
            for text in _drop(store, data, deadline=time.monotonic() + timeout):
                say(text)
            _leave_poll(store, chosen)
        on_prefect.remove(client, chosen, with_history=with_data)
    for text in [f"{names}: removed from the Prefect server", *_by_hand(chosen, root)]:
        say(text)


def _deployments_in_words(chosen: Iterable["Removable"]) -> Iterator[str]:
    for each in chosen:
        schedules = [schedule.slug or str(schedule.id) for schedule in each.deployment.schedules]
        parts = [f"schedule {slug}" for slug in schedules]
        parts += [f"automation {automation.name!r}" for automation in each.automations]
        parts += [f"{counted(len(each.running), 'run')} to end: {', '.join(each.running)}"] * bool(each.running)
        yield f"deployment {each.name}" + "".join(f"; {part}" for part in parts)


def _data_in_words(store: redis.Redis, data: "Unshared") -> Iterator[str]:
    for topic in data.topics:
        if removal.has_keys(store, topic):
            yield topic_in_words(topic, level_of(store, topic), removal.inlets_of(store, topic))
    for topic, group in data.groups:
        removal.refuse_readers_of_letters(store, topic, group)
        try:
            yield group_in_words(topic, group, removal.kept_by_group(store, topic, group))
        except SettingsError:  # a group that has never read, or was dropped before
            continue
    yield from data.stay
    yield "the runs on the Prefect server, with their logs and reports"


def _drop(store: redis.Redis, data: "Unshared", *, deadline: float) -> Iterator[str]:
    for topic, group in data.groups:
        _once_dead(lambda topic=topic, group=group: removal.drop_group(store, topic, group), deadline)
        yield f"group {group!r} on topic {topic!r}: deleted"
    for topic, inlet in data.inlets:
        removal.drop_inlet(store, topic, inlet)
    for topic in data.topics:
        _once_dead(lambda topic=topic: removal.drop_topic(store, topic), deadline)
        yield f"topic {topic!r}: deleted"


def _once_dead(drop: Callable[[], None], deadline: float) -> None:
    """Drop something once no consumer is alive; wait until the deadline for the leases of killed runs."""
    while True:
        try:
            drop()
        except removal.ConsumersAliveError as error:
            if time.monotonic() > deadline:
                msg = f"{error}; the runs have ended and the schedules are paused: repeat the command for the rest"
                raise SettingsError(msg) from error
            time.sleep(_POLL)
        else:
            return


def _leave_poll(store: redis.Redis, chosen: Iterable["Removable"]) -> None:
    """Remove inlets from the list of those that are restarted when they have no run."""
    from flows.runtime.shared_poll import SharedPoll  # noqa: PLC0415 - only now, see find_server

    for each in chosen:
        SharedPoll(store, name="", deployment=str(each.deployment.id)).forget()


def _by_hand(chosen: Sequence["Removable"], root: Path) -> Iterator[str]:
    """Yield the parts to delete by hand: in `prefect.yaml`, because the next deploy would restore them, and in the code."""
    for referring, full in [(name, each.name) for each in chosen for name in each.referring]:
        yield f"by hand: the automation {referring!r} runs {full}, besides other things; edit it in the Prefect UI"
    for entrypoint in sorted({each.deployment.entrypoint or "" for each in chosen} - {""}):
        names = [each.deployment.name for each in chosen if each.deployment.entrypoint == entrypoint]
        for file, number in _blocks(root, entrypoint):
            whose = f" ({' or '.join(names)})" if len(names) > 1 else ""
            yield f"by hand: delete the block of {entrypoint} in {file}, line {number}{whose}, or the next deploy brings it back"
        path, _, function = entrypoint.rpartition(":")
        yield f"by hand: delete {function} in {path}, and its test, if you need them no more"


def _blocks(root: Path, entrypoint: str) -> Iterator[tuple[str, int]]:
    """Yield the file and line of each deployment in it that has this entrypoint."""
    line = re.compile(rf"""\s*(?:-\s+)?entrypoint:\s*["']?{re.escape(entrypoint)}["']?\s*(?:\#.*)?""")
    file = root / "prefect.yaml"
    if file.is_file():
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if line.fullmatch(text):
                yield file.name, number
