"""The pytest fixture of :mod:`trpc.testing`; pytest finds it by itself, in every project where trpc is installed."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from typing import Unpack

    import trio

    from .. import Client
    from .._service import Services
    from ._link import Link
    from ._options import Connect, ConnectOptions, ServeOptions
    from ._recorder import Recorder

_FIXTURE: Final = "trpc_connect"


@pytest.fixture
def _trpc_needs_pytest_trio(request: pytest.FixtureRequest) -> None:
    """Says what is missing, instead of what pytest says of async fixtures."""
    if not request.config.pluginmanager.hasplugin("trio"):
        pytest.fail(f"the fixture {_FIXTURE} needs pytest-trio: pip install pytest-trio", pytrace=False)


@pytest.fixture
async def trpc_connect(_trpc_needs_pytest_trio: None) -> AsyncGenerator[Connect, None]:
    """Connects to services in memory, with a clock that jumps.

    ``client = await trpc_connect(Calculator())``; see ``trpc.testing.Connect``. The connections last until the end of the
    test. Nobody waits for the time that passes
    in it, unless the test has a clock of its own, such as ``mock_clock``.
    """
    # Here, so that pytest starts as fast for those who do not use it.
    import trio  # noqa: PLC0415

    from ._memory_server import connected  # noqa: PLC0415

    end = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(services: Services, arguments: dict[str, Any], *, task_status: trio.TaskStatus[Client]) -> None:
            async with connected(services, **arguments) as client:
                task_status.started(client)
                await end.wait()

        async def connect(
            services: Services,
            *,
            link: Link | None = None,
            recorder: Recorder | None = None,
            serve: ServeOptions | None = None,
            **options: Unpack[ConnectOptions],
        ) -> Client:
            client: Client = await nursery.start(
                run, services, {"link": link, "recorder": recorder, "serve": serve, **options}
            )
            return client

        yield connect
        end.set()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives the tests that use the fixture a clock that jumps.

    pytest-trio takes a clock only from the fixtures that a test names itself. This is behind its own hook, which marks tests.
    """
    if not config.pluginmanager.hasplugin("trio"):
        return
    for item in items:
        is_async = inspect.iscoroutinefunction(getattr(item, "obj", None))
        if is_async and _FIXTURE in getattr(item, "fixturenames", ()):
            runs = [run for marker in item.iter_markers("trio") if (run := marker.kwargs.get("run")) is not None]
            item.add_marker(pytest.mark.trio(run=_with_clock(runs)), append=False)


def _with_clock(runs: list[Callable[..., Any]]) -> Callable[..., Any]:
    """What runs a test: as it would be run, but for the clock."""

    def run(main: Callable[..., Any], *, clock: trio.abc.Clock | None = None, **options: Any) -> Any:
        import trio.testing  # noqa: PLC0415

        if clock is None:
            clock = trio.testing.MockClock(autojump_threshold=0)
        return (runs[0] if runs else trio.run)(main, clock=clock, **options)

    return run
