// The callables of callables.def that are modelled: what each does in terms of the protocol functions.
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

#include "absl/types/span.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/printed.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

PyObject* Boolean(int truth) { return truth < 0 ? nullptr : Py_NewRef(truth ? Py_True : Py_False); }
PyObject* NoneIf(int status) { return status != 0 ? nullptr : Py_NewRef(Py_None); }

struct NamedOperator {
  const char* name;
  int number;  // NB_* of Include/opcode.h
};
constexpr NamedOperator kBinaryNames[] = {
    {"add", 0},   {"and_", 1},       {"floordiv", 2}, {"lshift", 3},    {"matmul", 4},   {"mul", 5},      {"mod", 6},
    {"or_", 7},   {"pow", 8},        {"rshift", 9},   {"sub", 10},      {"truediv", 11}, {"xor", 12},     {"iadd", 13},
    {"iand", 14}, {"ifloordiv", 15}, {"ilshift", 16}, {"imatmul", 17},  {"imul", 18},    {"imod", 19},    {"ior", 20},
    {"ipow", 21}, {"irshift", 22},   {"isub", 23},    {"itruediv", 24}, {"ixor", 25},    {"iconcat", 13},
};
constexpr NamedOperator kCompareNames[] = {{"lt", Py_LT}, {"le", Py_LE}, {"eq", Py_EQ},
                                           {"ne", Py_NE}, {"gt", Py_GT}, {"ge", Py_GE}};

// The scan of transformers' Mamba models is another algorithm where torch compiles it, with other roundings than
// eager's.
bool InScan(const std::vector<LiveFrame*>& frames) {
  return !frames.empty() && PyUnicode_CompareWithASCIIString(frames.back()->code->co_name, "mamba_selective_scan") == 0;
}

// Transformers makes no mask for attention over all there is where nothing is padded, but where torch compiles it:
// then, in some versions, one that lets everything through, for which torch's attention is another kernel that draws
// other random numbers. Where it was given no tensors there is no data to look at, and it may decide as in eager mode.
bool SkipsMask(const std::vector<LiveFrame*>& frames) {
  if (frames.empty()) return false;
  const LiveFrame& frame = *frames.back();
  const bool decides = PyUnicode_CompareWithASCIIString(frame.code->co_name, "_ignore_bidirectional_mask_sdpa") == 0 ||
                       PyUnicode_CompareWithASCIIString(frame.code->co_name, "_ignore_causal_mask_sdpa") == 0;
  return decides && std::none_of(frame.locals, frame.locals + frame.code->co_nlocalsplus,
                                 [](PyObject* local) { return local != nullptr && IsTensor(local); });
}

// Whether code of libraries takes a lock, for something that a recording only reads.
bool GuardsReads(const LiveFrame& frame) {
  PyObject* name = PyDict_GetItemString(frame.globals, "__name__");
  const char* text = name != nullptr && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : nullptr;
  const std::string_view module = text == nullptr ? "" : text;
  if (module == "logging") {
    for (const char* function : {"_acquireLock", "_releaseLock", "isEnabledFor"}) {
      if (PyUnicode_CompareWithASCIIString(frame.code->co_name, function) == 0) return true;
    }
    return false;
  }
  return module == "functools" || module == "warnings" || module.starts_with("torch.") ||
         module.starts_with("transformers.");
}

}  // namespace

