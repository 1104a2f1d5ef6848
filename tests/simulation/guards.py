"""Who may connect to the server of a world, and what is put around its calls."""

from __future__ import annotations

import dataclasses

import trio

import trpc

RIGHT = "right"
WHO = "ann"


class Guards:
    """The ``authenticate`` of a world's servers, and its interceptors.

    Attributes:
        refused: the keys of the calls that an interceptor refuses.
    """

    def __init__(self, world):
        self._world = world
        self._rng = world.rng
        self.refused = set()

    def of_server(self):
        """Options for serving."""
        options = {}
        if self._world.authenticates:
            options["authenticate"] = self._authenticate
        if self._world.intercepts:
            options["interceptors"] = [self._refuse, self._around]
        return options

    def of_client(self):
        """Interceptors for connecting."""
        return [self._send_key] if self._world.has_outgoing_interceptors else []

    def token(self, *, is_right):
        """What a client shows."""
        if not self._world.authenticates:
            return None
        return RIGHT if is_right else self._rng.choice([RIGHT, RIGHT, RIGHT, "wrong", None])

    @staticmethod
    def is_right(token):
        """Whether it may connect with that."""
        return token == RIGHT

    async def _authenticate(self, credentials):
        await trio.sleep(self._rng.choice([0, 0, 0.01, 0.3]))
        if credentials.has_token(RIGHT):
            return WHO
        if self._rng.random() < 0.5:
            raise trpc.Unauthenticated("not with that")
        return None

    # --- around calls ---

    async def _refuse(self, call, proceed):
        world = self._world
        expected = WHO if world.authenticates else None
        if call.peer.identity != expected:
            world.problems.append(f"{call.method} is called by {call.peer.identity}")
        if self._rng.random() < 0.05 and not world.healed.is_set():
            self.refused.add(call.args[0])
            raise trpc.Unavailable("planned")
        return await proceed(call)

    async def _around(self, call, proceed):
        """Waits before or behind the handler, and looks at what came from the other side."""
        key = call.metadata.get("key", call.args[0])
        if key != call.args[0]:
            self._world.problems.append(f"{call.args[0]} has the metadata of {key}")
        for _ in range(self._rng.choice([0, 0, 1, 3])):
            await trio.lowlevel.checkpoint()
        result = await proceed(dataclasses.replace(call, metadata={**call.metadata, "around": "yes"}))
        for _ in range(self._rng.choice([0, 0, 1, 3])):
            await trio.lowlevel.checkpoint()
        return result

    async def _send_key(self, call, proceed):
        return await proceed(dataclasses.replace(call, metadata={**call.metadata, "key": call.args[0]}))
