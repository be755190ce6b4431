// warnings.warn while recording: an effect that warns with the place that the program would have named.
#include "graph/capture/evaluator.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

struct WarnArguments {
  PyObject* message = nullptr;
  PyObject* category = nullptr;
  long level = 1;
};

// warn(message, category=None, stacklevel=1, source=None); false where it is something else, an exception may be set.
bool ParseWarn(const NativeCall& call, WarnArguments* parsed) {
  static constexpr const char* kNames[] = {"message", "category", "stacklevel", "source"};
  PyObject* given[4] = {};
  if (call.nargs > 4) return false;
  for (Py_ssize_t i = 0; i < call.nargs; ++i) given[i] = call.args[i];
  for (Py_ssize_t i = 0; call.kwnames != nullptr && i < PyTuple_GET_SIZE(call.kwnames); ++i) {
    bool known = false;
    for (int k = 0; k < 4; ++k) {
      if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(call.kwnames, i), kNames[k]) != 0) continue;
      known = given[k] == nullptr;
      given[k] = call.args[call.nargs + i];
    }
    if (!known) return false;
  }
  if (given[0] == nullptr || !PyUnicode_CheckExact(given[0]) || (given[3] != nullptr && given[3] != Py_None))
    return false;
  parsed->message = given[0];
  parsed->category = given[1] == nullptr || given[1] == Py_None ? PyExc_UserWarning : given[1];
  if (!PyType_Check(parsed->category) || !PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(parsed->category),
                                                           reinterpret_cast<PyTypeObject*>(PyExc_Warning)))
    return false;
  if (given[2] != nullptr) parsed->level = PyLong_CheckExact(given[2]) ? PyLong_AsLong(given[2]) : -1;
  return parsed->level >= 1 && !PyErr_Occurred();
}

}  // namespace

PyObject* RecorderState::Impl::ModelWarn(const NativeCall& call) {
  WarnArguments parsed;
  if (!ParseWarn(call, &parsed))
    return PyErr_Occurred() ? nullptr : BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
  if (parsed.level > static_cast<long>(frames.size()))
    return BreakNull(BreakCode::kUnsupportedEffect, "a warning in the name of a caller");
  const LiveFrame& frame = *frames[frames.size() - static_cast<size_t>(parsed.level)];
  // The filters decide whether it is raised; they are guarded, element by element.
  PyRef warnings = PyRef::Steal(PyImport_ImportModule("warnings"));
  PyRef lifted = PyRef::Steal(warnings ? LiftModule(warnings.get()) : nullptr);
  PyRef name = PyRef::Steal(PyUnicode_InternFromString("filters"));
  PyRef filters = PyRef::Steal(lifted && name ? GetAttr(lifted.get(), name.get()) : nullptr);
  if (!filters) return nullptr;
  Shadow* shadow = FindShadow(filters.get());
  if (shadow == nullptr) return BreakNull(BreakCode::kUnsupportedObject, "warnings.filters is no list");
  if (FullLift(*shadow) != 0) return nullptr;
  PyRef helpers;
  PyRef raises;
  {
    FakeSession::Pause pause;
    const bool armed = RecordingHook::Arm(false);
    helpers = PyRef::Steal(PyImport_ImportModule("framejit._warnings"));
    const int line = PyCode_Addr2Line(frame.code, frame.offset * 2);
    PyRef arguments = PyRef::Steal(
        Py_BuildValue("(OOOiO)", parsed.message, parsed.category, frame.code->co_filename, line, frame.globals));
    PyRef judge = PyRef::Steal(helpers ? PyObject_GetAttrString(helpers.get(), "raises") : nullptr);
    if (judge && arguments) raises = PyRef::Steal(PyObject_CallObject(judge.get(), arguments.get()));
    RecordingHook::Arm(armed);
    Effect effect{.kind = EffectKind::kCall, .callable = {}, .arguments = std::move(arguments)};
    if (helpers) effect.callable = PyRef::Steal(PyObject_GetAttrString(helpers.get(), "warn"));
    if (!raises || !effect.callable) return nullptr;
    if (raises.get() != Py_True) recording->exit_plan.effects.push_back(std::move(effect));
  }
  if (raises.get() == Py_True) return BreakNull(BreakCode::kUnsupportedEffect, "a warning that is raised");
  return Py_NewRef(Py_None);
}

}  // namespace framejit
