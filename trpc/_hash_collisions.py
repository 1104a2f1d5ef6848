"""Refuses sets and dictionaries that a peer has made slow with elements whose hashes collide.

Hashes of text, bytes and dates have a secret seed. Those of numbers, UUIDs, decimals, times and of what is made of
them have none: a peer can choose a hundred thousand that meet in the table, and building the set takes time quadratic
in their number, in C, where nothing interrupts it. To count equal hashes is not enough, as different ones can share
their way through the table too. So the elements of a set, or the keys of a dictionary, are converted to a list first,
and what CPython would do with their hashes is done in Python, with a bound on its steps.

Hints without such a type cost nothing: :func:`checker` is asked once for each hint.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import sys
import uuid
from typing import TYPE_CHECKING, Any, Final, Literal, Union, cast

from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Sized

    _Convert = Callable[[Any, Any], Any]

# So many with one hash always pass; a container that is no larger is not looked at.
MAX_EQUAL_HASHES: Final = 64
# Elements of all such containers in one value, and steps for all of them: a third of a second at worst. Those that are
# so regular that they need more steps are refused, where there are some ten thousand of them.
MAX_ELEMENTS: Final = 2**17
MAX_STEPS: Final = 2**19
# Steps through the table beside the first: for each element (of a set, of a dictionary), and altogether. Random hashes
# need about one; regular numbers, as multiples of 1/4096, up to 20 and 40, as their lower bits are alike.
_STEPS_EACH: Final = (32, 64)
_STEPS_FREE: Final = 2 * MAX_EQUAL_HASHES**2

# As in CPython's Objects/setobject.c and Objects/dictobject.c.
_PROBES: Final = 10
_PERTURB_SHIFT: Final = 5
_SMALLEST: Final = 8
_MANY: Final = 50_000
_PRESENT: Final = -1
_UNSIGNED: Final = 2**sys.hash_info.width - 1

_SEQUENCES: Final = (list, tuple)
_SETS: Final = (inspect.SetType, inspect.FrozenSetType)
_ARRAYS: Final = (*_SETS, inspect.ListType, inspect.VarTupleType)
_OBJECTS: Final = (inspect.DataclassType, inspect.StructType, inspect.TypedDictType, inspect.NamedTupleType)
_SEEDED: Final = (inspect.StrType, inspect.BytesType, inspect.DateType)
# On their own there are few of them; but not in tuples.
_FEW: Final = (inspect.BoolType, inspect.NoneType, inspect.LiteralType)
_HINTS: Final[dict[type, Any]] = {
    inspect.BoolType: bool,
    inspect.BytesType: bytes,
    inspect.DateTimeType: dt.datetime,
    inspect.DateType: dt.date,
    inspect.DecimalType: decimal.Decimal,
    inspect.FloatType: float,
    inspect.IntType: int,
    inspect.NoneType: type(None),
    inspect.StrType: str,
    inspect.TimeDeltaType: dt.timedelta,
    inspect.TimeType: dt.time,
    inspect.UUIDType: uuid.UUID,
}


class CollisionError(ValueError):
    """The hashes of a container's elements collide too often."""


def checker(info: inspect.Type, convert: _Convert) -> Callable[[object], None] | None:
    """What refuses a plain value with too many collisions before it is converted; None if there can be none.

    Args:
        info: the type that it is to be converted to.
        convert: makes of a plain value what a hint says.
    """
    parts = list(_parts(info, set()))
    needed: set[int] = set()
    # Until nothing is added, as types may be recursive.
    while added := {id(part) for part in parts if id(part) not in needed and _is_needed(part, needed)}:
        needed |= added
    return _Check(info, needed, convert) if needed else None


