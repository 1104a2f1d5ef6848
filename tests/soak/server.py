"""The server of the soak: ``python -m tests.soak.server CERTIFICATE KEY``. It ends when its stdin does."""

from __future__ import annotations

import json
import os
import ssl
import sys

import trio

import trpc
from tests.attacks.target import Target

from .service import LIMITS, Soak


async def serve(certificate: tuple[str, ...]) -> None:
    soak = Soak()
    async with trio.open_nursery() as nursery:

        async def start(**options):
            services = [soak, Target()]
            server = await nursery.start(lambda **kw: trpc.serve_tcp(services, 0, limits=LIMITS, **options, **kw))
            soak.servers.append(server)
            return int(server.url.rpartition(":")[2])

        ports = {"plain": await start(), "tls": None}
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            ports["tls"] = await start(ssl_context=context)
        print(json.dumps(ports), flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            await stdin.receive_some()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, tuple(sys.argv[1:]))
