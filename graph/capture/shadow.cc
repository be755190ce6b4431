// Shadows: local copies of outside containers whose elements are lifted when they are read; the scan of what C
// returned.
#include "graph/capture/program_gradients.h"
#include "graph/capture/raise.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {

Shadow* RecorderState::Impl::FindShadow(PyObject* copy) {
  auto row = shadows.find(copy);
  return row == shadows.end() ? nullptr : row->second.get();
}

Shadow* RecorderState::Impl::NewShadow(ShadowKind kind, PyObject* real, PyRef copy, SourceId source) {
  auto shadow = std::make_unique<Shadow>();
  shadow->kind = kind;
  shadow->real = PyRef::Borrow(real);
  shadow->copy = std::move(copy);
  shadow->source = source;
  Shadow* result = shadow.get();
  shadows.emplace(result->copy.get(), std::move(shadow));
  Remember(real, result->copy.get(), source, false);
  return result;
}

// An empty dict of the same class, without running user code.
PyObject* RecorderState::Impl::NewDictLike(PyObject* real) {
  PyTypeObject* type = Py_TYPE(real);
  PyTypeObject* base = NativeBase(type);
  if (base != &PyDict_Type && base != Names().ordered_dict && base != Names().default_dict) {
    return BreakNull(BreakCode::kUnsupportedObject, std::string("a dict of class ") + type->tp_name);
  }
  PyRef none = PyRef::Steal(PyTuple_New(0));
  return none ? base->tp_new(type, none.get(), nullptr) : nullptr;
}

int RecorderState::Impl::PutDict(PyObject* dict, PyObject* key, PyObject* value) {
  return PyODict_Check(dict) ? PyODict_SetItem(dict, key, value) : PyDict_SetItem(dict, key, value);
}

Shadow* RecorderState::Impl::DictShadow(ShadowKind kind, PyObject* real, SourceId source) {
  PyRef copy = PyRef::Steal(NewDictLike(real));
  PyRef baseline = PyRef::Steal(PyDict_New());
  if (!copy || !baseline) return nullptr;
  // tp_iter of the native base gives the order an OrderedDict keeps, and runs no user code.
  PyRef iterator = PyRef::Steal(NativeBase(Py_TYPE(real))->tp_iter(real));
  if (!iterator) return nullptr;
  while (PyRef key = PyRef::Steal(PyIter_Next(iterator.get()))) {
    if (IsTensor(key.get())) return Break(BreakCode::kUnsupportedObject, "a dict with tensors as keys"), nullptr;
    if (PutDict(copy.get(), key.get(), Names().unlifted) != 0) return nullptr;
  }
  if (PyErr_Occurred()) return nullptr;
  Shadow* shadow = NewShadow(kind, real, std::move(copy), source);
  shadow->baseline = std::move(baseline);
  if (PyType_IsSubtype(Py_TYPE(real), Names().default_dict)) {
    PyRef factory = PyRef::Steal(PyObject_GenericGetAttr(real, Names().default_factory));
    factory = PyRef::Steal(Lift(factory.release(), Intern(SourceKind::kAttribute, source, Names().default_factory)));
    if (!factory || PyObject_GenericSetAttr(shadow->copy.get(), Names().default_factory, factory.get()) != 0)
      return nullptr;
  }
  return shadow;
}

Shadow* RecorderState::Impl::InstanceDict(PyObject* object) {
  auto row = instance_dicts.find(object);
  if (row != instance_dicts.end()) return row->second;
  Provenance* provenance = FindKnown(object);
  PyObject* owner = provenance != nullptr ? provenance->real.get() : object;
  PyRef dict = PyRef::Steal(ShimMaterializeInstanceDict(owner));
  if (!dict) {
    PyErr_Clear();
    return Break(BreakCode::kUnsupportedObject, std::string("attributes of a ") + Py_TYPE(owner)->tp_name), nullptr;
  }
  const SourceId source = Intern(SourceKind::kInstanceDict, SourceOf(object));
  Shadow* shadow = nullptr;
  if (auto seen = known.find(dict.get()); seen != known.end()) {
    shadow = FindShadow(seen->second.lifted.get());
  } else {
    shadow = DictShadow(ShadowKind::kInstanceDict, dict.get(), source);
  }
  if (shadow == nullptr) return nullptr;
  shadow->kind = ShadowKind::kInstanceDict;
  shadow->owner = PyRef::Borrow(object);
  instance_dicts.emplace(object, shadow);
  return shadow;
}

