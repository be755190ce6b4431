#include "backends/plugin/python_error.h"

#include "absl/strings/str_cat.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

absl::Status TakePythonError(const std::string& doing) {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  PyRef owned_type = PyRef::Steal(type), owned_value = PyRef::Steal(value), owned_traceback = PyRef::Steal(traceback);
  if (!owned_value) return absl::InternalError(absl::StrCat(doing, ": failed without an exception"));
  PyRef text = PyRef::Steal(PyObject_Str(owned_value.get()));
  const char* message = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
  if (message == nullptr) {
    PyErr_Clear();
    message = "(its message cannot be shown)";
  }
  return absl::InternalError(absl::StrCat(doing, ": ", Py_TYPE(owned_value.get())->tp_name, ": ", message));
}

}  // namespace framejit