PyObject* RecorderState::Impl::CallModel(Treatment treatment, const NativeCall& call) {
  PyObject* const* args = call.args;
  const bool plain = call.kwnames == nullptr;
  switch (treatment) {
    case Treatment::kPure:
      return CallPure(call);
    case Treatment::kHigherOrder:
      return ModelHigherOrder(call);
    case Treatment::kGetAttr:
    case Treatment::kHasAttr:
    case Treatment::kSetAttr:
    case Treatment::kDelAttr:
    case Treatment::kObjectGetAttribute:
    case Treatment::kObjectSetAttr:
    case Treatment::kObjectDelAttr:
      return ModelAttribute(treatment, call);
    case Treatment::kTypeCall:
      if (call.nargs < 1 || !PyType_Check(args[0])) return CallPure(call);
      GuardType(reinterpret_cast<PyTypeObject*>(args[0]));
      return Construct({args[0], args + 1, call.nargs - 1, call.kwnames}, call);
    case Treatment::kLen: {
      if (call.nargs != 1 || !plain) return CallPure(call);
      if (IsSymbolic() && IsTensor(args[0]) && IsFakeTensor(args[0]) && TensorOf(args[0]).dim() > 0) {
        PyRef name = PyRef::Steal(PyUnicode_InternFromString("size"));
        PyRef zero = PyRef::Steal(PyLong_FromLong(0));
        if (!name || !zero) return nullptr;
        PyObject* operands[] = {args[0], zero.get()};
        return CallTorch(TorchCall::Kind::kMethod, name.get(), {call.callable, operands, 2, nullptr},
                         [&] { return PyObject_CallMethodOneArg(args[0], name.get(), zero.get()); });
      }
      const Py_ssize_t length = Length(args[0]);
      return length < 0 ? nullptr : PyLong_FromSsize_t(length);
    }
    case Treatment::kIsInstance:
      for (Py_ssize_t i = 0; i < call.nargs; ++i) {
        if (PyType_Check(args[i])) GuardType(reinterpret_cast<PyTypeObject*>(args[i]));
        GuardType(Py_TYPE(args[i]));
        for (Py_ssize_t k = 0; PyTuple_Check(args[i]) && k < PyTuple_GET_SIZE(args[i]); ++k) {
          PyObject* member = PyTuple_GET_ITEM(args[i], k);
          if (PyType_Check(member)) GuardType(reinterpret_cast<PyTypeObject*>(member));
        }
      }
      if (QualifiedName(call.callable).starts_with("_abc.")) {
        // One that was made inside recognises what the recording gave it.
        if (call.nargs > 0 && IsOutside(args[0])) GuardAbstractBases();
        // The caches make that whether Python code of the classes runs is no property of the program.
        return CallUnrecorded(call);
      }
      return CallReal(call);
    case Treatment::kIdentity:
      return CallReal(call);
    case Treatment::kTakeLock:
      if (call.nargs > 0 && !IsOutside(args[0])) return CallPure(call);
      if (call.total() > 1 || !GuardsReads(*frames.back()))
        return BreakNull(BreakCode::kUnsupportedEffect, "a lock from outside is taken");
      return Py_NewRef(Py_True);
    case Treatment::kReleaseLock:
      if (call.nargs > 0 && !IsOutside(args[0])) return CallPure(call);
      if (!GuardsReads(*frames.back()))
        return BreakNull(BreakCode::kUnsupportedEffect, "a lock from outside is released");
      return Py_NewRef(Py_None);
    case Treatment::kPrint: {
      PyRef key = PyRef::Steal(PyUnicode_InternFromString("file"));
      const Py_ssize_t at = key && !plain ? PySequence_Index(call.kwnames, key.get()) : -1;
      PyErr_Clear();
      PyObject* file = at < 0 ? Py_None : args[call.nargs + at];
      if (file == Py_None || IsOutside(file))
        return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
      return ModelText(call);
    }
    case Treatment::kAddress:
      return ModelAddress(call);
    case Treatment::kVars:
      if (call.nargs != 1) return BreakNull(BreakCode::kUnsupportedCallable, "vars() of a frame");
      return GetAttr(args[0], Names().dict);
    case Treatment::kGlobals: {
      PyObject* globals = PyEval_GetGlobals();
      if (local_namespaces.contains(globals)) return Py_NewRef(globals);
      Shadow* shadow = globals == nullptr ? nullptr : GlobalsShadow(globals);
      if (shadow == nullptr && !PyErr_Occurred())
        return BreakNull(BreakCode::kInternalError, "globals() without a frame");
      return shadow == nullptr ? nullptr : Py_NewRef(shadow->copy.get());
    }
    case Treatment::kIter:
      return call.nargs == 1 ? GetIter(args[0]) : ModelHigherOrder(call);
    case Treatment::kNext:
      return ModelNext(call);
    case Treatment::kSum:
      return ModelReduce(call, true);
    case Treatment::kReduce:
      return ModelReduce(call, false);
    case Treatment::kMap:
      return ModelMap(call);
    case Treatment::kOperator:
      return ModelOperator(call);
    case Treatment::kContextVarGet:
      return ModelContextVar(call);
    case Treatment::kNumber:
      for (Py_ssize_t i = 0; i < call.nargs; ++i) {
        if (IsTensor(args[i])) return CallTorch(TorchCall::Kind::kFunction, call.callable, call);
      }
      return CallPure(call);
    case Treatment::kText:
      return ModelText(call);
    case Treatment::kNoOperation:
      return Py_NewRef(Py_None);
    case Treatment::kAlwaysTrue:
      return Py_NewRef(Py_True);
    case Treatment::kAlwaysFalse:
      return Py_NewRef(Py_False);
    case Treatment::kIsCompiling:
      return Boolean(!InOptimizer() && !InScan(frames) && !SkipsMask(frames));
    case Treatment::kRecursionLimit:
      if (!frames.empty() && PyUnicode_CompareWithASCIIString(frames.back()->code->co_qualname, "unwrap") == 0)
        return CallReal(call);
      return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
    case Treatment::kHandledException:
      if (PyObject* handled = HandledException(); handled == nullptr || caught.contains(handled)) return CallReal(call);
      return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
    case Treatment::kConstantTensor:
      return ModelConstantTensor(call);
    case Treatment::kTorch:
      return CallTorch(TorchCall::Kind::kFunction, call.callable, call);
    case Treatment::kTorchLeaf:
      return ModelTorchLeaf(call);
    case Treatment::kCached:
      return CallCached(call.callable, args, call.nargs, call.kwnames);
    case Treatment::kOfShapes:
      if (IsSymbolic()) StayStatic(QualifiedName(call.callable));
      return PrepareArguments(call) != 0 ? nullptr : Scan(CallUnrecorded(call));
    case Treatment::kTensorValue:
      return ModelTensorValue(call);
    case Treatment::kCheck:
      return ModelCheck(call);
    case Treatment::kNewTensor:
      return ModelNewTensor(call);
    case Treatment::kCheckpoint:
      return ModelCheckpoint(call);
    case Treatment::kGradient:
      return ModelGradient(call);
    case Treatment::kBackward:
      return ModelBackward(call);
    case Treatment::kRetainGrad:
      return ModelRetainGrad(call);
    case Treatment::kRegisterHook:
      return ModelRegisterHook(call);
    case Treatment::kRequireGrad:
      return ModelRequireGrad(call);
    case Treatment::kTorchState:
      return ModelTorchState(call);
    case Treatment::kMakeSubclass:
      return ModelMakeSubclass(call);
    case Treatment::kDeepCopy:
      return ModelDeepCopy(call);
    case Treatment::kCopy:
      return ModelCopy(call);
    case Treatment::kExecute:
      return ModelExecute(call);
    case Treatment::kGetFrame:
      return ModelGetFrame(call);
    case Treatment::kInferenceMode:
      return ModelInferenceMode(call);
    case Treatment::kManualSeed:
      return ModelManualSeed(call);
    case Treatment::kNewGenerator:
      return ModelNewGenerator(call);
    case Treatment::kGeneratorMethod:
      return ModelGeneratorMethod(call);
    case Treatment::kBuildClass:
      return ModelBuildClass(call);
    case Treatment::kNewType:
      return ModelNewType(call);
    case Treatment::kAsSubclass:
      return ModelAsSubclass(call);
    case Treatment::kOnLocal:
      return ModelOnLocal(call);
    case Treatment::kWritesFirst:
      return ModelWritesFirst(call);
    case Treatment::kReduceEx:
      return ModelReduceEx(call);
    case Treatment::kWarn:
      return ModelWarn(call);
    case Treatment::kCallEffect:
      return ModelCallEffect(call);
    case Treatment::kThreadIdent:
      return ModelThreadIdent(call);
    case Treatment::kRandomSeed:
      return ModelRandomSeed(call);
    case Treatment::kWeakReference:
      return ModelWeakReference(call);
    case Treatment::kBreakData:
      return BreakNull(BreakCode::kTensorData, QualifiedName(call.callable));
    case Treatment::kBreakMetadata:
      return BreakNull(BreakCode::kTensorMetadataMutation, QualifiedName(call.callable));
    case Treatment::kBreakAutograd:
      return BreakNull(BreakCode::kAutograd, QualifiedName(call.callable));
    case Treatment::kBreakOptimizer:
      return BreakNull(BreakCode::kOptimizer, QualifiedName(call.callable));
    case Treatment::kBreakState:
      return BreakNull(BreakCode::kTorchState, QualifiedName(call.callable));
  }
  return BreakNull(BreakCode::kInternalError, "treatment");
}

