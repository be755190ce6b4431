// The lift barrier: what the program sees in place of an outside object, and the guards that reading it leaves.
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/python_variable.h>

#include "frame_eval/guards/iterators.h"
#include "graph/capture/program_gradients.h"
#include "graph/capture/random_state.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unread.h"

namespace framejit {

bool IsPrimitive(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  return object == Py_None || type == &PyBool_Type || type == &PyLong_Type || type == &PyFloat_Type ||
         type == &PyUnicode_Type || type == &PyBytes_Type || type == &PyComplex_Type || object == Py_Ellipsis ||
         object == Py_NotImplemented;
}

namespace {

// Of functions and dtypes of NumPy, which are told apart by identity.
bool IsNumPyFunction(PyTypeObject* type) {
  const std::string_view name = type->tp_name;
  return name.starts_with("numpy.") &&
         (name == "numpy.ufunc" || name == "numpy._ArrayFunctionDispatcher" || name.starts_with("numpy.dtype"));
}

}  // namespace

bool IsCodeLike(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  const WellKnown& n = Names();
  return type == &PyFunction_Type || type == &PyCFunction_Type || PyType_Check(object) || PyModule_Check(object) ||
         type == &PyMethodDescr_Type || type == &PyWrapperDescr_Type || type == &PyGetSetDescr_Type ||
         type == &PyMemberDescr_Type || type == &PyClassMethodDescr_Type || type == &PyClassMethod_Type ||
         type == &PyStaticMethod_Type || type == &PyProperty_Type || type == &PyCode_Type || type == n.dtype ||
         type == n.layout || type == n.memory_format || type == n.lru_cache || type == n.attrgetter ||
         type == n.itemgetter || type == n.pattern || std::string_view(type->tp_name).starts_with("framejit") ||
         type == n.context_var || IsNumPyFunction(type) || type == n.method_wrapper ||
         PyType_IsSubtype(type, n.op_overload) || PyType_IsSubtype(type, n.op_overload_packet);
}

bool IsTensor(PyObject* object) { return PyType_IsSubtype(Py_TYPE(object), Names().tensor_base); }

const at::Tensor& TensorOf(PyObject* object) { return THPVariable_Unpack(object); }

bool IsFakeTensor(PyObject* object) {
  return IsTensor(object) && (IsFake(TensorOf(object)) || IsTransformed(TensorOf(object)));
}

bool IsConstant(PyObject* object, int depth) {
  if (IsPrimitive(object) || IsCodeLike(object)) return true;
  if (!PyTuple_CheckExact(object) || depth > 8) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
    if (!IsConstant(PyTuple_GET_ITEM(object, i), depth + 1)) return false;
  }
  return true;
}

bool IsPlainTensorSubclass(PyTypeObject* type) {
  static PyObject* const name = PyUnicode_InternFromString("__torch_dispatch__");
  return IsPythonClass(type) && PyType_IsSubtype(type, Names().tensor) && type != Names().parameter &&
         type != Names().buffer && ShimTypeLookup(type, name) == ShimTypeLookup(Names().tensor, name);
}

bool IsNativeValue(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  if (!IsPythonClass(type)) return IsNumPyScalar(object) || IsPlainDate(object);
  PyTypeObject* base = NativeBase(type);
  return base == &PyLong_Type || base == &PyUnicode_Type || base == &PyFloat_Type || base == &PyBytes_Type ||
         base == &PyComplex_Type;
}

bool IsPythonClass(PyTypeObject* type) {
  return (type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0 && type->tp_dealloc == Names().subtype_dealloc;
}

namespace {

// A C type from 3.12 on, which adds nothing to an object.
bool IsGeneric(PyTypeObject* type) { return std::string_view(type->tp_name) == "typing.Generic"; }

}  // namespace

PyTypeObject* NativeBase(PyTypeObject* type) {
  while (IsPythonClass(type) || IsGeneric(type)) type = type->tp_base;
  return type;
}

bool IsUnlifted(PyObject* object) { return object == Names().unlifted; }

void RecorderState::Impl::AddGuard(GuardKind kind, SourceId source, PyObject* payload, int64_t number, SourceId other) {
  ++guards_added;
  NoteRead(source);
  recording->guards.Add(Guard{kind, source, PyRef::Borrow(payload), number, other});
}

void RecorderState::Impl::GuardType(PyTypeObject* type) {
  if (IsLocalType(type)) return;
  if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0 || (type->tp_flags & Py_TPFLAGS_IMMUTABLETYPE) != 0) return;
  if (guarded_types.insert(type).second)
    AddGuard(GuardKind::kTypeVersion, kNoSource, reinterpret_cast<PyObject*>(type));
}

