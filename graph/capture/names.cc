// Globals, closure cells and imports.
#include "graph/capture/evaluator.h"
#include "graph/capture/program_gradients.h"
#include "graph/capture/raise.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {

PyObject* RecorderState::Impl::GlobalsGet(PyObject* globals, PyObject* name) {
  if (local_namespaces.contains(globals)) return Py_XNewRef(PyDict_GetItemWithError(globals, name));
  if (Shadow* shadow = FindShadow(globals)) return ShadowDictGet(*shadow, name);
  if (auto seen = known.find(globals); seen != known.end()) {
    if (Shadow* shadow = FindShadow(seen->second.lifted.get())) return ShadowDictGet(*shadow, name);
  }
  if (auto hit = globals_cache.find({globals, name}); hit != globals_cache.end()) {
    if (ReadsInCheckpoint()) NoteRead(Intern(SourceKind::kDictItem, Pinned(globals), name));
    if (MayChangeBeforeBackward(hit->second.get()))
      return BreakNull(BreakCode::kAutograd, "a global that may change before the backward");
    return Py_XNewRef(hit->second.get());
  }
  PyObject* value = PyDict_GetItemWithError(globals, name);
  if (value == nullptr && PyErr_Occurred()) return nullptr;
  const SourceId source = Pinned(globals);
  PyRef lifted;
  if (value == nullptr) {
    AddGuard(GuardKind::kKeyAbsent, source, name);
  } else {
    lifted = PyRef::Steal(Lift(Py_NewRef(value), Intern(SourceKind::kDictItem, source, name)));
    if (!lifted) return nullptr;
  }
  kept_alive.push_back(PyRef::Borrow(name));
  globals_cache.emplace(std::pair(globals, name), lifted);
  return lifted.release();
}

PyObject* RecorderState::Impl::LoadGlobal(PyObject* globals, PyObject* builtins, PyObject* name) {
  PyObject* value = GlobalsGet(globals, name);
  if (value != nullptr || PyErr_Occurred()) return value;
  if (builtins != globals && PyDict_Check(builtins)) value = GlobalsGet(builtins, name);
  if (value == nullptr && !PyErr_Occurred()) RaiseNameError("name '%U' is not defined", name);
  return value;
}

int RecorderState::Impl::StoreGlobal(PyObject* globals, PyObject* name, PyObject* value) {
  const bool local = local_namespaces.contains(globals);
  Shadow* shadow = local ? nullptr : GlobalsShadow(globals);
  if (!local && shadow == nullptr) return -1;
  const int status = !local             ? ShadowDictSet(*shadow, name, value)
                     : value == nullptr ? PyDict_DelItem(globals, name)
                                        : PyDict_SetItem(globals, name, value);
  if (status != 0 && !broken() && PyErr_ExceptionMatches(PyExc_KeyError)) {
    PyErr_Clear();
    RaiseNameError("name '%U' is not defined", name);
  }
  return status;
}

// Where an outside cell can be found again: in the closure of the frame's own function, or of one that was entered
// before.
SourceId RecorderState::Impl::CellSource(PyObject* cell, PyFunctionObject* function, int index) {
  if (auto row = cell_sources.find(cell); row != cell_sources.end()) return row->second;
  const SourceId source = function == nullptr ? kNoSource : SourceOf(reinterpret_cast<PyObject*>(function));
  if (source == kNoSource) return kNoSource;
  return cell_sources[cell] = Intern(SourceKind::kCell, source, nullptr, index);
}

PyObject* RecorderState::Impl::LoadCell(PyObject* cell, PyFunctionObject* function, int index) {
  if (local_cells.contains(cell)) {
    if (ReadsInCheckpoint()) checkpoint_cells.emplace_back(PyRef::Borrow(cell), PyRef::Borrow(PyCell_GET(cell)));
    return Py_XNewRef(PyCell_GET(cell));
  }
  if (auto row = cell_values.find(cell); row != cell_values.end()) {
    if (ReadsInCheckpoint()) checkpoint_cells.emplace_back(PyRef::Borrow(cell), row->second.value);
    return Py_XNewRef(row->second.value.get());
  }
  const SourceId source = CellSource(cell, function, index);
  if (source == kNoSource) return BreakNull(BreakCode::kUnsupportedObject, "a closure cell of unknown origin");
  PyObject* value = PyCell_GET(cell);
  if (value == nullptr) return BreakNull(BreakCode::kUnsupportedObject, "an empty closure cell from outside");
  if (ReadsInCheckpoint()) checkpoint_cells.emplace_back(PyRef::Borrow(cell), PyRef::Borrow(value));
  return Lift(Py_NewRef(value), Intern(SourceKind::kCellContents, source));
}

