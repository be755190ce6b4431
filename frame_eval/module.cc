// The extension module framejit._C: a thin binding of the C++ components for the Python package. No compiler logic.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/backend.h"
#include "backends/cpu/cpu_target.h"
#include "backends/cuda/codegen/toolchain.h"
#include "backends/cuda/cuda_target.h"
#include "backends/native/emitter_rules.h"
#include "backends/plugin/plugin.h"
#include "base/log.h"
#include "base/switches.h"
#include "frame_eval/argument_binder.h"
#include "frame_eval/armed.h"
#include "frame_eval/budget.h"
#include "frame_eval/entry.h"
#include "frame_eval/export_program.h"
#include "frame_eval/guards/program_torch_state.h"
#include "frame_eval/internal_errors.h"
#include "frame_eval/optimizer_steps.h"
#include "frame_eval/replay_check.h"
#include "frame_eval/shadow_check.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/recorder.h"
#include "graph/fx_export.h"
#include "graph/print.h"

namespace framejit {
namespace {

namespace py = pybind11;

// --- logging --------------------------------------------------------------------------------------------------------

PyObject* python_sink = nullptr;  // sink(channel, message); guarded by the GIL

// Messages may come from any thread, with an exception set, and in the middle of a recording, which must not record the
// logging module.
void ForwardToPython(std::string_view channel, std::string_view message) {
  if (!Py_IsInitialized()) return;
  const py::gil_scoped_acquire gil;  // the references below go before it does
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  bool recording = IsRecording();
  bool armed = recording && RecordingHook::Arm(false);
  PyRef text = PyRef::Steal(PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "replace"));
  PyRef name = PyRef::Steal(PyUnicode_DecodeUTF8(channel.data(), static_cast<Py_ssize_t>(channel.size()), "replace"));
  PyRef result;
  if (text && name) result = PyRef::Steal(PyObject_CallFunctionObjArgs(python_sink, name.get(), text.get(), nullptr));
  if (!result) PyErr_WriteUnraisable(python_sink);
  if (recording) RecordingHook::Arm(armed);
  result = PyRef();
  PyErr_Restore(type, value, traceback);
}

void InstallLogSink(const py::object& sink) {
  Py_XSETREF(python_sink, Py_NewRef(sink.ptr()));
  SetLogSink(&ForwardToPython);
}

void ThrowIfError(const absl::Status& status) {
  if (!status.ok()) throw py::value_error(std::string(status.message()));
}

py::object StealOrThrow(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

// --- entries --------------------------------------------------------------------------------------------------------

CompileOptions MakeOptions(const py::object& backend, bool fullgraph, int recompile_limit, const py::object& dynamic,
                           bool data_dependent, GraphModes modes, bool freeze) {
  CompileOptions options;
  options.modes = modes;
  options.data_dependent = data_dependent;
  options.freeze = freeze;
  if (!dynamic.is_none()) options.dynamic = dynamic.cast<bool>() ? DynamicMode::kAlways : DynamicMode::kNever;
  options.fullgraph = fullgraph;
  options.recompile_limit = recompile_limit;
  if (py::isinstance<py::str>(backend)) {
    options.backend_name = backend.cast<std::string>();
    if (options.backend_name != "auto") {
      absl::StatusOr<std::shared_ptr<Backend>> found = FindBackend(options.backend_name);
      ThrowIfError(found.status());
      options.backend = *std::move(found);
    }
  } else {
    options.backend_name = py::str(py::getattr(backend, "__name__", py::str("<callable>"))).cast<std::string>();
    options.backend = MakePythonBackend(options.backend_name, PyRef::Borrow(backend.ptr()));
  }
  return options;
}

py::object MakeEntry(const py::object& function, const py::object& backend, bool fullgraph, int recompile_limit,
                     const py::object& dynamic, bool data_dependent, bool strict, bool freeze, bool reduce_overhead,
                     bool autotune) {
  const GraphModes modes{.strict = strict, .reduce_overhead = reduce_overhead, .autotune = autotune};
  return StealOrThrow(NewEntry(
      function.ptr(), MakeOptions(backend, fullgraph, recompile_limit, dynamic, data_dependent, modes, freeze)));
}

// --- regions --------------------------------------------------------------------------------------------------------

// Handles of regions are their addresses; 0: none.
size_t MakeRegion(const py::object& backend, int recompile_limit, bool strict) {
  return reinterpret_cast<size_t>(
      new InnerEntries(MakeOptions(backend, false, recompile_limit, py::none(), false, {.strict = strict}, false)));
}

size_t EnterRegion(size_t region) {
  return reinterpret_cast<size_t>(SetRegion(reinterpret_cast<InnerEntries*>(region)));
}

void SetRules(const std::vector<std::pair<std::string, bool>>& rows) {
  std::vector<PathRule> rules;
  for (const auto& [prefix, captured] : rows) rules.push_back({prefix, captured});
  SetPathRules(std::move(rules));
}

// Rows: code, function, name of the native form, types.
void SetOptimizers(const std::vector<std::tuple<py::object, py::object, std::string, std::vector<py::object>>>& rows,
                   const std::vector<py::object>& hooks) {
  auto borrow = [](const py::object& object) { return PyRef::Borrow(object.ptr()); };
  std::vector<OptimizerMethod> methods;
  for (const auto& [code, function, name, types] : rows) {
    const std::optional<OptimizerMethodKind> kind = OptimizerMethodNamed(name);
    if (!kind.has_value()) throw py::value_error("set_optimizer_methods: methods: no native form is called " + name);
    OptimizerMethod& method = methods.emplace_back(OptimizerMethod{borrow(code), borrow(function), *kind, {}});
    for (const py::object& type : types) method.types.push_back(borrow(type));
  }
  std::vector<PyRef> containers;
  for (const py::object& container : hooks) containers.push_back(borrow(container));
  SetOptimizerMethods(std::move(methods), std::move(containers));
}

std::shared_ptr<Trace> TraceAt(const py::object& entry, size_t index) {
  if (!IsEntry(entry.ptr())) throw py::type_error("expected a framejit._C.Entry");
  std::vector<std::shared_ptr<Trace>> traces = EntryTraces(entry.ptr());
  if (index >= traces.size()) throw py::index_error("no such trace");
  return traces[index];
}

py::object BreakDict(const Break& graph_break) {
  py::dict row;
  row["code"] = std::string(BreakCodeName(graph_break.code));
  row["message"] = std::string(BreakMessage(graph_break.code));
  row["hint"] = std::string(BreakHint(graph_break.code));
  row["detail"] = graph_break.detail;
  row["text"] = graph_break.ToString();
  py::list stack;
  for (const SourceLocation& frame : graph_break.stack)
    stack.append(py::make_tuple(frame.file, frame.line, frame.function));
  row["stack"] = stack;
  return row;
}

py::list TimingRows(const Timings& timings) {
  py::list rows;
  for (const auto& [stage, microseconds] : timings.rows()) rows.append(py::make_tuple(stage, microseconds));
  return rows;
}

py::dict TraceDict(const Trace& trace) {
  const TraceReport& report = trace.report;
  PrintOptions options;
  options.max_constant_elements = 16;
  py::dict row;
  row["break"] = report.graph_break.has_value() ? BreakDict(*report.graph_break) : py::none();
  row["function"] = report.function;
  row["is_inner"] = report.is_inner;
  row["is_segment"] = report.is_segment;
  row["fallback"] = report.fallback_reason;
  row["backend"] = report.backend;
  row["captured"] = trace.graph != nullptr;
  row["has_backward"] = report.has_backward;
  row["description"] = trace.graph == nullptr ? "" : trace.graph->Describe();
  row["guards"] = trace.guards->ToString();
  row["warm_checks"] = trace.guards->WarmCheckCount();
  row["size_variants"] = trace.variants == nullptr ? 0 : trace.variants->size();
  row["demands"] =
      trace.variants == nullptr ? "" : PrintDemands(trace.variants->program(), trace.variants->value_names());
  row["aten"] = trace.graph == nullptr ? "" : PrintGraph(report.recorded, options);
  row["lowered"] =
      report.lowered.nodes.empty() && report.lowered.outputs.empty() ? "" : PrintGraph(report.lowered, options);
  row["nodes"] = report.recorded.nodes.size();
  row["lowered_nodes"] = report.lowered.nodes.size();
  row["inputs"] = report.recorded.inputs.size();
  row["hits"] = trace.hits;
  row["instructions"] = report.stats.instructions;
  row["frames"] = report.stats.frames;
  row["calls"] = report.stats.calls;
  row["timings"] = TimingRows(report.timings);
  row["sizes_made"] = trace.variants == nullptr ? 0 : trace.variants->made();
  row["size_timings"] = trace.variants == nullptr ? py::list() : TimingRows(trace.variants->timings());
  return row;
}

py::dict KernelCode(const std::string& device) {
  const absl::StatusOr<const native::Target*> target =
      device == "cpu" ? &cpu::CpuTarget() : cuda::CudaTarget(c10::Device(device));
  if (!target.ok()) throw std::runtime_error(std::string(target.status().message()));
  const native::CodeCount count = (*target)->code_count();
  py::dict row;
  row["made"] = count.made;
  row["held"] = count.held;
  row["held_bytes"] = count.held_bytes;
  return row;
}

py::list Traces(const py::object& entry) {
  if (!IsEntry(entry.ptr())) throw py::type_error("expected a framejit._C.Entry");
  py::list rows;
  for (const auto& trace : EntryTraces(entry.ptr())) rows.append(TraceDict(*trace));
  return rows;
}

py::object GraphModule(const py::object& entry, size_t index, bool aten) {
  std::shared_ptr<Trace> trace = TraceAt(entry, index);
  const TraceReport& report = trace->report;
  if (trace->graph == nullptr && report.graph_break.has_value())
    throw py::value_error("this trace has no graph: " + report.graph_break->ToString());
  absl::StatusOr<PyRef> module =
      aten ? ExportAtenGraph(report.recorded) : ExportTorchGraph(report.torch_graph, report.recorded);
  if (!module.ok()) throw std::runtime_error(std::string(module.status().message()));
  return py::reinterpret_steal<py::object>(module->release());
}

// Binds a call of `function` as its interpreter would, and calls use(CallState). TypeError where it does not bind.
template <typename Use>
auto WithBoundCall(const char* caller, const py::object& function, const py::tuple& args, const py::dict& kwargs,
                   Use use) {
  std::vector<PyObject*> values;
  for (py::handle argument : args) values.push_back(argument.ptr());
  py::list names;
  for (auto [name, argument] : kwargs) {
    names.append(name);
    values.push_back(argument.ptr());
  }
  const py::tuple kwnames(names);
  BoundArguments bound;
  const ArgumentBinder binder(reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function.ptr())));
  if (!binder.Bind(reinterpret_cast<PyFunctionObject*>(function.ptr()), values.data(),
                   static_cast<Py_ssize_t>(args.size()), kwnames.empty() ? nullptr : kwnames.ptr(), bound))
    throw py::type_error(absl::StrCat(caller, ": these arguments do not fit the function's parameters"));
  return use(CallState{function.ptr(), bound.slots()});
}

