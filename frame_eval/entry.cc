#include "frame_eval/entry.h"

#include <structmember.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "frame_eval/argument_binder.h"
#include "frame_eval/cpython/monitoring.h"
#include "frame_eval/cpython/recursion.h"
#include "frame_eval/cpython/shim.h"
#include "frame_eval/guards/torch_state.h"
#include "frame_eval/internal_errors.h"
#include "frame_eval/replay_check.h"
#include "frame_eval/resume_loop.h"
#include "frame_eval/shadow_check.h"
#include "graph/capture/recorder.h"
#include "graph/error_text.h"
#include "graph/print.h"

namespace framejit {
namespace {

// What an entry knows beyond its function; guarded by the GIL.
struct EntryState {
  explicit EntryState(CompileOptions entry_options, PyCodeObject* code)
      : options(std::move(entry_options)), binder(code), sizes(options.dynamic) {}
  CompileOptions options;
  ArgumentBinder binder;
  std::vector<std::shared_ptr<Trace>> traces;  // most recently used first
  int recordings = 0;
  bool is_segment = false;
  VaryingItems varying;  // of a segment
  SizeHistory sizes;
  int64_t shadow_calls = 0;
  int missed = 0;  // calls that no trace covered after the last recording
  bool warned = false;
  std::shared_ptr<ResumeTable> resumes = NewResumeTable();
  std::vector<std::pair<std::vector<PyObject*>, PyRef>> segments;  // of a root, in order of their making
  absl::flat_hash_map<std::vector<PyObject*>, size_t> segment_of;  // by functions: its place there
  std::unique_ptr<InnerEntries> inner;

  // What a segment is not tried any more after.
  static constexpr int kMaxMissed = 32;
  bool gave_up() const { return recordings >= options.recompile_limit && missed >= kMaxMissed; }
};

struct EntryObject {
  PyObject_HEAD vectorcallfunc vectorcall;
  PyObject* function;
  PyObject* dict;
  PyObject* weak_references;
  EntryState* state;
};

PyTypeObject* entry_type = nullptr;
PyObject* graph_break_error = nullptr;
PyObject* check_error = nullptr;
PyObject* dynamic_shape_error = nullptr;
std::atomic<bool> enabled{true};
thread_local int disable_depth = 0;

// Every live entry, for reset(). Guarded by the GIL; never destroyed.
absl::flat_hash_set<EntryObject*>& AllEntries() {
  static auto* entries = new absl::flat_hash_set<EntryObject*>;
  return *entries;
}

EntryObject* AsEntry(PyObject* object) { return reinterpret_cast<EntryObject*>(object); }
PyFunctionObject* FunctionOf(EntryObject* entry) { return reinterpret_cast<PyFunctionObject*>(entry->function); }

struct Call {
  EntryObject* entry;
  PyObject* const* args;
  size_t nargsf;
  PyObject* kwnames;

