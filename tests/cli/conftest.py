"""What the tests of the command line share: a server in a process, and trpc in this one."""

from __future__ import annotations

import subprocess

import pytest
from cli.running import invoke
from cli.terminal import TRPC, ends_with_parent, environment


@pytest.fixture(scope="session")
def url():
    """Of a server with the services of these tests, in another process."""
    process = subprocess.Popen(
        [*TRPC, "serve", "cli.services:all_services"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        text=True,
        preexec_fn=ends_with_parent,
    )
    try:
        yield process.stdout.readline().strip()
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def trpc_(url):
    """Runs trpc with that URL behind the command's name: ``trpc_("call", "Shop.echo", "1")``."""
    return lambda command, *args, **options: invoke(command, url, *args, **options)
