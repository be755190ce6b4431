// Calls: Python functions go back to the evaluator through the hook; classes, partials and instances are taken apart; C
// callables are judged by class rules and by callables.def, and break where neither allows them.
#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/printed.h"
#include "graph/capture/program_gradients.h"
#include "graph/capture/raise.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

// Of a state that frames were resumed with, or of the tuples in it.
bool HoldsItem(PyObject* state, PyObject* object) {
  if (state == nullptr || !PyTuple_CheckExact(state)) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(state); ++i) {
    PyObject* item = PyTuple_GET_ITEM(state, i);
    if (item == object || HoldsItem(item, object)) return true;
  }
  return false;
}

bool HasFlag(PyObject* function, PyObject* name) {
  PyObject* dict = reinterpret_cast<PyFunctionObject*>(function)->func_dict;
  return dict != nullptr && PyDict_GetItemWithError(dict, name) != nullptr;
}

PyObject* CodeName(PyObject* function) {
  return reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function))->co_name;
}

// Types whose methods touch nothing but the receiver and the arguments.
bool IsBuiltinDataType(PyTypeObject* type) {
  const WellKnown& n = Names();
  return type == &PyList_Type || type == &PyDict_Type || type == &PySet_Type || type == &PyFrozenSet_Type ||
         type == &PyTuple_Type || type == &PyUnicode_Type || type == &PyBytes_Type || type == &PyByteArray_Type ||
         type == &PyLong_Type || type == &PyFloat_Type || type == &PyComplex_Type || type == &PyBool_Type ||
         type == &PyRange_Type || type == &PySlice_Type || type == n.deque || type == n.ordered_dict ||
         type == n.default_dict || type == &PyDictKeys_Type || type == &PyDictValues_Type ||
         type == &PyDictItems_Type || type == &PyGen_Type || type == &PyProperty_Type || type == n.mappingproxy ||
         type == n.size || (PyExceptionClass_Check(reinterpret_cast<PyObject*>(type)) && !IsPythonClass(type));
}

// Methods that move elements of their receiver or their arguments about and look into none.
bool StoresOnly(std::string_view name) {
  static constexpr std::string_view kNames[] = {"append",  "appendleft",  "insert",     "__setitem__", "pop",
                                                "popleft", "clear",       "copy",       "keys",        "values",
                                                "items",   "reverse",     "get",        "setdefault",  "__len__",
                                                "popitem", "move_to_end", "__delitem__"};
  for (std::string_view known : kNames) {
    if (known == name) return true;
  }
  return false;
}

const char* NameOfModule(PyObject* object) {
  const char* name = PyModule_GetName(object);
  if (name == nullptr) PyErr_Clear();
  return name == nullptr ? "" : name;
}

// The method of a metaclass, such as type.__instancecheck__, that `callable` binds to a class; null for the class
// methods of C types, which look alike.
PyObject* MetaclassMethod(PyObject* callable) {
  auto* function = reinterpret_cast<PyCFunctionObject*>(callable);
  PyObject* mro = Py_TYPE(function->m_self)->tp_mro;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); ++i) {
    PyRef dict = PyRef::Steal(ShimTypeDict(reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(mro, i))));
    PyObject* found = dict ? PyDict_GetItemString(dict.get(), function->m_ml->ml_name) : nullptr;
    if (found != nullptr && Py_TYPE(found) == &PyMethodDescr_Type &&
        reinterpret_cast<PyMethodDescrObject*>(found)->d_method->ml_meth == function->m_ml->ml_meth) {
      return found;
    }
  }
  return nullptr;
}

// Exceptions that have no fields but BaseException's.
bool IsPlainException(PyTypeObject* type) {
  return NativeBase(type)->tp_basicsize == static_cast<Py_ssize_t>(sizeof(PyBaseExceptionObject));
}

// Where the closure of what torch._disable_dynamo made of a function holds that function; -1 for other functions.
int IndexOfDisabled(PyObject* function) {
  PyObject* closure = PyFunction_GET_CLOSURE(function);
  if (closure == nullptr || PyTuple_GET_SIZE(closure) > 2) return -1;
  auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
  const auto is = [](PyObject* text, const char* expected) {
    return PyUnicode_CompareWithASCIIString(text, expected) == 0;
  };
  const bool is_wrapper = (is(code->co_name, "inner") && is(code->co_qualname, "_disable_dynamo.<locals>.inner")) ||
                          (is(code->co_name, "_fn") && is(code->co_qualname, "DisableContext.__call__.<locals>._fn"));
  if (!is_wrapper) return -1;
  const Py_ssize_t size = PyTuple_GET_SIZE(closure);
  const Py_ssize_t first = code->co_nlocalsplus - size;  // free variables come last
  for (Py_ssize_t i = 0; i < size; ++i) {
    if (is(PyTuple_GET_ITEM(code->co_localsplusnames, first + i), "fn")) return static_cast<int>(i);
  }
  return -1;
}

