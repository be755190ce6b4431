// The PEP 523 hook while recording. Which frames the recorder takes, and how their arguments are made safe to see.
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "bytecode/decode.h"
#include "frame_eval/cpython/evaluator_hook.h"
#include "frame_eval/cpython/frame_view.h"
#include "frame_eval/cpython/recursion.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/imported.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

constexpr unsigned char kCellVariable = 0x40;  // CO_FAST_CELL

struct ThreadHook {
  RecorderState* recorder = nullptr;
  FrameHandler previous = nullptr;
  PyObject* entry_function = nullptr;  // until its frame came
  int depth = 0;
  int max_depth = 0;
  bool in_transform = false;                  // the innermost frame is of the library that transforms functions
  absl::flat_hash_set<PyObject*> generators;  // made by this recording; compared, never used
};
thread_local ThreadHook* thread_hook = nullptr;

// A frame of which no instruction is to run (any more), with the exception that is set.
PyObject* Abandon(PyThreadState* thread, FrameView frame) { return ShimLeaveWithError(thread, frame.get(), 0); }

PyObject* Fail(ThreadHook& hook, PyThreadState* thread, FrameView frame, BreakCode code, const char* detail) {
  hook.recorder->Break(code, detail);
  return Abandon(thread, frame);
}

// A frame of which no instruction is to run returns None, or the constant that its last instruction returns: CPython
// finds it in front of a return instruction. Code that has none would only raise, to nobody.
PyObject* LeaveAtReturn(PyThreadState* thread, FrameView frame) {
  PyCodeObject* code = frame.code();
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  for (int i = decoded.ok() ? decoded->size() : 0; i-- > 0;) {
    const std::string_view name = (*decoded)[i].info().name;
    if (name != "RETURN_VALUE" && name != "RETURN_CONST") continue;
    if (name == "RETURN_VALUE") {
      frame.localsplus()[code->co_nlocalsplus] = Py_NewRef(Py_None);
      frame.set_stacktop(code->co_nlocalsplus + 1);
    }
    frame.set_next_offset((*decoded)[i].offset);
    return ShimEvalDefault(thread, frame.get(), 0);
  }
  PyErr_SetString(PyExc_RuntimeError, "framejit: a finalizer without a return instruction");
  return Abandon(thread, frame);
}

// Finalizers and callbacks of what dies with the recording: they belong to the native run, and nobody waits for them.
bool IsFinalizer(const RecorderState& recorder, PyCodeObject* code) {
  if ((code->co_flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR)) != 0) return false;
  return recorder.dropping() || PyUnicode_CompareWithASCIIString(code->co_name, "__del__") == 0;
}

// A generator function's frame runs natively up to RETURN_GENERATOR, which makes the generator object.
PyObject* CreateGenerator(ThreadHook& hook, PyThreadState* thread, FrameView frame) {
  PyCodeObject* code = frame.code();
  PyObject* generator = ShimEvalDefault(thread, frame.get(), 0);
  if (generator == nullptr || !PyGen_CheckExact(generator)) return generator;
  hook.generators.insert(generator);
  hook.recorder->NewLocal(generator);
  const char* kinds = PyBytes_AS_STRING(code->co_localspluskinds);
  FrameView created(ShimGeneratorFrame(generator));
  for (int i = 0; i < code->co_nlocalsplus; ++i) {
    PyObject* value = created.localsplus()[i];
    if ((kinds[i] & kCellVariable) && value != nullptr && PyCell_Check(value)) hook.recorder->NewLocalCell(value);
  }
  return generator;
}

// The folder of a module's file, with a slash at the end; empty where it has none.
std::string FolderOf(const char* module) {
  PyObject* modules = PyImport_GetModuleDict();
  PyObject* found = modules == nullptr ? nullptr : PyDict_GetItemString(modules, module);
  PyObject* file =
      found == nullptr || !PyModule_Check(found) ? nullptr : PyDict_GetItemString(PyModule_GetDict(found), "__file__");
  const char* path = file == nullptr || !PyUnicode_Check(file) ? nullptr : PyUnicode_AsUTF8(file);
  PyErr_Clear();
  const std::string text = path == nullptr ? "" : path;
  return text.substr(0, text.rfind('/') + 1);
}

bool IsBelow(std::string_view path, const std::string& folder) { return !folder.empty() && path.starts_with(folder); }

// What torch.func consists of and calls: torch, but for its layers, and the standard library. It handles wrapped
// tensors and what is behind torch's interpreters, and ends what it began when the recording breaks in the function
// that it transforms.
bool IsOfTransforms(PyCodeObject* code) {
  static const auto* torch_folder = new std::string(FolderOf("torch"));
  static const auto* library_folder = new std::string(FolderOf("os"));
  Py_ssize_t size = 0;
  const char* file = PyUnicode_AsUTF8AndSize(code->co_filename, &size);
  if (file == nullptr) return PyErr_Clear(), false;
  const std::string_view path(file, static_cast<size_t>(size));
  if (IsBelow(path, *torch_folder)) return !IsBelow(path, *torch_folder + "nn/");
  if (IsBelow(path, *library_folder)) return !IsBelow(path, *library_folder + "site-packages/");
  return path.starts_with("<frozen ");
}