PyObject* RecorderState::Impl::ModelNext(const NativeCall& call) {
  if (call.nargs < 1) return CallPure(call);
  PyObject* item = IterNext(call.args[0]);
  if (item != nullptr || broken()) return item;
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_StopIteration)) return nullptr;
  if (call.nargs > 1) return PyErr_Clear(), Py_NewRef(call.args[1]);
  if (!PyErr_Occurred()) PyErr_SetNone(PyExc_StopIteration);
  return nullptr;
}

PyObject* RecorderState::Impl::ModelAttribute(Treatment treatment, const NativeCall& call) {
  PyObject* const* args = call.args;
  if (call.kwnames != nullptr || call.nargs < 2 || !PyUnicode_Check(args[1])) return CallPure(call);
  PyObject* interned = Py_NewRef(args[1]);
  if (PyUnicode_CheckExact(interned)) PyUnicode_InternInPlace(&interned);
  PyRef name = PyRef::Steal(interned);
  if (treatment == Treatment::kSetAttr)
    return call.nargs == 3 ? NoneIf(SetAttr(args[0], name.get(), args[2])) : CallPure(call);
  if (treatment == Treatment::kDelAttr) return NoneIf(SetAttr(args[0], name.get(), nullptr));
  if (treatment == Treatment::kObjectSetAttr)
    return call.nargs == 3 ? NoneIf(GenericSetAttr(args[0], name.get(), args[2])) : CallPure(call);
  if (treatment == Treatment::kObjectDelAttr) return NoneIf(GenericSetAttr(args[0], name.get(), nullptr));
  PyObject* value = nullptr;
  if (treatment == Treatment::kObjectGetAttribute) {
    bool found = true;
    if (PyType_Check(args[0]) || PyModule_Check(args[0]) || IsTensor(args[0])) return GetAttr(args[0], name.get());
    GuardType(Py_TYPE(args[0]));
    value = GenericGetAttr(args[0], name.get(), &found);
    if (value == nullptr && !found) {
      PyErr_Format(PyExc_AttributeError, "'%.50s' object has no attribute '%U'", Py_TYPE(args[0])->tp_name, name.get());
    }
    return value;
  }
  value = GetAttr(args[0], name.get());
  const bool absent = value == nullptr && !broken() && PyErr_ExceptionMatches(PyExc_AttributeError);
  if (treatment == Treatment::kHasAttr) {
    if (value == nullptr && !absent) return nullptr;
    PyErr_Clear();
    Py_XDECREF(value);
    return Boolean(!absent);
  }
  if (!absent || call.nargs < 3) return value;
  PyErr_Clear();
  return Py_NewRef(args[2]);
}

