#include "frame_eval/cpython/exception_text.h"

#include <Python.h>

#include "frame_eval/cpython/py_ref.h"

namespace framejit {

std::string TakeExceptionText() {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  if (type == nullptr) return "";
  PyErr_NormalizeException(&type, &value, &traceback);
  PyRef owned_type = PyRef::Steal(type), owned_value = PyRef::Steal(value), owned_traceback = PyRef::Steal(traceback);
  std::string text = Py_TYPE(owned_value.get())->tp_name;
  PyRef message = PyRef::Steal(PyObject_Str(owned_value.get()));
  const char* utf8 = message ? PyUnicode_AsUTF8(message.get()) : nullptr;
  if (utf8 == nullptr)
    PyErr_Clear();
  else if (*utf8 != '\0')
    text.append(": ").append(utf8);
  return text;
}

}  // namespace framejit