  PyObject* Native() const {
    PythonCallFromC scope;
    return scope.allowed() ? PyObject_Vectorcall(entry->function, args, nargsf, kwnames) : nullptr;
  }
};

EntryStep RunTrace(const CallState& call_state, Trace& trace, const Trace::Choice& choice) {
  ++trace.hits;
  EntryStep step;
  // A recording for one set of numbers does not come at every depth of a program that recurses; one for many does.
  if (trace.graph == nullptr || (trace.variants != nullptr && RecursionLimitIsNear())) {
    trace.guards->Release();
    return step;
  }
  PyObject* result = nullptr;
  const Trace::Outcome outcome = trace.Run(call_state, choice, &result);
  step.is_uncovered = outcome == Trace::Outcome::kUncovered;
  if (outcome != Trace::Outcome::kDone) return step;
  step.result = PyRef::Steal(result);
  step.kind = EntryStep::Kind::kReturned;
  if (!trace.resume || result == nullptr) return step;
  step.kind = EntryStep::Kind::kResume;
  step.function = trace.resume;
  return step;
}

// Traces that hold for one turn of a loop come before those that hold for all, so that each call takes the same ways.
size_t FirstOfKind(const EntryState& state, bool at_position) {
  if (at_position) return 0;
  auto first = std::find_if(state.traces.begin(), state.traces.end(),
                            [](const std::shared_ptr<Trace>& trace) { return !trace->at_position; });
  return static_cast<size_t>(first - state.traces.begin());
}

// The first trace whose guards hold, of those not tried yet; moved to the front of its kind.
std::shared_ptr<Trace> FindTrace(EntryState& state, const CallState& call_state, Trace::Choice& choice,
                                 absl::Span<const std::shared_ptr<Trace>> tried) {
  auto& traces = state.traces;
  for (size_t i = 0; i < traces.size(); ++i) {
    if (std::find(tried.begin(), tried.end(), traces[i]) != tried.end()) continue;
    GuardResult result = traces[i]->guards->Check(call_state);
    if (result == GuardResult::kError) PyErr_Clear();
    if (result != GuardResult::kPass) continue;
    std::shared_ptr<Trace> found = traces[i];
    if (!found->CoversSizes(call_state, choice)) {
      if (found->variants == nullptr) continue;
      if (found->variants->HasTooManyNumbers()) state.sizes.RefuseNumbers();
      if (found->variants->HasTooManyModules()) state.sizes.Refuse();
      continue;
    }
    // That may have run Python code: the traces may be others now.
    const auto place = std::find(traces.begin(), traces.end(), found);
    const auto first = traces.begin() + static_cast<std::ptrdiff_t>(FirstOfKind(state, found->at_position));
    if (place != traces.end() && place > first) std::rotate(first, place, place + 1);
    return found;
  }
  return nullptr;
}

std::string EntryName(EntryObject* entry) {
  const char* name = PyUnicode_AsUTF8(FunctionOf(entry)->func_qualname);
  if (name == nullptr) PyErr_Clear();
  return name == nullptr ? "<function>" : name;
}

void LogRecompile(EntryObject* entry, const CallState& call_state) {
  if (entry->state->traces.empty() || !LogEnabled(LogArtifact::k_recompiles)) return;
  std::string text = absl::StrCat("recording ", EntryName(entry), " again:");
  for (const auto& trace : entry->state->traces) {
    absl::StrAppend(&text, "\n  ", trace->ExplainMiss(call_state));
  }
  Log(LogArtifact::k_recompiles, text);
}

// Once per entry: from now on, calls that no trace covers run in the interpreter.
void WarnOfLimit(EntryObject* entry, const CallState& call_state) {
  if (std::exchange(entry->state->warned, true)) return;
  std::string reason = entry->state->traces.empty() ? "" : entry->state->traces[0]->ExplainMiss(call_state);
  std::string text = absl::StrCat(
      EntryName(entry), " was recorded ", entry->state->recordings,
      " times (recompile_limit); further calls that no recording covers run in the interpreter. The last miss: ",
      reason);
  if (!entry->state->options.is_inner)
    LogWarning(text);  // nobody asked for this one
  else if (LogEnabled(LogArtifact::k_recompiles))
    Log(LogArtifact::k_recompiles, text);
}

// A number or text that was another one in each recording would be so forever: the last recording that may be made does
// without guarding it. Under fullgraph=True nothing may run in the interpreter.
void GiveUpVaryingValues(EntryObject* entry) {
  EntryState& state = *entry->state;
  if (state.options.fullgraph) return;
  if (state.recordings == 1) state.varying.WatchSources(state.binder.Names());
  if (state.recordings + 1 != state.options.recompile_limit) return;
  std::vector<std::string> sources = state.varying.GiveUpSources();
  if (sources.empty()) return;
  std::string text = absl::StrCat(EntryName(entry), " was recorded ", state.recordings,
                                  " times, for another value each time of ", absl::StrJoin(sources, ", "),
                                  ". From now on the instructions that use it run in the interpreter; make it a "
                                  "tensor, or keep it out of the function.");
  if (!state.options.is_inner) {
    LogWarning(text);
  } else if (LogEnabled(LogArtifact::k_recompiles)) {
    Log(LogArtifact::k_recompiles, text);
  }
}

// Under fullgraph=True whatever keeps the frame from being one graph is raised.
EntryStep RaiseGraphBreak(const TraceReport& report) {
  std::string text = report.graph_break.has_value()
                         ? report.graph_break->ToString()
                         : absl::StrCat("the graph cannot be compiled: ", report.fallback_reason);
  PyErr_SetString(graph_break_error != nullptr ? graph_break_error : PyExc_RuntimeError, text.c_str());
  return EntryStep{.kind = EntryStep::Kind::kReturned, .result = {}, .function = {}};
}

// A break because the program itself raised is the program's business: it raises again, natively.
bool BreaksFullGraph(const EntryState& state, const Trace& trace) {
  if (!state.options.fullgraph || trace.graph != nullptr) return false;
  return !trace.report.graph_break.has_value() || trace.report.graph_break->code != BreakCode::kRaised;
}

// A function that nobody decorated and that runs no operator: the interpreter is the fastest.
bool IsIdle(const EntryState& state, const Trace& trace) {
  return state.options.is_inner && !state.is_segment && !trace.resume && trace.report.recorded.nodes.empty();
}

// Also in the log: the program may catch what is raised.
EntryStep RaiseCheckError(const absl::Status& status) {
  const std::string text(status.message());
  LogWarning(text);
  PyErr_SetString(check_error != nullptr ? check_error : PyExc_RuntimeError, text.c_str());
  CountInternalError();
  return EntryStep{.kind = EntryStep::Kind::kReturned, .result = {}, .function = {}};
}

EntryStep RaiseShadowError(EntryObject* entry, const Trace& trace, const std::string& what) {
  PrintOptions options;
  options.max_constant_elements = 16;
  return RaiseCheckError(absl::InternalError(
      absl::StrCat("FRAMEJIT_CHECK=shadow: internal error: a recording of ", EntryName(entry),
                   " does something else than the function in eager mode: ", what, "\n  Run by backend '",
                   trace.report.backend, "', recorded as:\n", PrintGraph(trace.report.recorded, options))));
}

// The function in eager mode first, whose writes are taken back; then the trace, as always.
EntryStep RunShadowed(EntryObject* entry, const CallState& call_state, Trace& trace, const Trace::Choice& choice) {
  absl::Span<PyObject* const> fetched = trace.guards->Fetched();
  std::vector<PyRef> inputs;
  for (size_t i = 0; i < trace.input_count; ++i) inputs.push_back(PyRef::Borrow(fetched[i]));
  trace.guards->Release();
  ShadowCall eager(*trace.shadow, std::move(inputs));
  if (absl::Status status = eager.RunEager(call_state); !status.ok())
    return RaiseShadowError(entry, trace, std::string(status.message()));
  if (trace.guards->Check(call_state) != GuardResult::kPass) {
    PyErr_Clear();
    return RaiseShadowError(
        entry, trace, absl::StrCat("there it changes what is guarded: ", trace.guards->ExplainFailure(call_state)));
  }
  EntryStep step = RunTrace(call_state, trace, choice);
  if (step.kind != EntryStep::Kind::kReturned || !step.result) return step;
  ++CountsOfShadows().checked;
  absl::Status status = eager.Compare(step.result.get());
  if (status.ok()) return step;
  eager.TakeBack();
  return RaiseShadowError(entry, trace, std::string(status.message()));
}

// Which calls are checked depends on their number alone.
EntryStep RunChecked(EntryObject* entry, const CallState& call_state, Trace& trace, const Trace::Choice& choice) {
  const int64_t every = ShadowCheckEvery();
  if (trace.shadow == nullptr || every == 0 || trace.graph == nullptr || ShimToolInUse() ||
      entry->state->shadow_calls++ % every != 0)
    return RunTrace(call_state, trace, choice);
  if (trace.shadow->left_out.empty()) return RunShadowed(entry, call_state, trace, choice);
  ++CountsOfShadows().left_out;
  return RunTrace(call_state, trace, choice);
}

EntryStep RecordAndRun(EntryObject* entry, const CallState& call_state) {
  EntryState& state = *entry->state;
  if (state.recordings >= state.options.recompile_limit) {
    ++state.missed;
    WarnOfLimit(entry, call_state);
    return {};
  }
  GiveUpVaryingValues(entry);
  ++state.recordings;
  state.missed = 0;
  LogRecompile(entry, call_state);
  if (state.is_segment) state.varying.Note(call_state.slots[0]);
  // A segment inside a loop that comes back at another position: the next recording leaves the iterator alone.
  const bool advance_iterators = state.recordings == 1;
  absl::StatusOr<std::shared_ptr<Trace>> trace = CompileCall(
      call_state, state.options, state.binder.Names(), state.resumes, advance_iterators, &state.varying, &state.sizes);
  if (absl::IsOutOfRange(trace.status())) {
    PyErr_SetString(dynamic_shape_error != nullptr ? dynamic_shape_error : PyExc_RuntimeError,
                    absl::StrCat(EntryName(entry), ": ", trace.status().message()).c_str());
    return EntryStep{.kind = EntryStep::Kind::kReturned, .result = {}, .function = {}};
  }
  if (!trace.ok()) {
    LogWarning(absl::StrCat(EntryName(entry), " runs in the interpreter: ", trace.status().message()));
    if (!state.options.fullgraph) return {};
    TraceReport report;
    report.fallback_reason = std::string(trace.status().message());
    return RaiseGraphBreak(report);
  }
  std::shared_ptr<Trace> made = *std::move(trace);
  if (made->report.raises_by_data) return {};  // other calls' data need not
  if (IsIdle(state, *made)) made->graph = nullptr;
  state.traces.insert(state.traces.begin() + static_cast<std::ptrdiff_t>(FirstOfKind(state, made->at_position)), made);
  if (BreaksFullGraph(state, *made)) return RaiseGraphBreak(made->report);
  Trace::Choice choice;
  const bool is_open = made->variants != nullptr || made->data != nullptr;
  if (is_open && !made->CoversSizes(call_state, choice)) return {};
  return RunChecked(entry, call_state, *made, choice);
}

// Afterwards the guards have been checked once more: what they fetched is valid.
absl::Status CheckReplay(EntryObject* entry, const CallState& call_state, const Trace& trace,
                         const Trace::Choice& choice) {
  const EntryState& state = *entry->state;
  trace.guards->Release();  // what was fetched has references, which recordings count
  absl::Status status = trace.recorded_text->CheckAgain(EntryName(entry), call_state, state.options, state.resumes,
                                                        state.binder.Names(), choice.variant.get(), choice.symbols);
  const GuardResult result = trace.guards->Check(call_state);
  if (PyErr_Occurred() != nullptr) PyErr_Clear();
  if (!status.ok() || result == GuardResult::kPass) return status;
  return absl::InternalError(absl::StrCat("FRAMEJIT_CHECK=replay: internal error: recording ", EntryName(entry),
                                          " changed the program's state: ", trace.guards->ExplainFailure(call_state)));
}

EntryStep Step(EntryObject* entry, const CallState& call_state) {
  // What recording, backends and effects run is not the program's.
  std::optional<Unarmed> unarmed;
  if (CurrentFrameHandler() != nullptr) unarmed.emplace();
  EntryState& state = *entry->state;
  // Those whose graphs found that they do not hold for this call, before anything came of it.
  absl::InlinedVector<std::shared_ptr<Trace>, 2> tried;
  for (;;) {
    Trace::Choice choice;
    std::shared_ptr<Trace> trace = FindTrace(state, call_state, choice, tried);
    if (trace == nullptr) {
      // A tool may look at functions that would be recorded: only what is compiled already is used beside one. And a
      // call near the recursion limit is no example for others: what raises there does not elsewhere.
      return ShimToolInUse() || !HasRoomToRecord() ? EntryStep() : RecordAndRun(entry, call_state);
    }
    if (BreaksFullGraph(state, *trace)) return RaiseGraphBreak(trace->report);
    if (trace->recorded_text != nullptr && !ShimToolInUse() && HasRoomToRecord()) {
      if (absl::Status status = CheckReplay(entry, call_state, *trace, choice); !status.ok())
        return RaiseCheckError(status);
    }
    EntryStep step = RunChecked(entry, call_state, *trace, choice);
    if (!step.is_uncovered) return step;
    tried.push_back(std::move(trace));
  }
}

PyObject* Dispatch(const Call& call) {
  EntryState& state = *call.entry->state;
  PyFunctionObject* function = FunctionOf(call.entry);
  if (!state.binder.Matches(function)) {  // __code__ was replaced
    state.binder = ArgumentBinder(reinterpret_cast<PyCodeObject*>(function->func_code));
    std::vector<std::shared_ptr<Trace>> dropped = std::move(state.traces);
    state.traces.clear();
  }
  BoundArguments bound;
  if (!state.binder.Bind(function, call.args, PyVectorcall_NARGS(call.nargsf), call.kwnames, bound)) {
    return call.Native();
  }
  EntryStep step = Step(call.entry, CallState{call.entry->function, bound.slots()});
  auto* self = reinterpret_cast<PyObject*>(call.entry);
  if (step.kind == EntryStep::Kind::kReturned) return step.result.release();
  if (step.kind == EntryStep::Kind::kResume) return Resume(self, std::move(step.function), std::move(step.result));
  Armed armed(InnerEntriesOf(self), reinterpret_cast<PyCodeObject*>(function->func_code));
  armed.Begin(/*is_next=*/true);
  return call.Native();
}

PyObject* EntryVectorcall(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  Call call{AsEntry(self), args, nargsf, kwnames};
  if (MustRunNatively(reinterpret_cast<PyCodeObject*>(FunctionOf(call.entry)->func_code))) return call.Native();
  // The entry may be dropped by the code it runs.
  PyRef alive = PyRef::Borrow(self);
  try {
    return Dispatch(call);
  } catch (const std::exception& error) {
    ReportInternalError(ErrorText(error));  // the call runs in the interpreter
  }
  PyErr_Clear();
  return call.Native();
}

// Dropping traces and segments may run finalizers that call the entry.
void Forget(EntryState& state) {
  std::vector<std::shared_ptr<Trace>> traces = std::move(state.traces);
  auto segments = std::move(state.segments);
  std::shared_ptr<ResumeTable> resumes = std::exchange(state.resumes, NewResumeTable());
  state.traces.clear();
  state.segments.clear();
  state.segment_of.clear();
  if (state.inner != nullptr) state.inner->Clear();
}

// --- the type -------------------------------------------------------------------------------------------------------

int EntryTraverse(PyObject* self, visitproc visit, void* arg) {
  EntryObject* entry = AsEntry(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(entry->function);
  Py_VISIT(entry->dict);
  if (entry->state == nullptr) return 0;
  for (const auto& trace : entry->state->traces) {
    // A trace that someone else holds as well (a call in progress) is not the entry's alone to account for.
    if (trace.use_count() > 1) continue;
    if (int result = trace->Traverse(visit, arg); result != 0) return result;
  }
  for (const auto& [functions, segment] : entry->state->segments) Py_VISIT(segment.get());
  if (entry->state->inner != nullptr) {
    for (PyObject* inner : entry->state->inner->entries) Py_VISIT(inner);
  }
  // Shared with the segments, and with calls in progress.
  const auto owners = static_cast<size_t>(entry->state->resumes.use_count());
  return owners > entry->state->segments.size() + 1 ? 0 : entry->state->resumes->Traverse(visit, arg);
}

int EntryClear(PyObject* self) {
  EntryObject* entry = AsEntry(self);
  if (entry->state != nullptr) {
    Forget(*entry->state);
  }
  Py_CLEAR(entry->dict);
  return 0;  // the function stays: a finalizer may still call the entry
}

void EntryDealloc(PyObject* self) {
  EntryObject* entry = AsEntry(self);
  PyObject_GC_UnTrack(self);
  if (entry->weak_references != nullptr) PyObject_ClearWeakRefs(self);
  AllEntries().erase(entry);
  EntryClear(self);
  delete std::exchange(entry->state, nullptr);
  Py_CLEAR(entry->function);
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* EntryGet(PyObject* self, PyObject* instance, PyObject*) {
  if (instance == nullptr || instance == Py_None) return Py_NewRef(self);
  return PyMethod_New(self, instance);
}

// What the entry does not have, its function has: __code__, __defaults__, __annotations__, __globals__, ...
PyObject* EntryGetAttr(PyObject* self, PyObject* name) {
  PyObject* value = PyObject_GenericGetAttr(self, name);
  if (value != nullptr || !PyErr_ExceptionMatches(PyExc_AttributeError)) return value;
  PyErr_Clear();
  return PyObject_GetAttr(AsEntry(self)->function, name);
}

// __code__, __defaults__ and __kwdefaults__ decide what a call does, so writing them writes the function's.
int EntrySetAttr(PyObject* self, PyObject* name, PyObject* value) {
  for (const char* forwarded : {"__code__", "__defaults__", "__kwdefaults__"}) {
    if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, forwarded) == 0) {
      return PyObject_SetAttr(AsEntry(self)->function, name, value);
    }
  }
  return PyObject_GenericSetAttr(self, name, value);
}

PyObject* EntryRepr(PyObject* self) { return PyUnicode_FromFormat("<framejit.compile(%R)>", AsEntry(self)->function); }

// By reference: pickle and copy look the name up in the module and find this very object.
PyObject* EntryReduce(PyObject* self, PyObject*) { return PyObject_GetAttrString(self, "__qualname__"); }

PyObject* EntryReset(PyObject* self, PyObject*) {
  ResetEntry(self);
  Py_RETURN_NONE;
}

PyMethodDef entry_methods[] = {
    {"__reduce__", EntryReduce, METH_NOARGS, nullptr},
    {"_reset", EntryReset, METH_NOARGS, "Forgets this entry's traces."},
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef entry_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(EntryObject, vectorcall), READONLY, nullptr},
    {"__dictoffset__", T_PYSSIZET, offsetof(EntryObject, dict), READONLY, nullptr},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EntryObject, weak_references), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

PyGetSetDef entry_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot entry_slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(EntryDealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(EntryTraverse)},
    {Py_tp_clear, reinterpret_cast<void*>(EntryClear)},
    {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
    {Py_tp_descr_get, reinterpret_cast<void*>(EntryGet)},
    {Py_tp_getattro, reinterpret_cast<void*>(EntryGetAttr)},
    {Py_tp_setattro, reinterpret_cast<void*>(EntrySetAttr)},
    {Py_tp_repr, reinterpret_cast<void*>(EntryRepr)},
    {Py_tp_methods, entry_methods},
    {Py_tp_members, entry_members},
    {Py_tp_getset, entry_getset},
    {0, nullptr},
};

PyType_Spec entry_spec = {
    "framejit._C.Entry",
    sizeof(EntryObject),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR |
        Py_TPFLAGS_DISALLOW_INSTANTIATION,
    entry_slots,
};

}  // namespace

