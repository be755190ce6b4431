"""FRAMEJIT_DUMP_DIR and FRAMEJIT_PERF_MAP: the files of a compilation, and the names that profilers find."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, torch, framejit

@framejit.compile
def f(x, w):
    hidden = torch.relu(x @ w) + 1
    return torch.softmax(hidden @ w, dim=-1)

with torch.no_grad():
    f(torch.ones(16, 16), torch.ones(16, 16))
print(os.getpid())
"""


def run_program(program: str = PROGRAM, *arguments: str, **environment: str) -> tuple[str, str]:
    """(what was written to stdout, which is the process id for PROGRAM; to stderr)"""
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip(), result.stderr


@pytest.fixture
def folder(tmp_path):
    """The one folder of the program's one compilation."""
    parent = tmp_path / "made" / "here"
    process, _ = run_program(FRAMEJIT_DUMP_DIR=str(parent))
    assert [child.name for child in parent.iterdir()] == [f"{process}-0"]
    return parent / f"{process}-0"


def test_files_of_a_compilation(folder):
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["graph.txt", "kernel-0.asm", "kernel-0.loops", "kernel-1.asm", "kernel-1.loops", "plan.txt"]
    graph = (folder / "graph.txt").read_text()
    assert "aten::mm" in graph and "aten::relu" in graph and "aten::_softmax" in graph


def test_assembly_is_annotated_with_nodes(folder):
    assembly = (folder / "kernel-1.asm").read_text()
    lines = assembly.splitlines()
    assert lines[0].startswith("; framejit_") and lines[1].startswith("kernel [")
    exponential = next(i for i, line in enumerate(lines) if line.startswith("; v") and "= exp_nonpositive v" in line)
    assert "= load b0[" in assembly and "= reduce_max v" in assembly
    following = lines[exponential + 1 : exponential + 40]
    assert any("vfmadd" in line for line in following), "the polynomial follows the node"


def test_loops_parse_as_what_fusion_made(folder):
    loops = (folder / "kernel-0.loops").read_text()
    assert loops.startswith("kernel [16, 16] {") and "= max" in loops and loops.rstrip().endswith("}")


def test_plan_says_where_memory_lies(folder):
    plan = (folder / "plan.txt").read_text()
    assert "call own aten::mm" in plan and "arena: " in plan
    assert "%2 float32[16, 16] @2: arena [0, 1024), steps 0 to that of unit 1" in plan
    assert "in the place of %" in plan, "relu and addition overwrite the product"


def test_a_folder_that_cannot_be_made_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("")
    _, text = run_program(FRAMEJIT_DUMP_DIR=str(tmp_path / "file"))
    assert "FRAMEJIT_DUMP_DIR: cannot make" in text


def test_profilers_find_the_kernels():
    process, _ = run_program(FRAMEJIT_PERF_MAP="1")
    path = Path(f"/tmp/perf-{process}.map")
    entries = [line.split() for line in path.read_text().splitlines()]
    path.unlink()
    names = [name for _, _, name in entries]
    assert len(entries) == 3 and all(int(start, 16) and int(size, 16) for start, size, _ in entries)
    assert names[0].startswith("framejit_max_add_") and names[1].startswith("framejit_reduce_max_sub_exp_")
    assert names[2] == "framejit_product_columns_8x16"


LAYERS = """
import os, sys, torch, transformers, framejit

sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100}
config = transformers.BertConfig(num_hidden_layers=int(sys.argv[1]), **sizes)
model = transformers.BertModel(config).eval()
with torch.no_grad():
    text = framejit.explain(model)(input_ids=torch.ones(2, 16, dtype=torch.int64)).traces[0].description
print(os.getpid(), sum(line.startswith("kernel ") for line in text.splitlines()))
"""


def test_repeated_layers_emit_each_kernel_once():
    kernels, emitted = [], []
    for layers in (2, 5):
        process, steps = run_program(LAYERS, str(layers), FRAMEJIT_PERF_MAP="1")[0].split()
        path = Path(f"/tmp/perf-{process}.map")
        names = [line.split()[2] for line in path.read_text().splitlines()]
        path.unlink()
        assert len(set(names)) == len(names), "nothing is emitted twice"
        kernels.append(int(steps))
        emitted.append(sorted(names))
    assert kernels[1] > kernels[0] and emitted[1] == emitted[0]


def test_nothing_is_written_unasked(tmp_path):
    process, _ = run_program(FRAMEJIT_DUMP_DIR="", FRAMEJIT_PERF_MAP="0")
    assert not Path(f"/tmp/perf-{process}.map").exists()
