// Attribute reads. Mirrors PyObject_GenericGetAttr, type_getattro, module_getattro, super_getattro and
// slot_tp_getattr_hook of CPython's Objects/ (3.11 to 3.13), with a guard for each fact they rest on.
#include "graph/capture/program_gradients.h"
#include "graph/capture/raise.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

bool IsDataDescriptor(PyObject* descriptor) { return Py_TYPE(descriptor)->tp_descr_set != nullptr; }

bool HasInstanceDict(PyTypeObject* type) {
  return type->tp_dictoffset != 0 || ShimTypeLookup(type, Names().dict) != nullptr;
}

// A local object's own attribute; its values were lifted when they were stored.
PyObject* LocalDictGet(PyObject* object, PyObject* name) {
  if (PyObject* value = ShimInlineValue(object, name)) return Py_NewRef(value);
  PyObject* dict = ShimInstanceDict(object);
  return dict == nullptr ? nullptr : Py_XNewRef(PyDict_GetItemWithError(dict, name));
}

// The Python function that overrides special method `name`, or null.
PyObject* PythonOverride(PyTypeObject* type, PyObject* name) {
  PyObject* found = ShimTypeLookup(type, name);
  return found != nullptr && PyFunction_Check(found) ? found : nullptr;
}

bool IsLinkOfExceptions(PyObject* name) {
  return PyUnicode_CompareWithASCIIString(name, "__traceback__") == 0 ||
         PyUnicode_CompareWithASCIIString(name, "__context__") == 0 ||
         PyUnicode_CompareWithASCIIString(name, "__cause__") == 0 ||
         PyUnicode_CompareWithASCIIString(name, "__suppress_context__") == 0;
}

PyTypeObject* UnionType() {
  static PyTypeObject* const type = [] {
    auto* of_int = reinterpret_cast<PyObject*>(&PyLong_Type);
    PyRef made = PyRef::Steal(PyNumber_Or(of_int, reinterpret_cast<PyObject*>(&PyUnicode_Type)));
    if (!made) PyErr_Clear();
    return made ? Py_TYPE(made.get()) : nullptr;
  }();
  return type;
}

PyObject* NoAttribute(PyObject* object, PyObject* name) {
  PyErr_Format(PyExc_AttributeError, "'%.50s' object has no attribute '%U'", Py_TYPE(object)->tp_name, name);
  return nullptr;
}

}  // namespace

PyObject* RecorderState::Impl::GetAttr(PyObject* object, PyObject* name) {
  if (SymbolOf(object) != kNoSymbol) Specialise(object);
  if (IsPrimitive(object)) return PyObject_GetAttr(object, name);
  if (IsUnlifted(object)) return BreakNull(BreakCode::kInternalError, "an element of a container escaped unread");
  PyRef owned = PyRef::Borrow(object);
  PyObject* value = PyModule_Check(object)              ? ModuleGetAttr(object, name)
                    : PyType_Check(object)              ? TypeGetAttr(reinterpret_cast<PyTypeObject*>(object), name)
                    : IsTensor(object)                  ? TensorGetAttr(object, name)
                    : Py_TYPE(object) == &PySuper_Type  ? SuperGetAttr(object, name)
                    : Py_TYPE(object) == &PyMethod_Type ? MethodGetAttr(object, name)
                                                        : InstanceGetAttr(object, name);
  if (value == nullptr && !broken() && PyErr_Occurred()) NoteMissingAttribute(object, name);
  return value;
}

PyObject* RecorderState::Impl::InstanceGetAttr(PyObject* object, PyObject* name) {
  PyTypeObject* type = Py_TYPE(object);
  GuardType(type);
  bool found = true;
  PyRef result;
  PyObject* override_ = ShimTypeLookup(type, Names().getattribute);
  if (type->tp_getattro == PyObject_GenericGetAttr || override_ == Names().object_getattribute) {
    result = PyRef::Steal(GenericGetAttr(object, name, &found));
  } else if (override_ != nullptr && PyFunction_Check(override_)) {
    result = PyRef::Steal(Call(override_, {object, name}));
  } else if (!IsOutside(object)) {
    result = PyRef::Steal(Scan(PyObject_GetAttr(object, name)));
    return result.release();
  } else if (type == UnionType() || type == &Py_GenericAliasType) {
    return AliasGetAttr(object, name);
  } else {
    return BreakNull(BreakCode::kUnsupportedObject, std::string("attributes of a ") + type->tp_name);
  }
  if (result) return result.release();
  if (broken()) return nullptr;
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_AttributeError)) return nullptr;
  PyObject* fallback = ShimTypeLookup(type, Names().getattr);
  if (fallback == nullptr) return PyErr_Occurred() ? nullptr : NoAttribute(object, name);
  PyErr_Clear();
  return Call(fallback, {object, name});
}