bool AddEntryType(PyObject* module) {
  entry_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&entry_spec));
  return entry_type != nullptr && InitializeResumeLoop() &&
         PyModule_AddObjectRef(module, "Entry", reinterpret_cast<PyObject*>(entry_type)) == 0;
}

bool IsEntry(PyObject* object) { return Py_TYPE(object) == entry_type; }

bool MustRunNatively(PyCodeObject* code) {
  return disable_depth != 0 || !enabled.load(std::memory_order_relaxed) || IsRecording() ||
         ShimIsTraced(PyThreadState_Get(), code) || UserModesActive();
}

PyRef SegmentOf(PyObject* root, const std::vector<PyObject*>& functions) {
  EntryState& state = *AsEntry(root)->state;
  if (auto known = state.segment_of.find(functions); known != state.segment_of.end()) {
    const PyRef& segment = state.segments[known->second].second;
    return AsEntry(segment.get())->state->gave_up() ? PyRef() : segment;
  }
  PyRef segment = PyRef::Steal(NewEntry(functions.back(), state.options));
  if (!segment) return PyErr_Clear(), PyRef();
  AsEntry(segment.get())->state->resumes = state.resumes;
  EntryState& made = *AsEntry(segment.get())->state;
  made.is_segment = true;
  if (made.options.data_dependent) made.sizes = SizeHistory::OfState(made.options.dynamic);
  state.segment_of.emplace(functions, state.segments.size());
  state.segments.emplace_back(functions, segment);
  return segment;
}