SourceId RecorderState::Impl::Intern(SourceKind kind, SourceId parent, PyObject* key, int32_t index) {
  return recording->sources.Intern(kind, parent, key, index);
}

SourceId RecorderState::Impl::Pinned(PyObject* object) { return Intern(SourceKind::kPinned, kNoSource, object); }

Provenance* RecorderState::Impl::FindKnown(PyObject* object) {
  auto real = real_of.find(object);
  auto row = known.find(real != real_of.end() ? real->second : object);
  return row == known.end() ? nullptr : &row->second;
}

SourceId RecorderState::Impl::SourceOf(PyObject* object) {
  if (Provenance* provenance = FindKnown(object)) return provenance->source;
  if (PyType_Check(object) ? !local_types.contains(object) : PyModule_Check(object)) return Pinned(object);
  if (PyFunction_Check(object) && !local_functions.contains(object)) return Pinned(object);
  return kNoSource;
}

bool RecorderState::Impl::IsOutside(PyObject* object) { return SourceOf(object) != kNoSource; }

Provenance& RecorderState::Impl::Remember(PyObject* real, PyObject* lifted, SourceId source, bool pinned) {
  auto [row, inserted] = known.try_emplace(real);
  if (inserted) row->second = Provenance{PyRef::Borrow(real), PyRef::Borrow(lifted), source, pinned};
  if (real != lifted) real_of.try_emplace(lifted, real);
  return row->second;
}

namespace {

// Of a parameter of a function.
bool IsDefault(const SourceTable& sources, SourceId source) {
  return source != kNoSource &&
         (sources[source].kind == SourceKind::kDefault || sources[source].kind == SourceKind::kKwDefault);
}

}  // namespace

PyObject* RecorderState::Impl::Lift(PyObject* value, SourceId source, bool pinned) {
  PyRef owned = PyRef::Steal(value);
  if (value == nullptr) return nullptr;
  if (RunningCode() != ProgramCode::kNone && !real_of.contains(value) && !IsDefault(recording->sources, source) &&
      MayChangeBeforeBackward(value))
    return BreakNull(BreakCode::kAutograd,
                     "what may change before the backward: " + recording->sources.ToString(source));
  if (IsPrimitive(value)) {
    if (PyObject* symbol = pinned ? nullptr : LiftVaryingNumber(value, source)) return symbol;
    if (!pinned && request.varying != nullptr && request.varying->NoteSource(recording->sources, source, value)) {
      return BreakNull(BreakCode::kVaryingValue, recording->sources.ToString(source));
    }
    if (!pinned) AddGuard(GuardKind::kConstantIs, source, value);
    return owned.release();
  }
  if (IsUnlifted(value)) return BreakNull(BreakCode::kInternalError, "an element of a container escaped unread");
  if (IsCodeLike(value)) {
    if (!pinned) AddGuard(GuardKind::kIdentityIs, source, value);
    Remember(value, value, source, true);
    return owned.release();
  }
  if (real_of.contains(value)) return owned.release();
  if (auto row = known.find(value); row != known.end()) {
    const Provenance& first = row->second;
    if (first.source != source && !(pinned && first.pinned)) {
      AddGuard(GuardKind::kSameObject, source, nullptr, 0, first.source);
    }
    return Py_NewRef(first.lifted.get());
  }
  if (IsTensor(value)) return LiftTensor(value, source);
  if (PyTuple_Check(value)) return LiftTuple(value, source, pinned);
  if (PyDict_Check(value) || PyList_Check(value) || PyAnySet_Check(value) ||
      PyType_IsSubtype(Py_TYPE(value), Names().deque)) {
    return LiftContainer(value, source, pinned);
  }
  if (Py_TYPE(value) == &PyMethod_Type) return LiftMethod(value, source);
  if (Py_TYPE(value) == Names().device) return LiftDevice(value, source, pinned);
  if (Py_TYPE(value) == &PySlice_Type) return LiftSlice(value, source, pinned);
  if (PyRange_Check(value)) {
    if (!pinned) AddGuard(GuardKind::kConstantIs, source, value);
    Remember(value, value, source, pinned);
    return owned.release();
  }
  if (IsNativeValue(value)) return LiftNativeValue(value, source, pinned);
  if (IsNumPyArray(value)) return LiftArray(value, source, pinned);
  if (Py_TYPE(value) == Names().generator) {
    if (!pinned) AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(Py_TYPE(value)));
    // A program that is exported (RecordRequest::leaves) holds the generator itself.
    PyRef own = request.leaves == nullptr ? GeneratorFor(value) : PyRef::Borrow(value);
    if (!own) return nullptr;
    recording->own_generators |= own.get() != value;
    Remember(value, own.get(), source, pinned);
    return own.release();
  }
  if (Py_TYPE(value) == &PyCell_Type) return BreakNull(BreakCode::kUnsupportedObject, "a cell from outside");
  if (!pinned) AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(Py_TYPE(value)));
  Remember(value, value, source, pinned);
  return owned.release();
}

