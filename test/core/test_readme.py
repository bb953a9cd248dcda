"""The README's Python runs as it stands."""

import re
from pathlib import Path

import numpy as np

from amma_core.video import VideoWriter

README = Path(__file__).parents[2] / "README.md"


def test_the_python_example_runs(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with VideoWriter("street.mp4", (64, 48), 30) as writer:
        for _ in range(9):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    names = {}
    exec(example, names)
    assert [frame.number for frame in names["step"].frames] == [9]


def test_every_file_that_it_names_exists():
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith("http") or (README.parent / target).exists(), target
