#include "frame_eval/armed.h"

#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

#include "frame_eval/cpython/frame_view.h"
#include "frame_eval/entry.h"
#include "frame_eval/optimizer_steps.h"
#include "frame_eval/resume_loop.h"

namespace framejit {
namespace {

// Python frames under armed ones, at most: each is a C call while the hook is installed.
constexpr int kMaxDepth = 150;
// Code in whose extent nothing was captured so often in a row runs without the hook, but for every 64th time.
constexpr uint32_t kBarren = 8;
constexpr uint32_t kTryAgain = 64;
// Items of a container argument that are looked at.
constexpr Py_ssize_t kMaxItems = 8;

struct KnownEntry {
  PyObject* globals;  // compared: the entry holds it
  const Backend* backend;
  std::string backend_name;
  int recompile_limit;
  DynamicMode dynamic;
  bool data_dependent;
  GraphModes modes;
  bool freeze;
  PyRef entry;  // a weak reference
};

uint32_t resets = 0;  // guarded by the GIL

// What is known of a code object, kept with it.
struct CodeRecord {
  bool capturable = false;
  bool is_optimizer_method = false;
  // Of many functions, which capture something or not: a closure of the libraries', a decorator's wrapper mostly.
  bool is_shared = false;
  uint32_t barren = 0;  // times in a row that nothing was captured in its extent
  uint32_t since = 0;   // the reset from which on it counts
  std::vector<KnownEntry> entries;