// operator.attrgetter and itemgetter, by what they say in __reduce__.
PyObject* RecorderState::Impl::ModelGetter(const NativeCall& call) {
  PyRef reduced = PyRef::Steal(PyObject_CallMethod(call.callable, "__reduce__", nullptr));
  if (!reduced || PyTuple_GET_SIZE(reduced.get()) < 2) return BreakNull(BreakCode::kUnsupportedCallable, "a getter");
  PyObject* names = PyTuple_GET_ITEM(reduced.get(), 1);
  const bool is_attribute = Py_TYPE(call.callable) == Names().attrgetter;
  PyRef results = PyRef::Steal(PyTuple_New(PyTuple_GET_SIZE(names)));
  if (!results) return nullptr;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
    PyObject* name = PyTuple_GET_ITEM(names, i);
    PyRef value = PyRef::Borrow(call.args[0]);
    if (!is_attribute) {
      value = PyRef::Steal(GetItem(value.get(), name));
    } else {
      PyRef dot = PyRef::Steal(PyUnicode_FromString("."));
      PyRef parts = PyRef::Steal(dot ? PyUnicode_Split(name, dot.get(), -1) : nullptr);
      for (Py_ssize_t p = 0; parts && value && p < PyList_GET_SIZE(parts.get()); ++p) {
        PyObject* part = Py_NewRef(PyList_GET_ITEM(parts.get(), p));
        PyUnicode_InternInPlace(&part);
        value = PyRef::Steal(GetAttr(value.get(), part));
        Py_DECREF(part);
      }
    }
    if (!value) return nullptr;
    PyTuple_SET_ITEM(results.get(), i, value.release());
  }
  return PyTuple_GET_SIZE(names) == 1 ? Py_NewRef(PyTuple_GET_ITEM(results.get(), 0)) : results.release();
}

