// Interning of sources and their printed form.
#include "frame_eval/guards/source.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace framejit {
namespace {

struct SourceRow {
  std::string_view name;
  bool has_parent;
};

constexpr SourceRow kSourceRows[] = {
#define SOURCE(kind, has_parent, description) {#kind, has_parent},
#include "frame_eval/guards/sources.def"
#undef SOURCE
};

bool IsConstantType(PyTypeObject* type) {
  return type == &PyLong_Type || type == &PyFloat_Type || type == &PyBool_Type || type == &PyBytes_Type ||
         type == &PyUnicode_Type || type == &PyComplex_Type || type == Py_TYPE(Py_None) || type == &PyEllipsis_Type;
}

// A key under which two constants are equal only where types and values are, all the way down; null where `object` is
// not such a constant. New reference. An exception may be set, which the caller clears.
PyRef TypedKey(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  if (type == &PyUnicode_Type) return PyRef::Borrow(object);
  if (IsConstantType(type)) return PyRef::Steal(PyTuple_Pack(2, type, object));
  if (type != &PyTuple_Type) return PyRef();
  Py_ssize_t size = PyTuple_GET_SIZE(object);
  PyRef items = PyRef::Steal(PyTuple_New(size + 1));
  if (!items) return PyRef();
  PyTuple_SET_ITEM(items.get(), 0, Py_NewRef(reinterpret_cast<PyObject*>(type)));
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyRef item = TypedKey(PyTuple_GET_ITEM(object, i));
    if (!item) return PyRef();
    PyTuple_SET_ITEM(items.get(), i + 1, item.release());
  }
  return items;
}

// The text of an identifier key, without quotes.
std::string NameText(PyObject* key) {
  if (key != nullptr && PyUnicode_Check(key)) {
    const char* utf8 = PyUnicode_AsUTF8(key);
    if (utf8 != nullptr) return utf8;
    PyErr_Clear();
  }
  return ObjectText(key);
}

}  // namespace

namespace {

std::string TupleText(PyObject* tuple, int depth) {
  std::vector<std::string> items;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    PyObject* item = PyTuple_GET_ITEM(tuple, i);
    items.push_back(PyTuple_CheckExact(item) && depth < 8 ? TupleText(item, depth + 1) : ObjectText(item));
  }
  return absl::StrCat("(", absl::StrJoin(items, ", "), items.size() == 1 ? ",)" : ")");
}

}  // namespace

std::string ObjectText(PyObject* key) {
  if (key == nullptr) return "<gone>";
  PyTypeObject* type = Py_TYPE(key);
  if (IsConstantType(type)) {
    PyRef text = PyRef::Steal(PyObject_Repr(key));
    const char* utf8 = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
    if (utf8 != nullptr) return utf8;
    PyErr_Clear();
  }
  if (type == &PyTuple_Type) return TupleText(key, 0);
  if (PyType_Check(key)) return reinterpret_cast<PyTypeObject*>(key)->tp_name;
  if (PyModule_CheckExact(key)) {
    const char* name = PyModule_GetName(key);
    if (name != nullptr) return name;
    PyErr_Clear();
  }
  if (PyFunction_Check(key)) {
    const char* name = PyUnicode_AsUTF8(reinterpret_cast<PyFunctionObject*>(key)->func_qualname);
    if (name != nullptr) return name;
    PyErr_Clear();
  }
  return absl::StrCat("<", type->tp_name, " at 0x", absl::Hex(reinterpret_cast<uintptr_t>(key)), ">");
}

std::string_view SourceKindName(SourceKind kind) { return kSourceRows[static_cast<size_t>(kind)].name; }
bool SourceHasParent(SourceKind kind) { return kSourceRows[static_cast<size_t>(kind)].has_parent; }