class _Check:
    """A walk through a plain value, beside the description of its type, to its sets and dictionaries."""

    def __init__(self, info: inspect.Type, needed: set[int], convert: _Convert) -> None:
        self._info = info
        self._needed = needed
        self._convert = convert
        self._hints: dict[int, Any] = {}
        self._left = MAX_ELEMENTS
        self._steps_left = MAX_STEPS

    def __call__(self, value: object) -> None:
        self._left = MAX_ELEMENTS
        self._steps_left = MAX_STEPS
        self._visit(self._info, value)

    def _visit(self, info: inspect.Type, value: Any) -> None:
        """What is no fitting list or dictionary is left to the conversion, which refuses it."""
        if isinstance(info, inspect.Metadata):
            info = info.type
        if isinstance(info, inspect.UnionType):
            for member in info.types:
                if id(member) in self._needed and _has_tag_of(member, value):
                    self._visit(member, value)
        elif type(value) is dict:
            self._visit_map(info, cast("dict[Any, object]", value))
        elif type(value) in _SEQUENCES:
            self._visit_array(info, value)

    def _visit_array(self, info: inspect.Type, values: Sequence[object]) -> None:
        if isinstance(info, _ARRAYS):
            if id(info.item_type) in self._needed:
                for value in values:
                    self._visit(info.item_type, value)
            # Behind the elements: they are converted here, with the sets that are in them.
            if isinstance(info, _SETS) and len(values) > MAX_EQUAL_HASHES and not _has_secret_hash(info.item_type):
                self._count(values)
                hint = self._hint(info.item_type)
                self._look(self._until_misfit(list(values), hint), is_set=True)
            return
        types: Sequence[inspect.Type] = ()
        if isinstance(info, inspect.TupleType):
            types = info.item_types
        elif isinstance(info, _OBJECTS):
            has_tag = isinstance(info, inspect.StructType) and info.tag_field is not None
            types = [*[inspect.AnyType()] * has_tag, *(field.type for field in info.fields)]
        for of, value in zip(types, values, strict=False):
            if id(of) in self._needed:
                self._visit(of, value)

    def _visit_map(self, info: inspect.Type, values: dict[Any, object]) -> None:
        if isinstance(info, inspect.DictType):
            if id(info.value_type) in self._needed:
                for value in values.values():
                    self._visit(info.value_type, value)
            if len(values) > MAX_EQUAL_HASHES and not _is_safe_key(info.key_type):
                self._count(values)
                # Keys are read from text only where they are keys.
                keys = self._until_misfit([{key: None} for key in values], self._keys_hint(info.key_type))
                self._look([key for pair in keys for key in pair], is_set=False)
        elif isinstance(info, _OBJECTS):
            for field in info.fields:
                if id(field.type) in self._needed and field.encode_name in values:
                    self._visit(field.type, values[field.encode_name])

    def _look(self, values: Sequence[object], *, is_set: bool) -> None:
        self._steps_left -= check_hashes(values, is_set=is_set, most=self._steps_left)

    def _count(self, values: Sized) -> None:
        self._left -= len(values)
        if self._left < 0:
            raise CollisionError(
                f"more than {MAX_ELEMENTS} elements of sets, or keys, whose hashes its sender can choose"
            )

    def _hint(self, info: inspect.Type) -> Any:
        if id(info) not in self._hints:
            self._hints[id(info)] = _hint_of(info)
        return self._hints[id(info)]

    def _keys_hint(self, info: inspect.Type) -> Any:
        return dict[self._hint(info), None]  # type: ignore[misc]  # computed

    def _until_misfit(self, values: list[Any], hint: Any) -> list[Any]:
        """The values as ``hint`` says, up to one that does not fit: there the conversion ends, too."""
        try:
            converted: list[Any] = self._convert(values, list[hint])
        except ValueError:
            pass
        else:
            return converted
        fitting: list[Any] = []
        for value in values:
            try:
                fitting.append(self._convert(value, hint))
            except ValueError:
                break
        return fitting


def _parts(info: inspect.Type, seen: set[int]) -> Iterator[inspect.Type]:
    if id(info) not in seen:
        seen.add(id(info))
        yield info
        for part in _parts_of(info):
            yield from _parts(part, seen)