// torch.Size, of numbers.
bool IsSize(PyObject* object) {
  if (Py_TYPE(object) != Names().size) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
    if (!IsPrimitive(PyTuple_GET_ITEM(object, i))) return false;
  }
  return true;
}

}  // namespace

bool IsTorchFunction(PyObject* self) {
  if (self == nullptr) return false;
  if (self == reinterpret_cast<PyObject*>(Names().variable_functions)) return true;
  if (!PyModule_Check(self)) return Py_TYPE(self) == Names().variable_functions;
  const std::string_view name = NameOfModule(self);
  return name == "torch._C._nn" || name == "torch._C._linalg" || name == "torch._C._fft" ||
         name == "torch._C._special" || name == "torch._C._sparse";
}

bool IsEntryType(PyTypeObject* type) {
  return std::string_view(type->tp_name).starts_with("framejit") && type->tp_call != nullptr;
}

std::string QualifiedName(PyObject* callable) {
  PyRef qualname = PyRef::Steal(PyObject_GetAttrString(callable, "__qualname__"));
  PyErr_Clear();
  const char* text = qualname && PyUnicode_Check(qualname.get()) ? PyUnicode_AsUTF8(qualname.get()) : nullptr;
  std::string name = text != nullptr ? text : Py_TYPE(callable)->tp_name;
  PyRef module = PyRef::Steal(PyObject_GetAttrString(callable, "__module__"));
  PyErr_Clear();
  text = module && PyUnicode_Check(module.get()) ? PyUnicode_AsUTF8(module.get()) : nullptr;
  return text != nullptr ? std::string(text) + "." + name : name;
}

PyObject* RecorderState::Impl::Call(PyObject* callable, std::initializer_list<PyObject*> args) {
  return Call(callable, args.begin(), static_cast<Py_ssize_t>(args.size()), nullptr);
}

PyObject* RecorderState::Impl::CallWithSelf(PyObject* callable, PyObject* self, PyObject* const* args, Py_ssize_t nargs,
                                            PyObject* kwnames) {
  const Py_ssize_t total = nargs + (kwnames != nullptr ? PyTuple_GET_SIZE(kwnames) : 0);
  absl::InlinedVector<PyObject*, 8> all{self};
  all.insert(all.end(), args, args + total);
  return Call(callable, all.data(), nargs + 1, kwnames);
}

PyObject* RecorderState::Impl::Call(PyObject* callable, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  if (request.leaves != nullptr && callable != std::exchange(entered_leaf, nullptr)) {
    if (auto leaf = request.leaves->find(callable); leaf != request.leaves->end()) {
      tail_call = false;
      return CallLeaf(leaf->second, {callable, args, nargs, kwnames});
    }
  }
  PyTypeObject* type = Py_TYPE(callable);
  const WellKnown& n = Names();
  // Calls that only pass on to another callable leave the result to it.
  const bool tail = std::exchange(tail_call, false);
  if (type == &PyFunction_Type) return tail_call = tail, CallFunction(callable, args, nargs, kwnames);
  if (type == &PyMethod_Type) return tail_call = tail, CallMethod(callable, args, nargs, kwnames);
  if (PyType_Check(callable)) return CallType(reinterpret_cast<PyTypeObject*>(callable), args, nargs, kwnames);
  if (type == &PyCFunction_Type || type == &PyMethodDescr_Type || type == &PyWrapperDescr_Type ||
      type == n.method_wrapper || type == &PyClassMethodDescr_Type || type == &PyCMethod_Type) {
    return CallNative({callable, args, nargs, kwnames});
  }
  if (type == n.partial) return tail_call = tail, CallPartial(callable, args, nargs, kwnames);
  if (type == n.lru_cache) {
    SpecialiseArguments({callable, args, nargs, kwnames});
    // One that the recording made calls its function through the hook.
    return IsOutside(callable) ? CallCached(callable, args, nargs, kwnames)
                               : CallPure({callable, args, nargs, kwnames});
  }
  return tail_call = tail, CallInstance(callable, args, nargs, kwnames);
}