Shadow* RecorderState::Impl::GlobalsShadow(PyObject* globals) {
  if (auto seen = known.find(globals); seen != known.end()) return FindShadow(seen->second.lifted.get());
  globals_cache.clear();
  return DictShadow(ShadowKind::kGlobals, globals, Pinned(globals));
}

PyObject* RecorderState::Impl::LiftContainer(PyObject* value, SourceId source, bool pinned) {
  if (!pinned) AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(Py_TYPE(value)));
  GuardType(Py_TYPE(value));
  if (PyDict_Check(value)) {
    Shadow* shadow = DictShadow(ShadowKind::kDict, value, source);
    return shadow == nullptr ? nullptr : Py_NewRef(shadow->copy.get());
  }
  PyTypeObject* base = NativeBase(Py_TYPE(value));
  if (PyList_Check(value) && base == &PyList_Type) {
    PyRef none = PyRef::Steal(PyTuple_New(0));
    PyRef copy = PyRef::Steal(none ? PyList_Type.tp_new(Py_TYPE(value), none.get(), nullptr) : nullptr);
    PyRef baseline = PyRef::Steal(PyList_New(0));
    if (!copy || !baseline) return nullptr;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); ++i) {
      if (PyList_Append(copy.get(), Names().unlifted) != 0) return nullptr;
      if (PyList_Append(baseline.get(), Names().unlifted) != 0) return nullptr;
    }
    Shadow* shadow = NewShadow(ShadowKind::kList, value, std::move(copy), source);
    shadow->baseline = std::move(baseline);
    return Py_NewRef(shadow->copy.get());
  }
  if (PyAnySet_CheckExact(value)) {
    PyRef items = PyRef::Steal(PySequence_Tuple(value));
    PyRef frozen = PyRef::Steal(PyFrozenSet_New(value));
    if (!items || !frozen) return nullptr;
    if (!IsConstant(items.get()))
      return BreakNull(BreakCode::kUnsupportedObject, "a set of objects that are not constants");
    AddGuard(GuardKind::kSetEquals, source, frozen.get());
    if (PyFrozenSet_CheckExact(value)) {
      Remember(value, value, source, pinned);
      return Py_NewRef(value);
    }
    PyRef copy = PyRef::Steal(PySet_New(value));
    if (!copy) return nullptr;
    Shadow* shadow = NewShadow(ShadowKind::kSet, value, std::move(copy), source);
    shadow->full = true;
    shadow->baseline = std::move(frozen);
    return Py_NewRef(shadow->copy.get());
  }
  if (Py_TYPE(value) == Names().deque) {
    PyRef items = PyRef::Steal(PySequence_List(value));
    PyRef name = PyRef::Steal(PyUnicode_InternFromString("maxlen"));
    PyRef maxlen = PyRef::Steal(name ? PyObject_GetAttr(value, name.get()) : nullptr);
    if (!items || !maxlen) return nullptr;
    AddGuard(GuardKind::kConstantIs, Intern(SourceKind::kAttribute, source, name.get()), maxlen.get());
    AddGuard(GuardKind::kLengthIs, source, nullptr, PyList_GET_SIZE(items.get()));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items.get()); ++i) {
      PyObject* item = Lift(Py_NewRef(PyList_GET_ITEM(items.get(), i)),
                            Intern(SourceKind::kDequeItem, source, nullptr, static_cast<int32_t>(i)));
      if (item == nullptr || PyList_SetItem(items.get(), i, item) != 0) return nullptr;
    }
    PyRef copy = PyRef::Steal(
        PyObject_CallFunctionObjArgs(reinterpret_cast<PyObject*>(Names().deque), items.get(), maxlen.get(), nullptr));
    PyRef witness = PyRef::Steal(copy ? PyObject_GetIter(copy.get()) : nullptr);
    if (!witness) return nullptr;
    Shadow* shadow = NewShadow(ShadowKind::kDeque, value, std::move(copy), source);
    shadow->full = true;
    shadow->witness = std::move(witness);
    shadow->baseline = std::move(items);
    return Py_NewRef(shadow->copy.get());
  }
  return BreakNull(BreakCode::kUnsupportedObject, std::string("a container of class ") + Py_TYPE(value)->tp_name);
}