EntryStep RunEntry(PyObject* entry, const CallState& call_state) {
  try {
    return Step(AsEntry(entry), call_state);
  } catch (const std::exception& error) {
    ReportInternalError(ErrorText(error));  // the call runs in the interpreter
  }
  PyErr_Clear();
  return {};
}

PyObject* Resume(PyObject* entry, PyRef function, PyRef state) {
  ResumeLoop loop(entry, AsEntry(entry)->state->resumes);
  return loop.Run(std::move(function), std::move(state));
}

bool EntryGaveUp(PyObject* entry) { return AsEntry(entry)->state->gave_up(); }

InnerEntries* InnerEntriesOf(PyObject* entry) {
  EntryState& state = *AsEntry(entry)->state;
  if (state.options.fullgraph) return nullptr;
  if (state.inner == nullptr) state.inner = std::make_unique<InnerEntries>(state.options);
  return state.inner.get();
}

PyObject* NewEntry(PyObject* function, CompileOptions options) {
  if (!PyFunction_Check(function)) {
    PyErr_Format(PyExc_TypeError, "an entry needs a Python function, not %s", Py_TYPE(function)->tp_name);
    return nullptr;
  }
  EntryObject* entry = PyObject_GC_New(EntryObject, entry_type);
  if (entry == nullptr) return nullptr;
  entry->vectorcall = EntryVectorcall;
  entry->function = Py_NewRef(function);
  entry->dict = nullptr;
  entry->weak_references = nullptr;
  entry->state = new EntryState(std::move(options), reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function)));
  AllEntries().insert(entry);
  PyObject_GC_Track(reinterpret_cast<PyObject*>(entry));
  return reinterpret_cast<PyObject*>(entry);
}