PyObject* RecorderState::Impl::CallFunction(PyObject* function, PyObject* const* args, Py_ssize_t nargs,
                                            PyObject* kwnames) {
  const bool tail = std::exchange(tail_call, false);
  std::optional<Treatment> treatment = FindCallable(function);
  if (!treatment) treatment = FindCallable(PyFunction_GET_GLOBALS(function));
  if (treatment && !symbol_of.empty()) {
    PyRef result;
    if (CallModelOnSymbols(*treatment, {function, args, nargs, kwnames}, &result) != 0) return result.release();
  }
  if (treatment) return CallModel(*treatment, {function, args, nargs, kwnames});
  if (const int index = IndexOfDisabled(function); index >= 0) {
    // torch._disable_dynamo and torch.compiler.disable say something to torch's compiler alone.
    PyObject* closure = PyFunction_GET_CLOSURE(function);
    PyRef inner =
        PyRef::Steal(LoadCell(PyTuple_GET_ITEM(closure, index), reinterpret_cast<PyFunctionObject*>(function), index));
    tail_call = tail;
    return inner ? Call(inner.get(), args, nargs, kwnames) : nullptr;
  }
  if (PyUnicode_CompareWithASCIIString(CodeName(function), "dispatch") == 0 &&
      QualifiedName(function) == "functools.singledispatch.<locals>.dispatch") {
    return ModelSingleDispatch({function, args, nargs, kwnames});
  }
  if (IsFunctionTransform(function)) return CallTransformed({function, args, nargs, kwnames});
  if (HasFlag(function, Names().disable)) return BreakNull(BreakCode::kDisabled, QualifiedName(function));
  if (HasFlag(function, Names().graph_break)) return BreakNull(BreakCode::kExplicitBreak, QualifiedName(function));
  direct_call = tail;
  own_call = true;
  PyObject* result = PyObject_Vectorcall(function, args, static_cast<size_t>(nargs), kwnames);
  direct_call = own_call = false;
  if (CheckFailure() != 0) return Py_XDECREF(result), nullptr;
  return result;
}

PyObject* RecorderState::Impl::CallMethod(PyObject* method, PyObject* const* args, Py_ssize_t nargs,
                                          PyObject* kwnames) {
  PyRef function = PyRef::Borrow(PyMethod_GET_FUNCTION(method));
  PyRef self = PyRef::Borrow(PyMethod_GET_SELF(method));
  return CallWithSelf(function.get(), self.get(), args, nargs, kwnames);
}

PyObject* RecorderState::Impl::CallType(PyTypeObject* type, PyObject* const* args, Py_ssize_t nargs,
                                        PyObject* kwnames) {
  auto* object = reinterpret_cast<PyObject*>(type);
  const NativeCall call{object, args, nargs, kwnames};
  GuardType(type);
  if (type == &PyType_Type && nargs == 1 && kwnames == nullptr)
    return Py_NewRef(reinterpret_cast<PyObject*>(Py_TYPE(args[0])));
  PyTypeObject* meta = Py_TYPE(type);
  if (PyObject* meta_call = ShimTypeLookup(meta, Names().call); meta_call != nullptr && PyFunction_Check(meta_call)) {
    GuardType(meta);
    return CallWithSelf(meta_call, object, args, nargs, kwnames);
  }
  return Construct(call, call);
}

// type.__call__, whatever the metaclass says: `call` is of the class, `native` is the same for CPython.
PyObject* RecorderState::Impl::Construct(const NativeCall& call, const NativeCall& native) {
  PyObject* object = call.callable;
  auto* type = reinterpret_cast<PyTypeObject*>(object);
  const bool is_number = type == &PyLong_Type || type == &PyFloat_Type;
  if (is_number && call.total() == 1 && IsTensor(call.args[0]) && MayReadData() &&
      (IsSymbolic() || !session.KnownValue(TensorOf(call.args[0]))))
    return ReadNumbers(call);
  if (!symbol_of.empty()) {
    PyRef result;
    if (ConstructOnSymbols(call, &result) != 0) return result.release();
  }
  if (!IsPythonClass(type) && FindCallable(object)) return CallModel(*FindCallable(object), call);
  if (PyType_IsSubtype(type, &PyType_Type)) return CallMetaclass(call);
  if (MayCallNumPy(call)) return CallNumPy(call);
  PyTypeObject* base = NativeBase(type);
  auto* base_object = reinterpret_cast<PyObject*>(base);
  std::optional<Treatment> treatment = FindCallable(base_object);
  if (PyExceptionClass_Check(object) ||
      (treatment && (*treatment == Treatment::kPure || *treatment == Treatment::kText))) {
    // A class whose construction is Python code only passes its arguments on.
    PyObject* init = ShimTypeLookup(type, Names().init);
    const bool passes = base == &PyBaseObject_Type || (init != nullptr && PyFunction_Check(init) &&
                                                       (base == &PyDict_Type || base == &PyList_Type ||
                                                        base == Names().ordered_dict || base == Names().default_dict));
    own_call = base == &PyBaseObject_Type || base == &PyTuple_Type;  // the class hands on what its __new__ returns
    PyObject* made = passes ? Scan(CallReal(native)) : CallPure(native);
    own_call = false;
    if (type->tp_finalize != nullptr) NoteFinalizable(made);
    return made;
  }
  if (treatment == Treatment::kWeakReference) return ModelWeakReference(call);
  if (PyRef maker = PyRef::Borrow(ShimTypeLookup(type, Names().new_));
      maker && PyType_IsSubtype(type, Names().tensor) && Py_TYPE(maker.get()) == &PyStaticMethod_Type) {
    // A parameter: Python code makes it, and there is no __init__.
    maker = PyRef::Steal(GetAttr(object, Names().new_));
    return maker ? CallWithSelf(maker.get(), object, call.args, call.nargs, call.kwnames) : nullptr;
  }
  return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(object));
}