namespace {

// Keys that are equal as long as what they are made of is: constants, numbers and texts of subclasses that compare as
// their bases do, objects that are compared by identity, tuples of these.
bool IsKey(PyObject* object, int depth = 0) {
  PyTypeObject* type = Py_TYPE(object);
  if (IsConstant(object) || type->tp_hash == PyBaseObject_Type.tp_hash) return true;
  PyTypeObject* base = NativeBase(type);
  if (IsNativeValue(object) && (base == &PyLong_Type || base == &PyUnicode_Type))
    return type->tp_hash == base->tp_hash && type->tp_richcompare == base->tp_richcompare;
  if (!PyTuple_CheckExact(object) || depth > 8) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
    if (!IsKey(PyTuple_GET_ITEM(object, i), depth + 1)) return false;
  }
  return true;
}

}  // namespace

// Keys of outside dicts are named in sources.
int RecorderState::Impl::CheckKey(PyObject* key) {
  if (!GuardAddresses(key))
    return BreakInt(BreakCode::kUnsupportedObject, "a dict key that is the address of an object");
  if (IsKey(key)) return 0;
  return BreakInt(BreakCode::kUnsupportedObject, std::string("a dict key of type ") + Py_TYPE(key)->tp_name);
}

int RecorderState::Impl::LiftEntry(Shadow& shadow, PyObject* key) {
  if (CheckKey(key) != 0) return -1;
  PyObject* real = PyDict_GetItemWithError(shadow.real.get(), key);
  if (real == nullptr) return BreakInt(BreakCode::kInternalError, "an outside dict changed while it was recorded");
  PyRef lifted = PyRef::Steal(Lift(Py_NewRef(real), Intern(SourceKind::kDictItem, shadow.source, key)));
  if (!lifted) return -1;
  if (PutDict(shadow.copy.get(), key, lifted.get()) != 0) return -1;
  return PyDict_SetItem(shadow.baseline.get(), key, lifted.get());
}

PyObject* RecorderState::Impl::ShadowDictGet(Shadow& shadow, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(shadow.copy.get(), key);
  if (value == nullptr) {
    if (PyErr_Occurred() || CheckKey(key) != 0) return nullptr;
    if (PyDict_GetItemWithError(shadow.real.get(), key) == nullptr) {
      if (PyErr_Occurred()) return nullptr;
      AddGuard(GuardKind::kKeyAbsent, shadow.source, key);
    }
    return nullptr;
  }
  if (!IsUnlifted(value)) {
    if (ReadsInCheckpoint()) NoteRead(Intern(SourceKind::kDictItem, shadow.source, key));
    if (MayChangeBeforeBackward(value)) return BreakNull(BreakCode::kAutograd, "what may change before the backward");
    return Py_NewRef(value);
  }
  if (LiftEntry(shadow, key) != 0) return nullptr;
  return Py_XNewRef(PyDict_GetItemWithError(shadow.copy.get(), key));
}

int RecorderState::Impl::ShadowDictContains(Shadow& shadow, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(shadow.copy.get(), key);
  if (value == nullptr && PyErr_Occurred()) return -1;
  if (value != nullptr && !IsUnlifted(value)) return 1;
  if (CheckKey(key) != 0) return -1;
  if (value != nullptr) {
    AddGuard(GuardKind::kKeyPresent, shadow.source, key);
  } else if (PyDict_GetItemWithError(shadow.real.get(), key) == nullptr) {
    if (PyErr_Occurred()) return -1;
    AddGuard(GuardKind::kKeyAbsent, shadow.source, key);
  }
  return value != nullptr;
}

