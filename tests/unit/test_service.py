"""What a class offers: the marks, the method table, the names of services, and the mistakes that users make."""

import abc
import dataclasses
import functools
import threading
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Generic, Protocol, TypeVar

import pytest
import trio
import trio.testing
from support import connected

import trpc
from trpc._service import methods_of, service_name, table_of


class Calculator:
    """Some methods of each kind."""

    factor = 10

    @trpc.method
    async def add(self, a: int, b: int) -> int:
        return a + b

    @trpc.method
    def negate(self, a: int) -> int:
        return -a * self.factor

    @trpc.method(in_thread=True)
    def thread(self) -> str:
        return threading.current_thread().name

    @trpc.method(idempotent=True)
    async def get(self) -> int:
        return 1

    async def not_marked(self): ...

    def _private(self): ...

    attribute = 5


# --- the mark ---


def test_the_table_has_the_marked_methods_only():
    assert set(methods_of(Calculator)) == {"add", "negate", "thread", "get"}


def test_options_of_methods():
    table = methods_of(Calculator)
    assert [(m.name, m.is_async, m.in_thread, m.idempotent) for m in table.values()] == [
        ("add", True, False, False),
        ("negate", False, False, False),
        ("thread", False, True, False),
        ("get", True, False, True),
    ]


def test_the_table_is_built_once():
    assert methods_of(Calculator) is methods_of(Calculator)


async def test_an_async_method_stays_what_it_is():
    assert await Calculator().add(1, 2) == 3


async def test_a_plain_method_becomes_awaitable_for_local_callers():
    with trio.testing.assert_checkpoints():
        assert await Calculator().negate(5) == -50


async def test_a_method_in_a_thread_runs_in_one_for_local_callers_too():
    assert await Calculator().thread() != threading.current_thread().name


def test_the_server_calls_the_function_itself():
    assert methods_of(Calculator)["negate"].function(Calculator(), 5) == -50


def test_marked_methods_keep_their_name_and_documentation():
    class Documented:
        @trpc.method
        def some_name(self, a: int) -> int:
            """What it does."""
            return a

    assert Documented.some_name.__name__ == "some_name"
    assert Documented.some_name.__doc__ == "What it does."
    assert Documented.some_name.__annotations__ == {"a": int, "return": int}


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        trpc.method(None, True)  # type: ignore[call-overload]


# --- mistakes with the mark ---


def test_a_private_name_is_refused():
    with pytest.raises(TypeError, match=r"_secret has a private name"):

        class _:
            @trpc.method
            async def _secret(self): ...


@pytest.mark.parametrize("decorator", [staticmethod, classmethod, property])
def test_the_mark_goes_on_plain_methods(decorator):
    with pytest.raises(TypeError, match="staticmethod, classmethod or property: not supported"):

        class _:
            @trpc.method
            @decorator
            def f(self): ...


@pytest.mark.parametrize("decorator", [staticmethod, classmethod, property])
def test_the_mark_inside_of_another_kind_of_attribute_is_not_forgotten(decorator):
    # Without an error the method would silently be missing from the service.
    class Service:
        @trpc.method
        async def fine(self): ...

        @decorator
        @trpc.method
        def hidden(self): ...

    with pytest.raises(TypeError, match="hidden"):
        methods_of(Service)


def test_a_method_takes_self():
    with pytest.raises(TypeError, match="f takes no self"):

        class _:
            @trpc.method
            async def f(): ...  # type: ignore[misc]


@pytest.mark.parametrize("marked", [5, "name", Calculator, print, object()])
def test_only_functions_are_marked(marked):
    with pytest.raises(TypeError, match=r"@trpc\.method goes on a `def` or `async def`"):
        trpc.method(marked)


def test_in_thread_is_for_blocking_functions():
    with pytest.raises(TypeError, match=r"f is async; only a blocking `def` can run in a thread"):

        class _:
            @trpc.method(in_thread=True)
            async def f(self): ...


def test_generators_are_refused():
    with pytest.raises(TypeError, match="f is a plain generator; to send a stream, make it an `async def`"):

        class _:
            @trpc.method
            def f(self):
                yield 1


def test_a_name_for_a_public_method_that_is_private_is_not_served():
    class Service:
        @trpc.method
        async def public(self): ...

        _alias = public

    assert set(methods_of(Service)) == {"public"}


def test_a_class_without_methods():
    class Nothing:
        async def forgotten(self): ...

    for _ in range(2):
        with pytest.raises(TypeError, match=r"Nothing has no methods that a peer may call: put @trpc\.method"):
            methods_of(Nothing)