// partial(f, *a, **k)(*b, **l) is f(*a, *b, **{**k, **l}): the callable is judged as any other.
PyObject* RecorderState::Impl::CallPartial(PyObject* partial, PyObject* const* args, Py_ssize_t nargs,
                                           PyObject* kwnames) {
  const bool tail = std::exchange(tail_call, false);
  static constexpr const char* kFields[] = {"func", "args", "keywords"};
  const SourceId source = SourceOf(partial);
  PyRef fields[3];
  for (int i = 0; i < 3; ++i) {
    PyObject* value = PyObject_GetAttrString(partial, kFields[i]);
    if (value != nullptr && source != kNoSource)
      value = Lift(value, Intern(SourceKind::kPartialField, source, nullptr, i));
    fields[i] = PyRef::Steal(value);
    if (!fields[i]) return nullptr;
  }
  if (Shadow* shadow = FindShadow(fields[2].get()); shadow != nullptr && FullLift(*shadow) != 0) return nullptr;
  PyRef keywords = PyRef::Steal(PyDict_Copy(fields[2].get()));
  if (!keywords) return nullptr;
  std::vector<PyObject*> values;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(fields[1].get()); ++i)
    values.push_back(PyTuple_GET_ITEM(fields[1].get(), i));
  values.insert(values.end(), args, args + nargs);
  const auto positional = static_cast<Py_ssize_t>(values.size());
  for (Py_ssize_t i = 0; kwnames != nullptr && i < PyTuple_GET_SIZE(kwnames); ++i) {
    if (PyDict_SetItem(keywords.get(), PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) != 0) return nullptr;
  }
  PyRef names = PyRef::Steal(PySequence_Tuple(keywords.get()));
  if (!names) return nullptr;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names.get()); ++i) {
    values.push_back(PyDict_GetItemWithError(keywords.get(), PyTuple_GET_ITEM(names.get(), i)));
  }
  values.push_back(nullptr);
  tail_call = tail;
  return Call(fields[0].get(), values.data(), positional, PyTuple_GET_SIZE(names.get()) > 0 ? names.get() : nullptr);
}

// functools.lru_cache: what it returns for constants is a constant of the process. It is asked for real.
PyObject* RecorderState::Impl::CallCached(PyObject* wrapper, PyObject* const* args, Py_ssize_t nargs,
                                          PyObject* kwnames) {
  const NativeCall call{wrapper, args, nargs, kwnames};
  PyRef module = PyRef::Steal(PyObject_GetAttrString(wrapper, "__module__"));
  PyErr_Clear();
  if (module && PyUnicode_Check(module.get()) && PyUnicode_CompareWithASCIIString(module.get(), "typing") == 0)
    return ModelTypingCache(call);
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    if (!IsConstant(args[i]) && !IsSize(args[i]))
      return BreakNull(BreakCode::kUnsupportedCallable, "a cached function: " + QualifiedName(wrapper));
    if (PyType_Check(args[i])) GuardType(reinterpret_cast<PyTypeObject*>(args[i]));
  }
  // Its function runs for real where the cache does not know the arguments: it may not see what the recording wrote.
  PyRef function = PyRef::Steal(PyObject_GetAttrString(wrapper, "__wrapped__"));
  PyErr_Clear();
  const bool closed = function && PyFunction_Check(function.get()) && PyFunction_GET_CLOSURE(function.get()) != nullptr;
  const bool written = std::any_of(writes.begin(), writes.end(), [](const Write& write) {
    return write.shadow != nullptr && write.shadow->kind == ShadowKind::kGlobals;
  });
  if (closed || written)
    return BreakNull(BreakCode::kUnsupportedCallable,
                     "a cached function that may read what was written: " + QualifiedName(wrapper));
  PyRef result = PyRef::Steal(CallUnrecorded(call));
  if (!result) return nullptr;
  if (IsConstant(result.get()) || IsSize(result.get()) || Py_TYPE(result.get()) == Names().device)
    return result.release();
  // A set, or an object that stands for nothing (inspect._sentinel).
  if (!PyAnySet_CheckExact(result.get()) && Py_TYPE(result.get()) != &PyBaseObject_Type) {
    return BreakNull(BreakCode::kUnsupportedCallable,
                     "a cached function that returns no constant: " + QualifiedName(wrapper));
  }
  // The cache keeps it, and what it holds is guarded.
  PyObject* object = result.get();
  return Lift(result.release(), Pinned(object), true);
}