def _parts_of(info: inspect.Type) -> Sequence[inspect.Type]:
    if isinstance(info, inspect.Metadata):
        return (info.type,)
    if isinstance(info, inspect.UnionType):
        return info.types
    if isinstance(info, inspect.TupleType):
        return info.item_types
    if isinstance(info, inspect.DictType):
        return (info.value_type,)
    if isinstance(info, _ARRAYS):
        return (info.item_type,)
    return [field.type for field in info.fields] if isinstance(info, _OBJECTS) else ()


def _is_needed(info: inspect.Type, needed: set[int]) -> bool:
    """Whether in a value of this type, or of one inside of it that is known to be so, hashes may collide."""
    if isinstance(info, _SETS) and not _has_secret_hash(info.item_type):
        return True
    if isinstance(info, inspect.DictType) and not _is_safe_key(info.key_type):
        return True
    return any(id(part) in needed for part in _parts_of(info))


def _is_safe_key(info: inspect.Type) -> bool:
    # Without a hint it stays what it is on the wire: text or bytes.
    return isinstance(info, inspect.AnyType) or _has_secret_hash(info)


def _has_secret_hash(info: inspect.Type, *, alone: bool = True) -> bool:
    """Whether a peer cannot choose values of this type with hashes that collide, or has only a few to choose from."""
    if isinstance(info, inspect.Metadata):
        return _has_secret_hash(info.type, alone=alone)
    if isinstance(info, inspect.UnionType):
        return all(_has_secret_hash(member, alone=alone) for member in info.types)
    if isinstance(info, inspect.TupleType):
        return all(_has_secret_hash(member, alone=False) for member in info.item_types)
    if isinstance(info, inspect.VarTupleType):
        return _has_secret_hash(info.item_type, alone=False)
    if isinstance(info, inspect.EnumType):
        # Flags can be combined.
        return alone and not issubclass(info.cls, enum.Flag)
    return isinstance(info, _SEEDED) or (alone and isinstance(info, _FEW))


def _has_tag_of(info: inspect.Type, value: Any) -> bool:
    """Whether a value can be of this member of a union. Only structs with tags may be several of one form."""
    if not isinstance(info, inspect.StructType) or info.tag_field is None:
        return True
    if type(value) is dict:
        return cast("dict[Any, object]", value).get(info.tag_field) == info.tag
    return type(value) in _SEQUENCES and list(value[:1]) == [info.tag]


def _hint_of(info: inspect.Type) -> Any:  # noqa: PLR0911 - one for each kind
    """A hint for values of this type, which may leave out bounds of lengths and numbers."""
    if isinstance(info, inspect.Metadata):
        return _hint_of(info.type)
    if isinstance(info, inspect.UnionType):
        return Union[tuple(_hint_of(member) for member in info.types)]  # noqa: UP007 - computed
    if isinstance(info, inspect.TupleType):
        return tuple[tuple(_hint_of(member) for member in info.item_types)]  # type: ignore[misc]  # computed
    if isinstance(info, inspect.VarTupleType):
        return tuple[_hint_of(info.item_type), ...]  # type: ignore[misc]  # computed
    if isinstance(info, inspect.FrozenSetType):
        return frozenset[_hint_of(info.item_type)]  # type: ignore[misc]  # computed
    if isinstance(info, inspect.LiteralType):
        return Literal[info.values]
    if isinstance(info, (*_OBJECTS, inspect.EnumType)):
        return info.cls
    # Whatever else there is has no hash.
    return _HINTS.get(type(info), Any)


def check_hashes(values: Sequence[object], *, is_set: bool, most: int = MAX_STEPS) -> int:
    """Counts the steps that it takes to put ``values`` one by one into a set, or as keys into a dictionary.

    Raises:
        CollisionError: there are too many for these, or more than ``most``.
    """
    table = _Table(values, is_set=is_set, most=most)
    for index in range(table.length):
        table.add(index)
    return table.steps


