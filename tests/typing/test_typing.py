"""mypy and pyright, both strict, on a program that uses the built wheel from outside the package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("use_of_proxies.py")

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (Path(sys.executable).with_name("mypy").exists() and Path(sys.executable).with_name("pyright").exists()),
        reason="needs mypy and pyright: pip install -e '.[dev]'",
    ),
]


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program, and a virtual environment in which the built wheel is installed."""
    folder = tmp_path_factory.mktemp("outside")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", cwd=ROOT)
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    run(folder / "venv/bin/python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    shutil.copy(PROGRAM, folder)
    settings = {
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
        "enableTypeIgnoreComments": False,
        "include": [PROGRAM.name],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    return folder


def test_mypy_strict_accepts_and_refuses_the_right_lines(outside: Path) -> None:
    python = outside / "venv/bin/python"
    out = run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, PROGRAM.name, cwd=outside)
    assert "Success" in out


def test_pyright_strict_accepts_and_refuses_the_right_lines(outside: Path) -> None:
    python = outside / "venv/bin/python"
    out = run(sys.executable, "-m", "pyright", "--pythonpath", python, cwd=outside)
    assert "0 errors, 0 warnings" in out


def test_the_check_sees_what_it_should(outside: Path) -> None:
    """Without the comments, each of the wrong lines is an error, and no other line is."""
    lines = PROGRAM.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if "# type: ignore[" in line}
    assert len(wrong) > 45
    bare = outside / "bare"
    bare.mkdir()
    (bare / PROGRAM.name).write_text("\n".join(line.split("  # type: ignore[")[0] for line in lines))
    python = outside / "venv/bin/python"
    out = run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, PROGRAM.name, cwd=bare, code=1)
    assert {int(line.split(":")[1]) for line in out.splitlines() if ": error:" in line} == wrong


def test_mypy_strict_accepts_the_examples_of_authentication(outside: Path) -> None:
    page = (ROOT / "docs" / "authentication.md").read_text()
    functions = re.findall(r"^def \w.*?(?=^\S)", page, re.MULTILINE | re.DOTALL)
    assert len(functions) == 4
    files = []
    for number, function in enumerate(functions):
        files.append(f"example_{number}.py")
        head = "import os\n\nimport trpc\n\nTOKENS: dict[str, str] = {}\nADMINS: set[str] = set()\n\n"
        (outside / files[-1]).write_text(head + function)
    python = outside / "venv/bin/python"
    out = run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, *files, cwd=outside)
    assert "Success" in out


def test_the_wheel_has_the_marker_and_runs(outside: Path) -> None:
    code = "import trpc, importlib.resources as r; assert (r.files(trpc) / 'py.typed').is_file(); print(trpc.__file__)"
    out = run(outside / "venv/bin/python", "-W", "error", "-c", code, cwd=outside)
    assert str(outside) in out


def test_without_the_extra_the_program_says_what_it_needs(outside: Path) -> None:
    """In the environment that has the built wheel, and none of the extras."""
    for command in ([outside / "venv/bin/trpc"], [outside / "venv/bin/python", "-m", "trpc"]):
        done = subprocess.run([*command, "list"], capture_output=True, text=True, check=False, timeout=60)
        expected = "trpc: the command line needs the extra: pip install 'trio-trpc[cli]'\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    run(outside / "venv/bin/python", "-c", "import trpc.testing", cwd=outside)