PyObject* RecorderState::Impl::CallInstance(PyObject* object, PyObject* const* args, Py_ssize_t nargs,
                                            PyObject* kwnames) {
  PyTypeObject* type = Py_TYPE(object);
  const WellKnown& n = Names();
  const bool tail = std::exchange(tail_call, false);
  GuardType(type);
  if (type->tp_call == nullptr) {
    PyErr_Format(PyExc_TypeError, "'%.200s' object is not callable", type->tp_name);
    return nullptr;
  }
  const NativeCall call{object, args, nargs, kwnames};
  if (PyType_IsSubtype(type, n.op_overload) || PyType_IsSubtype(type, n.op_overload_packet)) {
    return CallTorch(TorchCall::Kind::kFunction, object, call);
  }
  PyObject* method = ShimTypeLookup(type, n.call);
  if (method != nullptr && (PyFunction_Check(method) || IsEntryType(Py_TYPE(method)))) {
    tail_call = tail;
    return CallWithSelf(method, object, args, nargs, kwnames);
  }
  if (IsEntryType(type)) {
    PyRef wrapped = PyRef::Steal(PyObject_GetAttr(object, n.wrapped));
    tail_call = tail;
    return wrapped ? Call(wrapped.get(), args, nargs, kwnames) : nullptr;
  }
  if ((type == n.attrgetter || type == n.itemgetter) && nargs == 1 && kwnames == nullptr) return ModelGetter(call);
  if (nargs == 1 && kwnames == nullptr && std::string_view(type->tp_name) == "operator.methodcaller")
    return ModelMethodCaller(call);
  if (PyWeakref_CheckRef(object) && nargs == 0) {
    const SourceId source = SourceOf(object);
    PyObject* referent = PyWeakref_GetObject(object);
    if (source == kNoSource) return Scan(Py_NewRef(referent));
    // The state holds what the frames may have dropped since, and objects that are to be written hold what they will
    // drop; the interpreter, which goes on without the one and behind the other, knows what is alive.
    const auto holds = [referent](PyObject* state) { return HoldsItem(state, referent); };
    if (!writes.empty() || (IsSegment() && std::any_of(request.slots.begin(), request.slots.end(), holds)))
      return BreakAtWeakReference("a weak reference to what may be dead");
    return Lift(Py_NewRef(referent), Intern(SourceKind::kWeakReferent, source));
  }
  if (method != nullptr && Py_TYPE(method) != &PyWrapperDescr_Type) {
    PyRef bound = PyRef::Steal(Bind(method, object, type, type, n.call));
    return bound ? Call(bound.get(), args, nargs, kwnames) : nullptr;
  }
  SpecialiseArguments(call);
  if (MayCallNumPy(call)) return CallNumPy(call);
  if (!IsOutside(object) && FindCallable(reinterpret_cast<PyObject*>(type)) == Treatment::kPure) return CallPure(call);
  return BreakNull(BreakCode::kUnsupportedCallable, type->tp_name);
}