class _Table:
    """The table of a set or a dictionary."""

    def __init__(self, values: Sequence[object], *, is_set: bool, most: int = MAX_STEPS) -> None:
        self._values = values
        self._most = most
        self.steps = 0
        self._hashes = list(_hashes(values))
        self.length = len(self._hashes)
        self._is_set = is_set
        self._used = 0
        self._left = _STEPS_FREE
        self._steps_each = _STEPS_EACH[0 if is_set else 1]
        self._resize(_SMALLEST)

    def _resize(self, size: int) -> None:
        # In each slot the hash of an element, and its number.
        self._slots: list[int | None] = [None] * size
        self._held: list[int] = [0] * size
        self._mask = size - 1
        self._room = -(-3 * self._mask // 5) if self._is_set else 2 * size // 3

    def add(self, index: int) -> None:
        # One that is there already takes its steps, too.
        self._left += self._steps_each
        hash_ = self._hashes[index]
        slot = hash_ & self._mask
        # Most find their place at once.
        if self._slots[slot] is not None and (slot := self._search(slot, index, is_new=True)) == _PRESENT:
            return
        self._slots[slot] = hash_
        self._held[slot] = index
        self._used += 1
        if self._used == self._room:
            self._grow()

    def _grow(self) -> None:
        held = [index for index, hash_ in zip(self._held, self._slots, strict=True) if hash_ is not None]
        if self._is_set:
            least = self._used * (2 if self._used > _MANY else 4) + 1
        else:
            least = self._used * 3
            held.sort()
        self._resize(1 << (least - 1).bit_length())
        for index in held:
            slot = self._hashes[index] & self._mask
            if self._slots[slot] is not None:
                slot = self._search(slot, index, is_new=False)
            self._slots[slot] = self._hashes[index]
            self._held[slot] = index

    def _search(self, slot: int, index: int, *, is_new: bool) -> int:
        """The slot that is free for an element, from one that is not; _PRESENT if it is there already."""
        slots, hash_, mask, left = self._slots, self._hashes[index], self._mask, self._left
        perturb = hash_ & _UNSIGNED
        # A set looks at its neighbours before it jumps.
        probes = _PROBES if self._is_set else 1
        last = mask + 1 - probes
        equal: set[int] = set()
        while True:
            # Most of a dictionary's steps, in the least time.
            while probes == 1 and left > 0 and (other := slots[slot]) is not None and other != hash_:
                left -= 1
                perturb >>= _PERTURB_SHIFT
                slot = (slot * 5 + perturb + 1) & mask
            run = slots[slot : slot + probes] if slot <= last else slots[slot : slot + 1]
            end = run.index(None) if None in run else -1
            if is_new and hash_ in run:
                places = [slot + i for i, other in enumerate(run[:end] if end >= 0 else run) if other == hash_]
                if any(self._values[self._held[place]] == self._values[index] for place in places):
                    self._spend(left)
                    return _PRESENT
                equal.update(places)
            if end >= 0:
                self._spend(left)
                return slot + end
            left -= 1
            if len(equal) >= MAX_EQUAL_HASHES or left < 0:
                raise self._error()
            perturb >>= _PERTURB_SHIFT
            slot = (slot * 5 + perturb + 1) & mask

    def _spend(self, left: int) -> None:
        self.steps += self._left - left
        self._left = left
        if self.steps > self._most:
            raise self._error()

    def _error(self) -> CollisionError:
        what = "elements" if self._is_set else "keys"
        return CollisionError(f"the hashes of its {self.length} {what} collide too often")


def _hashes(values: Sequence[object]) -> Iterator[int]:
    """Up to one that has no hash: there the conversion ends, too."""
    for value in values:
        try:
            yield hash(value)
        except Exception:  # noqa: BLE001 - it may be the user's; the conversion reports it
            return