def test_a_hint_that_is_not_supported_is_found_when_the_service_is_built():
    class Custom:
        pass

    class Service:
        @trpc.method
        async def f(self, a: Custom) -> None: ...

    with pytest.raises(TypeError, match=r"Service\.f: the type hint .*Custom.*parameter 'a'"):
        table_of(Service())


# --- overriding ---


class Interface(abc.ABC):
    @trpc.method
    @abc.abstractmethod
    async def get(self, key: int) -> str: ...

    @trpc.method(in_thread=True, idempotent=True)
    def block(self, n: int) -> int:
        return n


def test_an_override_needs_no_mark_and_no_hints():
    class Impl(Interface):
        async def get(self, key):
            return str(key)

    table = methods_of(Impl)
    assert set(table) == {"get", "block"}
    assert table["get"].function is Impl.get
    with pytest.raises(trpc.InvalidArguments, match=r"Impl\.get: argument 'key': Expected `int`"):
        table["get"].signature.convert_arguments(["x"], None)
    assert table["get"].signature.returns is str


def test_an_override_with_hints_is_checked_by_them():
    class Impl(Interface):
        async def get(self, key: int | str) -> str:
            return str(key)

    args, _ = methods_of(Impl)["get"].signature.convert_arguments(["x"], None)
    assert list(args) == ["x"]


def test_an_override_keeps_the_options_of_its_interface():
    class Impl(Interface):
        async def get(self, key): ...

        def block(self, n):
            return n + 1

    block = methods_of(Impl)["block"]
    assert (block.in_thread, block.idempotent, block.is_async) == (True, True, False)
    assert block.function(Impl(), 1) == 2


def test_an_async_override_of_a_method_in_a_thread_runs_in_the_task():
    class Impl(Interface):
        async def get(self, key): ...

        async def block(self, n): ...

    block = methods_of(Impl)["block"]
    assert (block.in_thread, block.is_async) == (False, True)


def test_an_override_with_a_mark_of_its_own_has_its_own_options():
    class Impl(Interface):
        async def get(self, key): ...

        @trpc.method
        def block(self, n: int) -> int:
            return n + 1

    block = methods_of(Impl)["block"]
    assert (block.in_thread, block.idempotent) == (False, False)
    assert block.function(Impl(), 1) == 2


def test_an_override_of_an_override():
    class First(Interface):
        async def get(self, key): ...

        @trpc.method
        def block(self, n: int) -> int:
            return n

    class Second(First):
        def block(self, n):
            return n + 2

    block = methods_of(Second)["block"]
    assert (block.in_thread, block.function(Second(), 1)) == (False, 3)


def test_an_override_may_take_more_than_its_interface():
    class Impl(Interface):
        async def get(self, key, default=""):
            return default

    args, _ = methods_of(Impl)["get"].signature.convert_arguments([1, "d"], None)
    assert list(args) == [1, "d"]


@pytest.mark.parametrize("value", [None, 5, "text", [].append, property(lambda self: 1), staticmethod(len)])
def test_an_override_by_something_that_is_not_a_function(value):
    Impl = type("Impl", (Interface,), {"get": value})
    with pytest.raises(TypeError, match=r"Impl\.get is a method of its interface, but here it is"):
        methods_of(Impl)


def test_an_override_that_is_a_generator():
    class Impl(Interface):
        def get(self, key):
            yield key

    with pytest.raises(TypeError, match=r"Impl\.get is a plain generator; to send a stream, make it an `async def`"):
        methods_of(Impl)


# --- streams ---


class Log:
    """Methods that give streams, in all the ways in which they can be written."""

    def __init__(self):
        self.closed = 0

    @trpc.method
    async def generator(self, number: int) -> AsyncIterator[int]:
        """Counts."""
        try:
            for i in range(number):
                yield i
        finally:
            self.closed += 1

    @trpc.method
    async def without_hints(self, number):
        for i in range(number):
            yield i

    @trpc.method
    def returns_one(self, number: int) -> AsyncIterator[int]:
        return self._items(number)

    @trpc.method
    async def awaits_one(self, number: int) -> AsyncIterable[int]:
        await trio.lowlevel.checkpoint()
        return self._items(number)

    @trpc.method
    def returns_channel(self, number: int) -> trio.abc.ReceiveChannel[int]:
        send, receive = trio.open_memory_channel(number)
        for i in range(number):
            send.send_nowait(i)
        send.close()
        return receive

    @trpc.method(idempotent=True)
    async def with_options(self, number: int) -> AsyncIterator[int]:
        for i in range(number):
            yield i

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    async def _items(self, number):
        try:
            for i in range(number):
                yield i
        finally:
            self.closed += 1