PyObject* RecorderState::Impl::CallNative(const NativeCall& call) {
  PyTypeObject* kind = Py_TYPE(call.callable);
  if (IsSymbolic()) {
    PyRef result;
    if (const int done = CallOnSymbols(call, &result); done != 0) return result.release();
  }
  if (std::optional<Treatment> treatment = FindCallable(call.callable)) return CallModel(*treatment, call);
  if (kind == &PyMethodDescr_Type || kind == &PyWrapperDescr_Type) {
    auto* descriptor = reinterpret_cast<PyDescrObject*>(call.callable);
    const char* name = PyUnicode_AsUTF8(descriptor->d_name);
    if (name == nullptr) return nullptr;
    if (descriptor->d_type == Names().tensor_base && call.nargs > 0 && IsTensor(call.args[0])) {
      if (descriptor->d_name == Names().getitem && call.nargs == 2) return GetItem(call.args[0], call.args[1]);
      if (descriptor->d_name == Names().setitem && call.nargs == 3) {
        return SetItem(call.args[0], call.args[1], call.args[2]) != 0 ? nullptr : Py_NewRef(Py_None);
      }
      return CallTorch(TorchCall::Kind::kMethod, descriptor->d_name, call);
    }
    return CallMethodOf(descriptor->d_type, name, call);
  }
  if (kind == Names().method_wrapper) {
    PyRef self = PyRef::Steal(PyObject_GetAttr(call.callable, Names().self));
    PyRef name = PyRef::Steal(PyObject_GetAttr(call.callable, Names().name));
    PyRef owner = PyRef::Steal(PyObject_GetAttr(call.callable, Names().objclass));
    if (!self || !name || !owner) return nullptr;
    PyRef found = PyRef::Borrow(ShimTypeLookup(reinterpret_cast<PyTypeObject*>(owner.get()), name.get()));
    if (!found) return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
    return CallWithSelf(found.get(), self.get(), call.args, call.nargs, call.kwnames);
  }
  if (!PyCFunction_Check(call.callable))
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
  PyObject* self = reinterpret_cast<PyCFunctionObject*>(call.callable)->m_self;
  const std::string_view name = reinterpret_cast<PyCFunctionObject*>(call.callable)->m_ml->ml_name;
  if (IsTorchFunction(self)) return CallTorch(TorchCall::Kind::kFunction, call.callable, call);
  if (MayCallNumPy(call)) return CallNumPy(call);
  if (self == nullptr || PyModule_Check(self))
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
  if (PyType_Check(self)) {
    if (name == "__new__") return CallNew(call);
    // object.__init_subclass__ and __subclasshook__, type.__prepare__.
    if (name == "__init_subclass__" || name == "__subclasshook__" || name == "__prepare__") return CallPure(call);
    if (PyObject* found = MetaclassMethod(call.callable)) {
      return CallWithSelf(found, self, call.args, call.nargs, call.kwnames);
    }
    auto* type = reinterpret_cast<PyTypeObject*>(self);
    if (name == "apply" && std::string_view(NativeBase(type)->tp_name) == "torch._C._FunctionBase")
      return ModelFunctionApply(call);
    if (!IsPythonClass(type) && (IsBuiltinDataType(type) || FindCallable(self) == Treatment::kPure))
      return CallPure(call);
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
  }
  // Of an outside object that was never lifted: nobody would see what the method does to it.
  const bool is_immutable = IsPrimitive(self) || IsNativeValue(self) || Py_TYPE(self) == Names().pattern ||
                            PyFrozenSet_CheckExact(self) || PyTuple_CheckExact(self) || PyRange_Check(self) ||
                            PyCode_Check(self) || Py_TYPE(self) == Names().device;
  if (FindKnown(call.callable) != nullptr && !is_immutable)
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable) + " of an object from outside");
  // A bound method: back to the descriptor it came from, which may be an override's base.
  PyObject* mro = Py_TYPE(self)->tp_mro;
  PyRef unicode = PyRef::Steal(PyUnicode_FromStringAndSize(name.data(), static_cast<Py_ssize_t>(name.size())));
  for (Py_ssize_t i = 0; unicode && i < PyTuple_GET_SIZE(mro); ++i) {
    PyObject* found = ShimTypeLookup(reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(mro, i)), unicode.get());
    if (found == nullptr || Py_TYPE(found) != &PyMethodDescr_Type) continue;
    if (reinterpret_cast<PyMethodDescrObject*>(found)->d_method !=
        reinterpret_cast<PyCFunctionObject*>(call.callable)->m_ml)
      continue;
    return CallWithSelf(found, self, call.args, call.nargs, call.kwnames);
  }
  return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
}

PyObject* RecorderState::Impl::CallNew(const NativeCall& call) {
  if (call.nargs < 1 || !PyType_Check(call.args[0])) return BreakNull(BreakCode::kUnsupportedCallable, "__new__");
  auto* type = reinterpret_cast<PyTypeObject*>(call.args[0]);
  PyTypeObject* base = NativeBase(type);
  GuardType(type);
  if (!symbol_of.empty()) {
    PyRef result;
    if (ConstructOnSymbols({call.args[0], call.args + 1, call.nargs - 1, call.kwnames}, &result) != 0)
      return result.release();
  }
  if (base->tp_new == PyType_Type.tp_new) return ModelNewType(call);
  if (FindCallable(reinterpret_cast<PyObject*>(base)) == Treatment::kWeakReference && call.nargs >= 2 &&
      !IsOutside(call.args[1]) && !IsTensor(call.args[1])) {
    return CallPure(call);
  }
  const bool allowed = FindCallable(reinterpret_cast<PyObject*>(base)) == Treatment::kPure ||
                       FindCallable(reinterpret_cast<PyObject*>(base)) == Treatment::kText ||
                       PyExceptionClass_Check(reinterpret_cast<PyObject*>(base));
  if (!allowed) return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.args[0]));
  PyObject* made = CallPure(call);
  if (type->tp_finalize != nullptr) NoteFinalizable(made);
  return made;
}