PyObject* RecorderState::Impl::LiftTensor(PyObject* value, SourceId source) {
  const WellKnown& n = Names();
  if (IsFakeTensor(value)) return Py_NewRef(value);
  PyTypeObject* type = Py_TYPE(value);
  AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(type));
  const bool plain = type == n.tensor || type == n.parameter || type == n.buffer;
  if (!plain && !IsPlainTensorSubclass(type)) {
    return BreakNull(BreakCode::kUnsupportedTensor, type->tp_name);
  }
  absl::StatusOr<at::Tensor> fake = session.MakeInput(TensorOf(value));
  if (!fake.ok() && !TensorOf(value).is_nested()) AddGuard(GuardKind::kTensorMatches, source, value);
  if (!fake.ok()) return BreakNull(BreakCode::kUnsupportedTensor, std::string(fake.status().message()));
  PyRef object = PyRef::Steal(THPVariable_Wrap(*fake));
  if (!object) return nullptr;
  if (type != n.tensor && PyObject_SetAttr(object.get(), n.klass, reinterpret_cast<PyObject*>(type)) != 0)
    return nullptr;
  PyObject* marks = request.sizes != nullptr && plain ? MarksOf(value) : nullptr;
  if (marks != nullptr && IsMarkedDynamic(value)) request.sizes->Mark(recording->sources, source);
  const bool varies = request.sizes != nullptr && plain &&
                      request.sizes->Varies(recording->sources, source, TensorOf(value), type == n.parameter);
  AddGuard(GuardKind::kTensorMatches, source, value, varies ? -1 : 0);
  Remember(value, object.get(), source, false);
  AddStep({.kind = SymbolStep::Kind::kInput, .index = static_cast<int32_t>(recording->inputs.size())});
  recording->symbolic.varies.push_back(varies);
  is_symbolic |= varies;
  recording->inputs.push_back(source);
  recording->torch_graph.inputs.push_back(TorchValue(*fake, true));
  if (!varies) static_inputs.emplace(recording->torch_graph.inputs.back(), source);
  if (varies && marks != nullptr && DemandMarks(object.get(), source, marks) != 0) return nullptr;
  return object.release();
}

// The value of an object that no code can change, such as a member of a str enumeration.
PyObject* RecorderState::Impl::LiftNativeValue(PyObject* value, SourceId source, bool pinned) {
  if (IsVaryingScalar(value, source)) return BreakNull(BreakCode::kVaryingValue, Py_TYPE(value)->tp_name);
  if (!pinned) {
    AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(Py_TYPE(value)));
    PyRef plain = NativeValue(value);
    if (!plain)
      return BreakNull(BreakCode::kUnsupportedObject, std::string("the value of a ") + Py_TYPE(value)->tp_name);
    AddGuard(GuardKind::kConstantIs, Intern(SourceKind::kNativeValue, source), plain.get());
  }
  Remember(value, value, source, pinned);
  return Py_NewRef(value);
}