namespace {

bool IsNumber(PyObject* object) {
  return PyLong_CheckExact(object) || PyFloat_CheckExact(object) || PyBool_Check(object) ||
         PyComplex_CheckExact(object);
}

}  // namespace

PyObject* RecorderState::Impl::ModelReduce(const NativeCall& call, bool is_sum) {
  const Py_ssize_t first = is_sum ? 0 : 1;
  if (call.kwnames != nullptr) SpecialiseArguments(call);
  if (call.total() <= first) return CallPure(call);
  if (call.kwnames != nullptr && !(is_sum && call.total() == 2 &&
                                   PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(call.kwnames, 0), "start") == 0))
    return CallPure(call);
  if (is_sum && call.total() == 2) {  // which raises before it looks at the items
    PyObject* start = call.args[1];
    if (PyUnicode_Check(start) || PyBytes_Check(start) || PyByteArray_Check(start)) return CallPure(call);
  }
  PyRef items = PyRef::Steal(AsTuple(call.args[first]));
  if (!items) return nullptr;
  PyRef total;
  if (call.total() > first + 1) {
    total = PyRef::Borrow(call.args[first + 1]);
  } else if (is_sum) {
    total = PyRef::Steal(PyLong_FromLong(0));
  }
  Py_ssize_t first_item = 0;
  if (is_sum && IsNumber(total.get())) {
    // From 3.12 on, CPython makes up for the rounding of a run of floats.
    const Py_ssize_t count = PyTuple_GET_SIZE(items.get());
    while (first_item < count && IsNumber(PyTuple_GET_ITEM(items.get(), first_item))) ++first_item;
    PyRef numbers = PyRef::Steal(PyTuple_GetSlice(items.get(), 0, first_item));
    if (!numbers) return nullptr;
    PyObject* operands[] = {numbers.get(), total.get()};
    const auto add = [&] { return PyObject_Vectorcall(call.callable, operands, 2, nullptr); };
    const bool varies = HoldsSymbol(operands[0]) || HoldsSymbol(operands[1]);
    total = PyRef::Steal(varies ? Compute(call.callable, operands, add) : add());
    if (!total) return nullptr;
  }
  for (Py_ssize_t i = first_item; i < PyTuple_GET_SIZE(items.get()); ++i) {
    PyObject* item = PyTuple_GET_ITEM(items.get(), i);
    if (!total) {
      total = PyRef::Borrow(item);
      continue;
    }
    total = PyRef::Steal(is_sum ? Binary(0, total.get(), item) : Call(call.args[0], {total.get(), item}));
    if (!total) return nullptr;
  }
  if (!total) PyErr_SetString(PyExc_TypeError, "reduce() of empty iterable with no initial value");
  return total.release();
}