int RecorderState::Impl::StoreCell(PyObject* cell, PyFunctionObject* function, int index, PyObject* value) {
  if (local_cells.contains(cell)) return PyCell_Set(cell, value);
  if (CellSource(cell, function, index) == kNoSource)
    return BreakInt(BreakCode::kUnsupportedEffect, "a closure cell of unknown origin is set");
  auto [row, inserted] = cell_values.insert_or_assign(cell, CellValue{PyRef::Borrow(value)});
  if (inserted) writes.push_back(Write{.shadow = nullptr, .cell = PyRef::Borrow(cell), .object = {}, .name = {}});
  return 0;
}

// What sys.modules holds rests on nothing: replacing a module there is not a change that recordings see.
PyObject* RecorderState::Impl::LiftModule(PyObject* module) { return Lift(Py_NewRef(module), Pinned(module), true); }

// Modules that were imported before are looked up; running a module's code is an effect.
PyObject* RecorderState::Impl::ImportName(PyObject* name, PyObject* globals, PyObject* fromlist, PyObject* level) {
  const int depth = static_cast<int>(PyLong_AsLong(level));
  if (depth == -1 && PyErr_Occurred()) return nullptr;
  PyRef absolute = PyRef::Borrow(name);
  if (depth > 0) {
    PyRef package = PyRef::Steal(PyMapping_GetItemString(globals, "__package__"));
    PyRef parts =
        PyRef::Steal(package && PyUnicode_Check(package.get()) ? PyUnicode_AsUTF8String(package.get()) : nullptr);
    if (!parts) return BreakNull(BreakCode::kUnsupportedEffect, "a relative import without a package");
    std::string base = PyBytes_AS_STRING(parts.get());
    for (int i = 1; i < depth; ++i) base = base.substr(0, base.rfind('.'));
    const char* tail = PyUnicode_AsUTF8(name);
    if (tail == nullptr) return nullptr;
    absolute = PyRef::Steal(PyUnicode_FromString(*tail == '\0' ? base.c_str() : (base + "." + tail).c_str()));
  }
  PyRef module = PyRef::Steal(absolute ? PyImport_GetModule(absolute.get()) : nullptr);
  if (!module) {
    return PyErr_Occurred()
               ? nullptr
               : BreakNull(BreakCode::kUnsupportedEffect, std::string("import of ") + PyUnicode_AsUTF8(absolute.get()));
  }
  if (fromlist != nullptr && fromlist != Py_None && PyTuple_Check(fromlist)) {
    // A submodule that was not imported yet would be.
    PyObject* dict = PyModule_Check(module.get()) ? PyModule_GetDict(module.get()) : nullptr;
    for (Py_ssize_t i = 0; dict != nullptr && i < PyTuple_GET_SIZE(fromlist); ++i) {
      PyObject* wanted = PyTuple_GET_ITEM(fromlist, i);
      PyRef found = PyRef::Steal(GetAttr(module.get(), wanted));
      if (found) continue;
      if (broken()) return nullptr;
      return BreakNull(BreakCode::kUnsupportedEffect, "import of a submodule");
    }
    return LiftModule(module.get());
  }
  if (depth > 0) return BreakNull(BreakCode::kUnsupportedEffect, "a relative import");
  const char* text = PyUnicode_AsUTF8(name);
  if (text == nullptr) return nullptr;
  std::string root = std::string(text).substr(0, std::string(text).find('.'));
  PyRef root_name = PyRef::Steal(PyUnicode_FromString(root.c_str()));
  PyRef top = PyRef::Steal(root_name ? PyImport_GetModule(root_name.get()) : nullptr);
  if (!top) return PyErr_Occurred() ? nullptr : BreakNull(BreakCode::kUnsupportedEffect, "import of " + root);
  return LiftModule(top.get());
}

}  // namespace framejit