// int | str and list[int]: what they are made of is theirs; other attributes of list[int] are those of list.
PyObject* RecorderState::Impl::AliasGetAttr(PyObject* object, PyObject* name) {
  PyTypeObject* type = Py_TYPE(object);
  PyObject* found = ShimTypeLookup(type, name);
  const bool readable =
      found != nullptr && (Py_TYPE(found) == &PyMemberDescr_Type || Py_TYPE(found) == &PyGetSetDescr_Type);
  const bool callable =
      found != nullptr && (Py_TYPE(found) == &PyMethodDescr_Type || Py_TYPE(found) == &PyWrapperDescr_Type);
  const bool own = (readable || callable) && PyDescr_TYPE(found) == type;
  if (own && readable) return BindData(found, object, name);
  if (own || type != &Py_GenericAliasType || name == Names().klass)
    return BreakNull(BreakCode::kUnsupportedObject, std::string("attributes of a ") + type->tp_name);
  PyRef origin = PyRef::Steal(PyUnicode_InternFromString("__origin__"));
  PyRef forward = origin ? PyRef::Steal(AliasGetAttr(object, origin.get())) : PyRef();
  return forward ? GetAttr(forward.get(), name) : nullptr;
}

// Null with *found false and no exception: no such attribute.
PyObject* RecorderState::Impl::GenericGetAttr(PyObject* object, PyObject* name, bool* found) {
  PyTypeObject* type = Py_TYPE(object);
  PyRef descriptor = PyRef::Borrow(ShimTypeLookup(type, name));
  *found = true;
  if (descriptor && IsDataDescriptor(descriptor.get())) return BindData(descriptor.get(), object, name);
  if (HasInstanceDict(type)) {
    PyObject* value = nullptr;
    if (IsOutside(object)) {
      if (PyExceptionInstance_Check(object) && !descriptor && CheckContent(object) != 0) return nullptr;
      Shadow* dict = InstanceDict(object);
      if (dict == nullptr) return nullptr;
      value = ShadowDictGet(*dict, name);
    } else {
      value = LocalDictGet(object, name);
    }
    if (value != nullptr || PyErr_Occurred()) return value;
  }
  if (descriptor) return Bind(descriptor.get(), object, type, type, name);
  *found = false;
  return nullptr;
}

PyObject* RecorderState::Impl::CallGetter(PyObject* getter, PyObject* object) { return Call(getter, {object}); }

// A data descriptor found on the type of `object`.
PyObject* RecorderState::Impl::BindData(PyObject* descriptor, PyObject* object, PyObject* name) {
  PyTypeObject* kind = Py_TYPE(descriptor);
  PyTypeObject* type = Py_TYPE(object);
  if (PyType_IsSubtype(kind, &PyProperty_Type)) {
    PyRef getter = PyRef::Steal(PyObject_GetAttr(descriptor, Names().fget));
    if (!getter) return nullptr;
    if (getter.get() == Py_None)
      return PyProperty_Type.tp_descr_get(descriptor, object, reinterpret_cast<PyObject*>(type));  // raises
    return CallGetter(getter.get(), object);
  }
  if (kind == &PyGetSetDescr_Type && name == Names().klass) return Py_NewRef(reinterpret_cast<PyObject*>(type));
  if (kind == &PyGetSetDescr_Type && PyUnicode_Compare(name, Names().dict) == 0 && IsOutside(object)) {
    Shadow* dict = InstanceDict(object);
    return dict == nullptr ? nullptr : Py_NewRef(dict->copy.get());
  }
  if (kind == &PyGetSetDescr_Type || kind == &PyMemberDescr_Type) return BindNative(descriptor, object, name);
  // The fields of a named tuple: its items were lifted with it.
  if (PyTuple_Check(object) && kind == Names().tuplegetter) {
    return Scan(kind->tp_descr_get(descriptor, object, reinterpret_cast<PyObject*>(type)));
  }
  if (PyObject* get = PythonOverride(kind, Names().get)) {
    GuardType(kind);
    PyRef lifted = PyRef::Steal(LiftTypeAttribute(type, name, descriptor));
    return lifted ? Call(get, {lifted.get(), object, reinterpret_cast<PyObject*>(type)}) : nullptr;
  }
  return BreakNull(BreakCode::kUnsupportedObject, std::string("a descriptor of type ") + kind->tp_name);
}