// Whether C code that calls `callable` leaves the recording complete: Python frames come back through the hook.
bool RecorderState::Impl::MayBeCalledByC(PyObject* callable) {
  if (callable == Py_None || PyFunction_Check(callable)) return !PyFunction_Check(callable) || !FindCallable(callable);
  if (Py_TYPE(callable) == &PyMethod_Type) return MayBeCalledByC(PyMethod_GET_FUNCTION(callable));
  if (PyType_Check(callable)) return FindCallable(callable) == Treatment::kPure;
  if (std::optional<Treatment> treatment = FindCallable(callable)) return *treatment == Treatment::kPure;
  if (Py_TYPE(callable) == Names().itemgetter) return true;
  if (std::string_view(Py_TYPE(callable)->tp_name) == "functools.KeyWrapper") return true;  // its function was judged
  if (Py_TYPE(callable) == &PyMethodDescr_Type) {
    PyTypeObject* type = reinterpret_cast<PyDescrObject*>(callable)->d_type;
    return type == &PyUnicode_Type || type == &PyTuple_Type;
  }
  return false;
}

PyObject* RecorderState::Impl::ModelHigherOrder(const NativeCall& call) {
  std::vector<PyObject*> args(call.args, call.args + call.total());
  std::vector<PyRef> forwarders;
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    PyObject* argument = call.args[i];
    if (Py_TYPE(argument)->tp_call == nullptr || MayBeCalledByC(argument)) continue;
    // abs, operator.mul and the like, where no tensor can reach them.
    const std::optional<Treatment> treatment = FindCallable(argument);
    if (treatment == Treatment::kNumber || treatment == Treatment::kOperator) {
      if (PrepareArguments(call) != 0) return nullptr;
      if (std::none_of(call.args, call.args + call.total(), [&](PyObject* other) { return HasFake(other); })) continue;
    }
    forwarders.push_back(Forwarder(argument));
    if (!forwarders.back()) return nullptr;
    args[static_cast<size_t>(i)] = forwarders.back().get();
  }
  return CallPure({call.callable, args.data(), call.nargs, call.kwnames});
}

PyObject* RecorderState::Impl::ModelMap(const NativeCall& call) {
  if (call.nargs < 2 || call.kwnames != nullptr || MayBeCalledByC(call.args[0])) return CallPure(call);
  // Anything else is called now, in the order in which map would; only over what is finite.
  std::vector<PyRef> columns;
  Py_ssize_t rows = PY_SSIZE_T_MAX;
  for (Py_ssize_t i = 1; i < call.nargs; ++i) {
    PyObject* source = call.args[i];
    if (!PyTuple_Check(source) && !PyList_Check(source) && !PyDict_Check(source) && !PyAnySet_CheckExact(source) &&
        Py_TYPE(source) != &PyRange_Type) {
      return BreakNull(BreakCode::kUnsupportedCallable, "map of " + QualifiedName(call.args[0]));
    }
    columns.push_back(PyRef::Steal(AsTuple(source)));
    if (!columns.back()) return nullptr;
    rows = std::min(rows, PyTuple_GET_SIZE(columns.back().get()));
  }
  PyRef results = PyRef::Steal(PyList_New(0));
  for (Py_ssize_t row = 0; results && row < rows; ++row) {
    std::vector<PyObject*> args;
    for (const PyRef& column : columns) args.push_back(PyTuple_GET_ITEM(column.get(), row));
    PyRef value = PyRef::Steal(Call(call.args[0], args.data(), static_cast<Py_ssize_t>(args.size()), nullptr));
    if (!value || PyList_Append(results.get(), value.get()) != 0) return nullptr;
  }
  return results ? PyObject_GetIter(results.get()) : nullptr;
}

