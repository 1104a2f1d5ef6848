"""The bytes that the contestants without RPC send: as many as an addition takes in trpc, and frames for the echo.

A frame is its length in four bytes, and so many bytes. The server's rule is the same everywhere: the request of an
addition is answered with the reply of one, any other frame with itself.
"""

import struct

HEADER = struct.Struct(">I")


def frame(length):
    """A frame of ``length`` bytes in all."""
    return HEADER.pack(length - HEADER.size) + bytes(length - HEADER.size)


REQUEST = frame(30)
REPLY = frame(17)


def missing(received):
    """How many bytes are not there yet of the frame that ``received``, any bytes-like object, begins with."""
    if len(received) < HEADER.size:
        return HEADER.size - len(received)
    return HEADER.size + HEADER.unpack_from(received)[0] - len(received)