int RecorderState::Impl::ShadowDictSet(Shadow& shadow, PyObject* key, PyObject* value) {
  Touch(shadow);
  if (shadow.kind == ShadowKind::kGlobals) globals_cache.clear();
  if (value != nullptr) {
    if (CheckKey(key) != 0) return -1;
    // One that was deleted goes to the end, from wherever it was.
    const bool moves = PyDict_GetItemWithError(shadow.copy.get(), key) == nullptr && !PyErr_Occurred() &&
                       PyDict_GetItemWithError(shadow.real.get(), key) != nullptr;
    if (PyErr_Occurred() || (moves && GuardKeys(shadow) != 0)) return -1;
    if (PutDict(shadow.copy.get(), key, value) != 0) return -1;
    shadow.written.push_back(PyRef::Borrow(key));
    return 0;
  }
  int present = ShadowDictContains(shadow, key);
  if (present < 0) return -1;
  if (present == 0) return RaiseKeyError(key), -1;
  // What was set and is deleted leaves the outside dict as it was, or without what was there before.
  const bool outside = PyDict_GetItemWithError(shadow.real.get(), key) != nullptr;
  if (!outside && PyErr_Occurred()) return -1;
  AddGuard(outside ? GuardKind::kKeyPresent : GuardKind::kKeyAbsent, shadow.source, key);
  std::erase_if(shadow.written,
                [&](const PyRef& written) { return PyObject_RichCompareBool(written.get(), key, Py_EQ) == 1; });
  return PyODict_Check(shadow.copy.get()) ? PyODict_DelItem(shadow.copy.get(), key)
                                          : PyDict_DelItem(shadow.copy.get(), key);
}

void RecorderState::Impl::GuardLength(Shadow& shadow) {
  if (shadow.kind == ShadowKind::kSet || shadow.kind == ShadowKind::kDeque) return;
  const bool is_dict = PyDict_Check(shadow.real.get());
  AddGuard(GuardKind::kLengthIs, shadow.source, nullptr,
           is_dict ? PyDict_GET_SIZE(shadow.real.get()) : PyList_GET_SIZE(shadow.real.get()));
}

PyObject* RecorderState::Impl::ShadowListGet(Shadow& shadow, Py_ssize_t index) {
  PyObject* list = shadow.copy.get();
  PyObject* value = PyList_GET_ITEM(list, index);
  if (!IsUnlifted(value)) {
    if (ReadsInCheckpoint())
      NoteRead(Intern(SourceKind::kListItem, shadow.source, nullptr, static_cast<int32_t>(index)));
    return Py_NewRef(value);
  }
  PyObject* lifted = Lift(Py_NewRef(PyList_GET_ITEM(shadow.real.get(), index)),
                          Intern(SourceKind::kListItem, shadow.source, nullptr, static_cast<int32_t>(index)));
  if (lifted == nullptr) return nullptr;
  if (PyList_SetItem(shadow.baseline.get(), index, Py_NewRef(lifted)) != 0) return nullptr;
  if (PyList_SetItem(list, index, Py_NewRef(lifted)) != 0) return nullptr;
  return lifted;
}

// The keys of a dict in their order: iteration rests on them.
int RecorderState::Impl::GuardKeys(Shadow& shadow) {
  PyRef iterator = PyRef::Steal(NativeBase(Py_TYPE(shadow.real.get()))->tp_iter(shadow.real.get()));
  PyRef keys = PyRef::Steal(iterator ? PySequence_Tuple(iterator.get()) : nullptr);
  if (!keys) return -1;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(keys.get()); ++i) {
    if (!IsConstant(PyTuple_GET_ITEM(keys.get(), i))) {
      return BreakInt(BreakCode::kUnsupportedObject, "iteration over a dict whose keys are not constants");
    }
  }
  AddGuard(GuardKind::kKeysAre, shadow.source, keys.get());
  return 0;
}

int RecorderState::Impl::FullLiftDict(Shadow& shadow) {
  if (GuardKeys(shadow) != 0) return -1;
  std::vector<PyRef> pending;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  for (Py_ssize_t cursor = 0; PyDict_Next(shadow.copy.get(), &cursor, &key, &value);) {
    if (IsUnlifted(value)) pending.push_back(PyRef::Borrow(key));
  }
  for (const PyRef& unread : pending) {
    if (LiftEntry(shadow, unread.get()) != 0) return -1;
  }
  return 0;
}

int RecorderState::Impl::FullLift(Shadow& shadow, bool only_moves) {
  if (shadow.full) return 0;
  const size_t numbers = recording->symbolic.numbers.size();
  if (PyDict_Check(shadow.copy.get())) {
    if (FullLiftDict(shadow) != 0) return -1;
  } else {
    GuardLength(shadow);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(shadow.baseline.get()); ++i) {
      if (!IsUnlifted(PyList_GET_ITEM(shadow.copy.get(), i))) continue;
      PyRef item = PyRef::Steal(ShadowListGet(shadow, i));
      if (!item) return -1;
    }
  }
  shadow.full = true;
  // C code is to read them, which was given none of them.
  if (only_moves) return 0;
  for (size_t i = numbers; i < recording->symbolic.numbers.size(); ++i) Fix(recording->symbolic.numbers[i].symbol);
  return 0;
}

