"""The demo: what it prints, and that its model finds what it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def output():
    command = [sys.executable, str(ROOT / "examples" / "semantic_search.py"), "--rounds", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def figure(output: str, label: str) -> float:
    return float(re.search(rf"^{label}\s+([0-9.e+-]+)", output, re.MULTILINE).group(1))


def test_one_graph_and_no_break(output):
    assert figure(output, "graphs") == 1
    assert figure(output, "breaks") == 0


def test_difference_from_eager(output):
    """The results are unit vectors; 1e-5 of the largest component is below 1e-5."""
    assert figure(output, "largest difference from eager") < 1e-5


def test_best_matches(output):
    blocks = dict(block.split("\n", 1) for block in output.split("\n? ")[1:])
    assert "crackling crust" in blocks["How do I make bread with a crispy crust?"].splitlines()[0]
    assert "judge" in blocks["a legal dispute before a judge"].splitlines()[0]


def test_times_are_reported(output):
    assert figure(output, "first result, framejit") > 0
    assert figure(output, "steady state, framejit") > 0


def test_sentences_are_distinct():
    lines = (ROOT / "examples" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    sentences = [line for line in lines if line and not line.startswith("#")]
    assert len(sentences) == 300 and len(set(sentences)) == 300