PyObject* EntryFunction(PyObject* entry) { return AsEntry(entry)->function; }

std::vector<std::shared_ptr<Trace>> EntryTraces(PyObject* entry) {
  std::vector<std::shared_ptr<Trace>> traces;
  std::vector<PyObject*> entries{entry};  // a recursive function is among those captured for it
  for (size_t i = 0; i < entries.size(); ++i) {
    const EntryState& state = *AsEntry(entries[i])->state;
    traces.insert(traces.end(), state.traces.begin(), state.traces.end());
    std::vector<PyObject*> inner;
    for (const auto& [functions, segment] : state.segments) inner.push_back(segment.get());
    if (state.inner != nullptr) inner.insert(inner.end(), state.inner->entries.begin(), state.inner->entries.end());
    for (PyObject* next : inner) {
      if (std::find(entries.begin(), entries.end(), next) == entries.end()) entries.push_back(next);
    }
  }
  return traces;
}

void ResetEntry(PyObject* entry) {
  EntryState& state = *AsEntry(entry)->state;
  Forget(state);
  state.recordings = 0;
  state.missed = 0;
  state.warned = false;
}

void ResetAllEntries() {
  std::vector<PyRef> entries;
  for (EntryObject* entry : AllEntries()) entries.push_back(PyRef::Borrow(reinterpret_cast<PyObject*>(entry)));
  for (const PyRef& entry : entries) ResetEntry(entry.get());
}

void SetEnabled(bool value) { enabled.store(value, std::memory_order_relaxed); }
void AddDisableDepth(int change) { disable_depth += change; }
void SetGraphBreakError(PyObject* type) { Py_XSETREF(graph_break_error, Py_NewRef(type)); }
void SetCheckError(PyObject* type) { Py_XSETREF(check_error, Py_NewRef(type)); }
void SetDynamicShapeError(PyObject* type) { Py_XSETREF(dynamic_shape_error, Py_NewRef(type)); }

}  // namespace framejit