// The body of a module that a transform imports when it is first needed.
PyObject* Import(PyThreadState* thread, FrameView frame, int throwflag) {
  FakeSession::Pause pause;
  Disarmed disarmed;
  return ShimEvalDefault(thread, frame.get(), throwflag);
}

bool IsModuleBody(PyCodeObject* code) { return PyUnicode_CompareWithASCIIString(code->co_name, "<module>") == 0; }

// copyreg._slotnames, which C code asks for copies: it keeps its answer on the class, and reads nothing else.
bool IsSlotNames(PyCodeObject* code) {
  static PyObject* const found = [] {
    PyRef function = ImportedAttribute("copyreg", "_slotnames");
    PyErr_Clear();
    return function && PyFunction_Check(function.get()) ? Py_NewRef(PyFunction_GET_CODE(function.get())) : nullptr;
  }();
  return reinterpret_cast<PyObject*>(code) == found;
}

// A frame of the program, called by a transform.
class OutsideTransform {
 public:
  explicit OutsideTransform(bool& state) : state_(state), entered_(std::exchange(state, false)) {}
  ~OutsideTransform() { state_ = entered_; }
  OutsideTransform(const OutsideTransform&) = delete;
  OutsideTransform& operator=(const OutsideTransform&) = delete;

 private:
  bool& state_;
  bool entered_;
};

PyObject* Evaluate(ThreadHook& hook, PyThreadState* thread, FrameView frame, int throwflag) {
  PyCodeObject* code = frame.code();
  RecorderState& recorder = *hook.recorder;
  if (hook.in_transform && IsModuleBody(code)) return Import(thread, frame, throwflag);
  if (hook.in_transform && IsOfTransforms(code)) return ShimEvalDefault(thread, frame.get(), throwflag);
  OutsideTransform outside(hook.in_transform);
  if (recorder.broken()) {
    // A generator that is closed now: GeneratorExit says that it ended, and its `finally` is for the native run.
    if (throwflag != 0 && PyErr_Occurred() != nullptr) return Abandon(thread, frame);
    if (throwflag == 0 && !frame.is_generators() && IsFinalizer(recorder, code)) return LeaveAtReturn(thread, frame);
    return Fail(hook, thread, frame, BreakCode::kInternalError, "a frame started after a break");
  }
  if (IsSlotNames(code)) {
    Disarmed disarmed;
    return ShimEvalDefault(thread, frame.get(), throwflag);
  }
  if (code->co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE)) {
    return Fail(hook, thread, frame, BreakCode::kCoroutine, "");
  }
  if (frame.is_generators()) {
    if (!hook.generators.contains(frame.generator())) {
      return Fail(hook, thread, frame, BreakCode::kUnsupportedEffect, "a generator that existed before was advanced");
    }
    const bool closes = throwflag != 0 && PyErr_ExceptionMatches(PyExc_GeneratorExit) != 0;
    PyObject* result = EvaluateFrame(recorder, thread, frame.get(), throwflag);
    // One that is dropped has nobody to tell but standard error; what goes on finds the recording broken.
    if (result == nullptr && closes && recorder.broken()) PyErr_SetNone(PyExc_GeneratorExit);
    return result;
  }
  const bool is_entry = hook.entry_function == reinterpret_cast<PyObject*>(frame.function());
  const bool is_resumed = recorder.ResumedCodeOf(code) != nullptr;  // unpacks its argument itself
  int lifted = is_resumed ? 0
               : is_entry ? recorder.LiftEntryArguments(frame.function(), frame.localsplus())
                          : recorder.LiftFrameArguments(frame.function(), frame.localsplus());
  if (is_entry) hook.entry_function = nullptr;
  if (lifted < 0) return Abandon(thread, frame);
  if (code->co_flags & CO_GENERATOR) {
    recorder.ForgetDirectCall();
    return CreateGenerator(hook, thread, frame);
  }
  ++recorder.stats.frames;
  if (hook.depth >= hook.max_depth || CStackIsLow()) return Fail(hook, thread, frame, BreakCode::kTooDeep, "");
  ++hook.depth;
  PyObject* result = EvaluateFrame(recorder, thread, frame.get(), throwflag);
  --hook.depth;
  return result;
}

PyObject* Handle(PyThreadState* thread, ShimFrame* frame, int throwflag) {
  return Evaluate(*thread_hook, thread, FrameView(frame), throwflag);
}

}  // namespace

RecordingHook::RecordingHook(RecorderState& recorder, PyObject* entry_function) {
  thread_hook = new ThreadHook{.recorder = &recorder,
                               .previous = SetFrameHandler(&Handle),
                               .entry_function = entry_function,
                               .max_depth = recorder.max_depth,
                               .generators = {}};
}

RecordingHook::~RecordingHook() {
  SetFrameHandler(thread_hook->previous);
  delete std::exchange(thread_hook, nullptr);
}

bool RecordingHook::EnterTransform(bool entered) {
  return thread_hook != nullptr && std::exchange(thread_hook->in_transform, entered);
}

bool RecordingHook::Arm(bool armed) {
  if (thread_hook == nullptr) return false;
  return SetFrameHandler(armed ? &Handle : nullptr) != nullptr;
}

}  // namespace framejit