// Slots and C attributes. Of an outside object they are sources of their own; writes are kept in native_attributes.
PyObject* RecorderState::Impl::BindNative(PyObject* descriptor, PyObject* object, PyObject* name) {
  descrgetfunc get = Py_TYPE(descriptor)->tp_descr_get;
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  const SourceId source = SourceOf(object);
  if (RunningCode() == ProgramCode::kBackward && PyUnicode_CompareWithASCIIString(name, "saved_tensors") == 0)
    Gradients().unpacked.insert(object);
  // The namespaces of a function made inside are the user's own.
  if (source == kNoSource && PyFunction_Check(object)) {
    const auto* function = reinterpret_cast<PyFunctionObject*>(object);
    PyRef value = PyRef::Steal(get(descriptor, object, type));
    if (value.get() != function->func_globals && value.get() != function->func_builtins) return Scan(value.release());
    if (local_namespaces.contains(value.get()) || FindShadow(value.get()) != nullptr) return value.release();
    Shadow* shadow = GlobalsShadow(value.get());
    return shadow == nullptr ? nullptr : Py_NewRef(shadow->copy.get());
  }
  if (source == kNoSource || IsNumPyArray(object) || IsNumPyScalar(object)) return Scan(get(descriptor, object, type));
  if (PyExceptionInstance_Check(object) && !IsLinkOfExceptions(name) && CheckContent(object) != 0) return nullptr;
  if (auto row = native_attributes.find({object, name}); row != native_attributes.end()) {
    if (!row->second) return NoAttribute(object, name);
    return Py_NewRef(row->second.get());
  }
  Provenance* provenance = FindKnown(object);
  PyObject* real = provenance != nullptr ? provenance->real.get() : object;
  PyObject* value = get(descriptor, real, type);
  if (value == nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) return nullptr;
    if (Py_TYPE(descriptor) != &PyMemberDescr_Type)
      return BreakNull(BreakCode::kUnsupportedObject, "an attribute of an outside object that cannot be read");
    AddGuard(GuardKind::kIdentityIs, Intern(SourceKind::kAttribute, source, name));  // nothing is there
    return nullptr;
  }
  return Lift(value, Intern(SourceKind::kAttribute, source, name));
}

// An attribute found along the MRO of `found_on`, bound to `object`, or to nothing where object is null.
PyObject* RecorderState::Impl::Bind(PyObject* descriptor, PyObject* object, PyTypeObject* type, PyTypeObject* found_on,
                                    PyObject* name) {
  PyTypeObject* kind = Py_TYPE(descriptor);
  auto* owner = reinterpret_cast<PyObject*>(type);
  auto lift = [&](PyObject* value) { return LiftTypeAttribute(found_on, name, value); };
  if (kind == &PyFunction_Type) {
    if (object != nullptr) return PyMethod_New(descriptor, object);
    return lift(descriptor);
  }
  if (kind->tp_descr_get == nullptr) return lift(descriptor);
  if (object != nullptr && IsEntryType(Py_TYPE(descriptor))) return PyMethod_New(descriptor, object);
  if (kind == &PyStaticMethod_Type) {
    PyRef inner = PyRef::Steal(kind->tp_descr_get(descriptor, object, owner));
    if (inner && (IsCodeLike(inner.get()) || IsPrimitive(inner.get()) || IsLocalType(found_on)))
      return lift(inner.get());
    return inner ? BreakNull(BreakCode::kUnsupportedObject, "a static method that is not a function") : nullptr;
  }
  if (kind == &PyProperty_Type || kind == &PyGetSetDescr_Type || kind == &PyMemberDescr_Type) {
    if (object == nullptr) return lift(descriptor);
    return BindData(descriptor, object, name);
  }
  if (PyObject* get = PythonOverride(kind, Names().get)) {
    GuardType(kind);
    PyRef lifted = PyRef::Steal(lift(descriptor));
    return lifted ? Call(get, {lifted.get(), object != nullptr ? object : Py_None, owner}) : nullptr;
  }
  if (kind == &PyClassMethod_Type || kind == &PyMethodDescr_Type || kind == &PyWrapperDescr_Type ||
      kind == &PyClassMethodDescr_Type || kind == Names().lru_cache || kind == &PyInstanceMethod_Type) {
    return kind->tp_descr_get(descriptor, object, owner);
  }
  if (kind == &PyMethod_Type) return lift(descriptor);
  if (IsPythonClass(kind) && ShimTypeLookup(kind, Names().get) == nullptr) return lift(descriptor);
  return BreakNull(BreakCode::kUnsupportedObject, std::string("a descriptor of type ") + kind->tp_name);
}

