#include "frame_eval/cpython/class_versions.h"

#include <vector>

namespace framejit {

namespace {

// The exception that is set while this lives, as it was.
class WithoutException {
 public:
  WithoutException() { PyErr_Fetch(&type_, &value_, &traceback_); }
  ~WithoutException() { PyErr_Restore(type_, value_, traceback_); }
  WithoutException(const WithoutException&) = delete;
  WithoutException& operator=(const WithoutException&) = delete;

 private:
  PyObject *type_ = nullptr, *value_ = nullptr, *traceback_ = nullptr;
};

}  // namespace

KeptClassVersions::KeptClassVersions(PyTypeObject* root) {
  const WithoutException scope;
  std::vector<PyRef> pending;
  pending.push_back(PyRef::Borrow(reinterpret_cast<PyObject*>(root)));
  while (!pending.empty()) {
    const PyRef next = std::move(pending.back());
    pending.pop_back();
    auto* type = reinterpret_cast<PyTypeObject*>(next.get());
    for (Py_ssize_t i = 0; type->tp_mro != nullptr && i < PyTuple_GET_SIZE(type->tp_mro); ++i)
      Add(reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(type->tp_mro, i)));
    // Not by the class's own attributes, which its metaclass may have others for.
    PyRef subclasses =
        PyRef::Steal(PyObject_CallMethod(reinterpret_cast<PyObject*>(&PyType_Type), "__subclasses__", "O", next.get()));
    for (Py_ssize_t i = 0; subclasses && i < PyList_GET_SIZE(subclasses.get()); ++i)
      pending.push_back(PyRef::Borrow(PyList_GET_ITEM(subclasses.get(), i)));
    PyErr_Clear();
  }
}

void KeptClassVersions::Add(PyTypeObject* type) {
  if (type->tp_mro == nullptr) return;
  Class& row = classes_[type];
  if (row.type) return;
  row.type = PyRef::Borrow(reinterpret_cast<PyObject*>(type));
  row.mro = PyRef::Borrow(type->tp_mro);
  if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0 && (type->tp_flags & Py_TPFLAGS_IMMUTABLETYPE) == 0)
    row.attributes = PyRef::Steal(PyDict_Copy(type->tp_dict));
  row.version = type->tp_version_tag;
  row.flag = type->tp_flags & Py_TPFLAGS_VALID_VERSION_TAG;
}

bool KeptClassVersions::IsSame(const Class& row) {
  auto* type = reinterpret_cast<PyTypeObject*>(row.type.get());
  if (type->tp_mro != row.mro.get()) return false;
  if (!row.attributes) return (type->tp_flags & Py_TPFLAGS_IMMUTABLETYPE) != 0 || type->tp_version_tag == row.version;
  if (PyDict_GET_SIZE(type->tp_dict) != PyDict_GET_SIZE(row.attributes.get())) return false;
  PyObject *name = nullptr, *value = nullptr;
  for (Py_ssize_t cursor = 0; PyDict_Next(row.attributes.get(), &cursor, &name, &value);) {
    if (PyDict_GetItemWithError(type->tp_dict, name) != value) return false;
  }
  return true;
}

KeptClassVersions::~KeptClassVersions() {
  const WithoutException scope;
  std::unordered_map<PyTypeObject*, bool> same;
  for (const auto& [type, row] : classes_) same.emplace(type, IsSame(row));
  for (const auto& [type, row] : classes_) {
    if (row.version == 0 || type->tp_version_tag == row.version) continue;
    bool is_same = true;
    for (Py_ssize_t i = 0; is_same && i < PyTuple_GET_SIZE(row.mro.get()); ++i)
      is_same = same[reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(row.mro.get(), i))];
    if (!is_same) continue;
    // Versions are never given twice: what any cache knows by this one is what the class is now.
    type->tp_version_tag = row.version;
    type->tp_flags |= row.flag;
  }
  PyErr_Clear();
}

}  // namespace framejit