// Tuples are lifted whole: they cannot change. A tuple whose items are what they were stays itself.
PyObject* RecorderState::Impl::LiftTuple(PyObject* value, SourceId source, bool pinned) {
  const Py_ssize_t size = PyTuple_GET_SIZE(value);
  if (!pinned) {
    AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(Py_TYPE(value)));
    AddGuard(GuardKind::kLengthIs, source, nullptr, size);
  }
  PyRef items = PyRef::Steal(PyTuple_New(size));
  if (!items) return nullptr;
  PyTypeObject* type = Py_TYPE(value);
  const bool can_change =
      PyTuple_CheckExact(value) || type == Names().size || (IsPythonClass(type) && NativeBase(type) == &PyTuple_Type);
  const bool may_vary = std::exchange(numbers_may_vary, numbers_may_vary && can_change);
  bool changed = false;
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject* item = PyTuple_GET_ITEM(value, i);
    PyObject* lifted =
        Lift(Py_NewRef(item), Intern(SourceKind::kTupleItem, source, nullptr, static_cast<int32_t>(i)), pinned);
    if (lifted == nullptr) return numbers_may_vary = may_vary, nullptr;
    changed |= lifted != item;
    PyTuple_SET_ITEM(items.get(), i, lifted);
  }
  numbers_may_vary = may_vary;
  if (!changed) {
    Remember(value, value, source, pinned);
    return Py_NewRef(value);
  }
  if (!PyTuple_CheckExact(value)) {
    if (!can_change) {
      return BreakNull(BreakCode::kUnsupportedObject,
                       std::string("a ") + Py_TYPE(value)->tp_name + " that holds tensors");
    }
    PyRef args = PyRef::Steal(PyTuple_Pack(1, items.get()));
    if (!args) return nullptr;
    items = PyRef::Steal(PyTuple_Type.tp_new(Py_TYPE(value), args.get(), nullptr));
    if (!items) return nullptr;
  }
  Remember(value, items.get(), source, pinned);
  return items.release();
}

PyObject* RecorderState::Impl::LiftSlice(PyObject* value, SourceId source, bool pinned) {
  if (!pinned) AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(&PySlice_Type));
  static constexpr const char* kFields[] = {"start", "stop", "step"};
  PyRef parts[3];
  bool changed = false;
  for (int i = 0; i < 3; ++i) {
    PyRef name = PyRef::Steal(PyUnicode_InternFromString(kFields[i]));
    PyRef part = PyRef::Steal(name ? PyObject_GetAttr(value, name.get()) : nullptr);
    if (!part) return nullptr;
    PyObject* before = part.get();
    parts[i] = PyRef::Steal(Lift(part.release(), Intern(SourceKind::kAttribute, source, name.get()), pinned));
    if (!parts[i]) return nullptr;
    changed |= parts[i].get() != before;
  }
  PyRef lifted = PyRef::Borrow(value);
  if (changed) lifted = PyRef::Steal(PySlice_New(parts[0].get(), parts[1].get(), parts[2].get()));
  if (!lifted) return nullptr;
  Remember(value, lifted.get(), source, pinned);
  return lifted.release();
}

PyObject* RecorderState::Impl::LiftMethod(PyObject* value, SourceId source) {
  AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(&PyMethod_Type));
  PyRef function =
      PyRef::Steal(Lift(Py_NewRef(PyMethod_GET_FUNCTION(value)), Intern(SourceKind::kMethodFunction, source)));
  if (!function) return nullptr;
  PyRef self = PyRef::Steal(Lift(Py_NewRef(PyMethod_GET_SELF(value)), Intern(SourceKind::kMethodSelf, source)));
  if (!self) return nullptr;
  PyRef method = PyRef::Steal(PyMethod_New(function.get(), self.get()));
  if (!method) return nullptr;
  Remember(value, method.get(), source, false);
  return method.release();
}

// Devices are compared by value: each read may make another object.
PyObject* RecorderState::Impl::LiftDevice(PyObject* value, SourceId source, bool pinned) {
  if (pinned) return Py_NewRef(value);
  AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(Py_TYPE(value)));
  for (PyObject* name : {Names().type, Names().index}) {
    PyRef part = PyRef::Steal(PyObject_GetAttr(value, name));
    if (!part) return nullptr;
    AddGuard(GuardKind::kConstantIs, Intern(SourceKind::kAttribute, source, name), part.get());
  }
  return Py_NewRef(value);
}