// A method that is read off a class by its name, guarded alone: other attributes of the class may be counters, which
// change from call to call. False where the whole class has to be guarded, or is already.
bool RecorderState::Impl::GuardMethodOfType(PyTypeObject* type, PyObject* name) {
  if (Py_TYPE(type) != &PyType_Type || IsLocalType(type) || guarded_types.contains(type)) return false;
  if (ShimTypeLookup(&PyType_Type, name) != nullptr) return false;
  PyRef found = PyRef::Borrow(ShimTypeLookup(type, name));
  if (found && Py_TYPE(found.get()) == &PyStaticMethod_Type) {
    found = PyRef::Steal(PyStaticMethod_Type.tp_descr_get(found.get(), nullptr, reinterpret_cast<PyObject*>(type)));
  }
  if (!found || (Py_TYPE(found.get()) != &PyFunction_Type && Py_TYPE(found.get()) != &PyClassMethod_Type)) return false;
  const SourceId source = Intern(SourceKind::kTypeAttribute, Pinned(reinterpret_cast<PyObject*>(type)), name);
  AddGuard(GuardKind::kIdentityIs, source, found.get());
  return true;
}

PyObject* RecorderState::Impl::TypeGetAttr(PyTypeObject* type, PyObject* name) {
  PyTypeObject* meta = Py_TYPE(type);
  auto* object = reinterpret_cast<PyObject*>(type);
  GuardType(meta);
  if (GuardMethodOfType(type, name)) {
    return Bind(PyRef::Borrow(ShimTypeLookup(type, name)).get(), nullptr, type, type, name);
  }
  GuardType(type);
  if (PythonOverride(meta, Names().getattribute) != nullptr) {
    return BreakNull(BreakCode::kUnsupportedObject, std::string("attributes of a ") + meta->tp_name);
  }
  PyRef meta_attribute = PyRef::Borrow(ShimTypeLookup(meta, name));
  if (meta_attribute && IsDataDescriptor(meta_attribute.get())) {
    PyTypeObject* kind = Py_TYPE(meta_attribute.get());
    if (kind != &PyGetSetDescr_Type && kind != &PyMemberDescr_Type) return BindData(meta_attribute.get(), object, name);
    PyRef value = PyRef::Steal(kind->tp_descr_get(meta_attribute.get(), object, reinterpret_cast<PyObject*>(meta)));
    if (value && Py_TYPE(value.get()) == Names().mappingproxy) proxies.emplace(value.get(), PyRef::Borrow(object));
    if (value && proxies.contains(value.get())) kept_alive.push_back(value);
    return Scan(value.release());
  }
  PyRef attribute = PyRef::Borrow(ShimTypeLookup(type, name));
  if (attribute) return Bind(attribute.get(), nullptr, type, type, name);
  if (meta_attribute) return Bind(meta_attribute.get(), object, meta, meta, name);
  if (PyObject* fallback = PythonOverride(meta, Names().getattr)) return Call(fallback, {object, name});
  PyErr_Format(PyExc_AttributeError, "type object '%.50s' has no attribute '%U'", type->tp_name, name);
  return nullptr;
}

PyObject* RecorderState::Impl::ModuleGetAttr(PyObject* module, PyObject* name) {
  PyTypeObject* type = Py_TYPE(module);
  PyObject* dict = PyModule_GetDict(module);
  GuardType(type);
  if (PythonOverride(type, Names().getattribute) != nullptr) {
    return BreakNull(BreakCode::kUnsupportedObject, std::string("attributes of a ") + type->tp_name);
  }
  PyRef descriptor = PyRef::Borrow(ShimTypeLookup(type, name));
  if (descriptor && IsDataDescriptor(descriptor.get())) {
    if (PyUnicode_Compare(name, Names().dict) != 0) return BindData(descriptor.get(), module, name);
    Shadow* shadow = GlobalsShadow(dict);
    return shadow == nullptr ? nullptr : Py_NewRef(shadow->copy.get());
  }
  PyObject* value = GlobalsGet(dict, name);
  if (value != nullptr || PyErr_Occurred()) return value;
  if (descriptor) return Bind(descriptor.get(), module, type, type, name);
  if (PyObject* fallback = PythonOverride(type, Names().getattr)) return Call(fallback, {module, name});
  PyRef fallback = PyRef::Steal(GlobalsGet(dict, Names().getattr));
  if (fallback) return Call(fallback.get(), {name});
  if (!PyErr_Occurred()) {
    PyErr_Format(PyExc_AttributeError, "module '%s' has no attribute '%U'", PyModule_GetName(module), name);
  }
  return nullptr;
}

