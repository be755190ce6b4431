#include "frame_eval/budget.h"

#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <exception>
#include <limits>

#include "base/least_time.h"
#include "graph/generator_state.h"

namespace framejit {
namespace {

constexpr double kPatience = 30e6;  // nanoseconds, of each part
constexpr int kMostRounds = 2000;

// Calls round() until enough time has passed, at least once.
template <typename Round>
void Repeat(Round round) {
  const auto start = LeastTime::Clock::now();
  for (int i = 0; i < kMostRounds; ++i) {
    round();
    if (LeastTime::NanosecondsSince(start) > kPatience) return;
  }
}

// The check and the release of what it fetched. Several at once, since the clock takes as long as a few guards.
double TimeGuards(GuardProgram& guards, const CallState& state) {
  constexpr int kTogether = 16;
  LeastTime least;
  Repeat([&] {
    const LeastTime::Scope scope(least);
    for (int i = 0; i < kTogether; ++i) {
      if (guards.Check(state) == GuardResult::kPass) guards.Release();
    }
  });
  return least.nanoseconds() / kTogether;
}

// What a run of the graph reads, owned.
struct Fetched {
  Fetched(const Trace& trace, absl::Span<PyObject* const> objects) {
    for (PyObject* object : objects) owned.push_back(PyRef::Borrow(object));
    for (size_t i = 0; i < trace.input_count; ++i) inputs.push_back(THPVariable_Unpack(objects[i]));
    sources.assign(objects.begin() + static_cast<std::ptrdiff_t>(trace.input_count), objects.end());
  }
  std::vector<PyRef> owned;
  std::vector<at::Tensor> inputs;
  std::vector<PyObject*> sources;
};

bool WritesNothing(const Trace& trace, const SizeVariant* variant) {
  const Graph& lowered = variant != nullptr ? variant->lowered : trace.report.lowered;
  const std::vector<size_t>& written = variant != nullptr ? variant->written_inputs : trace.written_inputs;
  return trace.versions.empty() && lowered.mutations.empty() && written.empty() && trace.checkpoint_reads == nullptr;
}

void TimeRuns(const Trace& trace, CompiledGraph& graph, const Fetched& fetched, absl::Span<const PyRef> symbols,
              Budget& budget) {
  LeastTime run, build;
  std::vector<at::Tensor> outputs;
  const bool builds = !trace.exit->has_effects();
  Repeat([&] {
    {
      const LeastTime::Scope scope(run);
      graph.Run(fetched.inputs, outputs);
    }
    budget.result_count = outputs.size();
    if (!builds) return;
    const LeastTime::Scope scope(build);
    PyRef::Steal(trace.exit->Run(fetched.sources, outputs, symbols));
  });
  budget.graph = run.nanoseconds();
  if (builds) budget.results = build.nanoseconds();
}

}  // namespace

std::optional<Budget> MeasureBudget(Trace& trace, const CallState& state) {
  if (trace.graph == nullptr || trace.guards->Check(state) != GuardResult::kPass) return PyErr_Clear(), std::nullopt;
  Trace::Choice choice;
  if (!trace.CoversSizes(state, choice)) return PyErr_Clear(), std::nullopt;
  const Fetched fetched(trace, trace.guards->Fetched());
  trace.guards->Release();
  Budget budget;
  budget.guards = TimeGuards(*trace.guards, state);
  CompiledGraph& graph = choice.variant != nullptr ? *choice.variant->graph : *trace.graph;
  // What takes numbers beside tensors, or generators of its own, is told by its guards alone.
  const bool plain = !trace.own_generators && (choice.variant == nullptr || choice.variant->numbers.empty());
  std::optional<DefaultGeneratorStates> generator;
  if (!trace.random.empty()) generator = DefaultGeneratorStates::Take(trace.random);
  try {
    if (plain) budget.steps = graph.TimeSteps(fetched.inputs, kPatience);
    if (!budget.steps.empty() && WritesNothing(trace, choice.variant.get()))
      TimeRuns(trace, graph, fetched, choice.symbols, budget);
  } catch (const std::exception&) {
    budget.steps.clear();  // the graph raises for these inputs: the interpreter runs the call
  }
  if (generator.has_value()) generator->Restore();
  if (PyErr_Occurred() != nullptr) PyErr_Clear();
  return budget;
}

}  // namespace framejit