namespace {

// The parts of an iterator, if all iterators beneath it are its alone; else null.
PyRef PartsToCopy(PyObject* iterator) {
  PyRef parts = IsPlainIterator(iterator) ? IteratorParts(iterator) : PyRef();
  PyErr_Clear();
  for (Py_ssize_t i = 0; parts && i < PyTuple_GET_SIZE(parts.get()); ++i) {
    PyObject* part = PyTuple_GET_ITEM(parts.get(), i);
    // Held by the iterator and by `parts`.
    if (PyIter_Check(part) && (Py_REFCNT(part) > 2 || !PartsToCopy(part))) return {};
  }
  return parts;
}

}  // namespace

// A copy of an iterator that nobody else will advance: it may go on while recording. One that cannot be taken apart
// stays outside.
PyObject* RecorderState::Impl::LiftIterator(PyObject* iterator, SourceId source) {
  PyRef parts = PartsToCopy(iterator);
  if (!parts) return Lift(Py_NewRef(iterator), source);
  AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(Py_TYPE(iterator)));
  const SourceId whole = Intern(SourceKind::kIteratorParts, source);
  const Py_ssize_t size = PyTuple_GET_SIZE(parts.get());
  AddGuard(GuardKind::kLengthIs, whole, nullptr, size);
  PyRef lifted = PyRef::Steal(PyTuple_New(size));
  for (Py_ssize_t i = 0; lifted && i < size; ++i) {
    PyObject* part = PyTuple_GET_ITEM(parts.get(), i);
    const SourceId place = Intern(SourceKind::kTupleItem, whole, nullptr, static_cast<int32_t>(i));
    PyObject* item = nullptr;
    if (PyRange_Check(part)) {  // made anew on each fetch, so its value is what counts
      AddGuard(GuardKind::kConstantIs, place, part);
      item = Py_NewRef(part);
    } else {
      item = PyIter_Check(part) ? LiftIterator(part, place) : Lift(Py_NewRef(part), place);
    }
    if (item == nullptr || Prepare(item) != 0) return Py_XDECREF(item), nullptr;
    PyTuple_SET_ITEM(lifted.get(), i, item);
  }
  return lifted ? MakeIterator(Py_TYPE(iterator), lifted.get()) : nullptr;
}

void RecorderState::Impl::RegisterCells(PyFunctionObject* function) {
  PyObject* closure = function->func_closure;
  const SourceId source = SourceOf(reinterpret_cast<PyObject*>(function));
  if (closure == nullptr || source == kNoSource) return;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(closure); ++i) {
    cell_sources.try_emplace(PyTuple_GET_ITEM(closure, i),
                             Intern(SourceKind::kCell, source, nullptr, static_cast<int32_t>(i)));
  }
}

// A value that came into a frame from C code or from a default.
int RecorderState::Impl::LiftSlot(PyFunctionObject* function, int index, PyObject** slot) {
  PyObject* value = *slot;
  auto* code = reinterpret_cast<PyCodeObject*>(function->func_code);
  const SourceId source = SourceOf(reinterpret_cast<PyObject*>(function));
  PyObject* defaults = function->func_defaults;
  const int first = code->co_argcount - (defaults == nullptr ? 0 : static_cast<int>(PyTuple_GET_SIZE(defaults)));
  SourceId place = kNoSource;
  if (source != kNoSource && index < code->co_argcount && index >= first &&
      PyTuple_GET_ITEM(defaults, index - first) == value) {
    place = Intern(SourceKind::kDefault, source, nullptr, index - first);
  } else if (source != kNoSource && index >= code->co_argcount && function->func_kwdefaults != nullptr) {
    PyObject* name = PyTuple_GET_ITEM(code->co_localsplusnames, index);
    PyObject* found = PyDict_GetItemWithError(function->func_kwdefaults, name);
    if (found == nullptr && PyErr_Occurred()) return -1;
    if (found == value) place = Intern(SourceKind::kKwDefault, source, name);
  }
  if (place == kNoSource && IsPrimitive(value)) return 0;
  PyObject* lifted = place != kNoSource ? Lift(Py_NewRef(value), place) : Scan(Py_NewRef(value));
  if (lifted == nullptr) return -1;
  *slot = lifted;
  Py_DECREF(value);
  return 0;
}

