"""Methods as people read them, and found by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import MethodNotFound, Reflection
from ._exits import CommandError, ExitCode
from ._text import near, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import Client, MethodInfo, ParameterInfo, ServiceInfo


async def services_of(client: Client) -> list[ServiceInfo] | None:
    """What the server offers; None if it does not tell."""
    try:
        return await client.proxy(Reflection).services()
    except MethodNotFound:
        return None


async def required_services_of(client: Client) -> list[ServiceInfo]:
    """What the server offers.

    Raises:
        CommandError: it does not tell.
    """
    services = await services_of(client)
    if services is None:
        raise CommandError(
            "the server does not tell what it offers",
            ExitCode.USAGE,
            hint="only servers on this machine do so by default: others are served with reflection=True",
        )
    return services


def method_in(services: Sequence[ServiceInfo], name: str) -> tuple[ServiceInfo, MethodInfo]:
    """The service and the method of that name.

    Raises:
        CommandError: there is none; with names that are near.
    """
    names = {
        f"{service['name']}.{method['name']}": (service, method)
        for service in services
        for method in service["methods"]
    }
    if name not in names:
        # People leave the service out, too.
        short = [full for full in names if full.rpartition(".")[2] == name]
        hint = f"did you mean {' or '.join(short[:3])}?" if short else near(name, names)
        raise CommandError(f"there is no method {name!r}", hint=hint or "`trpc list URL` shows what there is")
    return names[name]


def parameter_text(parameter: ParameterInfo) -> str:
    """``a: float = 1.0``, as in a ``def``."""
    stars = parameter["kind"] if parameter["kind"] in {"*", "**"} else ""
    text = f"{stars}{parameter['name']}"
    if parameter["type"] != "Any":
        text += f": {parameter['type']}"
    if "default" in parameter:
        text += f" = {parameter['default']}" if ":" in text else f"={parameter['default']}"
    return text


def parameters_text(parameters: Sequence[ParameterInfo]) -> list[str]:
    """All of them, with the marks ``/`` and ``*`` between."""
    texts: list[str] = []
    for number, parameter in enumerate(parameters):
        before = parameters[number - 1]["kind"] if number else None
        if before == "positional" and parameter["kind"] != "positional":
            texts.append("/")
        if parameter["kind"] == "keyword" and before not in {"keyword", "*"}:
            texts.append("*")
        texts.append(parameter_text(parameter))
    if parameters and parameters[-1]["kind"] == "positional":
        texts.append("/")
    return texts


def signature_text(name: str, method: MethodInfo) -> str:
    """``Calculator.add(a: float, b: float) -> float``, in one line and harmless."""
    return one_line(f"{name}({', '.join(parameters_text(method['parameters']))}) -> {method['returns']}")