void RecorderState::Impl::Touch(Shadow& shadow) {
  if (shadow.touched) return;
  shadow.touched = true;
  writes.push_back(Write{.shadow = &shadow, .cell = {}, .object = {}, .name = {}});
}

// C code is about to read `object` and what it holds.
int RecorderState::Impl::Prepare(PyObject* object, int depth) {
  if (IsPrimitive(object) || IsTensor(object) || depth > 24) return 0;
  if (Shadow* shadow = FindShadow(object)) {
    if (FullLift(*shadow) != 0) return -1;
  } else if (HasUnguardedContent(object) && IsOutside(object)) {
    return BreakInt(BreakCode::kUnsupportedObject, std::string("the content of a ") + Py_TYPE(object)->tp_name);
  } else if (IsPythonClass(Py_TYPE(object))) {
    GuardType(Py_TYPE(object));
  }
  if (PyTuple_Check(object)) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
      if (Prepare(PyTuple_GET_ITEM(object, i), depth + 1) != 0) return -1;
    }
  } else if (PyList_Check(object)) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(object); ++i) {
      if (Prepare(PyList_GET_ITEM(object, i), depth + 1) != 0) return -1;
    }
  } else if (PyDict_Check(object)) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t cursor = 0; PyDict_Next(object, &cursor, &key, &value);) {
      if (Prepare(value, depth + 1) != 0) return -1;
    }
  } else if (Py_TYPE(object) == &PyDictKeys_Type || Py_TYPE(object) == &PyDictValues_Type ||
             Py_TYPE(object) == &PyDictItems_Type) {
    if (IsOutside(object)) return BreakInt(BreakCode::kUnsupportedObject, "a dict view from outside");
  }
  return 0;
}

// What C code gave back: raw outside objects become what was lifted for them. Steals.
PyObject* RecorderState::Impl::Scan(PyObject* result, int depth) {
  if (result == nullptr || IsPrimitive(result)) return result;
  PyRef owned = PyRef::Steal(result);
  if (IsUnlifted(result)) return BreakNull(BreakCode::kInternalError, "an element of a container escaped unread");
  if (auto row = known.find(result); row != known.end()) return Py_NewRef(row->second.lifted.get());
  if (IsTensor(result)) {
    if (IsFakeTensor(result)) return owned.release();
    return BreakNull(BreakCode::kUnknownTensor, Py_TYPE(result)->tp_name);
  }
  if (depth > 3 || FindShadow(result) != nullptr) return owned.release();
  if (PyTuple_CheckExact(result)) {
    PyRef copy;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(result); ++i) {
      PyObject* item = PyTuple_GET_ITEM(copy ? copy.get() : result, i);
      PyObject* scanned = Scan(Py_NewRef(item), depth + 1);
      if (scanned == nullptr) return nullptr;
      if (scanned != item && !copy) {
        copy = PyRef::Steal(PyTuple_New(PyTuple_GET_SIZE(result)));
        if (!copy) return Py_DECREF(scanned), nullptr;
        for (Py_ssize_t j = 0; j < PyTuple_GET_SIZE(result); ++j) {
          PyTuple_SET_ITEM(copy.get(), j, Py_NewRef(PyTuple_GET_ITEM(result, j)));
        }
      }
      if (!copy) {
        Py_DECREF(scanned);
        continue;
      }
      PyObject* replaced = PyTuple_GET_ITEM(copy.get(), i);
      PyTuple_SET_ITEM(copy.get(), i, scanned);
      Py_DECREF(replaced);
    }
    return copy ? copy.release() : owned.release();
  }
  if (PyList_CheckExact(result)) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(result); ++i) {
      PyObject* scanned = Scan(Py_NewRef(PyList_GET_ITEM(result, i)), depth + 1);
      if (scanned == nullptr || PyList_SetItem(result, i, scanned) != 0) return nullptr;
    }
  } else if (PyDict_CheckExact(result)) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t cursor = 0; PyDict_Next(result, &cursor, &key, &value);) {
      PyRef scanned = PyRef::Steal(Scan(Py_NewRef(value), depth + 1));
      if (!scanned) return nullptr;
      if (scanned.get() != value && PyDict_SetItem(result, key, scanned.get()) != 0) return nullptr;
    }
  }
  return owned.release();
}

}  // namespace framejit
