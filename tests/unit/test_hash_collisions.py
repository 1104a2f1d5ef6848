"""Sets and dictionaries that a peer would make slow: refused before they are built, and no others."""

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import random
import sys
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest

from trpc import _codec, _hash_collisions
from trpc._codec import DecodeError, converter
from trpc._hash_collisions import CollisionError, check_hashes

P = 2**61 - 1
MANY = 5000
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: str = ""


@dataclasses.dataclass(frozen=True)
class Box(Generic[T]):
    of: T


class Pair(NamedTuple):
    left: uuid.UUID
    right: str


class Frozen(msgspec.Struct, frozen=True):
    amount: decimal.Decimal


class Color(enum.Enum):
    RED = "red"


class Bits(enum.IntFlag):
    ONE = 1


# --- what an attack costs ---


class Key:
    """Has the hash that it is told, and counts how often it is compared."""

    compared = 0

    def __init__(self, hash_, name=None):
        self.hash = hash_
        self.name = name

    def __hash__(self):
        return self.hash

    def __eq__(self, other):
        Key.compared += 1
        return self.name is not None and self.name == other.name


@pytest.fixture(autouse=True)
def count_afresh():
    Key.compared = 0


@functools.cache
def sharing_their_way(bits, *, is_set, top=61):
    """Different numbers, so different hashes, that meet in a table of 2**bits slots again and again.

    The first fill a stretch of the cycle x -> 5x + 1 on which every search ends; of the others each jump is made to
    hit a slot that is taken, up to the start of that stretch.
    """
    rng = random.Random(bits)
    size = 2**bits
    width = 10 if is_set else 1
    cycle, x = {}, 0
    taken: set[int] = set()
    while len(taken) < 0.4 * size:
        cycle[x] = len(cycle)
        taken |= {(x + i) % size for i in range(width)}
        x = (5 * x + 1) % size

    full = [slot for slot in range(size) if all((slot + i) % size in taken for i in range(width))]
    ends = set(full)
    result = dict.fromkeys(sorted(taken))
    tries = 0
    while len(result) < len(taken) + size // 24:
        tries += 1
        assert tries < 10**6
        number = slot = rng.choice(full)
        round_ = 0
        while slot in ends and (round_ == 0 or number >> (5 * round_)):
            round_ += 1
            place = bits + 5 * (round_ - 1)
            if place + 5 <= top:
                digits = [d << place for d in range(32)]
                digits = [d for d in digits if ((5 * slot + 1 + ((number | d) >> (5 * round_))) % size) in ends]
                if not digits:
                    break
                number |= rng.choice(digits)
            slot = (5 * slot + 1 + (number >> (5 * round_))) % size
        else:
            if slot in ends and cycle.get(slot, size) < len(cycle) // 2:
                result[number] = None
    return list(result)


@pytest.mark.parametrize("is_set", [False, True])
def test_equal_hashes_are_refused_after_few_comparisons(is_set):
    with pytest.raises(CollisionError, match=f"of its {MANY} {'elements' if is_set else 'keys'} collide too often"):
        check_hashes([Key(7) for _ in range(MANY)], is_set=is_set)
    assert Key.compared <= 2 * 64**2


@pytest.mark.parametrize("is_set", [False, True])
def test_different_hashes_that_share_their_way_are_refused(is_set):
    numbers = sharing_their_way(15 if is_set else 13, is_set=is_set)
    assert len({hash(number) for number in numbers}) == len(numbers)
    with pytest.raises(CollisionError):
        check_hashes(numbers, is_set=is_set)


@pytest.mark.parametrize("is_set", [False, True])
def test_a_few_equal_hashes_pass_wherever_they_are(is_set):
    others = [Key(random.Random(i).getrandbits(61)) for i in range(MANY)]
    few = [Key(7) for _ in range(64)]
    check_hashes(few, is_set=is_set)
    check_hashes(few + others, is_set=is_set)
    check_hashes(others + few, is_set=is_set)
    check_hashes([*others[:64], *few, *others[64:128]], is_set=is_set)


