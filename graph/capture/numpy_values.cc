// NumPy scalars and arrays as constants. A scalar is guarded by type and value. An array from outside is guarded by its
// content and stands in the recording as a copy, so that nothing the program does reaches the user's array; a recording
// that wrote to the copy breaks. Functions of NumPy run natively on such values.
#include <algorithm>
#include <string_view>

#include "graph/capture/evaluator.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

// What these do rests on more than their arguments, or reaches outside.
constexpr std::string_view kImpure[] = {
    "empty",      "empty_like",       "save",     "savez",         "savez_compressed", "savetxt",      "load",
    "loadtxt",    "genfromtxt",       "fromfile", "fromregex",     "tofile",           "dump",         "frombuffer",
    "memmap",     "set_printoptions", "seterr",   "setbufsize",    "resize",           "setflags",     "from_dlpack",
    "__dlpack__", "may_share_memory", "setfield", "shares_memory", "piecewise",        "fromfunction", "vectorize",
};

// Functions of NumPy's C modules that make an array of their arguments alone, or compute with them.
constexpr std::string_view kFunctions[] = {"array", "asarray", "asanyarray", "ascontiguousarray",
                                           "zeros", "arange",  "fromiter"};

std::string NameOf(PyObject* callable) {
  PyRef name = PyRef::Steal(PyObject_GetAttr(callable, Names().name));
  const char* text = name && PyUnicode_Check(name.get()) ? PyUnicode_AsUTF8(name.get()) : nullptr;
  PyErr_Clear();
  return text == nullptr ? "" : text;
}

template <size_t kSize>
bool HasName(const std::string_view (&names)[kSize], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool IsValue(PyObject* object, int depth = 0) {
  if (IsConstant(object) || IsNativeValue(object) || IsNumPyArray(object) || Py_TYPE(object) == &PySlice_Type)
    return true;
  if ((!PyTuple_CheckExact(object) && !PyList_CheckExact(object)) || depth > 8) return false;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
    if (!IsValue(PySequence_Fast_GET_ITEM(object, i), depth + 1)) return false;
  }
  return true;
}

// What is passed in differs from call to call: its content is not to be compiled in. What modules, objects and closures
// hold is what programs call a table.
bool IsPassedIn(const SourceTable& sources, SourceId source) {
  const Source* row = &sources[source];
  while (row->kind == SourceKind::kTupleItem || row->kind == SourceKind::kListItem ||
         row->kind == SourceKind::kDictItem || row->kind == SourceKind::kDequeItem) {
    row = &sources[row->parent];
  }
  return row->kind == SourceKind::kArgument;
}

}  // namespace

bool RecorderState::Impl::IsVaryingScalar(PyObject* value, SourceId source) const {
  PyObject* code = PyFunction_GET_CODE(request.function);
  return IsNumPyScalar(value) && request.resumes != nullptr &&
         request.resumes->Find(reinterpret_cast<PyCodeObject*>(code)) != nullptr &&
         IsPassedIn(recording->sources, source);
}

PyObject* RecorderState::Impl::LiftArray(PyObject* value, SourceId source, bool pinned) {
  if (IsPassedIn(recording->sources, source))
    return BreakNull(BreakCode::kUnsupportedObject, "a NumPy array that is passed in");
  PyRef content = NativeValue(value);
  if (!content) return BreakNull(BreakCode::kUnsupportedObject, "a NumPy array that is large or holds objects");
  if (!pinned) AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(Py_TYPE(value)));
  AddGuard(GuardKind::kConstantIs, Intern(SourceKind::kNativeValue, source), content.get());
  PyRef copy = PyRef::Steal(PyObject_CallMethod(value, "copy", "s", "K"));
  PyRef baseline = NativeValue(copy.get());
  if (!copy || !baseline) return nullptr;
  arrays.push_back(ArrayCopy{std::move(baseline), copy});
  Remember(value, copy.get(), source, pinned);
  return copy.release();
}

void RecorderState::Impl::CheckArrays() {
  for (const ArrayCopy& array : arrays) {
    PyRef content = NativeValue(array.copy.get());
    if (content && PyObject_RichCompareBool(content.get(), array.baseline.get(), Py_EQ) == 1) continue;
    return Break(BreakCode::kUnsupportedEffect, "a NumPy array from outside is written");
  }
}

// Of a function, a type or a method (with its receiver) of NumPy: whether it may run natively on what it is given.
bool RecorderState::Impl::MayCallNumPy(const NativeCall& call) {
  PyTypeObject* kind = Py_TYPE(call.callable);
  const std::string_view kind_name = kind->tp_name;
  const std::string name = NameOf(call.callable);
  bool known_function = kind_name == "numpy.ufunc" || kind_name == "numpy._ArrayFunctionDispatcher";
  if (kind == &PyCFunction_Type) known_function = HasName(kFunctions, name);
  if (PyType_Check(call.callable)) {
    const std::string_view type_name = reinterpret_cast<PyTypeObject*>(call.callable)->tp_name;
    known_function = type_name.starts_with("numpy.") && type_name != "numpy.ndarray";
  }
  if (kind == &PyMethodDescr_Type)
    known_function = call.nargs > 0 && (IsNumPyScalar(call.args[0]) || IsNumPyArray(call.args[0]));
  if (!known_function || HasName(kImpure, name)) return false;
  return std::all_of(call.args, call.args + call.total(), [](PyObject* argument) { return IsValue(argument); });
}

PyObject* RecorderState::Impl::CallNumPy(const NativeCall& call) {
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    if (Prepare(call.args[i]) != 0) return nullptr;
  }
  return Scan(CallUnrecorded(call));
}

}  // namespace framejit
