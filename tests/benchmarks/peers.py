"""The environment that the peers run in: made under ``build/``, from the versions in ``peers.txt``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .child import ROOT

ENVIRONMENT = ROOT / "build" / "venv-peers"
REQUIREMENTS = Path(__file__).parent / "peers.txt"
INSTALL_PATIENCE = 600.0


def prepare() -> tuple[str, dict[str, str]]:
    """Makes or completes the environment.

    Returns:
        its Python, and for each requirement that could not be installed the reason. Each is installed by itself, so
        that one for which there is no build here does not keep the others away.
    """
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, timeout=INSTALL_PATIENCE)
    failures = {}
    for requirement in _requirements():
        print(f"peers: {requirement}", file=sys.stderr)
        failure = _install(str(python), requirement)
        if failure is not None:
            failures[requirement] = failure
    return str(python), failures


def _requirements() -> list[str]:
    if not REQUIREMENTS.exists():
        return []
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _install(python: str, requirement: str) -> str | None:
    """None, or why it could not be done."""
    # One line of peers.txt can be several distributions that belong together.
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirement.split()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"not installed after {INSTALL_PATIENCE:.0f} s"
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    return errors[-1][:300] if errors else f"pip ended with {done.returncode}"