@pytest.mark.parametrize("is_set", [False, True])
def test_what_is_there_twice_counts_as_it_costs(is_set):
    check_hashes([1] * MANY + [Key(7, "a")] * MANY, is_set=is_set)
    few = [Key(7, i) for i in range(64)]
    check_hashes(few * 20, is_set=is_set)
    regular = [i << 46 for i in range(MANY)]
    check_hashes(regular + regular[:500] * 20, is_set=is_set)
    numbers = sharing_their_way(15 if is_set else 13, is_set=is_set)
    with pytest.raises(CollisionError):
        # Half of the numbers that share their way can be paid for; but not to look for the last of them again and again.
        check_hashes([*numbers[: -len(numbers) // 20], *[numbers[-len(numbers) // 20 - 1]] * 20_000], is_set=is_set)


REGULAR = {
    "range": lambda n: range(n),
    "negative": lambda n: range(-n, 0),
    "random": lambda n: [random.Random(i).getrandbits(63) for i in range(n)],
    **{f"<<{bits}": lambda n, bits=bits: [i << bits for i in range(n)] for bits in range(4, 49, 4)},
    **{f"/2**{bits}": lambda n, bits=bits: [i / 2**bits for i in range(n)] for bits in range(1, 20, 2)},
    "cents": lambda n: [i / 100 for i in range(n)],
    "seconds in ns": lambda n: [(1_700_000_000 + i) * 10**9 for i in range(n)],
    "grid": lambda n: [((i % 300) << 48) | ((i // 300) << 16) for i in range(n)],
    "pairs": lambda n: [(i % 300, i // 300) for i in range(n)],
    "times": lambda n: [dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=i) for i in range(n)],
}


@pytest.mark.parametrize("name", REGULAR)
@pytest.mark.parametrize("count", [100, 6000])
@pytest.mark.parametrize("is_set", [False, True])
def test_regular_values_pass(name, count, is_set):
    check_hashes(list(REGULAR[name](count)), is_set=is_set)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="of CPython's tables")
@pytest.mark.parametrize("name", REGULAR)
@pytest.mark.parametrize("count", [5, 100, 1234, 60_000])
def test_the_table_is_that_of_a_real_set(name, count):
    if count == 60_000 and name not in {"random", "range"}:
        return
    values = list(REGULAR[name](count))
    table = _hash_collisions._Table(values, is_set=True)
    real = set()
    for index, value in enumerate(values):
        table.add(index)
        real.add(value)
    # A set is iterated slot by slot.
    held = zip(table._held, table._slots, strict=True)
    assert [values[index] for index, hash_ in held if hash_ is not None] == list(real)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="of CPython's tables")
def test_the_table_grows_as_that_of_a_real_dictionary():
    values = list(range(20_000))
    table = _hash_collisions._Table(values, is_set=False)
    real: dict[int, None] = {}
    grown_at = []
    for index in values:
        before = sys.getsizeof(real)
        real[index] = None
        # The real one grows when there is no room for the next; and it is made with its first entry.
        if sys.getsizeof(real) != before and index:
            assert table._used in grown_at
        size = table._mask
        table.add(index)
        if table._mask != size:
            grown_at.append(table._used)
    assert len(grown_at) > 8


# --- which hints ---


def colliding_uuids(n=MANY):
    return [str(uuid.UUID(int=5 + P * i)) for i in range(n)]


def colliding_decimals(n=MANY):
    return [str(5 + P * i) for i in range(n)]


def uuids(n=MANY):
    return [str(uuid.UUID(int=random.Random(i).getrandbits(128))) for i in range(n)]


def in_map(keys):
    return dict.fromkeys(keys, None)


class Slow(NamedTuple):
    hint: Any
    bad: Any
    good: Any


NUMBERS = sharing_their_way(15, is_set=True)
KEYS = sharing_their_way(13, is_set=False)
SLOW = {
    "UUID": Slow(set[uuid.UUID], colliding_uuids(), uuids()),
    "UUID, frozen": Slow(frozenset[uuid.UUID], colliding_uuids(), uuids()),
    "UUID keys": Slow(dict[uuid.UUID, None], in_map(colliding_uuids()), in_map(uuids())),
    "Decimal": Slow(set[decimal.Decimal], colliding_decimals(), [f"{i}.5" for i in range(MANY)]),
    "Decimal keys": Slow(dict[decimal.Decimal, None], in_map(colliding_decimals()), in_map(map(str, range(MANY)))),
    "int": Slow(set[int], NUMBERS, list(range(MANY))),
    "int keys": Slow(dict[int, None], in_map(map(str, KEYS)), in_map(map(str, range(MANY)))),
    "long int keys": Slow(dict[int, None], in_map(colliding_decimals()), in_map(map(str, range(MANY)))),
    "float keys": Slow(dict[float, None], in_map(map(str, sharing_their_way(13, is_set=False, top=52))), {"1.5": None}),
    "anything": Slow(set, NUMBERS, ["a", None, *range(MANY)]),
    "object": Slow(set[object], NUMBERS, ["a", None, *range(MANY)]),
    "union": Slow(set[int | str], ["a", *NUMBERS], ["a", *range(MANY)]),
    "bounded": Slow(set[Annotated[int, msgspec.Meta(ge=0, extra={"a": 1})]], NUMBERS, list(range(MANY))),
    "tuple": Slow(
        set[tuple[uuid.UUID, str]], [[i, ""] for i in colliding_uuids()], [[i, str(j)] for j, i in enumerate(uuids())]
    ),
    "long tuple": Slow(set[tuple[uuid.UUID, ...]], [[i] for i in colliding_uuids()], [[i] for i in uuids()]),
    "frozen set": Slow(set[frozenset[uuid.UUID]], [[i] for i in colliding_uuids()], [[i] for i in uuids()]),
    "dataclass": Slow(
        set[Box[decimal.Decimal]], [{"of": i} for i in colliding_decimals()], [{"of": str(i)} for i in range(MANY)]
    ),
    "named tuple": Slow(set[Pair], [[i, ""] for i in colliding_uuids()], [[i, ""] for i in uuids()]),
    "struct": Slow(set[Frozen], [{"amount": i} for i in colliding_decimals()], [{"amount": i} for i in range(MANY)]),
    "literal beside": Slow(
        set[tuple[Literal["a"], Color, uuid.UUID]],
        [["a", "red", i] for i in colliding_uuids()],
        [["a", "red", i] for i in uuids()],
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_an_attack_is_refused_before_the_container_is_built(name, monkeypatch):
    hint, bad, good = SLOW[name]
    convert = converter(hint)
    assert convert(good) == _codec._convert(good, hint)
    assert len(convert(good)) == len(good)
    # Half of it is not much slower than a fair one of that size, but there is nothing in between.
    monkeypatch.setattr(_codec, "_convert", None)
    with pytest.raises(DecodeError, match="collide too often"):
        convert(bad)


class Holder(msgspec.Struct, rename="camel"):
    some_ids: set[uuid.UUID] = set()


class Tagged(msgspec.Struct, tag="a"):
    ids: set[uuid.UUID]


class Other(msgspec.Struct, tag="b"):
    ids: list[str]


class InOrder(msgspec.Struct, array_like=True, tag=1):
    name: str
    ids: set[uuid.UUID]


class InOtherOrder(msgspec.Struct, array_like=True, tag=2):
    name: str
    ids: list[str]


class Typed(TypedDict, total=False):
    name: str
    ids: set[uuid.UUID]


class Named(NamedTuple):
    name: str
    ids: frozenset[uuid.UUID] = frozenset()


@dataclasses.dataclass
class Tree:
    ids: set[uuid.UUID] | None = None
    children: "list[Tree]" = dataclasses.field(default_factory=list)


IDS = set[uuid.UUID]
# hint, and what has the ids in their place
NESTED = {
    "list": (list[IDS], lambda ids: [[], ids]),
    "tuple": (tuple[int, IDS], lambda ids: [1, ids]),
    "long tuple": (tuple[IDS, ...], lambda ids: [[], ids]),
    "values": (dict[str, IDS], lambda ids: {"a": [], "b": ids}),
    "values of typed keys": (dict[int, IDS], lambda ids: {"1": [], "2": ids}),
    "optional": (IDS | None, lambda ids: ids),
    "union": (dict[str, int] | IDS | str, lambda ids: ids),
    "annotated": (Annotated[IDS, msgspec.Meta(title="ids")], lambda ids: ids),
    "annotated inside": (list[Annotated[IDS, msgspec.Meta(title="ids")] | None], lambda ids: [None, ids]),
    "struct": (list[Holder], lambda ids: [{}, {"someIds": ids, "x": 1}]),
    "tagged": (list[Tagged | Other], lambda ids: [{"type": "b", "ids": ["x"] * 100}, {"type": "a", "ids": ids}]),
    "array_like": (list[InOrder | InOtherOrder], lambda ids: [[2, "n", ["x"] * 100], [1, "n", ids]]),
    "array_like alone": (InOrder, lambda ids: [1, "n", ids]),
    "typed dictionary": (list[Typed], lambda ids: [{"name": "a"}, {"ids": ids}]),
    "named tuple": (list[Named], lambda ids: [["a"], ["a", ids]]),
    "recursive": (Tree, lambda ids: {"children": [{}, {"ids": None, "children": [{"ids": ids}]}]}),
    "sets in sets": (set[frozenset[uuid.UUID]], lambda ids: [[], ids]),
}


@pytest.mark.parametrize("name", NESTED)
def test_containers_are_found_however_deep_they_are(name):
    hint, around = NESTED[name]
    convert = converter(hint)
    good, few = around(uuids()), around(colliding_uuids(64))
    assert convert(good) == _codec._convert(good, hint)
    assert convert(few) == _codec._convert(few, hint)
    with pytest.raises(DecodeError, match="collide too often"):
        convert(around(colliding_uuids()))
    # What does not fit is told by the conversion, in its words.
    for bad in (1, None, around(5), around({"a": 1}), around([*uuids(100), 5]), [around([])], {"a": 1}, [[]], []):
        assert outcome(convert, bad) == outcome(lambda value: _codec._convert(value, hint), bad)


def outcome(convert, value):
    try:
        return convert(value)
    except DecodeError as exc:
        return str(exc)


@pytest.mark.parametrize(
    "hint",
    [
        Any,
        int,
        list[int],
        list[uuid.UUID],
        set[str],
        set[bytes],
        set[dt.date],
        set[Color],
        set[Literal[1, "a"]],
        set[bool | None],
        set[tuple[str, bytes]],
        set[tuple[str, ...] | str],
        set[Annotated[str, msgspec.Meta(max_length=5, title="a")]],
        dict,
        dict[str, int],
        dict[bytes, list[uuid.UUID]],
        dict[Color, int],
        Point,
        tuple[int, ...],
    ],
    ids=str,
)
def test_hints_without_such_a_type_cost_nothing(hint):
    assert _hash_collisions.checker(msgspec.inspect.type_info(hint), _codec._convert) is None


@pytest.mark.parametrize(
    "hint",
    [set[dt.datetime], set[dt.time], set[dt.timedelta], set[float], set[Bits], set[tuple[bool, ...]], set[Point]]
    + [dict[dt.datetime, int], dict[object, int], set[tuple[Color, None]]],
    ids=str,
)
def test_hints_of_what_has_no_secret_hash_are_looked_at(hint):
    assert _hash_collisions.checker(msgspec.inspect.type_info(hint), _codec._convert) is not None


@pytest.mark.parametrize(
    ("hint", "values"),
    [
        (dt.datetime, [f"2024-01-01T00:{i // 60:02}:{i % 60:02}Z" for i in range(100)]),
        (dt.datetime, [f"2024-01-01T00:{i // 60:02}:{i % 60:02}" for i in range(100)]),
        (dt.time, [f"00:{i // 60:02}:{i % 60:02}Z" for i in range(100)]),
        (dt.timedelta, [f"PT{i}S" for i in range(100)]),
        (float, [i / 8 for i in range(100)]),
        (Bits, [1] * 100),
        (tuple[bool, None, str, bytes, dt.date], [[True, None, str(i), b"", "2024-01-01"] for i in range(100)]),
    ],
    ids=str,
)
def test_elements_are_converted_as_their_hint_says(hint, values, monkeypatch):
    seen = []
    monkeypatch.setattr(_hash_collisions, "check_hashes", lambda values, *, is_set, most: seen.extend(values) or 0)
    assert converter(set[hint])(values) == set(seen)
    assert len(seen) == 100


def test_elements_behind_one_that_does_not_fit_do_not_count():
    bad = colliding_uuids()
    with pytest.raises(DecodeError, match=r"Expected `uuid`, got `int` - at `\$\[64\]`"):
        converter(set[uuid.UUID])([*bad[:64], 5, *bad])
    with pytest.raises(DecodeError, match="collide too often"):
        converter(set[uuid.UUID])([*bad, 5])
    with pytest.raises(DecodeError, match="collide too often"):
        converter(dict[uuid.UUID, None])(in_map([*bad, "x"]))
    with pytest.raises(DecodeError, match="unhashable"):
        converter(set[Any])([*range(100), [], *NUMBERS])
    with pytest.raises(DecodeError, match="unhashable"):
        converter(set[list[int]])([[]] * 100)


def test_what_comparing_raises_is_a_decode_error(monkeypatch):
    def fail(self, other):
        raise RuntimeError("not comparable")

    monkeypatch.setattr(Point, "__eq__", fail)
    with pytest.raises(DecodeError, match="not comparable"):
        converter(set[Point])([{"x": 1}] * 100)


def test_one_value_by_its_hint_is_looked_at_too():
    assert _codec.convert([1], Any) == [1]
    with pytest.raises(DecodeError, match="collide too often"):
        _codec.convert(colliding_uuids(), set[uuid.UUID])


def test_elements_that_fit_at_the_second_attempt_are_looked_at():
    failing = [True]

    @dataclasses.dataclass(frozen=True)
    class Moody:
        id: uuid.UUID

        def __post_init__(self):
            if failing:
                raise RuntimeError(failing.pop())

    with pytest.raises(DecodeError, match="collide too often"):
        converter(set[Moody])([{"id": i} for i in colliding_uuids()])


# --- how many there may be ---


@pytest.mark.parametrize("hint", [set[int], dict[int, None], list[set[int]], dict[str, set[int]]])
def test_there_is_a_bound_on_all_of_them_together(hint, monkeypatch):
    monkeypatch.setattr(_hash_collisions, "MAX_ELEMENTS", 300)

    def made(*sizes):
        sets = [list(range(size)) for size in sizes]
        if hint == set[int]:
            return list(range(sum(sizes)))
        if hint == dict[int, None]:
            return {str(n): None for n in range(sum(sizes))}
        return sets if hint == list[set[int]] else {str(n): part for n, part in enumerate(sets)}

    convert = converter(hint)
    for _ in range(2):
        convert(made(100, 100, 100))
    with pytest.raises(
        DecodeError, match="more than 300 elements of sets, or keys, whose hashes its sender can choose"
    ):
        convert(made(100, 100, 101))
    convert(made(100, 100, 100))


def test_there_is_a_bound_on_the_steps_for_all_of_them_together(monkeypatch):
    convert = converter(list[set[int]])
    regular = [i << 30 for i in range(2000)]
    convert([regular] * 3)
    monkeypatch.setattr(_hash_collisions, "MAX_STEPS", 1000)
    for value in ([regular], [regular[:100]] * 100):
        with pytest.raises(DecodeError, match="elements collide too often"):
            convert(value)
    convert([regular[:100]])