  bool runs_unarmed() {
    if (std::exchange(since, resets) != resets) barren = 0;
    return barren >= kBarren && ++barren % kTryAgain != 0;
  }
  void Note(bool captured) {
    if (!is_shared) barren = captured ? 0 : barren + 1;
  }
};

struct ThreadState {
  InnerEntries* inner = nullptr;
  PyCodeObject* own_code = nullptr;  // the next frame's: not to be captured
  int depth = 0;
  int64_t captured = 0;
  InnerEntries* region = nullptr;
};
thread_local ThreadState armed;

std::vector<PathRule>& PathRules() {
  static auto* rules = new std::vector<PathRule>;
  return *rules;
}

bool IsCapturedFile(PyObject* filename) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(filename, &size);
  if (text == nullptr) return PyErr_Clear(), false;
  const std::string_view name(text, static_cast<size_t>(size));
  const PathRule* best = nullptr;
  for (const PathRule& rule : PathRules()) {
    if (name.starts_with(rule.prefix) && (best == nullptr || rule.prefix.size() > best->prefix.size())) best = &rule;
  }
  return best == nullptr || best->captured;
}

// What torch calls in place of an operator.
bool IsTorchOverride(PyCodeObject* code) {
  return PyUnicode_CompareWithASCIIString(code->co_name, "__torch_function__") == 0 ||
         PyUnicode_CompareWithASCIIString(code->co_name, "__torch_dispatch__") == 0;
}

// A plain function's, not a generator's, a class body's or a piece of one that a break left.
bool IsCapturable(PyCodeObject* code) {
  constexpr int kSuspends = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE;
  constexpr int kFunction = CO_OPTIMIZED | CO_NEWLOCALS;
  if ((code->co_flags & kSuspends) != 0 || (code->co_flags & kFunction) != kFunction) return false;
  if (IsTorchOverride(code)) return false;
  const ResumeLoop* loop = ResumeLoop::Current();
  return (loop == nullptr || loop->table()->Find(code) == nullptr) && IsCapturedFile(code->co_filename);
}

void FreeRecord(void* record) { delete static_cast<CodeRecord*>(record); }

// Null where none can be kept. Made when the code is first seen.
CodeRecord* RecordOf(PyCodeObject* code) {
  static const Py_ssize_t index = ShimNewCodeExtra(&FreeRecord);
  if (index < 0) return nullptr;
  if (void* known = ShimCodeExtra(code, index); known != nullptr) return static_cast<CodeRecord*>(known);
  auto record = std::make_unique<CodeRecord>();
  record->capturable = IsCapturable(code);
  record->is_shared = code->co_nfreevars > 0 && !IsCapturedFile(code->co_filename);
  record->is_optimizer_method = IsOptimizerMethod(code);
  if (ShimSetCodeExtra(code, index, record.get()) != 0) return PyErr_Clear(), nullptr;
  return record.release();
}

size_t ArgumentCount(PyCodeObject* code) {
  return static_cast<size_t>(code->co_argcount + code->co_kwonlyargcount +
                             ((code->co_flags & CO_VARARGS) != 0 ? 1 : 0) +
                             ((code->co_flags & CO_VARKEYWORDS) != 0 ? 1 : 0));
}

// By type alone: isinstance() asks the object for its __class__, which may be code of the program's.
bool IsTensor(PyObject* object) {
  return PyObject_TypeCheck(object, reinterpret_cast<PyTypeObject*>(THPVariableClass));
}

bool HoldsTensor(PyObject* argument) {
  if (argument == nullptr) return false;
  if (IsTensor(argument)) return true;
  if (PyTuple_CheckExact(argument) || PyList_CheckExact(argument)) {
    PyObject** items = PySequence_Fast_ITEMS(argument);
    return std::any_of(items, items + std::min(Py_SIZE(argument), kMaxItems), IsTensor);
  }
  if (!PyDict_CheckExact(argument)) return false;
  PyObject* value = nullptr;
  for (Py_ssize_t position = 0; PyDict_Next(argument, &position, nullptr, &value) && position <= kMaxItems;) {
    if (IsTensor(value)) return true;
  }
  return false;
}

// Inside the dispatcher or the autograd engine, a tensor does not behave as it does for the program.
bool IsInsideTorch() {
  if (torch::autograd::get_current_graph_task_id() != -1) return true;
  const c10::DispatchKeySet excluded = c10::impl::tls_local_dispatch_key_set().excluded_;
  if (excluded.has(c10::DispatchKey::Python)) return true;
  return excluded.has(c10::DispatchKey::AutogradCPU) && !c10::InferenceMode::is_enabled();
}

bool WantsCapture(FrameView frame, size_t arguments) {
  PyObject** slots = frame.localsplus();
  if (!std::any_of(slots, slots + arguments, HoldsTensor)) return false;
  // forward(ctx, ...) of an autograd.Function: its context is not an object of the program alone.
  if (PyObject_TypeCheck(slots[0], &THPFunctionType)) return false;
  return !IsInsideTorch();
}

PyRef NewInnerEntry(FrameView frame, const CompileOptions& options) {
  // Without its closure and defaults, which each call brings: the entry keeps nothing of the program alive but the code
  // and its globals.
  PyRef function = PyRef::Steal(PyFunction_New(reinterpret_cast<PyObject*>(frame.code()), frame.globals()));
  PyRef entry = function ? PyRef::Steal(NewEntry(function.get(), options)) : PyRef();
  if (!entry) PyErr_Clear();
  return entry;
}

// The entry of the frame's code for who arms; null where it is not to be tried.
PyRef EntryFor(CodeRecord& record, FrameView frame, InnerEntries& inner) {
  const CompileOptions& options = inner.options;
  PyRef entry;
  for (const KnownEntry& known : record.entries) {
    if (known.globals != frame.globals() || known.backend != options.backend.get() ||
        known.backend_name != options.backend_name || known.recompile_limit != options.recompile_limit ||
        known.dynamic != options.dynamic || known.data_dependent != options.data_dependent ||
        known.modes != options.modes || known.freeze != options.freeze)
      continue;
    PyObject* alive = PyWeakref_GetObject(known.entry.get());
    if (alive != nullptr && alive != Py_None) entry = PyRef::Borrow(alive);
  }
  if (!entry) {
    entry = NewInnerEntry(frame, options);
    PyRef weak = entry ? PyRef::Steal(PyWeakref_NewRef(entry.get(), nullptr)) : PyRef();
    if (!weak) return PyErr_Clear(), PyRef();
    std::erase_if(record.entries,
                  [](const KnownEntry& known) { return PyWeakref_GetObject(known.entry.get()) == Py_None; });
    record.entries.push_back({frame.globals(), options.backend.get(), options.backend_name, options.recompile_limit,
                              options.dynamic, options.data_dependent, options.modes, options.freeze, std::move(weak)});
  }
  if (inner.entries.insert(entry.get()).second) Py_INCREF(entry.get());
  return EntryGaveUp(entry.get()) ? PyRef() : entry;
}

// The frame's arguments, which it does not need any more.
void ClearArguments(FrameView frame, size_t count) {
  for (size_t i = 0; i < count; ++i) Py_CLEAR(frame.localsplus()[i]);
}

// False where the frame is to run as it is. `result` is what the evaluator returns.
bool RunCaptured(CodeRecord& record, PyThreadState* thread, FrameView frame, PyObject** result) {
  const size_t arguments = ArgumentCount(frame.code());
  if (!WantsCapture(frame, arguments)) return false;
  PyRef entry = EntryFor(record, frame, *armed.inner);
  if (!entry) return false;
  CallState state{reinterpret_cast<PyObject*>(frame.function()), absl::MakeConstSpan(frame.localsplus(), arguments)};
  state.function_varies = true;
  EntryStep step = RunEntry(entry.get(), state);
  if (step.kind == EntryStep::Kind::kNative) return false;
  ++armed.captured;
  PyObject* value = step.result.release();
  if (step.kind == EntryStep::Kind::kResume) {
    ClearArguments(frame, arguments);
    value = Resume(entry.get(), std::move(step.function), PyRef::Steal(value));
  }
  *result =
      value == nullptr ? ShimLeaveWithError(thread, frame.get(), 0) : ShimLeaveWithResult(thread, frame.get(), value);
  return true;
}

bool RunOptimizer(PyThreadState* thread, FrameView frame, PyObject** result) {
  Unarmed unarmed;
  if (IsInsideTorch() || !RunOptimizerMethod(frame)) return false;
  ++armed.captured;
  *result = ShimLeaveWithResult(thread, frame.get(), Py_NewRef(Py_None));
  return true;
}

PyObject* Handle(PyThreadState* thread, ShimFrame* raw, int throwflag) {
  FrameView frame(raw);
  PyCodeObject* code = frame.code();
  const bool is_own = std::exchange(armed.own_code, nullptr) == code;
  if (throwflag != 0 || frame.is_generators() || MustRunNatively(code)) return PassThrough(thread, raw, throwflag);
  CodeRecord* record = RecordOf(code);
  if (record == nullptr) return PassThrough(thread, raw, throwflag);
  PyObject* result = nullptr;
  if (!is_own && record->capturable && RunCaptured(*record, thread, frame, &result)) return result;
  if (record->is_optimizer_method && RunOptimizer(thread, frame, &result)) return result;
  // What comes now may free the code, and the record with it.
  PyRef alive = PyRef::Borrow(reinterpret_cast<PyObject*>(code));
  const int64_t captured = armed.captured;
  if (armed.depth >= kMaxDepth || record->runs_unarmed()) {
    Unarmed unarmed;
    return PassThrough(thread, raw, throwflag);
  }
  ++armed.depth;
  result = PassThrough(thread, raw, throwflag);
  --armed.depth;
  record->Note(armed.captured != captured);
  return result;
}

}  // namespace

