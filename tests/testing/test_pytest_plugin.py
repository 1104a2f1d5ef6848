"""The fixture, in small projects of their own."""

from __future__ import annotations

import sys
import types

import pytest
import trio

pytest_plugins = ["pytester"]

SERVICE = """
import pytest, trio, trpc

class Calculator:
    @trpc.method
    async def add(self, a: float, b: float) -> float:
        return a + b

    @trpc.method
    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @trpc.method
    async def exit(self) -> None:
        raise SystemExit(3)
"""

TESTS = """
from service import *
from trpc.testing import Connect, Faults, Link, Recorder

{mark}
async def test_add(trpc_connect: Connect):
    client = await trpc_connect(Calculator())
    assert await client.proxy(Calculator).add(1, 2) == 3

{mark}
async def test_time_passes_at_once(trpc_connect):
    client = await trpc_connect(Calculator())
    with pytest.raises(trio.TooSlowError), trio.fail_after(3600):
        await client.proxy(Calculator).wait(10_000)
    assert trio.current_time() == 3600

{mark}
async def test_options(trpc_connect):
    recorder = Recorder()
    link = Link(there=Faults(latency=2))
    client = await trpc_connect(
        Calculator(), link=link, recorder=recorder, serve={{"limits": trpc.Limits(max_calls=1)}}, cancel_grace=0
    )
    other = await trpc_connect(Calculator())
    await client.call("Calculator.add", 1, 2)
    assert trio.current_time() == 2
    recorder.assert_called_once("Calculator.add", 1, 2)
    with pytest.raises(TypeError, match="has no methods"):
        await trpc_connect(object())

{mark}
async def test_with_a_clock_of_its_own(trpc_connect, mock_clock):
    client = await trpc_connect(Calculator())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.proxy(Calculator).wait, 5)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == 0
        mock_clock.jump(5)

@pytest.fixture
async def calculator(trpc_connect):
    client = await trpc_connect(Calculator())
    return client.proxy(Calculator)

{mark}
async def test_through_another_fixture(calculator):
    await calculator.wait(1000)
    assert trio.current_time() == 1000

{mark}
async def test_with_the_clock_by_name(autojump_clock, trpc_connect):
    client = await trpc_connect(Calculator())
    await client.proxy(Calculator).wait(1000)

def test_plain():
    pass
"""


@pytest.fixture
def project(pytester):
    pytester.makepyfile(service=SERVICE)
    return pytester


def ini(pytester, **options):
    lines = [f"{name} = {value}" for name, value in {"filterwarnings": "error", **options}.items()]
    pytester.makeini("\n".join(["[pytest]", *lines]))


def run(pytester, *args):
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)


def test_in_trio_mode(project):
    ini(project, trio_mode="true")
    project.makepyfile(test_it=TESTS.format(mark=""))
    run(project).assert_outcomes(passed=7)


def test_with_marks_in_a_process_of_its_own(project):
    """As users have it: nothing is imported yet, and warnings are errors."""
    ini(project)
    project.makepyfile(test_it=TESTS.format(mark="@pytest.mark.trio"))
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", "-W", "error")
    result.assert_outcomes(passed=7)
    assert "PytestAssertRewriteWarning" not in result.stdout.str() + result.stderr.str()


def test_a_test_that_fails(project):
    """Everything is closed then too, and what is said is what the test has said."""
    ini(project, trio_mode="true")
    project.makepyfile(
        test_it="""
        from service import *
        from trpc.testing import Recorder

        async def test_fails(trpc_connect):
            recorder = Recorder()
            client = await trpc_connect(Calculator(), recorder=recorder)
            await client.call("Calculator.add", 1, 2)
            recorder.assert_called("Calculator.add", 2, 2)

        async def test_exits(trpc_connect):
            client = await trpc_connect(Calculator())
            await client.notify("Calculator.exit")
            await trio.sleep_forever()
        """
    )
    result = run(project)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: Calculator.add(2, 2) was not called; these calls were made:",
            "*  Calculator.add(1.0, 2.0) -> 3.0",
        ]
    )
    result.stdout.fnmatch_lines(["*SystemExit: 3"])


def test_what_is_run_by_something_else_still_is(project):
    ini(project)
    project.makepyfile(
        test_it="""
        from service import *

        ran = []

        def own_run(main, **options):
            ran.append(main)
            return trio.run(main, **options)

        @pytest.mark.trio(run=own_run)
        async def test_it(trpc_connect):
            client = await trpc_connect(Calculator())
            await client.call("Calculator.wait", 1000)
            assert ran
        """
    )
    run(project).assert_outcomes(passed=1)


WITHOUT_TRIO = """
def test_plain():
    pass

async def test_async(trpc_connect):
    pass

def test_sync(trpc_connect):
    pass
"""


def test_without_pytest_trio(project):
    ini(project)
    project.makepyfile(test_it=WITHOUT_TRIO)
    result = run(project, "-p", "no:trio")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*the fixture trpc_connect needs pytest-trio: pip install pytest-trio"])


def test_a_test_that_is_not_async(project):
    ini(project, trio_mode="true")
    project.makepyfile(test_it="def test_sync(trpc_connect): pass")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"{NOT_TRIOS}*"])


NOT_TRIOS = "the fixture trpc_connect is for async tests that pytest-trio runs: put @pytest.mark.trio on the test, "


def test_tests_that_are_not_trios_say_so_and_break_no_others(project):
    ini(project)
    project.makepyfile(
        test_it="""
        from service import *

        async def test_without_a_mark(trpc_connect):
            pass

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.anyio
        async def test_of_anyio(trpc_connect):
            pass

        def test_sync(trpc_connect):
            pass

        @pytest.mark.trio
        async def test_trios(trpc_connect):
            client = await trpc_connect(Calculator())
            await client.call("Calculator.wait", 1000)
        """
    )
    result = run(project)
    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines([f"{NOT_TRIOS}*"] * 3)


@pytest.mark.parametrize("trio_mode", ["true", "false"])
def test_the_runner_of_pytests_settings(project, monkeypatch, trio_mode):
    """qtrio, of which this is as much as is needed."""
    ini(project, trio_mode=trio_mode, trio_run="qtrio")
    ran = []

    def own_run(main, **options):
        ran.append(main)
        return trio.run(main, **options)

    monkeypatch.setitem(sys.modules, "qtrio", types.SimpleNamespace(run=own_run))
    project.makepyfile(test_it=TESTS.format(mark="@pytest.mark.trio" if trio_mode == "false" else ""))
    run(project).assert_outcomes(passed=7)
    assert len(ran) == 6


def test_switched_off(project):
    ini(project, trio_mode="true")
    project.makepyfile(test_it=TESTS.format(mark=""))
    result = run(project, "-p", "no:trpc", "-k", "plain or test_add")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'trpc_connect' not found"])


def test_it_says_what_the_fixture_is_for(project):
    result = run(project, "--fixtures", "-p", "no:trio")
    result.stdout.fnmatch_lines(["trpc_connect*", "    Connects to services in memory, with a clock that jumps."])


def test_what_is_loaded_with_pytest(project):
    """trpc itself, but no more: pytest does it in every project where trpc is installed."""
    project.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            print("LOADED", sorted(name for name in sys.modules if name.startswith(("trio.testing", "trpc.testing"))))
        """
    )
    result = project.runpytest_subprocess("-p", "no:trio", "-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-s")
    (line,) = [line for line in result.outlines if "LOADED" in line]
    assert "trio.testing" not in line
    assert "trpc.testing._pytest_plugin" in line
