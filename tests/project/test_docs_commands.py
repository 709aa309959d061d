"""Commands in README and docs: their targets, options, names and parameters exist.

`RUN_BY` names the test that really runs each of them; commands of redis-cli run here.
"""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import typer.main
from prefect.cli._app import _app as prefect_cli
from prefect.client.orchestration import get_client
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import Settings

from deployments.cli import app as sluice_cli
from deployments.servers.old_names import new_name
from deployments.servers.redis_binary import REDIS_SERVER
from flows.market import quotes
from tasks import Reservoir, settings
from tasks.base.state_folder import STATE_DIR
from tests.rollout.test_prefect_yaml import DEPLOYMENTS
from tests.support.documents import (
    PAGES,
    ROOT,
    blocks,
    checkout_with,
    commands,
    deployments_shown,
    files_shown,
    names_of_tests,
    without_blocks,
)

UP = "stack/test_up.py::test_sluice_up_runs_everything_survives_a_crash_and_leaves_nothing_behind"
RESTART = "stack/test_end_to_end.py::test_an_outlet_is_restarted_stopped_and_rewound_as_the_replay_page_shows"
BY_PREFECT = "stack/test_end_to_end.py::test_prefects_command_runs_an_inlet_and_an_outlet_that_restarts_until_cancelled"
SHOWN = "commands/test_peek.py::test_peek_shows_the_newest_entries_and_status_the_topics"
SECURED = "reservoir/test_secured_redis.py::test_documented_acl_user_has_exactly_the_needed_commands"

OWN = "commands/test_init.py::test_project_of_ones_own_runs_from_a_wheel_and_upgrades"
HERE = "project/test_docs_commands.py::test_prefect_commands_on_pages_manage_schedules_and_pools"

# The test that runs the commands with this beginning.
RUN_BY = {
    "make up": UP,
    "sluice restart": RESTART,
    "sluice stop": RESTART,
    "sluice status": SHOWN,
    "sluice status --watch": "commands/test_status.py::test_status_watch_prints_a_json_line_per_look_until_ctrl_c",
    "sluice peek": SHOWN,
    "sluice peek signals --follow": "commands/test_peek.py::test_peek_follows_a_missing_topic_through_an_outage_without_a_group",
    "sluice dead": "commands/test_dead.py::test_dead_shows_node_error_and_replay_command",
    "sluice dead network totals --replay": "commands/test_dead.py::test_dead_replays_and_discards_chosen_letters_once_confirmed",
    "sluice dead market movers --until": "commands/test_dead.py::test_dead_replays_and_discards_chosen_letters_once_confirmed",
    "sluice topics": "commands/test_topics_groups.py::test_topics_and_groups_are_listed_as_table_and_json",
    "sluice state": "commands/test_state.py::test_state_of_each_node_is_listed",
    "sluice cursor": "commands/test_cursors.py::test_a_cursor_is_set_to_json_or_text_and_deleted",
    "sluice groups": "commands/test_topics_groups.py::test_topics_and_groups_are_listed_as_table_and_json",
    "sluice topics drop": "commands/test_topics_groups.py::test_topics_drop_asks_and_deletes_one_topic",
    "sluice groups drop": "commands/test_topics_groups.py::test_groups_drop_asks_and_deletes_one_group",
    "sluice groups reset": "commands/test_topics_groups.py::test_groups_reset_asks_and_lets_a_group_read_again",
    "sluice remove": "commands/test_remove.py::test_remove_with_data_leaves_server_and_redis_as_before_an_outlet",
    "sluice doctor": "commands/test_doctor.py::test_the_command_prints_a_line_for_each_finding_or_json_and_fails_if_one_does",
    "prefect deployment run": BY_PREFECT,
    "prefect deployment run rewind/rewind": RESTART,
    "prefect deploy --name": BY_PREFECT,
    "sluice deploy": "stack/test_end_to_end.py::test_sluice_deploy_brings_flows_automations_and_new_names",
    "prefect worker start": BY_PREFECT,
    "prefect server start": UP,  # by deployments/servers/serve.py
    "prefect work-pool create": HERE,
    "prefect deployment schedule": HERE,
    "sluice init": OWN,
    "sluice up": OWN,
    "openssl": SECURED,
    "redis-cli ACL": SECURED,
}