PyObject* RecorderState::Impl::ModelOperator(const NativeCall& call) {
  PyObject* const* args = call.args;
  const std::string_view name = reinterpret_cast<PyCFunctionObject*>(call.callable)->m_ml->ml_name;
  if (call.kwnames == nullptr && call.nargs == 2) {
    for (const NamedOperator& row : kBinaryNames) {
      if (name == row.name) return Binary(row.number, args[0], args[1]);
    }
    for (const NamedOperator& row : kCompareNames) {
      if (name == row.name) return RichCompare(args[0], args[1], row.number);
    }
    if (name == "getitem") return GetItem(args[0], args[1]);
    if (name == "delitem") return NoneIf(DelItem(args[0], args[1]));
    if (name == "contains") return Boolean(Contains(args[0], args[1]));
    if (name == "is_") return Boolean(Is(args[0], args[1]));
    if (name == "is_not") return Boolean(!Is(args[0], args[1]));
  }
  if (name == "call" && call.nargs > 0) return Call(args[0], args + 1, call.nargs - 1, call.kwnames);
  if (call.kwnames == nullptr && call.nargs == 3 && name == "setitem")
    return NoneIf(SetItem(args[0], args[1], args[2]));
  if (call.kwnames == nullptr && call.nargs == 1) {
    if (name == "neg") return Unary(UnaryOperator::kNegative, args[0]);
    if (name == "pos") return Unary(UnaryOperator::kPositive, args[0]);
    if (name == "invert" || name == "inv") return Unary(UnaryOperator::kInvert, args[0]);
    if (name == "not_") return Unary(UnaryOperator::kNot, args[0]);
    if (name == "truth") return Boolean(IsTrue(args[0]));
  }
  return CallPure(call);
}

PyObject* RecorderState::Impl::ModelGetItemDefault(const NativeCall& call) {
  if (Shadow* shadow = FindShadow(call.args[0]); shadow != nullptr && call.nargs <= 3) {
    PyObject* value = ShadowDictGet(*shadow, call.args[1]);
    if (value != nullptr || PyErr_Occurred()) return value;
    return Py_NewRef(call.nargs > 2 ? call.args[2] : Py_None);
  }
  if (auto proxy = proxies.find(call.args[0]); proxy != proxies.end()) {
    PyRef value = PyRef::Steal(CallReal(call));
    if (!value || (call.nargs > 2 && value.get() == call.args[2])) return value.release();
    return LiftTypeAttribute(reinterpret_cast<PyTypeObject*>(proxy->second.get()), call.args[1], value.get());
  }
  return Scan(CallReal(call));
}

// What a context variable holds cannot be guarded.
PyObject* RecorderState::Impl::ModelContextVar(const NativeCall&) {
  return BreakNull(BreakCode::kUnsupportedObject, "the value of a context variable");
}

PyObject* RecorderState::Impl::ModelText(const NativeCall& call) {
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    if (HasFake(call.args[i])) return BreakNull(BreakCode::kTensorData, "a tensor is formatted");
    GuardPrinted(*this, call.args[i]);
  }
  return CallPure(call);
}

namespace {

// Numbers in nested lists and tuples, a dtype or a device: all of it is guarded. The contents of an array or a buffer
// are not.
bool IsPlainData(PyObject* object, int depth = 0) {
  if (IsPrimitive(object) || IsCodeLike(object) || Py_TYPE(object) == Names().device || IsNativeValue(object) ||
      IsNumPyArray(object)) {
    return true;
  }
  if ((!PyList_Check(object) && !PyTuple_Check(object)) || depth > 24) return false;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
    if (!IsPlainData(PySequence_Fast_GET_ITEM(object, i), depth + 1)) return false;
  }
  return true;
}

}  // namespace

