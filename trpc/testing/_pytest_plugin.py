"""The pytest fixture of :mod:`trpc.testing`; pytest finds it by itself, in every project where trpc is installed.

It imports trpc, at pytest's start: whatever lies in a package does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from ._memory_server import connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from typing import Unpack

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
    if request.node.get_closest_marker("trio") is None:
        pytest.fail(
            f"the fixture {_FIXTURE} is for async tests that pytest-trio runs: put @pytest.mark.trio on the test, or set "
            "trio_mode. For others there is `async with trpc.testing.connected(...)`",
            pytrace=False,
        )


@pytest.fixture
async def trpc_connect(_trpc_needs_pytest_trio: None) -> AsyncGenerator[Connect, None]:
    """Connects to services in memory, with a clock that jumps.

    ``client = await trpc_connect(Calculator())``; see ``trpc.testing.Connect``. The connections last until the end of the
    test. Nobody waits for the time that passes in it, unless the test has a clock of its own, such as ``mock_clock``.
    """
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
    """Gives the tests of pytest-trio that use the fixture a clock that jumps.

    pytest-trio takes a clock only from the fixtures that a test names itself. This is behind its own hook, which marks tests.
    """
    if not config.pluginmanager.hasplugin("trio"):
        return
    for item in items:
        if _FIXTURE in getattr(item, "fixturenames", ()) and item.get_closest_marker("trio") is not None:
            runs = [run for marker in item.iter_markers("trio") if (run := marker.kwargs.get("run")) is not None]
            run = runs[0] if runs else _configured_run(config)
            item.add_marker(pytest.mark.trio(run=_with_clock(run)), append=False)


def _configured_run(config: pytest.Config) -> Callable[..., Any]:
    """As pytest-trio has it: the setting names the module, ``trio`` or ``qtrio``."""

    def run(main: Callable[..., Any], **options: Any) -> Any:
        return importlib.import_module(config.getini("trio_run")).run(main, **options)

    return run


def _with_clock(as_usual: Callable[..., Any]) -> Callable[..., Any]:
    """What runs a test: as it would be run, but for the clock."""

    def run(main: Callable[..., Any], *, clock: trio.abc.Clock | None = None, **options: Any) -> Any:
        # Importing trpc.testing, and this, does without it.
        import trio.testing  # noqa: PLC0415

        if clock is None:
            clock = trio.testing.MockClock(autojump_threshold=0)
        return as_usual(main, clock=clock, **options)

    return run