PyObject* RecorderState::Impl::SuperGetAttr(PyObject* object, PyObject* name) {
  const WellKnown& n = Names();
  PyRef start = PyRef::Steal(PyObject_GenericGetAttr(object, n.thisclass));
  PyRef self = PyRef::Steal(PyObject_GenericGetAttr(object, n.self));
  PyRef self_class = PyRef::Steal(PyObject_GenericGetAttr(object, n.self_class));
  if (!start || !self || !self_class) return nullptr;
  if (self_class.get() == Py_None || PyUnicode_Compare(name, n.klass) == 0)
    return PyObject_GenericGetAttr(object, name);
  auto* type = reinterpret_cast<PyTypeObject*>(self_class.get());
  GuardType(type);
  PyObject* mro = type->tp_mro;
  Py_ssize_t i = 0;
  while (i < PyTuple_GET_SIZE(mro) && PyTuple_GET_ITEM(mro, i) != start.get()) ++i;
  for (++i; i < PyTuple_GET_SIZE(mro); ++i) {
    PyRef base = PyRef::Borrow(PyTuple_GET_ITEM(mro, i));
    PyRef dict = PyRef::Steal(PyObject_GetAttr(base.get(), n.dict));
    if (!dict) return nullptr;
    PyRef found = PyRef::Steal(PyObject_GetItem(dict.get(), name));
    if (!found) {
      if (!PyErr_ExceptionMatches(PyExc_KeyError)) return nullptr;
      PyErr_Clear();
      continue;
    }
    const bool unbound = self.get() == self_class.get();
    return Bind(found.get(), unbound ? nullptr : self.get(), type, reinterpret_cast<PyTypeObject*>(base.get()), name);
  }
  PyErr_Format(PyExc_AttributeError, "'super' object has no attribute '%U'", name);
  return nullptr;
}

// A bound method forwards what its own type does not have to its function.
PyObject* RecorderState::Impl::MethodGetAttr(PyObject* method, PyObject* name) {
  if (ShimTypeLookup(&PyMethod_Type, name) != nullptr) return Scan(PyObject_GetAttr(method, name));
  return GetAttr(PyMethod_GET_FUNCTION(method), name);
}

PyObject* RecorderState::Impl::TensorGradient(PyObject* tensor) {
  auto row = native_attributes.find({tensor, Names().grad});
  if (row != native_attributes.end()) return Py_NewRef(row->second ? row->second.get() : Py_None);
  Provenance* provenance = FindKnown(tensor);
  const at::Tensor& value = TensorOf(tensor);
  if (provenance == nullptr && (value.is_leaf() || value.retains_grad()))
    return Scan(PyObject_GetAttr(tensor, Names().grad));
  if (provenance == nullptr) return BreakNull(BreakCode::kAutograd, "Tensor.grad");
  PyObject* gradient = PyObject_GetAttr(provenance->real.get(), Names().grad);
  return Lift(gradient, Intern(SourceKind::kTensorGrad, provenance->source));
}

namespace {

// A tensor that requires no gradient, or a parameter.
bool HasNoHistory(PyObject* fake) {
  const at::Tensor& tensor = TensorOf(fake);
  return !tensor.requires_grad() || (Py_TYPE(fake) == Names().parameter && tensor.grad_fn() == nullptr);
}

// Fakes of tensors from outside are leaves, whatever the tensors are; parameters are, too.
bool AsksForHistory(PyObject* real, PyObject* name) {
  if (!IsTensor(real) || !TensorOf(real).requires_grad() || Py_TYPE(real) == Names().parameter) return false;
  return PyUnicode_CompareWithASCIIString(name, "is_leaf") == 0 ||
         PyUnicode_CompareWithASCIIString(name, "retains_grad") == 0;
}

}  // namespace