STREAMS = ["generator", "without_hints", "returns_one", "awaits_one", "returns_channel", "with_options"]
# Those whose generator notes that it was closed.
NOTED = ["generator", "returns_one", "awaits_one"]


def test_what_gives_a_stream_is_known():
    table = methods_of(Log)
    assert {name for name, method in table.items() if method.is_stream} == set(STREAMS)
    for name in STREAMS:
        method = table[name]
        assert (method.is_async, method.in_thread, method.idempotent) == (True, False, name == "with_options")
        assert method.signature.items is not None
        assert method.signature.returns == (Any if name == "without_hints" else int)
    assert not table["total"].is_stream
    assert table["total"].signature.has_streams


@pytest.mark.parametrize("name", STREAMS)
async def test_for_local_callers_it_is_a_channel(name):
    log = Log()
    async with getattr(log, name)(5) as numbers:
        assert isinstance(numbers, trio.abc.ReceiveChannel)
        assert await numbers.receive() == 0
        assert [number async for number in numbers] == [1, 2, 3, 4]
    assert log.closed == (name in NOTED)


@pytest.mark.parametrize("name", STREAMS)
async def test_for_local_callers_who_leave_early_it_is_closed(name):
    log = Log()
    async with getattr(log, name)(5) as numbers:
        assert await numbers.receive() == 0
    assert log.closed == (name in NOTED)


async def test_an_iterator_that_is_no_generator_is_not_closed_for_local_callers():
    class Numbers:
        def __init__(self):
            self.left = [1, 2, 3]

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

    class Service:
        @trpc.method
        def numbers(self) -> AsyncIterator[int]:
            return numbers

    numbers = Numbers()
    async with Service().numbers() as items:
        assert [item async for item in items] == [1, 2, 3]


def test_the_server_calls_the_function_of_a_stream_itself():
    log = Log()
    table = table_of(log)
    assert table["Log.generator"].call.__func__ is methods_of(Log)["generator"].function
    generator = table["Log.generator"].call(1)
    assert hasattr(generator, "athrow")


def test_streams_keep_their_name_and_documentation():
    assert Log.generator.__name__ == "generator"
    assert Log.generator.__doc__ == "Counts."
    assert Log.returns_one.__name__ == "returns_one"


@pytest.mark.parametrize("name", ["f", "g"])
def test_what_gives_a_stream_does_not_run_in_a_thread(name):
    async def f(self) -> AsyncIterator[int]:
        yield 1

    def g(self) -> AsyncIterator[int]: ...

    with pytest.raises(
        TypeError, match=rf"in_thread=True\): .*\.{name} gives a stream, which cannot be made in a thread"
    ):
        trpc.method(in_thread=True)(f if name == "f" else g)


def test_a_stream_takes_self():
    with pytest.raises(TypeError, match="f takes no self"):

        @trpc.method
        async def f():
            yield 1


def test_a_stream_has_a_public_name():
    with pytest.raises(TypeError, match="_f has a private name"):

        @trpc.method
        async def _f(self):
            yield 1


def logged(function):
    """A decorator that knows nothing of what it wraps."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("hinted", [False, True])
async def test_a_wrapper_of_a_generator_is_one(hinted):
    async def f(self):
        yield 1

    if hinted:
        f.__annotations__["return"] = AsyncIterator[int]

    class Service:
        g = trpc.method(logged(f))

    assert methods_of(Service)["g"].is_stream
    async with Service().g() as items:
        assert [item async for item in items] == [1]


class Later:
    """Its methods' hints name what is defined further down."""

    @trpc.method
    def f(self) -> "AsyncIterator[DefinedLater]":
        return self._items()

    @trpc.method
    async def g(self) -> "AsyncIterator[DefinedLater]":
        async for item in self._items():
            yield item

    async def _items(self):
        yield DefinedLater()


@pytest.mark.parametrize("name", ["f", "g"])
async def test_a_hint_may_name_what_is_defined_further_down(name):
    assert methods_of(Later)[name].is_stream
    async with getattr(Later(), name)() as items:
        assert [type(item) async for item in items] == [DefinedLater]


@dataclasses.dataclass
class DefinedLater:
    pass


# As it is written in a Protocol or an abstract class.


class Feed(Protocol):
    @trpc.method
    def ticks(self, number: int) -> AsyncIterator[int]: ...


