"""Arithmetic in floats only, and real numbers only.

Python's ints have no size limit, so ``9**9**9`` of ints takes all time and memory there is. Floats have
64 bits: an operation on them takes nanoseconds, and what does not fit is an OverflowError.
"""

import math


def power(base: float, exponent: float) -> float:
    """``base ** exponent``.

    Raises:
        OverflowError: the result is too large.
        ValueError: it is not a real number.
        ZeroDivisionError: zero to a negative power.
    """
    if base < 0 and math.isfinite(exponent) and not float(exponent).is_integer():
        raise ValueError("a negative number to a fractional power is not a real number")
    try:
        result: float = float(base) ** float(exponent)
    except OverflowError:
        raise OverflowError("the result is too large") from None
    return result


def square_root(value: float) -> float:
    """The square root.

    Raises:
        ValueError: it is not a real number.
    """
    if value < 0:
        raise ValueError("the square root of a negative number is not a real number")
    return math.sqrt(value)
