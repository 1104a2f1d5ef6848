"""A calculator on the command line; the server does the work.

``python -m examples.calculator.client URL "2*(3+4)"`` prints 14. Without an expression it reads one a line,
until ``quit`` or Ctrl-D; ``store`` lets the server keep the last result, ``recall`` gets it back.

An error is one line on stderr. One that ends the program gives the exit code 1; Ctrl-C gives 130.
"""

import argparse
import io
import math
import sys

import trio

import trpc

from .service import Calculator, NothingStored

# From the calls, from `fail_after`, and (ValueError) from an expression or a URL that is none.
ERRORS = (trpc.RPCError, trio.TooSlowError, NothingStored, ValueError)


def shown(value: float) -> str:
    """A number as people write it: 14 for 14.0, and 0.3 for 0.1 + 0.2."""
    # Above 2**53, a float no longer has all digits of an integer.
    if value.is_integer() and abs(value) <= 2**53:
        return str(int(value))
    return f"{value:.15g}"


def report(error: Exception) -> None:
    text = error.strerror if isinstance(error, OSError) else str(error)
    # What `fail_after` raises has no text.
    print(f"error: {text or 'no answer in time'}", file=sys.stderr, flush=True)


async def run(url: str, expression: str | None, seconds: float) -> None:
    """Evaluates the expression, or those that are typed, with so many seconds for each answer."""
    with trio.fail_after(seconds) as scope:
        async with trpc.connect(url) as client:
            calculator = client.proxy(Calculator)
            if expression is not None:
                print(shown(await calculator.evaluate(expression)))
                return
            # Connected; from here on, each answer has its own time.
            scope.deadline = math.inf
            await prompt(calculator, seconds)


async def prompt(calculator: Calculator, seconds: float) -> None:
    # Without a buffer: its lock, held by a thread that is left behind, makes Python abort at exit.
    stdin = io.FileIO(0, closefd=False)
    last: float | None = None
    while (line := await read_line(stdin)) is not None and line != "quit":
        try:
            with trio.fail_after(seconds):
                if line == "store":
                    if last is None:
                        raise ValueError("there is no result to store")
                    await calculator.store(last)
                    print("stored", shown(last), flush=True)
                elif line:
                    last = await (calculator.recall() if line == "recall" else calculator.evaluate(line))
                    print(shown(last), flush=True)
        except trpc.ConnectionLost:
            raise
        except ERRORS as error:
            report(error)


async def read_line(stdin: io.FileIO) -> str | None:
    """What is typed next; None at the end of the input."""
    if stdin.isatty():
        print("> ", end="", flush=True)
    # In a thread, because a terminal cannot be read otherwise. Ctrl-C leaves the thread behind.
    line = await trio.to_thread.run_sync(stdin.readline, abandon_on_cancel=True)
    return line.decode().strip() if line else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="examples.calculator.client", description="Calculate.")
    parser.add_argument("url", help="where the server listens: tcp://host:port or unix:///path")
    parser.add_argument("expression", nargs="?", help="what to evaluate (default: ask for it)")
    parser.add_argument("--timeout", type=float, default=math.inf, help="seconds to wait for an answer")
    args, others = parser.parse_known_args()
    # An expression such as -2*3 looks like an option.
    if args.expression is None and len(others) == 1 and not others[0].startswith("--"):
        args.expression = others.pop()
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    code = 0
    try:
        trio.run(run, args.url, args.expression, args.timeout)
    # With a star, because Ctrl-C comes in a group where it hits a nursery.
    except* KeyboardInterrupt:
        code = 130
    except* ERRORS as group:
        code = 1
        for error in group.exceptions:
            report(error)
    sys.exit(code)


if __name__ == "__main__":
    main()
