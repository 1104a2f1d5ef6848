"""Runs fragments of programs from the documentation: with the names that they take for granted, and on loopback."""

from __future__ import annotations

import ast
import inspect
import types
from pathlib import Path

import trio

import trpc
from tests.docs.pages import DOCS, blocks_of

# What fragments of the pages use without an import.
IMPORTS = """
import itertools, logging, os, pathlib, signal, ssl
from collections.abc import AsyncIterable, AsyncIterator
from functools import partial
from typing import Any

import trio, trpc, trustme
"""


class Calculator:
    """What most fragments serve."""

    @trpc.method
    async def add(self, a: float, b: float) -> float:
        return a + b


def fragments(page):
    """The python blocks of a page that are neither whole programs nor files."""
    return [
        block
        for block in blocks_of(DOCS / page)
        if block.language == "python" and "trio.run(" not in block.text and not block.caption
    ]


async def run(source, *, where="fragment", **names):
    """Executes a fragment, which may await at the top; gives the names that there are then."""
    module = types.ModuleType("fragment")
    exec(IMPORTS, vars(module))
    vars(module).update(Calculator=Calculator, **names)
    code = compile(source, where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(code, vars(module))
    if inspect.isawaitable(result):
        await result
    return module


class Stage:
    """trpc, where servers are on a free port of loopback or in a folder of the test's, and clients find them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server: trpc.Server | None = None
        self.started = trio.Event()
        self.trpc = types.SimpleNamespace(**{name: getattr(trpc, name) for name in trpc.__all__})
        self.trpc.serve_tcp = self._serve_tcp
        self.trpc.serve_unix = self._serve_unix
        self.trpc.connect = self._connect
        # For clients that do not bring one.
        self.client_context = None

    def started_with(self, server):
        self.server = server
        self.started.set()

    async def _serve_tcp(self, services, port, *, host=None, **options):
        assert port == 4000
        await trpc.serve_tcp(
            services, 0, host="127.0.0.1", **options, task_status=types.SimpleNamespace(started=self.started_with)
        )

    async def _serve_unix(self, services, path, **options):
        path = self._folder / path.strip("/").replace("/", "-")
        await trpc.serve_unix(services, path, **options, task_status=types.SimpleNamespace(started=self.started_with))

    def _connect(self, url, **options):
        assert url == "tls://calc.example.org:4000"
        context = options.pop("ssl_context", self.client_context)
        return trpc.connect(self.server.url, ssl_context=context, **options)