class AbstractFeed(abc.ABC):
    @trpc.method
    @abc.abstractmethod
    def ticks(self, number: int) -> AsyncIterator[int]: ...


class AsyncFeed(abc.ABC):
    """Here the body says what it is."""

    @trpc.method
    @abc.abstractmethod
    async def ticks(self, number: int) -> AsyncIterator[int]:
        raise NotImplementedError
        yield


INTERFACES = [Feed, AbstractFeed, AsyncFeed]


@pytest.mark.parametrize("interface", INTERFACES)
def test_an_interface_with_a_stream(interface):
    method = methods_of(interface)["ticks"]
    assert method.is_stream
    assert method.signature.returns is int


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("how", ["generator", "returns", "awaits", "generator with hints"])
async def test_an_override_of_a_stream_needs_no_mark_and_no_hints(interface, how):
    async def items(number):
        for i in range(number):
            yield i

    class Impl(interface):
        if how == "generator":

            async def ticks(self, number):
                async for item in items(number):
                    yield item

        elif how == "generator with hints":

            async def ticks(self, number: int) -> AsyncIterator[int]:
                async for item in items(number):
                    yield item

        elif how == "returns":

            def ticks(self, number):
                return items(number)

        else:

            async def ticks(self, number):
                return items(number)

    method = methods_of(Impl)["ticks"]
    assert (method.is_stream, method.is_async) == (True, True)
    assert method.signature.returns is int
    assert method.function is Impl.ticks
    async with connected(Impl()) as (client, _):
        async with client.proxy(interface).ticks(3) as ticks:
            assert [tick async for tick in ticks] == [0, 1, 2]


def test_an_override_by_a_plain_generator():
    class Impl(AbstractFeed):
        def ticks(self, number):
            yield number

    with pytest.raises(TypeError, match=r"Impl\.ticks is a plain generator; to send a stream, make it an `async def`"):
        methods_of(Impl)


def test_an_override_that_is_a_stream_is_not_run_in_a_thread():
    class Impl(Interface):
        async def get(self, key): ...

        async def block(self, n):
            yield n

    block = methods_of(Impl)["block"]
    assert (block.is_stream, block.in_thread) == (True, False)


# --- names ---


class Proto(Protocol):
    @trpc.method
    async def get(self, key: int) -> str: ...


class Plain:
    @trpc.method
    async def get(self, key: int) -> str:
        return ""


@pytest.mark.parametrize("base", [Interface, Proto, Plain])
def test_an_implementation_serves_under_the_name_of_its_interface(base):
    class Impl(base):
        async def get(self, key):
            return str(key)

    class Deeper(Impl):
        pass

    assert service_name(base) == base.__name__
    assert service_name(Impl) == base.__name__
    assert service_name(Deeper) == base.__name__


@pytest.mark.parametrize("base", [Interface, Proto])
def test_an_implementation_may_have_methods_of_its_own(base):
    class Impl(base):
        async def get(self, key):
            return str(key)

        @trpc.method
        async def extra(self) -> None: ...

    assert service_name(Impl) == base.__name__
    assert "extra" in methods_of(Impl)


def test_a_subclass_that_adds_methods_serves_under_the_same_name_unless_it_has_its_own():
    class More(Plain):
        @trpc.method
        async def extra(self) -> None: ...

    @trpc.service
    class Other(More):
        pass

    assert service_name(More) == "Plain"
    assert service_name(Other) == "Other"


def test_a_class_without_bases_has_its_own_name():
    assert service_name(Calculator) == "Calculator"


def test_bases_without_methods_are_no_interfaces():
    class Mixin(abc.ABC):
        @abc.abstractmethod
        def helper(self): ...

    class Impl(Mixin):
        def helper(self): ...

        @trpc.method
        async def f(self) -> None: ...

    assert service_name(Impl) == "Impl"


def test_an_interface_that_extends_another():
    class Wider(Interface):
        @trpc.method
        @abc.abstractmethod
        async def put(self, key: int) -> None: ...

    class Impl(Wider):
        async def get(self, key): ...

        async def put(self, key): ...

    # The same answer on both sides is what counts: a proxy may be made from any of the three.
    assert service_name(Impl) == service_name(Wider) == service_name(Interface) == "Interface"


def test_a_generic_interface():
    T = TypeVar("T")

    class Store(Protocol, Generic[T]):
        @trpc.method
        async def get(self, key: int) -> Any: ...

    class Impl(Store[int]):
        async def get(self, key): ...

    assert service_name(Impl) == "Store"


