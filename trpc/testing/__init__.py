"""For the tests of programs that use trpc: connections in memory, faults, and a recorder of calls.

It needs nothing but trpc itself. Where pytest and pytest-trio are installed, there is a fixture as well: ``trpc_connect``.
"""

from ._direction import Direction
from ._faults import Faults
from ._link import Link
from ._memory_server import MemoryServer, connected, serving
from ._options import Connect, ConnectOptions, ServeOptions
from ._recorded_call import NO_ARGUMENTS, ExpectedCall, RecordedCall, expected
from ._recorder import Recorder

__all__ = [
    "NO_ARGUMENTS",
    "Connect",
    "ConnectOptions",
    "Direction",
    "ExpectedCall",
    "Faults",
    "Link",
    "MemoryServer",
    "RecordedCall",
    "Recorder",
    "ServeOptions",
    "connected",
    "expected",
    "serving",
]

# Messages and documentation name them as users import them. connected() is a context manager's function: it has one already.
for _name in __all__:
    globals()[_name].__module__ = __name__
