"""Fuzzes the targets, one process each: ``python -m tests.fuzz --help``."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import seeds
from tests.fuzz.targets import CORPUS, DICTIONARY, FINDINGS, NAMES, ROOT, inputs_of, load

# An input that takes longer, or more memory, is a finding.
TIMEOUT = 10
MEMORY_MB = 1024


def main() -> int:
    options = _options()
    if options.replay:
        return _replay(options.target, options.replay)
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed: pip install -e '.[fuzz]' (Linux on x86-64, CPython 3.11 to 3.14)")
        return 2
    names = options.target or NAMES
    if options.merge:
        return max(_merge(name, options.corpus) for name in names)
    runs = [_Run(name, options) for name in names]
    # As many at a time as was asked for.
    for start in range(0, len(runs), options.jobs):
        together = runs[start : start + options.jobs]
        for run in together:
            run.start()
        for run in together:
            run.wait()
    print(f"\n{'target':<12}{'executions':>12}{'per second':>12}{'coverage':>10}{'inputs':>8}{'new':>6}  result")
    for run in runs:
        print(run.row())
    return int(any(run.failed for run in runs))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes trpc, guided by coverage.")
    parser.add_argument("--target", nargs="+", choices=NAMES, help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="of each target (default: 60)")
    parser.add_argument("--corpus", type=Path, default=ROOT / "build" / "fuzz", help="where new inputs are kept")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0: another one each time")
    parser.add_argument("--merge", action="store_true", help="take into the repository what new inputs cover, and end")
    parser.add_argument("--replay", type=Path, nargs="+", help="run these inputs of one --target, and end")
    options = parser.parse_args()
    if options.replay and len(options.target or ()) != 1:
        parser.error("--replay needs one --target")
    return options


def _replay(names: list[str], paths: list[Path]) -> int:
    """Without atheris, so that a debugger and a traceback show what there is."""
    target = load(names[0])
    for path in paths:
        print(path)
        target.run(path.read_bytes())
    return 0


def _child(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.child", name, *map(str, arguments)]


def _merge(name: str, corpus: Path) -> int:
    """The smallest of all known inputs that cover as much as all of them become the repository's corpus."""
    with tempfile.TemporaryDirectory() as folder:
        seeds.write(name, Path(folder, "seeds"))
        Path(folder, "merged").mkdir()
        known = [str(path) for path in (CORPUS / name, corpus / name, Path(folder, "seeds")) if path.is_dir()]
        command = _child(name, "-set_cover_merge=1", f"-timeout={TIMEOUT}", f"{folder}/merged", *known)
        result = subprocess.run(
            command,
            cwd=ROOT,
            # What the child leaves behind goes with the folder.
            env={**os.environ, "TMPDIR": folder},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if result.returncode or not any(Path(folder, "merged").iterdir()):
            print(result.stderr)
            return 1
        shutil.rmtree(CORPUS / name, ignore_errors=True)
        shutil.copytree(Path(folder, "merged"), CORPUS / name)
    print(f"{name}: {len(list((CORPUS / name).iterdir()))} inputs")
    return 0


class _Run:
    """The fuzzing of one target."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        self.failed = False
        self._options = options
        self._corpus: Path = options.corpus / name
        self._crashes = options.corpus / f"{name}-findings"
        self._log = options.corpus / f"{name}.log"

    def start(self) -> None:
        self._corpus.mkdir(parents=True, exist_ok=True)
        self._crashes.mkdir(exist_ok=True)
        if not (CORPUS / self.name).is_dir():
            seeds.write(self.name, self._corpus)
        self._before = len(list(self._corpus.iterdir()))
        # New inputs go to the first folder; the others are only read.
        folders = [self._corpus, *(path for path in (CORPUS / self.name, FINDINGS / self.name) if path.is_dir())]
        options = [
            f"-max_total_time={self._options.seconds}",
            f"-timeout={TIMEOUT}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-artifact_prefix={self._crashes}/",
            f"-dict={DICTIONARY}",
            f"-seed={self._options.seed}",
            "-print_final_stats=1",
        ]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(_child(self.name, *options, *folders), cwd=ROOT, stdout=log, stderr=log)

    def wait(self) -> None:
        self.failed = self._process.wait() != 0
        self._text = self._log.read_text(errors="replace")
        if self.failed:
            print(self._text[-5000:])

    def row(self) -> str:
        executions = self._last(r"stat::number_of_executed_units:\s*(\d+)")
        rate = self._last(r"stat::average_exec_per_sec:\s*(\d+)")
        coverage = self._last(r"cov: (\d+)")
        result = "no finding"
        if self.failed:
            found = self._last(r"Test unit written to (\S+)")
            result = f"FINDING: {found}" if found else f"it does not run, see {self._log}"
        inputs = len(inputs_of(self.name))
        new = len(list(self._corpus.iterdir())) - self._before
        return f"{self.name:<12}{executions:>12}{rate:>12}{coverage:>10}{inputs:>8}{new:>6}  {result}"

    def _last(self, pattern: str) -> str:
        found = re.findall(pattern, self._text)
        return found[-1] if found else ""


if __name__ == "__main__":
    sys.exit(main())