PyObject* RecorderState::Impl::TensorGetAttr(PyObject* tensor, PyObject* name) {
  if (!IsFakeTensor(tensor)) return BreakNull(BreakCode::kUnknownTensor, Py_TYPE(tensor)->tp_name);
  PyTypeObject* type = Py_TYPE(tensor);
  GuardType(type);
  PyRef descriptor = PyRef::Borrow(ShimTypeLookup(type, name));
  if (descriptor && Py_TYPE(descriptor.get()) == &PyGetSetDescr_Type) {
    if (PyUnicode_Compare(name, Names().grad) == 0) return TensorGradient(tensor);
    if (PyUnicode_Compare(name, Names().dict) == 0 && FindKnown(tensor) != nullptr) {
      Shadow* dict = InstanceDict(tensor);
      return dict == nullptr ? nullptr : Py_NewRef(dict->copy.get());
    }
    if (PyUnicode_Compare(name, Names().klass) == 0) return Py_NewRef(reinterpret_cast<PyObject*>(type));
    if (PyUnicode_CompareWithASCIIString(name, "grad_fn") == 0 && HasNoHistory(tensor)) return Py_NewRef(Py_None);
    if (FindCallable(descriptor.get()))
      return CallModel(*FindCallable(descriptor.get()), {descriptor.get(), &tensor, 1, nullptr});
    const Provenance* provenance = FindKnown(tensor);
    if (provenance != nullptr && AsksForHistory(provenance->real.get(), name))
      return BreakNull(BreakCode::kAutograd, QualifiedName(descriptor.get()));
    NativeCall call{descriptor.get(), &tensor, 1, nullptr};
    if (PyUnicode_Compare(name, Names().data) == 0) {
      PyRef detach = PyRef::Steal(PyUnicode_InternFromString("detach"));
      return CallTorch(TorchCall::Kind::kAttribute, name, call, [&] {
        PyObject* data = PyObject_CallMethodNoArgs(tensor, detach.get());
        // Writes to it are none of the tensor's version.
        if (data != nullptr && !TensorOf(data).is_inference())
          TensorOf(data).unsafeGetTensorImpl()->set_version_counter(c10::VariableVersion(0));
        return data;
      });
    }
    return CallTorch(TorchCall::Kind::kAttribute, name, call, [&] { return PyObject_GetAttr(tensor, name); });
  }
  if (descriptor && IsDataDescriptor(descriptor.get())) return BindData(descriptor.get(), tensor, name);
  PyObject* value = nullptr;
  if (FindKnown(tensor) != nullptr && !descriptor) {
    Shadow* dict = InstanceDict(tensor);
    if (dict == nullptr) return nullptr;
    value = ShadowDictGet(*dict, name);
  } else {
    value = LocalDictGet(tensor, name);
  }
  if (value != nullptr || PyErr_Occurred()) return value;
  if (descriptor) return Bind(descriptor.get(), tensor, type, type, name);
  return NoAttribute(tensor, name);
}

int RecorderState::Impl::GetMethod(PyObject* object, PyObject* name, PyObject** method) {
  PyTypeObject* type = Py_TYPE(object);
  const bool special = PyModule_Check(object) || PyType_Check(object) || type == &PySuper_Type ||
                       type == &PyMethod_Type || IsUnlifted(object);
  PyObject* override_ = special ? nullptr : ShimTypeLookup(type, Names().getattribute);
  if (!special && (type->tp_getattro == PyObject_GenericGetAttr || override_ == Names().object_getattribute)) {
    PyRef descriptor = PyRef::Borrow(ShimTypeLookup(type, name));
    if (descriptor && (Py_TYPE(descriptor.get())->tp_flags & Py_TPFLAGS_METHOD_DESCRIPTOR) != 0) {
      PyObject* own = nullptr;
      if (!IsPrimitive(object)) GuardType(type);
      if (!IsPrimitive(object) && HasInstanceDict(type)) {
        if (!IsTensor(object) && IsOutside(object)) {
          Shadow* dict = InstanceDict(object);
          if (dict == nullptr) return -1;
          own = ShadowDictGet(*dict, name);
        } else {
          own = LocalDictGet(object, name);
        }
        if (own == nullptr && PyErr_Occurred()) return -1;
      }
      *method = own != nullptr ? own : descriptor.release();
      return own == nullptr;
    }
  }
  *method = GetAttr(object, name);
  return *method == nullptr ? -1 : 0;
}

PyObject* RecorderState::Impl::LookupSpecial(PyObject* object, PyObject* name) {
  PyTypeObject* type = Py_TYPE(object);
  GuardType(type);
  PyRef found = PyRef::Borrow(ShimTypeLookup(type, name));
  return found ? Bind(found.get(), object, type, type, name) : nullptr;
}

}  // namespace framejit