const char* KindName(StepTime::Kind kind) {
  switch (kind) {
    case StepTime::Kind::kKernel:
      return "kernel";
    case StepTime::Kind::kLibraryCall:
      return "library call";
    case StepTime::Kind::kMemory:
      return "memory";
  }
  return "";
}

// By trace: what explain() shows of its budget in this call; None where there is none.
py::list Budgets(const py::object& entry, const py::tuple& args, const py::dict& kwargs) {
  if (!IsEntry(entry.ptr())) throw py::type_error("expected a framejit._C.Entry");
  const auto function = py::reinterpret_borrow<py::object>(EntryFunction(entry.ptr()));
  return WithBoundCall("explain", function, args, kwargs, [&](const CallState& state) {
    py::list rows;
    for (const auto& trace : EntryTraces(entry.ptr())) {
      // Segments and functions called behind a break are given other arguments.
      const bool whole = !trace->report.is_segment && !trace->report.is_inner;
      std::optional<Budget> budget = whole ? MeasureBudget(*trace, state) : std::nullopt;
      if (!budget.has_value()) {
        rows.append(py::none());
        continue;
      }
      py::dict row;
      row["guards"] = budget->guards;
      row["graph"] = budget->graph;
      row["results"] = budget->results;
      row["result_count"] = budget->result_count;
      py::list steps;
      for (const StepTime& step : budget->steps)
        steps.append(py::make_tuple(KindName(step.kind), step.name, step.nanoseconds));
      row["steps"] = steps;
      rows.append(row);
    }
    return rows;
  });
}

