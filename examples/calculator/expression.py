"""Evaluates what a stranger typed, such as ``2 * (3 + sqrt(16))``.

Nothing of Python's own evaluation is used, so an expression can reach no more than this grammar has::

    sum     = product {("+" | "-") product}
    product = factor {("*" | "/" | "//" | "%") factor}
    factor  = ("-" | "+") factor | power
    power   = atom ["**" factor]
    atom    = number | "pi" | "e" | "sqrt" "(" sum ")" | "(" sum ")"

Its values and precedence are those of Python's floats. Length and depth are bounded, and so is each
operation (see ``arithmetic``): no expression takes longer than a few milliseconds.
"""

import math
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from .arithmetic import power, square_root

MAX_LENGTH: Final = 1000
# Each level takes five of Python's stack frames, of which there are a thousand by default.
MAX_DEPTH: Final = 50

_SUMS: Final[dict[str, Callable[[float, float], float]]] = {"+": float.__add__, "-": float.__sub__}
_PRODUCTS: Final[dict[str, Callable[[float, float], float]]] = {
    "*": float.__mul__,
    "/": float.__truediv__,
    "//": float.__floordiv__,
    "%": float.__mod__,
}
_CONSTANTS: Final = {"pi": math.pi, "e": math.e}
_FUNCTIONS: Final = {"sqrt": square_root}

_TOKEN: Final = re.compile(
    r"""\s* (?: (?P<number> ([0-9]+ [.]? [0-9]* | [.][0-9]+) ([eE][+-]?[0-9]+)? )
              | (?P<name> [A-Za-z_][A-Za-z_0-9]* )
              | (?P<symbol> [*][*] | // | [-+*/%()] )
              | (?P<end> \Z ) )""",
    re.VERBOSE,
)


class ExpressionError(ValueError):
    """An expression cannot be read.

    Attributes:
        position: of the character where it goes wrong; the first one is 1.
    """

    position: int

    def __init__(self, problem: str, position: int) -> None:
        super().__init__(f"{problem} at position {position}")
        self.position = position


def evaluate(expression: str) -> float:
    """The value of an expression.

    Raises:
        ExpressionError: it cannot be read, or is too long or nested too deep.
        ArithmeticError: a division by zero, or a result that is too large.
        ValueError: the square root of a negative number, or the like.
    """
    if len(expression) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters: too much", MAX_LENGTH + 1)
    value = _Parser(expression).parse()
    if not math.isfinite(value):
        raise OverflowError("the result is too large")
    return value


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def _tokens_of(expression: str) -> list[_Token]:
    tokens: list[_Token] = []
    end = 0
    while not tokens or tokens[-1].kind != "end":
        match = _TOKEN.match(expression, end)
        if match is None or match.lastgroup is None:
            start = end + len(expression[end:]) - len(expression[end:].lstrip())
            raise ExpressionError(f"unexpected {expression[start]!r}", start + 1)
        kind = match.lastgroup
        tokens.append(_Token(kind, match[kind], match.start(kind) + 1))
        end = match.end()
    return tokens


class _Parser:
    """One method for each line of the grammar; each of them returns the value of what it has read."""

    def __init__(self, expression: str) -> None:
        self._tokens = _tokens_of(expression)
        self._index = 0
        self._depth = 0

    def parse(self) -> float:
        value = self._sum()
        if self._next.kind != "end":
            raise self._unexpected("an operator")
        return value

    def _sum(self) -> float:
        value = self._product()
        while operation := _SUMS.get(self._next.text):
            self._index += 1
            value = operation(value, self._product())
        return value

    def _product(self) -> float:
        value = self._factor()
        while operation := _PRODUCTS.get((symbol := self._next).text):
            self._index += 1
            try:
                value = operation(value, self._factor())
            except ZeroDivisionError:
                raise ZeroDivisionError(f"division by zero at position {symbol.position}") from None
        return value

    def _factor(self) -> float:
        # All that nests goes through here.
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError("nested too deep", self._next.position)
        if self._accept("-"):
            value = -self._factor()
        elif self._accept("+"):
            value = self._factor()
        else:
            value = self._power()
        self._depth -= 1
        return value

    def _power(self) -> float:
        base = self._atom()
        return power(base, self._factor()) if self._accept("**") else base

    def _atom(self) -> float:
        token = self._next
        if token.kind == "number":
            self._index += 1
            return float(token.text)
        if token.kind == "name":
            return self._named(token)
        if token.text == "(":
            return self._parenthesized()
        raise self._unexpected("a number")

    def _named(self, token: _Token) -> float:
        self._index += 1
        if token.text in _CONSTANTS:
            return _CONSTANTS[token.text]
        if token.text not in _FUNCTIONS:
            known = ", ".join([*_CONSTANTS, *(f"{name}()" for name in _FUNCTIONS)])
            raise ExpressionError(f"unknown name {token.text!r} (known: {known})", token.position)
        return _FUNCTIONS[token.text](self._parenthesized())

    def _parenthesized(self) -> float:
        if not self._accept("("):
            raise self._unexpected("'('")
        value = self._sum()
        if not self._accept(")"):
            raise self._unexpected("')'")
        return value

    @property
    def _next(self) -> _Token:
        return self._tokens[self._index]

    def _accept(self, symbol: str) -> bool:
        """Goes on to the next token if this one is ``symbol``."""
        found = self._next.text == symbol
        self._index += found
        return found

    def _unexpected(self, wanted: str) -> ExpressionError:
        found = repr(self._next.text) if self._next.text else "the end"
        return ExpressionError(f"expected {wanted} but found {found}", self._next.position)