InnerEntries::InnerEntries(CompileOptions inner_options) : options(std::move(inner_options)) {
  options.is_inner = true;
  options.fullgraph = false;
}

void InnerEntries::Clear() {
  for (PyObject* entry : std::exchange(entries, {})) Py_DECREF(entry);
}

void ForgetBarren() { ++resets; }

Unarmed::Unarmed() : handler_(SetFrameHandler(nullptr)), inner_(armed.inner), region_(armed.region) {}

Unarmed::~Unarmed() {
  const bool same_region = armed.region == region_;
  armed.inner = same_region ? inner_ : armed.region;
  SetFrameHandler(same_region ? handler_ : armed.region != nullptr ? &Handle : nullptr);
}

void Armed::Begin(bool is_next) {
  CodeRecord* record = inner_ == nullptr || before_.has_value() ? nullptr : RecordOf(code_);
  if (record == nullptr || record->runs_unarmed()) return;
  before_.emplace();
  armed.inner = inner_;
  captured_ = armed.captured;
  SetFrameHandler(&Handle);
  armed.own_code = is_next ? code_ : nullptr;
}

Armed::~Armed() {
  if (!before_.has_value()) return;
  before_.reset();
  if (CodeRecord* record = RecordOf(code_); record != nullptr) record->Note(armed.captured != captured_);
}

InnerEntries* SetRegion(InnerEntries* region) {
  armed.inner = region;
  SetFrameHandler(region != nullptr ? &Handle : nullptr);
  return std::exchange(armed.region, region);
}

void SetPathRules(std::vector<PathRule> rules) { PathRules() = std::move(rules); }

}  // namespace framejit