PyObject* RecorderState::Impl::ModelConstantTensor(const NativeCall& call) {
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    if (Prepare(call.args[i]) != 0) return nullptr;
    if (!HasFake(call.args[i])) continue;
    if (i == 0 && IsTensor(call.args[0])) return CallTorch(TorchCall::Kind::kFunction, call.callable, call);
    return BreakNull(BreakCode::kDataDependent, "torch.tensor of tensors");
  }
  for (PyObject* argument : absl::MakeConstSpan(call.args, static_cast<size_t>(call.total()))) {
    if (IsNumPyArray(argument) && call.callable != Names().tensor_function)
      return BreakNull(BreakCode::kTensorData, "a tensor over the memory of an array");
    if (IsPlainData(argument)) continue;
    return BreakNull(BreakCode::kUnsupportedCallable,
                     QualifiedName(call.callable) + " of a " + Py_TYPE(argument)->tp_name);
  }
  PyRef made = PyRef::Steal(CallUnrecorded(call));
  if (!made) return nullptr;
  const at::Tensor real = TensorOf(made.get());
  if (real.requires_grad()) return BreakNull(BreakCode::kAutograd, "torch.tensor(requires_grad=True)");
  TorchGraph& graph = recording->torch_graph;
  TorchArgument constant{.kind = TorchArgument::Kind::kValue, .constant = {}, .value = -1, .items = {}, .keys = {}};
  constant.value = static_cast<TorchValueId>(graph.values.size());
  graph.values.push_back(FakeSession::MetaOf(real));
  AddStep({.kind = SymbolStep::Kind::kConstant, .index = static_cast<int32_t>(graph.constants.size())});
  graph.constants.emplace_back(constant.value, real);
  session.SetPosition(CurrentLocation(), static_cast<int32_t>(graph.calls.size()));
  absl::StatusOr<at::Tensor> fake = session.MakeConstant(real);
  if (!fake.ok()) return BreakNull(BreakCode::kUnsupportedTensor, std::string(fake.status().message()));
  TorchCall clone{.kind = TorchCall::Kind::kMethod,
                  .target = PyRef::Borrow(Names().clone),
                  .args = {constant},
                  .kwargs = {},
                  .result = {}};
  clone.location = CurrentLocation();
  clone.result.kind = TorchArgument::Kind::kValue;
  clone.result.value = TorchValue(*fake, true);
  graph.calls.push_back(std::move(clone));
  return THPVariable_Wrap(*fake);
}

// new_tensor(data, *, dtype=None, device=None, requires_grad=False, ...)
PyObject* RecorderState::Impl::ModelNewTensor(const NativeCall& call) {
  if (call.nargs != 2 || !IsTensor(call.args[0]) || IsTensor(call.args[1]))
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
  PyRef names = PyRef::Steal(PyList_New(0));
  std::vector<PyRef> values;
  std::vector<PyObject*> args{call.args[1]};
  for (const char* name : {"dtype", "device"}) {
    PyRef value = PyRef::Steal(PyObject_GetAttrString(call.args[0], name));
    PyRef key = PyRef::Steal(PyUnicode_InternFromString(name));
    for (Py_ssize_t i = 0; key && call.kwnames != nullptr && i < PyTuple_GET_SIZE(call.kwnames); ++i) {
      if (PyUnicode_Compare(PyTuple_GET_ITEM(call.kwnames, i), key.get()) != 0) continue;
      if (call.args[call.nargs + i] != Py_None) value = PyRef::Borrow(call.args[call.nargs + i]);
    }
    if (!names || !key || !value || PyList_Append(names.get(), key.get()) != 0) return nullptr;
    args.push_back(value.get());
    values.push_back(std::move(value));
  }
  for (Py_ssize_t i = 0; call.kwnames != nullptr && i < PyTuple_GET_SIZE(call.kwnames); ++i) {
    PyObject* name = PyTuple_GET_ITEM(call.kwnames, i);
    if (PyUnicode_CompareWithASCIIString(name, "dtype") == 0 || PyUnicode_CompareWithASCIIString(name, "device") == 0)
      continue;
    if (PyList_Append(names.get(), name) != 0) return nullptr;
    args.push_back(call.args[call.nargs + i]);
  }
  PyRef kwnames = PyRef::Steal(PyList_AsTuple(names.get()));
  return kwnames ? ModelConstantTensor({Names().tensor_function, args.data(), 1, kwnames.get()}) : nullptr;
}

}  // namespace framejit
