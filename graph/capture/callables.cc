// Resolves callables.def to objects. Rows of modules that are not imported stay unresolved until they are.
#include "graph/capture/callables.h"

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {
namespace {

struct Row {
  const char* module;
  const char* name;
  Treatment treatment;
};

constexpr Row kRows[] = {
#define CALLABLE(module, name, treatment) {module, name, Treatment::k##treatment},
#include "graph/capture/callables.def"
#undef CALLABLE
};

// Read and written with the GIL held; the objects are kept for the life of the process.
struct Table {
  absl::flat_hash_map<PyObject*, Treatment> treatments;
  std::vector<const Row*> unresolved;
  Table() {
    for (const Row& row : kRows) unresolved.push_back(&row);
  }
};

Table& GetTable() {
  static Table* table = new Table();
  return *table;
}

// The attribute as the class holds it: descriptors are not bound. Null without an exception where it does not exist.
PyRef Find(PyObject* module, const std::string& path) {
  PyRef object = PyRef::Borrow(module);
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    object = PyRef::Steal(PyObject_GetAttrString(object.get(), part.c_str()));
    if (!object) return PyErr_Clear(), PyRef();
    begin = end + 1;
  }
  return object;
}

bool Resolve(const Row& row, Table& table) {
  PyRef name = PyRef::Steal(PyUnicode_FromString(row.module));
  PyRef module = PyRef::Steal(name ? PyImport_GetModule(name.get()) : nullptr);
  if (!module) return PyErr_Clear(), false;
  PyRef object = Find(module.get(), row.name);
  if (!object) return true;
  table.treatments.try_emplace(object.release(), row.treatment);
  return true;
}

}  // namespace

void ResolveCallables() {
  Table& table = GetTable();
  std::vector<const Row*> rest;
  for (const Row* row : table.unresolved) {
    if (!Resolve(*row, table)) rest.push_back(row);
  }
  table.unresolved = std::move(rest);
}

std::optional<Treatment> FindCallable(PyObject* callable) {
  const auto& treatments = GetTable().treatments;
  auto row = treatments.find(callable);
  if (row == treatments.end()) return std::nullopt;
  return row->second;
}

}  // namespace framejit
