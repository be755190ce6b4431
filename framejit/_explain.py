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
class Step:
    """One step of a compiled graph, with the nanoseconds that it takes. kind: "kernel", "library call", or "memory":
    a result's allocation, a view. name: of the kernel, as profilers show it, or of the operator."""

    kind: str
    name: str
    nanoseconds: float


@dataclass
class Budget:
    """Where the nanoseconds of a warm call go: the least of several runs, measured natively and beside the call.

    checks, guards: how many checks the guards make, and what all of them take.
    steps: of the graph, each timed alone. Empty where the backend does not tell them apart.
    graph: the whole graph. None where running it once more would write to something, or where there are no steps.
    results: building what the call returns of `outputs` tensors. None where `graph` is, or where the call has effects.
    """

    checks: int
    guards: float
    steps: list[Step]
    graph: float | None
    results: float | None
    outputs: int

    @property
    def per_guard(self) -> float | None:
        return _mean(self.guards, self.checks)

    @property
    def per_kernel(self) -> float | None:
        return self._per_step("kernel")

    @property
    def per_library_call(self) -> float | None:
        return self._per_step("library call")

    @property
    def per_output(self) -> float | None:
        return None if self.results is None else _mean(self.results, self.outputs)

    def _per_step(self, kind: str) -> float | None:
        times = [step.nanoseconds for step in self.steps if step.kind == kind]
        return _mean(sum(times), len(times))

    def lines(self) -> list[str]:
        rows = [("guard", self.guards, self.checks)]
        for kind in ("kernel", "library call", "memory"):
            times = [step.nanoseconds for step in self.steps if step.kind == kind]
            rows.append((kind.replace("memory", "allocation or view"), sum(times), len(times)))
        if self.results is not None:
            rows.append(("output", self.results, self.outputs))
        lines = [f"{total / count:.1f} ns per {name}: {total:.0f} of {count}" for name, total, count in rows if count]
        if self.graph is not None:
            lines.append(f"{self.graph:.0f} ns for the whole graph")
        return lines + [f"  {step.nanoseconds:.0f} ns {step.kind} {step.name}" for step in self.steps]


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


@dataclass
class GraphReport:
    """One trace: from the start of the function or, for a segment, from behind a break, to a break or the end.

    function: its qualified name.
    is_inner: nobody decorated it; it was called behind a break of the function that is explained.
    captured: False where nothing of it is compiled: it runs in the interpreter.
    has_backward: gradients are computed by compiled graphs, and not by torch's autograd over the torch-level graph.
    graph_break: why it ends before the end of the function; None where it does not.
    budget: where the time of a warm call with the same arguments goes; None for segments and what was called behind a
        break, whose arguments explain does not have, and where the call changed what is guarded.
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
    budget: Budget | None
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
    within = ("kernels",)  # a part of the backend's time
    total = sum(microseconds for stage, microseconds in trace.compile_times if stage not in within) / 1000
    stages = ", ".join(f"{stage} {microseconds / 1000:.2f}" for stage, microseconds in trace.compile_times)
    lines.append(f"  compiled in {total:.2f} ms ({stages})")
    if trace.budget is not None:
        lines.append("  a warm call:")
        lines += [f"    {line}" for line in trace.budget.lines()]
    return lines


def _budget(row: dict[str, Any] | None, checks: int) -> Budget | None:
    if row is None:
        return None
    steps = [Step(*step) for step in row["steps"]]
    return Budget(checks, row["guards"], steps, row["graph"], row["results"], row["result_count"])


def reports(extension: ModuleType, entry: Any, budgets: list[Any] | None = None) -> list[GraphReport]:
    """The traces that an entry holds, most recently used first, with their budgets (extension.budgets) where given."""

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
                budget=_budget(budgets[index] if budgets else None, row["warm_checks"]),
                _export=export_at(index),
            )
        )
    return rows
