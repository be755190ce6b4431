// Record(): one recording from the entry frame's arguments to its graph, guards and exit plan.
#include "graph/capture/recorder.h"

#include <exception>

#include "graph/capture/evaluator.h"
#include "graph/capture/recorder_state.h"
#include "graph/error_text.h"
#include "graph/saved_tensor_hooks.h"

namespace framejit {
namespace {

thread_local RecorderState* current_recorder = nullptr;

// The cyclic collector could run the user's finalizers in the middle of a recording.
class PausedCollector {
 public:
  PausedCollector() : was_enabled_(PyGC_Disable()) {}
  ~PausedCollector() {
    if (was_enabled_) PyGC_Enable();
  }
  PausedCollector(const PausedCollector&) = delete;
  PausedCollector& operator=(const PausedCollector&) = delete;

 private:
  int was_enabled_;
};

struct EntryCall {
  std::vector<PyObject*> args;  // borrowed; keyword values last
  Py_ssize_t positional = 0;
  PyRef kwnames;
};

// Spells a call that binds to exactly these parameter slots. Slots: positional parameters, keyword-only ones, *args,
// **kwargs. Where a default applies, the parameters behind it go by keyword.
bool SpellCall(const RecordRequest& request, EntryCall* call) {
  auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(request.function));
  const int parameters = code->co_argcount + code->co_kwonlyargcount;
  PyRef names = PyRef::Steal(PyList_New(0));
  if (!names) return false;
  int next = 0;
  while (next < code->co_argcount && request.slots[next] != nullptr) call->args.push_back(request.slots[next++]);
  int slot = parameters;
  if (code->co_flags & CO_VARARGS) {
    PyObject* rest = request.slots[slot++];
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(rest); ++i) call->args.push_back(PyTuple_GET_ITEM(rest, i));
  }
  call->positional = static_cast<Py_ssize_t>(call->args.size());
  for (; next < parameters; ++next) {
    if (request.slots[next] == nullptr) continue;
    if (PyList_Append(names.get(), PyTuple_GET_ITEM(code->co_localsplusnames, next)) != 0) return false;
    call->args.push_back(request.slots[next]);
  }
  if (code->co_flags & CO_VARKEYWORDS) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t cursor = 0; PyDict_Next(request.slots[slot], &cursor, &key, &value);) {
      if (PyList_Append(names.get(), key) != 0) return false;
      call->args.push_back(value);
    }
  }
  if (PyList_GET_SIZE(names.get()) > 0) call->kwnames = PyRef::Steal(PyList_AsTuple(names.get()));
  return !PyErr_Occurred();
}

PyObject* RunEntryFrame(const RecordRequest& request) {
  EntryCall call;
  if (!SpellCall(request, &call)) return nullptr;
  return PyObject_Vectorcall(request.function, call.args.data(), static_cast<size_t>(call.positional),
                             call.kwnames.get());
}

class CurrentRecorderScope {
 public:
  explicit CurrentRecorderScope(RecorderState* state) { current_recorder = state; }
  ~CurrentRecorderScope() { current_recorder = nullptr; }
};

}  // namespace

RecorderState* CurrentRecorder() { return current_recorder; }

bool IsRecording() { return current_recorder != nullptr; }

std::unique_ptr<Recording> Record(const RecordRequest& request, Timings* timings) {
  ScopedTiming timing(timings, "record");
  PausedCollector paused;
  PausedSavedTensorHooks unhooked;
  std::unique_ptr<Recording> recording;
  try {
    RecorderState state(request);
    CurrentRecorderScope scope(&state);
    RecordingHook hook(state, request.function);
    PyObject* result = RunEntryFrame(request);
    recording = state.Finish(result);
  } catch (const std::exception& error) {
    recording = std::make_unique<Recording>();
    recording->graph_break = Break{BreakCode::kInternalError, ErrorText(error), {}};
  }
  PyErr_Clear();
  return recording;
}

}  // namespace framejit
