"""The attacker: ``python -m tests.attacks.attacker PLAIN_PORT TLS_PORT``; takes orders as lines of JSON."""

from __future__ import annotations

import os
import sys

import trio

from . import orders
from .catalogue import ATTACKS
from .peers import attack_for


async def main(plain: int, tls: int) -> None:
    ports = {"plain": plain, "tls": tls}
    async for order in orders.received():
        # What it sends is made beforehand: making it takes time of the processor that others need.
        for name in order["attacks"]:
            ATTACKS[name].prepare()
        orders.answer({"ready": True})
        orders.answer(await attack(order["attacks"], order["seconds"], ports, order.get("connections")))


async def attack(names: list[str], seconds: float, ports: dict, connections: int | None) -> dict:
    results = {}

    async def run(name: str) -> None:
        results[name] = await attack_for(seconds, ports, ATTACKS[name], connections)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(run, name)
    return results


if __name__ == "__main__":
    # It comes after the others where there are few processors: what counts is what the server makes of it.
    os.nice(10)
    trio.run(main, *map(int, sys.argv[1:3]))