// A method of a C type, with its receiver as the first argument.
PyObject* RecorderState::Impl::CallMethodOf(PyTypeObject* type, const char* name, const NativeCall& call) {
  if (MayCallNumPy(call)) return CallNumPy(call);
  if (std::string_view(name) == "__get__" && call.nargs >= 2 && call.kwnames == nullptr) {
    if (type == &PyFunction_Type)
      return call.args[1] == Py_None ? Py_NewRef(call.args[0]) : PyMethod_New(call.args[0], call.args[1]);
    auto* descriptor = reinterpret_cast<PyDescrObject*>(call.args[0]);
    if (type == &PyGetSetDescr_Type && IsTensor(call.args[1])) return GetAttr(call.args[1], descriptor->d_name);
    // type.__dict__["__dict__"].__get__, which inspect.getattr_static calls.
    if (type == &PyGetSetDescr_Type && descriptor->d_type == &PyType_Type && PyType_Check(call.args[1]))
      return TypeGetAttr(reinterpret_cast<PyTypeObject*>(call.args[1]), descriptor->d_name);
    if (type == &PyMemberDescr_Type && PyObject_TypeCheck(call.args[1], descriptor->d_type) &&
        !PyType_Check(call.args[1]))
      return BindNative(call.args[0], call.args[1], descriptor->d_name);
  }
  if (std::string_view(name) == "__next__" && call.nargs == 1 && call.kwnames == nullptr) return ModelNext(call);
  // What C code has made of arguments alone is read and written by its methods alone.
  if (FindCallable(reinterpret_cast<PyObject*>(type)) == Treatment::kPure && call.nargs > 0 &&
      !IsOutside(call.args[0]) && !IsBuiltinDataType(type)) {
    return CallPure(call);
  }
  if (!IsBuiltinDataType(type) || call.nargs == 0) {
    return BreakNull(BreakCode::kUnsupportedCallable, std::string(type->tp_name) + "." + name);
  }
  PyObject* self = call.args[0];
  const std::string_view method = name;
  if (auto proxy = proxies.find(self); proxy != proxies.end()) {
    PyRef owner = proxy->second;
    if (method == "get" && call.nargs >= 2) return ModelGetItemDefault(call);
    return Scan(CallReal(call));
  }
  if (type == Names().mappingproxy && (self == nullptr || proxies.contains(self) || IsOutside(self)))
    return BreakNull(BreakCode::kUnsupportedObject, "a mapping proxy from outside");
  if (PyDict_Check(self)) {
    if (method == "__getitem__" && call.nargs == 2) return DictGetItem(self, call.args[1]);
    if (method == "get" && call.nargs >= 2 && call.kwnames == nullptr) return ModelGetItemDefault(call);
  }
  if (Shadow* shadow = FindShadow(self)) return CallShadowMethod(*shadow, name, call);
  if (IsOutside(self) && !IsPrimitive(self) && !PyTuple_Check(self) && !PyFrozenSet_Check(self) && self != nullptr &&
      Py_TYPE(self) != &PyRange_Type && !IsNativeValue(self)) {
    return BreakNull(BreakCode::kUnsupportedObject, std::string("method ") + name + " of " + Py_TYPE(self)->tp_name);
  }
  if (type == &PyUnicode_Type && (method == "format" || method == "format_map")) {
    for (Py_ssize_t i = 1; i < call.total(); ++i) {
      if (HasFake(call.args[i])) return BreakNull(BreakCode::kTensorData, "a tensor is formatted");
      GuardPrinted(*this, call.args[i]);
    }
  }
  if (method == "sort" && call.kwnames != nullptr) return CallModel(Treatment::kHigherOrder, call);
  if (StoresOnly(method) && call.kwnames == nullptr && !PyUnicode_Check(self)) return Scan(CallReal(call));
  return CallPure(call);
}

namespace {

// Methods that leave their receiver as it is.
bool IsReadOnlyMethod(std::string_view name) {
  static constexpr std::string_view kNames[] = {"items",
                                                "keys",
                                                "values",
                                                "copy",
                                                "index",
                                                "count",
                                                "__iter__",
                                                "__len__",
                                                "__eq__",
                                                "__ne__",
                                                "__contains__",
                                                "__getitem__",
                                                "__reversed__",
                                                "__lt__",
                                                "__le__",
                                                "__gt__",
                                                "__ge__",
                                                "__or__",
                                                "__and__",
                                                "__sub__",
                                                "__xor__",
                                                "union",
                                                "intersection",
                                                "difference",
                                                "symmetric_difference",
                                                "issubset",
                                                "issuperset",
                                                "isdisjoint",
                                                "__add__",
                                                "__mul__",
                                                "__rmul__",
                                                "__init_subclass__"};
  for (std::string_view known : kNames) {
    if (known == name) return true;
  }
  return false;
}

}  // namespace

