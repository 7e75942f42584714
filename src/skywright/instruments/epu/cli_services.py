"""``skywright epu serve``, ``consume``, ``simulate-events`` and ``check-api``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skywright.errors import ConfigError

if TYPE_CHECKING:
    from skywright.instruments.epu.broker.connection import BrokerSettings

app = typer.Typer(add_completion=False)

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database",
        metavar="URL",
        envvar="SKYWRIGHT_EPU_DATABASE",
        help="sqlite:////ABS/FILE or postgresql://...",
    ),
]
BrokerOption = Annotated[
    str | None,
    typer.Option(
        "--broker",
        metavar="URL",
        envvar="SKYWRIGHT_EPU_BROKER",
        help="amqp://USER:PASSWORD@HOST/VHOST; default: from RABBITMQ_HOST, _PORT, ...",
    ),
]


def _with_earlier(ctx: typer.Context, count: int) -> int:
    """Add the ``-v`` that stand before the command, as in ``skywright -v epu serve``."""
    earlier: int = ctx.find_root().meta.get("skywright.verbosity", 0)
    return count + earlier


VerboseOption = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        callback=_with_earlier,
        show_default=False,
        help="More log: -v INFO, -vv DEBUG.",
    ),
]
DEFAULT_DATABASE = "epu.sqlite"


@app.command()
def serve(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8000,
    host: Annotated[str, typer.Option("--host", help="Interface; 0.0.0.0: all.")] = "127.0.0.1",
    database: DatabaseOption = DEFAULT_DATABASE,
    broker: BrokerOption = None,
    path_map: Annotated[
        list[str] | None,
        typer.Option(
            "--path-map", metavar="FROM=TO", help="EPU's directory FROM is TO on this machine."
        ),
    ] = None,
    verbose: VerboseOption = 0,
) -> None:
    """Serve the entity database over HTTP; changes go to the broker."""
    from skywright.instruments.epu.api.app import create_app
    from skywright.instruments.epu.api.server import serve as serve_app
    from skywright.instruments.epu.broker.connection import broker_settings
    from skywright.instruments.epu.broker.publisher import Publisher
    from skywright.instruments.epu.database import open_database
    from skywright.instruments.epu.service_logs import log_service
    from skywright.processes.lifecycle import announce_ready, end_with_parent
    from skywright.processes.ports import http_url

    log_service(verbose)
    end_with_parent()
    settings = broker_settings(broker)
    store = open_database(database, announce=settings is not None)
    try:
        publisher = Publisher(store, settings) if settings is not None else None
        application = create_app(store, publisher, _path_map(path_map or []))
        serve_app(
            application,
            host,
            port,
            lambda taken: announce_ready(port=taken, url=http_url(host, taken)),
        )
    finally:
        store.close()


def _path_map(pairs: list[str]) -> dict[str, Path]:
    mapped = {}
    for pair in pairs:
        start, equals, place = pair.partition("=")
        if not (start and equals and place):
            raise ConfigError(f"--path-map {pair}: expected FROM=TO")
        mapped[start] = Path(place)
    return mapped


@app.command()
def consume(
    database: DatabaseOption = DEFAULT_DATABASE,
    broker: BrokerOption = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            "--ready-file", metavar="FILE", help="Exists while messages are received; for probes."
        ),
    ] = None,
    verbose: VerboseOption = 0,
) -> None:
    """Apply the messages of the broker to the entity database until SIGTERM."""
    import asyncio

    from skywright.instruments.epu.broker.consumer import Consumer
    from skywright.instruments.epu.database import open_database
    from skywright.instruments.epu.service_logs import log_service
    from skywright.processes.lifecycle import announce_ready, call_on_end_signal, end_with_parent

    log_service(verbose)
    end_with_parent()
    settings = _broker(broker)
    store = open_database(database)

    async def run() -> None:
        consumer = Consumer(store, settings, ready_file)
        task = asyncio.create_task(consumer.run())
        loop = asyncio.get_running_loop()
        call_on_end_signal(lambda: loop.call_soon_threadsafe(task.cancel))
        waiting = asyncio.create_task(consumer.ready.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if consumer.ready.is_set():
            announce_ready(queue=settings.queue, broker=settings.place)
        waiting.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    try:
        asyncio.run(run())
    finally:
        store.close()


@app.command("simulate-events")
def simulate_events(
    broker: BrokerOption = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the names and send none.")] = False,
    event: Annotated[
        list[str] | None, typer.Option("--event", metavar="NAME", help="Send only this one.")
    ] = None,
    delay: Annotated[
        float, typer.Option("--delay", metavar="S", min=0.0, help="Time between two messages.")
    ] = 0.1,
    verbose: VerboseOption = 0,
) -> None:
    """Send an example of each message to the queue, in the order of a session."""
    import asyncio

    from skywright.instruments.epu.broker.examples import example_events
    from skywright.instruments.epu.broker.send import send_events
    from skywright.instruments.epu.service_logs import log_service

    log_service(verbose)
    examples = example_events()
    if listed:
        for name in examples:
            typer.echo(name)
        return
    unknown = [name for name in event or [] if name not in examples]
    if unknown:
        raise ConfigError(f"--event {unknown[0]}: no such message; --list prints the names")
    settings = _broker(broker)
    chosen = [examples[name] for name in event or examples]
    for name in asyncio.run(send_events(settings, chosen, delay)):
        typer.echo(f"sent {name}")


def _broker(url: str | None) -> "BrokerSettings":
    from skywright.instruments.epu.broker.connection import broker_settings

    settings = broker_settings(url)
    if settings is None:
        raise ConfigError("no broker: give --broker amqp://... or set RABBITMQ_HOST")
    return settings


@app.command("check-api")
def check_api(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the API.")],
    verbose: VerboseOption = 0,
) -> None:
    """Smoke test of an API: read every list, make entities, delete them; exit status 1: failed."""
    from skywright.instruments.epu.api.check import check
    from skywright.instruments.epu.service_logs import log_service

    log_service(verbose)
    failed = 0
    for name, problem in check(url):
        if problem is not None:
            failed += 1
            typer.echo(f"FAILED {name}: {problem}")
        elif verbose:
            typer.echo(f"ok     {name}")
    typer.echo(f"{url}: {'ok' if not failed else f'{failed} checks failed'}")
    raise typer.Exit(1 if failed else 0)
