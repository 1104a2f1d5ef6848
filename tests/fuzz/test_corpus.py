"""The inputs that are kept, through each target, as tests; and a look whether the fuzzer itself runs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.fuzz import script, seeds
from tests.fuzz.choices import Choices
from tests.fuzz.targets import DICTIONARY, NAMES, ROOT, inputs_of, load

each_target = pytest.mark.parametrize("name", NAMES)


@each_target
def test_inputs_that_are_kept(name):
    run = load(name).run
    paths = inputs_of(name)
    assert paths
    for path in paths:
        try:
            run(path.read_bytes())
        except BaseException as exc:
            exc.add_note(f"python -m tests.fuzz --target {name} --replay {path}")
            raise


@each_target
def test_seeds(name, tmp_path):
    seeds.write(name, tmp_path)
    run = load(name).run
    for path in tmp_path.iterdir():
        run(path.read_bytes())


@each_target
def test_no_input_is_out_of_range(name):
    """Whatever the bytes are, they mean something: the empty ones, and those at the ends."""
    run = load(name).run
    for data in (b"", b"\0" * 50, b"\xff" * 50, bytes(range(256)), bytes(range(255, -1, -1))):
        run(data)


def test_a_script_of_frames_is_these_frames():
    for pieces in seeds.sessions():
        for piece in pieces:
            frames = [
                frame for frame in script.frames_in(piece) if frame.kind in script.KINDS and len(frame.body) < 190
            ]
            steps = script.decode(Choices(script.encode(frames)))
            assert [step.frame for step in steps] == frames[: script.MAX_STEPS]


@each_target
def test_the_fuzzer_runs(name, tmp_path):
    pytest.importorskip("atheris", reason="there is no atheris for this Python or this machine", exc_type=ImportError)
    seeds.write(name, tmp_path / "corpus")
    (tmp_path / "findings").mkdir()
    options = ["-max_total_time=3", "-timeout=20", f"-artifact_prefix={tmp_path}/findings/", f"-dict={DICTIONARY}"]
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.child", name, *options, tmp_path / "corpus"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=100,
    )
    found = [path.read_bytes().hex() for path in (tmp_path / "findings").iterdir()]
    assert not found, result.stderr[-5000:]
    assert result.returncode == 0, result.stderr[-5000:]
    # On a busy machine it may find nothing new in that time.
    assert re.search(r"cov: [1-9]\d", result.stderr), "it sees no coverage"
