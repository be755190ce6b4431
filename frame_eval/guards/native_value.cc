#include "frame_eval/guards/native_value.h"

#include <algorithm>
#include <string_view>

namespace framejit {
namespace {

// Comparing the content of an array on each call costs time that grows with it.
constexpr Py_ssize_t kMaxArrayBytes = 1 << 16;

struct NumPyTypes {
  PyTypeObject* scalar = nullptr;
  PyTypeObject* array = nullptr;
  PyObject* item = nullptr;     // numpy.generic.item
  PyObject* tobytes = nullptr;  // numpy.ndarray.tobytes
};

PyTypeObject* TypeOfModule(PyObject* module, const char* name) {
  PyObject* type = PyObject_GetAttrString(module, name);
  if (type == nullptr) PyErr_Clear();
  return type != nullptr && PyType_Check(type) ? reinterpret_cast<PyTypeObject*>(type) : nullptr;
}

PyObject* MethodOf(PyTypeObject* type, const char* name) {
  PyObject* method = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), name);
  if (method == nullptr) PyErr_Clear();
  return method;
}

// Found once NumPy is imported, then kept for the life of the process.
const NumPyTypes* NumPy() {
  static NumPyTypes* types = nullptr;
  if (types != nullptr) return types;
  PyObject* modules = PyImport_GetModuleDict();
  PyObject* module = modules == nullptr ? nullptr : PyDict_GetItemString(modules, "numpy");
  if (module == nullptr) return nullptr;
  NumPyTypes found{.scalar = TypeOfModule(module, "generic"), .array = TypeOfModule(module, "ndarray")};
  if (found.scalar == nullptr || found.array == nullptr) return nullptr;
  found.item = MethodOf(found.scalar, "item");
  found.tobytes = MethodOf(found.array, "tobytes");
  if (found.item == nullptr || found.tobytes == nullptr) return nullptr;
  types = new NumPyTypes(found);
  return types;
}

bool IsExactValue(PyObject* object) {
  return PyBool_Check(object) || PyLong_CheckExact(object) || PyFloat_CheckExact(object) ||
         PyComplex_CheckExact(object) || PyUnicode_CheckExact(object) || PyBytes_CheckExact(object);
}

PyRef ScalarValue(PyObject* scalar) {
  PyRef value = PyRef::Steal(PyObject_CallOneArg(NumPy()->item, scalar));
  PyErr_Clear();
  return value && IsExactValue(value.get()) ? value : PyRef();
}

PyRef Attribute(PyObject* object, const char* name) {
  return PyRef::Steal(object == nullptr ? nullptr : PyObject_GetAttrString(object, name));
}

PyRef ArrayValue(PyObject* array) {
  PyRef size = Attribute(array, "nbytes");
  PyRef dtype = Attribute(array, "dtype");
  PyRef kind = Attribute(dtype.get(), "kind");
  const char* letter = kind && PyUnicode_Check(kind.get()) ? PyUnicode_AsUTF8(kind.get()) : nullptr;
  const bool numbers = letter != nullptr && (*letter == 'b' || *letter == 'i' || *letter == 'u' || *letter == 'f' ||
                                             *letter == 'c' || *letter == 'U' || *letter == 'S');
  if (!numbers || !size || PyLong_AsSsize_t(size.get()) > kMaxArrayBytes) return PyErr_Clear(), PyRef();
  PyRef name = Attribute(dtype.get(), "str");
  PyRef shape = Attribute(array, "shape");
  PyRef strides = Attribute(array, "strides");
  PyRef text = PyRef::Steal(
      name && shape && strides ? PyUnicode_FromFormat("%U %S %S ", name.get(), shape.get(), strides.get()) : nullptr);
  PyObject* header = text ? PyUnicode_AsUTF8String(text.get()) : nullptr;
  PyRef content = PyRef::Steal(header == nullptr ? nullptr : PyObject_CallOneArg(NumPy()->tobytes, array));
  if (content) {
    PyBytes_Concat(&header, content.get());
  } else {
    Py_CLEAR(header);
  }
  PyErr_Clear();
  return PyRef::Steal(header);
}

// A function that says how often abstract base classes were given other classes to recognise.
bool IsAbcToken(PyObject* object) {
  return PyCFunction_CheckExact(object) &&
         std::string_view(reinterpret_cast<PyCFunctionObject*>(object)->m_ml->ml_name) == "get_cache_token";
}

}  // namespace

bool IsNumPyScalar(PyObject* object) {
  const NumPyTypes* types = NumPy();
  return types != nullptr && PyType_IsSubtype(Py_TYPE(object), types->scalar);
}

bool IsNumPyArray(PyObject* object) {
  const NumPyTypes* types = NumPy();
  return types != nullptr && Py_TYPE(object) == types->array;
}

bool IsPlainDate(PyObject* object) {
  static constexpr std::string_view kNames[] = {"datetime.date", "datetime.timedelta", "datetime.datetime",
                                                "datetime.time", "decimal.Decimal"};
  const std::string_view name = Py_TYPE(object)->tp_name;
  if (std::find(std::begin(kNames), std::end(kNames), name) == std::end(kNames)) return false;
  if (name != "datetime.datetime" && name != "datetime.time") return true;
  PyRef zone = Attribute(object, "tzinfo");
  return zone && zone.get() == Py_None;
}

PyRef NativeValue(PyObject* object) {
  if (object == nullptr) return {};
  PyRef value;
  if (IsAbcToken(object)) {
    value = PyRef::Steal(PyObject_CallNoArgs(object));
    PyErr_Clear();
    return value;
  }
  if (IsPlainDate(object)) {
    value = PyRef::Steal(Py_TYPE(object)->tp_repr(object));
    PyErr_Clear();
    return value;
  }
  if (IsNumPyScalar(object)) {
    value = ScalarValue(object);
  } else if (IsNumPyArray(object)) {
    value = ArrayValue(object);
  } else if (PyUnicode_Check(object)) {
    value = PyRef::Steal(PyUnicode_FromObject(object));
  } else if (PyBytes_Check(object)) {
    value = PyRef::Steal(PyBytes_FromStringAndSize(PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object)));
  } else if (PyFloat_Check(object)) {
    value = PyRef::Steal(PyFloat_FromDouble(PyFloat_AS_DOUBLE(object)));
  } else if (PyComplex_Check(object)) {
    value = PyRef::Steal(PyComplex_FromCComplex(reinterpret_cast<PyComplexObject*>(object)->cval));
  } else if (PyLong_Check(object)) {
    // int + 0 by the type's own addition: no override is asked.
    PyRef zero = PyRef::Steal(PyLong_FromLong(0));
    value = PyRef::Steal(zero ? PyLong_Type.tp_as_number->nb_add(object, zero.get()) : nullptr);
  }
  PyErr_Clear();
  return value;
}

}  // namespace framejit