PyObject* RecorderState::Impl::CallShadowMethod(Shadow& shadow, const char* name, const NativeCall& call) {
  const std::string_view method = name;
  PyObject* self = shadow.copy.get();
  if (call.kwnames == nullptr) {
    if (method == "__contains__" && call.nargs == 2 && PyDict_Check(self)) {
      const int result = ShadowDictContains(shadow, call.args[1]);
      return result < 0 ? nullptr : Py_NewRef(result ? Py_True : Py_False);
    }
    if (method == "__setitem__" && call.nargs == 3 && PyDict_Check(self)) {
      return ShadowDictSet(shadow, call.args[1], call.args[2]) != 0 ? nullptr : Py_NewRef(Py_None);
    }
    if (method == "__delitem__" && call.nargs == 2 && PyDict_Check(self)) {
      return ShadowDictSet(shadow, call.args[1], nullptr) != 0 ? nullptr : Py_NewRef(Py_None);
    }
    if (method == "__len__" && call.nargs == 1) {
      GuardLength(shadow);
      return Scan(CallReal(call));
    }
    if (method == "append" && call.nargs == 2 && shadow.kind == ShadowKind::kList) {
      // Reads nothing: a list that is only appended to, as a log is, may have any length (SequenceEffects).
      Touch(shadow);
      return CallReal(call);
    }
    if (method == "setdefault" && call.nargs >= 2) {
      PyObject* value = ShadowDictGet(shadow, call.args[1]);
      if (value != nullptr || PyErr_Occurred()) return value;
      PyObject* fallback = call.nargs > 2 ? call.args[2] : Py_None;
      return ShadowDictSet(shadow, call.args[1], fallback) != 0 ? nullptr : Py_NewRef(fallback);
    }
    if (method == "pop" && call.nargs >= 2 && PyDict_Check(self)) {
      PyRef value = PyRef::Steal(ShadowDictGet(shadow, call.args[1]));
      if (!value && PyErr_Occurred()) return nullptr;
      if (value && ShadowDictSet(shadow, call.args[1], nullptr) != 0) return nullptr;
      if (value) return value.release();
      if (call.nargs > 2) return Py_NewRef(call.args[2]);
      if (PyODict_Check(self))
        PyErr_SetObject(PyExc_KeyError, call.args[1]);  // as its pop does: None and tuples are taken for arguments
      else
        RaiseKeyError(call.args[1]);
      return nullptr;
    }
  }
  if (FullLift(shadow) != 0) return nullptr;
  if (!IsReadOnlyMethod(method)) {
    Touch(shadow);
    shadow.cleared |= method == "clear" && PyODict_Check(self);
    if (shadow.kind == ShadowKind::kGlobals) globals_cache.clear();
  }
  if (method == "sort" && call.kwnames != nullptr) return CallModel(Treatment::kHigherOrder, call);
  return CallPure(call);
}

int RecorderState::Impl::PrepareArguments(const NativeCall& call) {
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    PyObject* argument = call.args[i];
    if (Prepare(argument) != 0) return -1;
    if (Py_TYPE(argument)->tp_iternext != nullptr && !IsPrimitive(argument) && IsOutside(argument) &&
        !IsPythonClass(Py_TYPE(argument))) {
      return BreakInt(BreakCode::kUnsupportedEffect,
                      std::string("an iterator from outside is used: ") + Py_TYPE(argument)->tp_name);
    }
    PyTypeObject* type = Py_TYPE(argument);
    if (PyExceptionInstance_Check(argument)) {
      // Of one from outside C code may read what BaseException has: constants, which are guarded.
      if (!IsOutside(argument)) continue;
      if (CheckContent(argument) != 0) return -1;
      PyRef name = PyRef::Steal(PyUnicode_InternFromString("args"));
      PyRef args = PyRef::Steal(name && IsPlainException(type) ? GetAttr(argument, name.get()) : nullptr);
      if (broken() || PyErr_Occurred()) return -1;
      if (args && args.get() == reinterpret_cast<PyBaseExceptionObject*>(argument)->args && IsConstant(args.get()))
        continue;
      return BreakInt(BreakCode::kUnsupportedObject, std::string("the content of a ") + type->tp_name);
    }
    if (!IsPrimitive(argument) && !IsCodeLike(argument) && !IsTensor(argument) && IsOutside(argument) &&
        FindShadow(argument) == nullptr && !PyTuple_Check(argument) && !IsPythonClass(type) && type != &PyRange_Type &&
        type != Names().device && !PyFrozenSet_CheckExact(argument) && type != &PyMethod_Type &&
        !IsNumPyScalar(argument) && !IsNumPyArray(argument) && !proxies.contains(argument)) {
      return BreakInt(BreakCode::kUnsupportedObject,
                      std::string(type->tp_name) + " from outside is read by " + QualifiedName(call.callable));
    }
  }
  return 0;
}

PyObject* RecorderState::Impl::CallPure(const NativeCall& call) {
  if (PrepareArguments(call) != 0) return nullptr;
  return Scan(CallReal(call));
}

// Python code that C calls back is recorded by the hook; tensor work that C does on its own account is not, and breaks.
PyObject* RecorderState::Impl::CallReal(const NativeCall& call) {
  const size_t nodes = session.graph().nodes.size();
  const size_t calls = recording->torch_graph.calls.size();
  PyObject* result = PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), call.kwnames);
  if (CheckFailure() != 0) return Py_XDECREF(result), nullptr;
  if (session.graph().nodes.size() != nodes && recording->torch_graph.calls.size() == calls && !EngineRuns()) {
    Py_XDECREF(result);
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable) + " of tensors");
  }
  return result;
}

int RecorderState::Impl::CheckFailure() {
  const std::optional<FakeSession::Failure>& failure = session.failure();
  if (broken()) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_SystemError, "framejit: the recording broke");
    return -1;
  }
  if (!failure.has_value()) return 0;
  PyErr_Clear();
  return BreakInt(failure->code, failure->detail);
}

}  // namespace framejit