// `leaves`: callable -> name of the method of torch.Tensor that it is, or None.
py::object TraceProgram(const py::object& function, const py::tuple& args, const py::dict& kwargs,
                        const py::dict& leaves, const py::object& make_builder, const py::object& break_error) {
  if (!PyFunction_Check(function.ptr())) throw py::type_error("trace: function: expected a Python function");
  LeafCallables callables;
  for (auto [callable, name] : leaves) callables.emplace(callable.ptr(), name.is_none() ? nullptr : name.ptr());
  absl::StatusOr<PyRef> module = WithBoundCall("trace", function, args, kwargs, [&](const CallState& state) {
    return ExportProgram(state, callables, make_builder.ptr());
  });
  if (module.ok()) return py::reinterpret_steal<py::object>(module->release());
  const std::string text(module.status().message());
  PyErr_SetString(absl::IsFailedPrecondition(module.status()) ? break_error.ptr() : PyExc_RuntimeError, text.c_str());
  throw py::error_already_set();
}

py::list LogArtifacts() {
  py::list rows;
  for (int i = 0; i < static_cast<int>(LogArtifact::kCount); ++i) {
    auto artifact = static_cast<LogArtifact>(i);
    rows.append(py::make_tuple(std::string(LogArtifactName(artifact)), std::string(LogArtifactDescription(artifact))));
  }
  return rows;
}

