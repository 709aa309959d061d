"""The `sluice` command. Each subcommand imports its heavy modules itself, so that `--help` is quick."""

import os
from contextlib import suppress
from typing import Annotated, Literal

import typer

from deployments import subcommands
from deployments.options import AsJson, Timeout, Yes, console
from deployments.reporting import DEBUG, reporting_errors

__all__ = ["app", "leave_out_proxies", "main"]

app = typer.Typer(
    name="sluice",
    help="Periodic Python functions as durable streams, streams as live results.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # keeps rich out of `sluice --help`
    pretty_exceptions_enable=False,
)

app.add_typer(subcommands.topics)
app.add_typer(subcommands.groups)


def _version(given: bool) -> None:  # noqa: FBT001 - typer calls it
    if given:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"sluice {version('sluice')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help=f"Show the traceback of an error. [{DEBUG}=1]")] = False,  # noqa: FBT002
    *,
    version: Annotated[  # noqa: ARG001 - the callback uses it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


@app.command()
def up(
    port: Annotated[
        int, typer.Option(help="Port of the Prefect server, which listens on loopback only.", min=1, max=65535)
    ] = 4200,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show the state and the news, and no results.")] = False,  # noqa: FBT002
) -> None:
    """Run Redis, Prefect and all inlets and outlets on this machine until Ctrl-C.

    Uses the Redis of SLUICE_REDIS_URL and the Prefect server of PREFECT_API_URL; without these variables, it starts its
    own. The data is in .sluice/ (or SLUICE_STATE_DIR); the file prefect-login there holds the login for the Prefect UI.
    """
    from deployments.supervisor import become_supervisor  # noqa: PLC0415
    from tasks.base.project_folder import project_dir  # noqa: PLC0415

    become_supervisor(project_dir(), port=port, quiet=quiet)


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds until Ctrl-C.")] = False,  # noqa: FBT002
    partitions: Annotated[bool, typer.Option("--partitions", help="Also show each partition of a topic.")] = False,  # noqa: FBT002
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show the servers, the last run of each deployment, and the lag of each group.

    Exit code 1 if Redis or Prefect does not answer.
    """
    from deployments.commands.status import status as show  # noqa: PLC0415

    raise typer.Exit(0 if show(console(), watch=watch, as_json=as_json, partitions=partitions) else 1)


@app.command()
def peek(
    topic: Annotated[str, typer.Argument(help="The topic, such as busiest, or market:dead:movers.")],
    n: Annotated[int, typer.Option("-n", help="Number of entries.", min=1, max=10_000)] = 1,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new entries until Ctrl-C.")] = False,  # noqa: FBT002
    as_json: AsJson = False,  # noqa: FBT002
    decode: Annotated[str, typer.Option(help="How to read fields: auto, text, bytes or json.")] = "auto",
) -> None:
    """Print the newest entries of a topic, decoded, oldest first. No group is affected."""
    from deployments.commands.peek import peek as show  # noqa: PLC0415

    with suppress(KeyboardInterrupt):
        show(console(), topic, n, follow=follow, as_json=as_json, decode=decode)


@app.command()
def dead(
    topic: Annotated[str, typer.Argument(help="The topic that the entries were pushed to, such as market.")],
    group: Annotated[str, typer.Argument(help="The consumer group that could not process them, such as movers.")],
    ids: Annotated[
        list[str] | None, typer.Argument(help="Only the letters with these ids.", show_default=False)
    ] = None,
    *,
    node: Annotated[str | None, typer.Option(help="Only letters that failed at this node.")] = None,
    exception: Annotated[str | None, typer.Option(help="Only letters whose exception contains this text.")] = None,
    since: Annotated[str | None, typer.Option(help="Only letters since this ISO time or letter id.")] = None,
    until: Annotated[str | None, typer.Option(help="Only letters up to this ISO time or letter id.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most this many letters, those of the oldest entries first.", min=1)
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Give the chosen letters back to the group; without a choice, all.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Delete the chosen letters; without a choice, all.")
    ] = False,
    yes: Yes = False,
    n: Annotated[int, typer.Option("-n", help="Number of letters to show.", min=1, max=10_000)] = 10,
    tracebacks: Annotated[bool, typer.Option("--traceback", help="Show the traceback of each letter.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a group's dead letters with node and exception, or replay or discard chosen ones.

    Without a choice, shows the newest. --replay and --discard ask first. A replay into windows, joins or accumulators
    prints a warning; `docs/dead-letters.md` has the alternatives.
    """
    from deployments.commands.dead import dead as show  # noqa: PLC0415

    if replay and discard:
        msg = "expected --replay or --discard, got both"
        raise typer.BadParameter(msg)
    given = {"ids": ids, "node": node, "exception": exception, "since": since, "until": until, "limit": limit}
    choice = {name: value for name, value in given.items() if value}
    action = "replay" if replay else "discard" if discard else None
    show(
        console(), topic, group, n, choice=choice, action=action, yes=yes, tracebacks=tracebacks, as_json=as_json
    )  # fmt: skip


@app.command()
def state(
    group: Annotated[
        str | None, typer.Argument(help="The outlet's consumer group, such as turnover. Without one, all are shown.")
    ] = None,
    *,
    reset: Annotated[
        str | None, typer.Option(metavar="NODE", help="Delete the state of this node, which then begins anew.")
    ] = None,
    export: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the group's state to this file, as JSON.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Show what the nodes of pipelines remember over restarts: sums, seen keys, windows.

    --reset asks first. A running outlet notices it within seconds and continues with what is left.
    """
    from pathlib import Path  # noqa: PLC0415

    from deployments.commands import state as command  # noqa: PLC0415

    if group is None and (reset or export):
        msg = "expected a group with --reset or --export"
        raise typer.BadParameter(msg)
    if group is None or not (reset or export):
        command.show_state(console(), group)
        return
    if export:
        command.export_state(console(), group, Path(export))
    if reset:
        command.reset_state(console(), group, reset, yes=yes)


@app.command()
def cursor(
    name: Annotated[
        str | None, typer.Argument(help="The inlet, such as trades. Without one, all cursors are shown.")
    ] = None,
    *,
    value: Annotated[
        str | None,
        typer.Option(
            "--set", metavar="VALUE", help="Set the cursor to this JSON value, or to this text if it is none."
        ),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the cursor: the inlet begins anew.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show what inlets remember of their sources, or set a cursor.

    --set and --delete ask first. They are safe while the inlet runs: the push of a call that had the old cursor is refused.
    """
    from deployments.commands import cursors as command  # noqa: PLC0415

    if (value is not None and delete) or (name is None and (value is not None or delete)):
        msg = "expected an inlet with --set or --delete, one of the two"
        raise typer.BadParameter(msg)
    if name is not None and value is not None:
        command.set_cursor(console(), name, value, yes=yes)
    elif name is not None and delete:
        command.delete_cursor(console(), name, yes=yes)
    else:
        command.show_cursors(console(), name, as_json=as_json)


@app.command()
def doctor(
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Check everything that Sluice needs, from Python's version to the schedules, and print cures. Changes nothing.

    Exit code 1 if a check fails.
    """
    from deployments.commands.doctor import doctor as run  # noqa: PLC0415
    from tasks.base.project_folder import project_dir  # noqa: PLC0415

    raise typer.Exit(0 if run(console(), project_dir(), as_json=as_json) else 1)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="The deployment, such as movers, or movers/movers-replay.")],
    n: Annotated[int, typer.Option("-n", help="Number of lines.", min=1, max=10_000)] = 50,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show new lines, of later runs too, until Ctrl-C.")
    ] = False,
) -> None:
    """Print what the last run of a deployment has logged, oldest first, with times in the local zone."""
    from deployments.commands.logs import logs as show  # noqa: PLC0415

    with suppress(KeyboardInterrupt):
        show(console(), name, n=n, follow=follow)


@app.command()
def metrics(
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on. [SLUICE_METRICS_PORT, or 9464]", min=1, max=65535, show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback can be read by the network.")
    ] = "127.0.0.1",
    *,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Print the dashboard for Grafana, and end.")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="Print the alert rules for Prometheus, and end.")] = False,
) -> None:
    """Serve metrics of topics, groups and inlets to Prometheus until Ctrl-C. `sluice up` does it, too.

    One exporter shows all runs on all machines: each scrape reads Redis.
    """
    from deployments.commands.metrics import metrics as serve  # noqa: PLC0415
    from deployments.commands.metrics import print_file  # noqa: PLC0415

    if dashboard or rules:
        for name in ("grafana.json",) * dashboard + ("alerts.yaml",) * rules:
            print_file(name)
        return
    serve(console(), host=host, port=port)


@app.command()
def deploy(
    timeout: Timeout = "90s",  # type: ignore[assignment] - the default is parsed like input
) -> None:
    """Deploy prefect.yaml to the Prefect server in use, with the automations that run crashed inlets and outlets again.

    `sluice up` does it at its start. Deployments with an old name, such as movers/main, are moved to the new one: their runs end,
    and new ones begin in their place.
    """
    from deployments.commands.deploy import deploy as run  # noqa: PLC0415
    from tasks.base.project_folder import project_dir  # noqa: PLC0415

    run(console(), root=project_dir(), timeout=timeout)


@app.command()
def stop(
    name: Annotated[str, typer.Argument(help="The deployment, such as movers, or movers/movers-replay.")],
    timeout: Timeout = "90s",  # type: ignore[assignment] - the default is parsed like input
) -> None:
    """Cancel the runs of a deployment and wait until they have finished the entries in flight.

    An outlet stays stopped until `prefect deployment run` or `sluice up` starts it again. Exit code 1 if a run does not
    end in time.
    """
    from deployments.commands.restart import stop as run  # noqa: PLC0415

    run(console(), name, timeout=timeout)


@app.command()
def restart(
    name: Annotated[str, typer.Argument(help="The deployment, such as movers, or movers/movers-replay.")],
    timeout: Timeout = "90s",  # type: ignore[assignment] - the default is parsed like input
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A parameter of the new run as name=value, the value as JSON or text. Repeatable.", show_default=False
        ),
    ] = None,
) -> None:
    """Cancel the runs of a deployment, wait until they have finished the entries in flight, and start a new run.

    An outlet continues where it stopped, with its current code and deployment. If its file cannot be imported, nothing
    is stopped. Exit code 1 in that case, and if the new run fails at its start.
    """
    from deployments.commands.restart import restart as run  # noqa: PLC0415

    run(console(), name, timeout=timeout, params=param or ())


@app.command()
def remove(
    name: Annotated[
        str,
        typer.Argument(
            help="The flow, such as movers, with all of its deployments; or one, such as movers/movers-replay."
        ),
    ],
    *,
    with_data: Annotated[
        bool,
        typer.Option("--with-data", help="Also delete what it keeps in Redis, and its runs and reports in Prefect."),
    ] = False,
    yes: Yes = False,
    timeout: Timeout = "90s",  # type: ignore[assignment] - the default is parsed like input
) -> None:
    """Delete an inlet or an outlet from the Prefect server: deployments, schedules and automations. Asks first.

    Its runs finish entries in flight. With --with-data an outlet's consumer groups go with their dead letters, and an
    inlet's topic, unless another deployment uses them. Prints the remaining steps.
    """
    from deployments.commands.remove import remove as run  # noqa: PLC0415
    from tasks.base.project_folder import project_dir  # noqa: PLC0415

    run(console(), name, root=project_dir(), with_data=with_data, yes=yes, timeout=timeout)


@app.command()
def init(
    folder: Annotated[str, typer.Argument(help="The project's folder; made if it is missing.")] = ".",
    *,
    with_examples: Annotated[
        bool, typer.Option("--with-examples", help="Deploy the example flows that come with Sluice, too.")
    ] = False,
) -> None:
    """Make a project of your own in a folder: an inlet, an outlet, their tests, prefect.yaml and a workflow for CI.

    Files that exist stay as they are; .gitignore gets lines. Lists what it wrote, and what to do next.
    """
    from pathlib import Path  # noqa: PLC0415

    from deployments.commands.init import init as make  # noqa: PLC0415

    make(console(), Path(folder), with_examples=with_examples)


@app.command()
def new(
    kind: Annotated[Literal["inlet", "outlet"], typer.Argument(help="What to write.")],
    name: Annotated[
        str,
        typer.Argument(
            help="Its name: pipelines/NAME.py, in a clone of Sluice flows/NAME.py; tests/test_NAME.py; the deployment NAME/NAME."
        ),
    ],
    topic: Annotated[
        str | None,
        typer.Option(
            help="The topic it pushes to [NAME], or reads [that of a shipped inlet in prefect.yaml].",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write an inlet or an outlet to begin with, its deployment in prefect.yaml, and a test that passes."""
    from deployments.commands.new import new as write  # noqa: PLC0415
    from tasks.base.project_folder import project_dir  # noqa: PLC0415

    write(console(), kind, name, root=project_dir(), topic=topic)


def main() -> None:
    """Run the command; report an error in one sentence instead of a traceback."""
    leave_out_proxies()
    reporting_errors(app)


def leave_out_proxies() -> None:
    """Exclude this machine's addresses from the proxies of this process and its children."""
    if not {name.lower() for name in os.environ} & {"http_proxy", "all_proxy"}:
        return
    hosts = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(",")
    joined = ",".join(dict.fromkeys([*filter(None, hosts), "127.0.0.1", "localhost"]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = joined  # programs read one or the other