def test_two_interfaces_need_a_name():
    class Other(abc.ABC):
        @trpc.method
        @abc.abstractmethod
        async def other(self) -> None: ...

    class Impl(Interface, Other):
        async def get(self, key): ...

        async def other(self): ...

    with pytest.raises(TypeError, match=r"implements several interfaces \(Interface, Other\).*@trpc\.service"):
        service_name(Impl)
    assert service_name(trpc.service(name="both")(type("Named", (Impl,), {}))) == "both"
    assert set(table_of({"a": Impl()})) == {"a.get", "a.block", "a.other"}


def test_a_name_by_decorator():
    @trpc.service(name="calc.v1")
    class Named(Calculator):
        pass

    class Sub(Named):
        @trpc.method
        async def extra(self) -> None: ...

    @trpc.service
    class Own(Named):
        pass

    assert service_name(Named) == "calc.v1"
    assert service_name(Sub) == "calc.v1"
    assert service_name(Own) == "Own"
    assert service_name(Calculator) == "Calculator"


def test_a_name_wins_over_an_interface():
    @trpc.service(name="mine")
    class Impl(Interface):
        async def get(self, key): ...

    assert service_name(Impl) == "mine"


@pytest.mark.parametrize("bad", [5, "name", Calculator(), lambda: 0])
def test_only_classes_are_named(bad):
    with pytest.raises(TypeError, match=r"@trpc\.service goes on a class"):
        trpc.service(bad)


def test_a_name_is_not_empty():
    with pytest.raises(ValueError, match="the name of .*Empty is empty"):

        @trpc.service(name="")
        class Empty:
            pass


# --- the table of a server ---


def test_one_service():
    table = table_of(Calculator())
    assert set(table) == {"Calculator.add", "Calculator.negate", "Calculator.thread", "Calculator.get"}
    assert all(name == bound.name for name, bound in table.items())


def test_methods_are_bound_to_their_object():
    calculator = Calculator()
    calculator.factor = 3
    assert table_of(calculator)["Calculator.negate"].call(5) == -15


@pytest.mark.parametrize("several", [list, tuple])
def test_several_services(several):
    table = table_of(several([Calculator(), Plain()]))
    assert {"Calculator.add", "Plain.get"} <= set(table)


def test_services_under_names():
    one, two = Calculator(), Calculator()
    one.factor, two.factor = 1, 2
    table = table_of({"one": one, "two": two})
    assert (table["one.negate"].call(5), table["two.negate"].call(5)) == (-5, -10)
    assert not any(name.startswith("Calculator") for name in table)


def test_one_object_under_two_names():
    calculator = Calculator()
    assert len(table_of({"a": calculator, "b": calculator})) == 8


def test_two_services_of_one_name():
    with pytest.raises(ValueError, match="two services have the name 'Calculator'.*mapping"):
        table_of([Calculator(), Plain(), Calculator()])


@pytest.mark.parametrize("nothing", [[], (), {}])
def test_there_is_something_to_serve(nothing):
    with pytest.raises(TypeError, match="there is no service to serve"):
        table_of(nothing)


@pytest.mark.parametrize("services", [Calculator, [Calculator], {"a": Calculator}, [Plain(), Calculator]])
def test_a_class_instead_of_an_object(services):
    with pytest.raises(TypeError, match=r"a service is an object, not a class: pass Calculator\(\)"):
        table_of(services)


@pytest.mark.parametrize("services", [None, 5, "text", object(), [None], {"a": None}])
def test_an_object_that_is_no_service(services):
    with pytest.raises(TypeError, match="has no methods that a peer may call"):
        table_of(services)


@pytest.mark.parametrize("name", ["", None, 5, b"x"])
def test_names_of_services_are_text(name):
    with pytest.raises(ValueError, match=r"a service's name is a string that is not empty"):
        table_of({name: Calculator()})


def test_a_plain_wrapper_of_an_async_method_is_refused():
    def logged(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    async def work(self) -> None: ...

    with pytest.raises(TypeError, match="make the wrapper async as well"):
        trpc.method(logged(work))


def test_two_named_interfaces_are_not_clear():
    @trpc.service
    class One:
        @trpc.method
        async def one(self) -> None: ...

    @trpc.service
    class Two:
        @trpc.method
        async def two(self) -> None: ...

    class Both(One, Two): ...

    @trpc.service(name="Named")
    class Named(One, Two): ...

    with pytest.raises(TypeError, match=r"implements several interfaces \(One, Two\)"):
        service_name(Both)
    assert service_name(Named) == "Named"