// Every guard kind, effect kind and check of aliasing, as SwitchOff takes them.
std::vector<std::string> Switches() {
  return {
#define GUARD(kind, operands, cost, message) "guard:" #kind,
#include "frame_eval/guards/guards.def"
#undef GUARD
#define EFFECT(kind, description) "effect:" #kind,
#include "graph/capture/effects.def"
#undef EFFECT
      // Written inputs that share memory, an operator's operands that do, and where an input begins in its memory.
      "alias:WrittenInputs",
      "alias:Operands",
      "alias:StorageOffset",
  };
}

void SwitchOff(const std::vector<std::string>& names) {
  const std::vector<std::string> known = Switches();
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) == known.end()) throw py::value_error("no such switch: " + name);
  }
  SetSwitchedOff(names);
}

void RegisterPythonBackend(const std::string& name, const py::object& callable) {
  ThrowIfError(RegisterBackend(name, MakePythonBackend(name, PyRef::Borrow(callable.ptr()))));
}

}  // namespace
}  // namespace framejit

PYBIND11_MODULE(_C, module) {
  using namespace framejit;
  module.doc() = "The C++ half of framejit; use the functions of the package framejit.";
  module.attr("torch_version") = FRAMEJIT_TORCH_VERSION;
  module.attr("python_version") = absl::StrCat(PY_MAJOR_VERSION, ".", PY_MINOR_VERSION, ".", PY_MICRO_VERSION);
  if (!AddEntryType(module.ptr())) throw py::error_already_set();
  ThrowIfError(RegisterBuiltinBackends());

  module.def("make_entry", &MakeEntry, py::arg("function"), py::arg("backend"), py::arg("fullgraph"),
             py::arg("recompile_limit"), py::arg("dynamic"), py::arg("data_dependent"), py::arg("strict"),
             py::arg("freeze"), py::arg("reduce_overhead"), py::arg("autotune"));
  module.def("entry_function",
             [](const py::object& entry) { return py::reinterpret_borrow<py::object>(EntryFunction(entry.ptr())); });
  module.def("traces", &Traces, py::arg("entry"));
  module.def("kernel_code", &KernelCode,
             "What the code generator of the device has emitted so far, what of it is held, and that in bytes.",
             py::arg("device") = "cpu");
  module.def("budgets", &Budgets, py::arg("entry"), py::arg("args"), py::arg("kwargs"));
  module.def("graph_module", &GraphModule, py::arg("entry"), py::arg("index"), py::arg("aten"));
  module.def("trace_program", &TraceProgram, py::arg("function"), py::arg("args"), py::arg("kwargs"), py::arg("leaves"),
             py::arg("make_builder"), py::arg("break_error"));
  module.def("reset", [] {
    ResetAllEntries();
    ForgetBarren();
  });
  module.def("make_region", &MakeRegion, py::arg("backend"), py::arg("recompile_limit"), py::arg("strict"));
  module.def("set_region", &EnterRegion, py::arg("region"));
  module.def("set_path_rules", &SetRules, py::arg("rules"));
  module.def("set_optimizer_methods", &SetOptimizers, py::arg("methods"), py::arg("hooks"));
  module.def(
      "set_cuda_toolchain",
      [](std::vector<std::string> libraries, std::string cache_folder) {
        cuda::SetToolchainOptions({std::move(libraries), std::move(cache_folder)});
      },
      py::arg("nvrtc_libraries"), py::arg("cache_folder"));
  module.def("set_enabled", &SetEnabled);
  module.def("add_disable_depth", &AddDisableDepth);
  module.def("is_compiling", &IsRecording);
  module.def("set_check_error", [](const py::object& type) { SetCheckError(type.ptr()); });
  module.def("set_dynamic_shape_error", [](const py::object& type) { SetDynamicShapeError(type.ptr()); });
  module.def("internal_errors", &InternalErrors);
  module.def("set_replay_check", &SetReplayCheck);
  module.def("set_shadow_check", &SetShadowCheck, py::arg("every"));
  module.def("set_shadow_functions", [](const py::object& keep, const py::object& difference) {
    SetShadowFunctions(keep.ptr(), difference.ptr());
  });
  module.def("shadow_counts", [] { return std::make_pair(CountsOfShadows().checked, CountsOfShadows().left_out); });
  module.def(
      "exchange_autograd_modes",
      [](bool grad, bool inference, bool forward_grad, bool multithreading) {
        const AutogradModes before = AutogradModes::Current();
        AutogradModes{grad, inference, forward_grad, multithreading}.Set();
        return py::make_tuple(before.grad, before.inference, before.forward_grad, before.multithreading);
      },
      py::arg("grad"), py::arg("inference"), py::arg("forward_grad"), py::arg("multithreading"));
  // For the tests' tests alone: see base/switches.h.
  module.def("_switches", &Switches);
  module.def("_switch_off", &SwitchOff);
  module.def("set_graph_break_error", [](const py::object& type) { SetGraphBreakError(type.ptr()); });

  module.def("inexact_operators", &native::InexactOperators);
  module.def("list_backends", &ListBackends);
  module.def("register_backend", &RegisterPythonBackend);
  module.def("set_traced_symbols", [](const std::string& names) { SetTracedSymbols(names); });
  module.def("set_log", [](const std::string& names) { ThrowIfError(SetLogArtifacts(names)); });
  module.def("log_artifacts", &LogArtifacts);
  module.def("install_log_sink", &InstallLogSink);
}