def words_of(line: str) -> list[str]:
    first, *others = shlex.split(line.partition(" | ")[0])
    return [first.removeprefix(".venv/bin/"), *others]


def typed() -> Iterator[tuple[str, str]]:
    """Yield each command in a block, with its place."""
    for block in blocks("sh"):
        for line in commands(block):
            yield str(block), line


def mentioned() -> Iterator[tuple[str, str]]:
    """Yield each command in a sentence, with its page; the reference is generated from the commands themselves."""
    for page in PAGES:
        if page.name == "reference.md":
            continue
        for line in re.findall(r"`((?:make|sluice|prefect|redis-cli) [^`]+)`", without_blocks(page.read_text())):
            if " " in (command := line.removesuffix(" ...")):
                yield page.name, command


class Commands:
    """One check of arguments for each program; `folder` has the files that pages add to a checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deployments = {
            f"{each['entrypoint'].rpartition(':')[2]}/{each['name']}": each
            for each in [*DEPLOYMENTS, *deployments_shown()]
        }

    def make(self, *arguments: str) -> None:
        done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def sluice(self, name: str, *arguments: str) -> None:
        command: Any = typer.main.get_command(sluice_cli).commands[name]  # type: ignore[attr-defined]
        left = list(arguments)
        while left and left[0] in getattr(command, "commands", {}):
            command = command.commands[left.pop(0)]
        given = command.make_context(name, left).params
        if name in ("remove", "restart", "stop"):
            self._deployed(given["name"])

    def sluice_in_a_sentence(self, *arguments: str) -> None:
        """Check a command in a sentence, which may lack required arguments."""
        group: Any = typer.main.get_command(sluice_cli)
        options, names = [], [word for word in arguments if word in group.commands]
        for command in [group, *(group.commands[name] for name in names[:1])]:
            below = [
                each
                for word, each in getattr(command, "commands", {}).items()
                if command is not group and word in arguments
            ]
            options += [option for one in [command, *below] for each in one.params for option in each.opts]
        assert names or arguments[0] in options
        assert {word for word in arguments if word.startswith("-")} <= set(options)

    def prefect(self, *arguments: str) -> None:
        _, bound, *_ = prefect_cli.parse_args(arguments, print_error=False, exit_on_error=False)
        given = bound.arguments
        if arguments[0] == "deployment":
            deployment = self._deployed(given.get("name") or given["deployment_name"])
            if deployment and (parameters := dict(each.split("=", 1) for each in given.get("params", []))):
                flow: Any = load_flow_from_entrypoint(
                    str(self.folder / deployment["entrypoint"]), use_placeholder_flow=False
                )
                assert set(parameters) <= set(flow.parameters.properties)
        if "from_file" in given:
            assert (ROOT / given["from_file"]).is_file()

    def export(self, assignment: str) -> None:
        name = assignment.partition("=")[0]
        assert name in {settings.REDIS_URL, STATE_DIR, REDIS_SERVER, "REDISCLI_AUTH"} | prefects_variables()

    def pip(self, *arguments: str) -> None:
        for extra in re.findall(r"\[(\w+)\]", " ".join(arguments)):
            assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)

    def python(self, script: str, *arguments: str) -> None:
        assert importlib.util.find_spec(arguments[0]) if script == "-m" else (ROOT / script).is_file()

    def nothing(self, *_: str) -> None:
        """Accept any arguments: the command belongs to the system, or a test runs it."""

    def _deployed(self, name: str) -> dict[str, Any] | None:
        if "NAME" in name:
            return None
        flow, _, old = name.partition("/")
        return self.deployments[f"{flow}/{new_name(flow, old) or old or flow}"]


def prefects_variables() -> set[str]:
    def of(model: Any) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from of(field.annotation)
            else:
                yield f"{model.model_config['env_prefix']}{name}".upper()
                choices = getattr(field.validation_alias, "choices", ())
                yield from (choice.upper() for choice in choices if isinstance(choice, str))

    return set(of(Settings))


PROGRAMS: dict[str, Callable[..., None]] = {
    "make": Commands.make,
    "sluice": Commands.sluice,
    "prefect": Commands.prefect,
    "export": Commands.export,
    "pip": Commands.pip,
    "python": Commands.python,
    **dict.fromkeys([".", "alias", "chown", "echo", "git", "openssl", "redis-cli", "sudo", "umask"], Commands.nothing),
}


def test_every_command_on_pages_has_valid_options_names_and_parameters(tmp_path: Path) -> None:
    checks = Commands(checkout_with(files_shown(), tmp_path))
    mentions = {"sluice": Commands.sluice_in_a_sentence}
    for where, line, programs in [
        *((*each, PROGRAMS) for each in typed()),
        *((*each, PROGRAMS | mentions) for each in mentioned()),
    ]:
        program, *arguments = words_of(line)
        assert program in programs, f"{where}: nothing checks {line!r}"
        try:
            programs[program](checks, *arguments)
        except BaseException as error:
            error.add_note(f"{where}: {line}")
            raise


def test_every_sluice_and_prefect_command_in_a_block_is_run_by_a_test() -> None:
    lines = [" ".join(words_of(line)) for _, line in typed()]
    for beginning, test in RUN_BY.items():
        file, _, name = test.partition("::")
        assert name in names_of_tests(ROOT / "tests" / file), test
        assert any(line.startswith(beginning) for line in lines), f"no page has {beginning!r} any more"
    for line in lines:
        if line.startswith(("sluice ", "prefect ", "openssl ", "redis-cli ACL")):
            assert any(line.startswith(beginning) for beginning in RUN_BY), f"no test is named that runs {line!r}"


def test_redis_server_accepts_the_redis_cli_commands_on_pages(real_redis: redis.Redis) -> None:
    Reservoir(real_redis).push("market", {"n": 1})
    real_redis.xgroup_create("market", "movers")
    lines = [words_of(line) for _, line in [*typed(), *mentioned()] if line.startswith("redis-cli -s")]
    assert lines
    for _, _, socket, *words in lines:
        assert socket == ".sluice/redis/redis.sock"
        real_redis.execute_command(*words)


def run_by_prefect(line: str) -> None:
    with pytest.raises(SystemExit) as end:
        sys.exit(prefect_cli(words_of(line)[1:], exit_on_error=False, print_error=False))
    assert not end.value.code, line


@pytest.mark.usefixtures("prefect")
def test_prefect_commands_on_pages_manage_schedules_and_pools() -> None:
    lines = {line for _, line in typed()}
    with get_client(sync_client=True) as client:
        for line in sorted(lines):
            if line.startswith("prefect work-pool create"):
                run_by_prefect(line)
        pools = {pool.name for pool in client.read_work_pools()}
        deployed = client.read_deployment(quotes.to_deployment("quotes", interval=60).apply())  # type: ignore[arg-type]
        (schedule,) = deployed.schedules
        for verb, active in (("ls", True), ("pause", False), ("resume", True)):
            (line,) = [each for each in lines if each.startswith(f"prefect deployment schedule {verb} quotes/quotes")]
            run_by_prefect(re.sub(r"[0-9a-f-]{36}", str(schedule.id), line))
            assert client.read_deployment(deployed.id).schedules[0].active is active
        client.delete_deployment(deployed.id)
        client.delete_work_pool("large")
    assert "large" in pools