SourceId SourceTable::Intern(SourceKind kind, SourceId parent, PyObject* key, int32_t index) {
  PyRef canonical = PyRef::Borrow(key);
  if (key != nullptr && kind != SourceKind::kPinned) {
    PyRef typed = TypedKey(key);
    if (typed && !key_canon_) key_canon_ = PyRef::Steal(PyDict_New());
    if (typed && key_canon_) {
      PyObject* known = PyDict_SetDefault(key_canon_.get(), typed.get(), key);
      if (known != nullptr) canonical = PyRef::Borrow(known);
    }
    if (PyErr_Occurred() != nullptr) PyErr_Clear();  // unhashable or out of memory: identity is still right
  }
  uint64_t shape = (static_cast<uint64_t>(kind) << 56) | (static_cast<uint64_t>(static_cast<uint32_t>(parent)) << 24) |
                   (static_cast<uint32_t>(index) & 0xffffffu);
  Key id_key{shape, canonical.get()};
  auto [it, inserted] = index_.try_emplace(id_key, static_cast<SourceId>(sources_.size()));
  if (inserted) sources_.push_back(Source{kind, parent, std::move(canonical), index});
  return it->second;
}

std::string SourceTable::ToString(SourceId id, const std::vector<std::string>& argument_names) const {
  if (id == kNoSource) return "<no source>";
  const Source& source = (*this)[id];
  std::string parent = SourceHasParent(source.kind) ? ToString(source.parent, argument_names) : "";
  return SourceText(source.kind, parent, source.key.get(), source.index, argument_names);
}

std::string SourceText(SourceKind kind, const std::string& parent, PyObject* key, int32_t index,
                       const std::vector<std::string>& argument_names) {
  switch (kind) {
    case SourceKind::kArgument: {
      size_t slot = static_cast<size_t>(index);
      std::string name = slot < argument_names.size() ? argument_names[slot] : absl::StrCat("arg", slot);
      return absl::StrCat("L['", name, "']");
    }
    case SourceKind::kFunction:
      return "F";
    case SourceKind::kPinned:
      return key != nullptr && PyDict_Check(key)
                 ? absl::StrCat("<dict at 0x", absl::Hex(reinterpret_cast<uintptr_t>(key)), ">")
                 : ObjectText(key);
    case SourceKind::kGlobals:
      return parent == "F" ? "G" : absl::StrCat(parent, ".__globals__");
    case SourceKind::kBuiltins:
      return parent == "F" ? "B" : absl::StrCat(parent, ".__builtins__");
    case SourceKind::kInstanceDict:
      return absl::StrCat(parent, ".__dict__");
    case SourceKind::kAttribute:
      return absl::StrCat(parent, ".", NameText(key));
    case SourceKind::kTypeAttribute:
      return absl::StrCat(parent, "::", NameText(key));
    case SourceKind::kDictItem:
      return absl::StrCat(parent, "[", ObjectText(key), "]");
    case SourceKind::kListItem:
    case SourceKind::kTupleItem:
    case SourceKind::kDequeItem:
      return absl::StrCat(parent, "[", index, "]");
    case SourceKind::kCell:
      return absl::StrCat(parent, ".__closure__[", index, "]");
    case SourceKind::kCellContents:
      return absl::StrCat(parent, ".cell_contents");
    case SourceKind::kDefault:
      return absl::StrCat(parent, ".__defaults__[", index, "]");
    case SourceKind::kKwDefault:
      return absl::StrCat(parent, ".__kwdefaults__[", ObjectText(key), "]");
    case SourceKind::kMethodSelf:
      return absl::StrCat(parent, ".__self__");
    case SourceKind::kMethodFunction:
      return absl::StrCat(parent, ".__func__");
    case SourceKind::kPartialField: {
      static constexpr std::array<const char*, 3> kFields = {".func", ".args", ".keywords"};
      return absl::StrCat(parent, kFields[static_cast<size_t>(index)]);
    }
    case SourceKind::kIteratorParts:
      return absl::StrCat(parent, ".__reduce__()");
    case SourceKind::kNativeValue:
      return absl::StrCat("value of ", parent);
    case SourceKind::kWeakReferent:
      return absl::StrCat(parent, "()");
    case SourceKind::kTensorGrad:
      return absl::StrCat(parent, ".grad");
  }
  return "<unknown source>";
}

}  // namespace framejit
