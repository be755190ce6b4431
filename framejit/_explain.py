"""framejit.explain: what became of one call of a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass
class Break:
    """Why a frame could not be captured; `file`, `line` and `function` say where, `stack` how it got there."""

    code: str
    message: str
    detail: str
    hint: str
    text: str
    stack: list[tuple[str, int, str]]

    @property
    def file(self) -> str:
        return self.stack[-1][0] if self.stack else ""

    @property
    def line(self) -> int:
        return self.stack[-1][1] if self.stack else 0

    @property
    def function(self) -> str:
        return self.stack[-1][2] if self.stack else ""

    def __str__(self) -> str:
        return self.text


@dataclass
class GraphReport:
    """One trace: from the start of the function or, for a segment, from behind a break, to a break or the end.

    function: its qualified name.
    is_inner: nobody decorated it; it was called behind a break of the function that is explained.
    captured: False where nothing of it is compiled: it runs in the interpreter.
    has_backward: gradients are computed by compiled graphs, and not by torch's autograd over the torch-level graph.
    graph_break: why it ends before the end of the function; None where it does not.
    """

    function: str
    is_inner: bool
    captured: bool
    is_segment: bool
    graph_break: Break | None
    fallback: str
    backend: str
    has_backward: bool
    description: str
    aten: str
    lowered: str
    guards: list[str]
    warm_checks: int
    compile_times: list[tuple[str, float]]
    statistics: dict[str, int]
    _export: Callable[[bool], Any] = field(repr=False)

    @property
    def graph_module(self) -> Any:
        """The torch-level torch.fx.GraphModule."""
        return self._export(False)

    @property
    def aten_graph_module(self) -> Any:
        """The ATen-level torch.fx.GraphModule, as recorded."""
        return self._export(True)


@dataclass
class Explanation:
    """Graphs, breaks, guards and compile times of one call, and what the call returned."""

    name: str
    result: Any
    traces: list[GraphReport]

    @property
    def graphs(self) -> list[GraphReport]:
        """What is compiled. A piece of the function in which no operator runs is none."""

        def is_graph(trace: GraphReport) -> bool:
            whole = trace.graph_break is None and not trace.is_segment and not trace.is_inner
            return whole or (trace.captured and trace.statistics["ATen nodes"] > 0)

        return [trace for trace in self.traces if is_graph(trace)]

    @property
    def breaks(self) -> list[Break]:
        """The places where graphs end, each once however many traces end there."""
        found = {(trace.graph_break.text, *trace.graph_break.stack): trace.graph_break
                 for trace in self.traces if trace.graph_break is not None}  # fmt: skip
        return list(found.values())

    @property
    def graph_count(self) -> int:
        return len(self.graphs)

    @property
    def break_count(self) -> int:
        return len(self.breaks)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.graph_count} graph(s), {self.break_count} break(s)"]
        for trace in self.traces:
            lines += _trace_lines(trace)
        return "\n".join(lines)


def _trace_lines(trace: GraphReport) -> list[str]:
    lines = []
    if trace.graph_break is not None:
        lines += [trace.graph_break.text]
        lines += [f"    {file}:{line} in {function}" for file, line, function in trace.graph_break.stack]
    if trace.graph_break is None or trace.captured:
        counts = ", ".join(f"{value} {name}" for name, value in trace.statistics.items())
        where = "graph behind a break" if trace.is_segment else "graph"
        where += f" of {trace.function}, called behind a break," if trace.is_inner else ""
        lines += [f"{where} for backend '{trace.backend}': {counts}"]
        if trace.fallback:
            lines.append(f"  runs in the interpreter: {trace.fallback}")
        lines += [f"  {line}" for line in (trace.lowered or trace.aten).splitlines()]
        lines += [f"  {line}" for line in trace.description.splitlines()]
    lines.append(f"  {len(trace.guards)} guards, {trace.warm_checks} checks on a warm call:")
    lines += [f"    {guard}" for guard in trace.guards]
    total = sum(microseconds for _, microseconds in trace.compile_times) / 1000
    stages = ", ".join(f"{stage} {microseconds / 1000:.2f}" for stage, microseconds in trace.compile_times)
    lines.append(f"  compiled in {total:.2f} ms ({stages})")
    return lines


def reports(extension: ModuleType, entry: Any) -> list[GraphReport]:
    """The traces that an entry holds, most recently used first."""

    def export_at(index: int) -> Callable[[bool], Any]:
        return lambda aten: extension.graph_module(entry, index, aten)

    rows = []
    for index, row in enumerate(extension.traces(entry)):
        rows.append(
            GraphReport(
                function=row["function"],
                is_inner=row["is_inner"],
                captured=row["captured"],
                is_segment=row["is_segment"],
                graph_break=None if row["break"] is None else Break(**row["break"]),
                fallback=row["fallback"],
                backend=row["backend"],
                has_backward=row["has_backward"],
                description=row["description"],
                aten=row["aten"],
                lowered=row["lowered"],
                guards=row["guards"].splitlines(),
                warm_checks=row["warm_checks"],
                compile_times=row["timings"],
                statistics={
                    "inputs": row["inputs"],
                    "ATen nodes": row["nodes"],
                    "nodes after the passes": row["lowered_nodes"],
                    "bytecodes": row["instructions"],
                    "frames": row["frames"],
                },
                _export=export_at(index),
            )
        )
    return rows