int RecorderState::Impl::LiftFrameArguments(PyFunctionObject* function, PyObject** slots) {
  auto* code = reinterpret_cast<PyCodeObject*>(function->func_code);
  auto* object = reinterpret_cast<PyObject*>(function);
  if (class_body != nullptr && function->func_code == class_body) local_functions.insert(object);
  if (entered_functions.insert(object).second) {
    kept_alive.push_back(PyRef::Borrow(object));
    const SourceId source = SourceOf(object);
    if (source != kNoSource) AddGuard(GuardKind::kFunctionCode, source, function->func_code);
    RegisterCells(function);
  }
  int count = code->co_argcount + code->co_kwonlyargcount;
  for (int i = 0; i < count; ++i) {
    if (slots[i] != nullptr && LiftSlot(function, i, &slots[i]) != 0) return -1;
  }
  const int packed = ((code->co_flags & CO_VARARGS) != 0) + ((code->co_flags & CO_VARKEYWORDS) != 0);
  for (int i = count; i < count + packed; ++i) {
    if (slots[i] == nullptr) continue;
    PyObject* scanned = Scan(Py_NewRef(slots[i]));
    if (scanned == nullptr) return -1;
    Py_SETREF(slots[i], scanned);
  }
  return 0;
}

// The fresh dict of **kwargs is the frame's own: its items are lifted, writes to it are local.
int RecorderState::Impl::LiftKeywords(PyObject* kwargs, SourceId source) {
  PyRef keys = PyRef::Steal(PySequence_Tuple(kwargs));
  if (!keys) return -1;
  AddGuard(GuardKind::kKeysAre, source, keys.get());
  for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(keys.get()); ++k) {
    PyObject* key = PyTuple_GET_ITEM(keys.get(), k);
    PyObject* value = PyDict_GetItemWithError(kwargs, key);
    PyRef item = PyRef::Steal(Lift(Py_XNewRef(value), Intern(SourceKind::kDictItem, source, key)));
    if (!item || PyDict_SetItem(kwargs, key, item.get()) != 0) return -1;
  }
  return 0;
}

namespace {

constexpr unsigned char kCellVariable = 0x40;  // CO_FAST_CELL

bool IsCell(PyCodeObject* code, int slot) {
  return (PyBytes_AS_STRING(code->co_localspluskinds)[slot] & kCellVariable) != 0;
}

}  // namespace

int RecorderState::Impl::LiftEntryArguments(PyFunctionObject* function, PyObject** slots) {
  auto* code = reinterpret_cast<PyCodeObject*>(function->func_code);
  auto* object = reinterpret_cast<PyObject*>(function);
  const SourceId self = Intern(SourceKind::kFunction, kNoSource);
  Remember(object, object, self, true);
  if (entered_functions.insert(object).second) {
    AddGuard(GuardKind::kFunctionCode, self, function->func_code);
    RegisterCells(function);
  }
  const int named = code->co_argcount + code->co_kwonlyargcount;
  const int packed = ((code->co_flags & CO_VARARGS) != 0) + ((code->co_flags & CO_VARKEYWORDS) != 0);
  for (int i = 0; i < named + packed; ++i) {
    const SourceId source = Intern(SourceKind::kArgument, kNoSource, nullptr, i);
    if (i < static_cast<int>(request.slots.size()) && request.slots[static_cast<size_t>(i)] == nullptr) {
      AddGuard(GuardKind::kArgumentAbsent, source);
      if (slots[i] != nullptr && LiftSlot(function, i, &slots[i]) != 0) return -1;
      continue;
    }
    if (slots[i] == nullptr) continue;
    // It may be carried along or handed on; where an instruction looks at it, that one runs in the interpreter.
    if (i < named && IsPrimitive(slots[i]) && !IsCell(code, i) && request.varying != nullptr &&
        request.varying->NoteSource(recording->sources, source, slots[i])) {
      PyObject* unread = NewUnread(slots[i], source);
      if (unread == nullptr) return -1;
      Py_SETREF(slots[i], unread);
      continue;
    }
    if (i >= named && PyDict_CheckExact(slots[i])) {
      if (LiftKeywords(slots[i], source) != 0) return -1;
      continue;
    }
    PyObject* lifted = Lift(Py_NewRef(slots[i]), source);
    if (lifted == nullptr) return -1;
    Py_SETREF(slots[i], lifted);
  }
  return 0;
}

}  // namespace framejit
