// Functions of the standard library that read or write more than their arguments: warnings, copy, random, weak
// references, functions that write to an argument.
#include <algorithm>

#include "absl/types/span.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/imported.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

PyRef Interned(const char* text) { return PyRef::Steal(PyUnicode_InternFromString(text)); }

// The argument at `index` or of this name; borrowed, null where absent.
PyObject* ArgumentOf(const NativeCall& call, Py_ssize_t index, const char* name) {
  if (index < call.nargs) return call.args[index];
  for (Py_ssize_t i = 0; call.kwnames != nullptr && i < PyTuple_GET_SIZE(call.kwnames); ++i) {
    if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(call.kwnames, i), name) == 0)
      return call.args[call.nargs + i];
  }
  return nullptr;
}

}  // namespace

PyObject* RecorderState::Impl::ModelOnLocal(const NativeCall& call) {
  if (call.nargs < 1) return CallPure(call);
  PyObject* first = call.args[0];
  if (PyType_Check(first) && IsOutside(first)) {
    if (QualifiedName(call.callable) == "builtins.dir") {
      PyObject* mro = reinterpret_cast<PyTypeObject*>(first)->tp_mro;
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); ++i)
        GuardType(reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(mro, i)));
      return CallReal(call);
    }
  }
  if (IsOutside(first))
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable) + " of an object from outside");
  return CallPure(call);
}

PyObject* RecorderState::Impl::ModelWritesFirst(const NativeCall& call) {
  if (call.nargs < 1) return CallPure(call);
  Shadow* shadow = FindShadow(call.args[0]);
  if (shadow == nullptr && IsOutside(call.args[0]))
    return BreakNull(BreakCode::kUnsupportedEffect, QualifiedName(call.callable) + " of an object from outside");
  if (shadow != nullptr) {
    if (FullLift(*shadow) != 0) return nullptr;
    Touch(*shadow);
  }
  return CallPure(call);
}

PyObject* RecorderState::Impl::ModelThreadIdent(const NativeCall& call) {
  static constexpr const char* kGuards[] = {"_recursive_repr.<locals>.wrapper",
                                            "recursive_repr.<locals>.decorating_function.<locals>.wrapper"};
  for (const char* name : kGuards) {
    if (!frames.empty() && PyUnicode_CompareWithASCIIString(frames.back()->code->co_qualname, name) == 0)
      return CallReal(call);
  }
  return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
}

PyObject* RecorderState::Impl::ModelRandomSeed(const NativeCall& call) {
  const bool seeded =
      call.nargs == 2 && call.kwnames == nullptr && IsPrimitive(call.args[1]) && call.args[1] != Py_None;
  if (!seeded) return BreakNull(BreakCode::kUnsupportedCallable, "a random generator seeded by the system");
  return ModelOnLocal(call);
}

// A callback runs when the object dies, which inside the recording is where it dies in eager mode.
PyObject* RecorderState::Impl::ModelWeakReference(const NativeCall& call) {
  const bool local = call.nargs >= 1 && !IsOutside(call.args[0]) && !IsTensor(call.args[0]);
  return local ? CallPure(call) : BreakAtWeakReference("a weak reference to an object from outside");
}

// Variables that are not read any more keep their objects alive.
PyObject* RecorderState::Impl::BreakAtWeakReference(const char* what) {
  asks_what_lives = true;
  return BreakNull(BreakCode::kUnsupportedCallable, what);
}

PyObject* RecorderState::Impl::ModelCallEffect(const NativeCall& call) {
  PyRef arguments = PyRef::Steal(PyTuple_New(call.nargs));
  for (Py_ssize_t i = 0; arguments && i < call.nargs; ++i) {
    if (!IsConstant(call.args[i])) return BreakNull(BreakCode::kUnsupportedEffect, QualifiedName(call.callable));
    PyTuple_SET_ITEM(arguments.get(), i, Py_NewRef(call.args[i]));
  }
  if (call.kwnames != nullptr) return BreakNull(BreakCode::kUnsupportedEffect, QualifiedName(call.callable));
  if (!arguments) return nullptr;
  writes.push_back(Write{.shadow = nullptr,
                         .cell = {},
                         .object = {},
                         .name = {},
                         .callable = PyRef::Borrow(call.callable),
                         .arguments = std::move(arguments)});
  return Py_NewRef(Py_None);
}

// id(object): a number of this recording, which says what is one object and what is not.
PyObject* RecorderState::Impl::ModelAddress(const NativeCall& call) {
  PyRef address = PyRef::Steal(CallReal(call));
  PyObject* object = call.nargs == 1 ? call.args[0] : nullptr;
  if (!address || object == nullptr || (IsCodeLike(object) && IsOutside(object))) return address.release();
  const Provenance* provenance = FindKnown(object);
  const bool itself = provenance != nullptr && provenance->real.get() == object;
  addresses.emplace(PyLong_AsLongLong(address.get()), itself ? object : nullptr);
  if (provenance == nullptr || IsPrimitive(object)) return address.release();
  PyObject* real = provenance->real.get();
  if (std::find(addressed.begin(), addressed.end(), real) != addressed.end()) return address.release();
  const bool disjoint = IsTensor(real) && !InputsShareMemory();
  for (PyObject* before : addressed) {
    const Provenance* other = FindKnown(before);
    if (other == nullptr || Py_TYPE(before) != Py_TYPE(real) || (other->pinned && provenance->pinned)) continue;
    if (disjoint) {
      AddGuard(GuardKind::kNoOverlap, kNoSource);
      break;
    }
    AddGuard(GuardKind::kNotSameObject, provenance->source, nullptr, 0, other->source);
  }
  addressed.push_back(real);
  return address.release();
}

bool RecorderState::Impl::GuardAddresses(PyObject* value) {
  if (addresses.empty()) return true;
  if (PyTuple_CheckExact(value)) {
    bool all = true;
    for (Py_ssize_t i = 0; all && i < PyTuple_GET_SIZE(value); ++i) all = GuardAddresses(PyTuple_GET_ITEM(value, i));
    return all;
  }
  if (!PyLong_CheckExact(value)) return true;
  int overflow = 0;
  const auto row = addresses.find(PyLong_AsLongLongAndOverflow(value, &overflow));
  if (row == addresses.end()) return true;
  const Provenance* provenance = row->second == nullptr ? nullptr : FindKnown(row->second);
  if (provenance == nullptr) return false;
  if (!provenance->pinned) AddGuard(GuardKind::kIdentityIs, provenance->source, row->second);
  return true;
}

// methodcaller(name, *args, **keywords)(object), by what it says in __reduce__.
PyObject* RecorderState::Impl::ModelMethodCaller(const NativeCall& call) {
  if (IsOutside(call.callable)) return BreakNull(BreakCode::kUnsupportedObject, "a methodcaller from outside");
  PyRef reduced = PyRef::Steal(PyObject_CallMethod(call.callable, "__reduce__", nullptr));
  if (!reduced) return nullptr;
  PyObject* maker = PyTuple_GET_ITEM(reduced.get(), 0);
  PyRef given = PyRef::Borrow(PyTuple_GET_ITEM(reduced.get(), 1));
  PyRef keywords;
  if (Py_TYPE(maker) == Names().partial) {
    PyRef first = PyRef::Steal(PyObject_GetAttrString(maker, "args"));
    keywords = PyRef::Steal(PyObject_GetAttrString(maker, "keywords"));
    if (!first || !keywords) return nullptr;
    given = PyRef::Steal(PySequence_Concat(first.get(), given.get()));
  }
  if (!given) return nullptr;
  PyRef method = PyRef::Steal(GetAttr(call.args[0], PyTuple_GET_ITEM(given.get(), 0)));
  if (!method) return nullptr;
  std::vector<PyObject*> values;
  for (Py_ssize_t i = 1; i < PyTuple_GET_SIZE(given.get()); ++i) values.push_back(PyTuple_GET_ITEM(given.get(), i));
  const auto positional = static_cast<Py_ssize_t>(values.size());
  PyRef names = PyRef::Steal(keywords ? PySequence_Tuple(keywords.get()) : nullptr);
  if (keywords && !names) return nullptr;
  for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names.get()); ++i)
    values.push_back(PyDict_GetItemWithError(keywords.get(), PyTuple_GET_ITEM(names.get(), i)));
  values.push_back(nullptr);
  return Call(method.get(), values.data(), positional, names.get());
}

// What abstract base classes recognise is cached by class, until one of the process is given another class to
// recognise: a function of theirs counts that.
void RecorderState::Impl::GuardAbstractBases() {
  static PyObject* const token = ImportedAttribute("_abc", "get_cache_token").release();
  PyRef count = token == nullptr ? PyRef() : NativeValue(token);
  if (!count) return PyErr_Clear();
  AddGuard(GuardKind::kConstantIs, Intern(SourceKind::kNativeValue, Pinned(token)), count.get());
}

// functools.singledispatch's inner function dispatch(class): what it says rests on the registry, which is guarded.
PyObject* RecorderState::Impl::ModelSingleDispatch(const NativeCall& call) {
  auto* function = reinterpret_cast<PyFunctionObject*>(call.callable);
  PyObject* names = reinterpret_cast<PyCodeObject*>(function->func_code)->co_localsplusnames;
  const bool usual =
      call.nargs == 1 && call.kwnames == nullptr && PyType_Check(call.args[0]) && function->func_closure != nullptr;
  if (!usual) return BreakNull(BreakCode::kUnsupportedCallable, "functools.singledispatch");
  RegisterCells(function);
  const Py_ssize_t free = PyTuple_GET_SIZE(function->func_closure);
  for (Py_ssize_t i = 0; i < free; ++i) {
    PyObject* name = PyTuple_GET_ITEM(names, PyTuple_GET_SIZE(names) - free + i);
    if (PyUnicode_CompareWithASCIIString(name, "registry") != 0) continue;
    PyRef registry = PyRef::Steal(LoadCell(PyTuple_GET_ITEM(function->func_closure, i), function, static_cast<int>(i)));
    if (!registry || Prepare(registry.get()) != 0) return nullptr;
    PyObject* key = nullptr;
    for (Py_ssize_t cursor = 0; PyDict_Check(registry.get()) && PyDict_Next(registry.get(), &cursor, &key, nullptr);) {
      if (std::string_view(Py_TYPE(key)->tp_name) != "type") GuardAbstractBases();
    }
  }
  GuardType(reinterpret_cast<PyTypeObject*>(call.args[0]));
  PyRef found = PyRef::Steal(CallUnrecorded({call.callable, call.args, 1, nullptr}));
  return found && IsCodeLike(found.get()) ? found.release()
         : found ? BreakNull(BreakCode::kUnsupportedCallable, "functools.singledispatch to an object")
                 : nullptr;
}

// The functions of module typing are cached, and make the same object of the same arguments again.
PyObject* RecorderState::Impl::ModelTypingCache(const NativeCall& call) {
  PyRef made = PyRef::Steal(CallUnrecorded(call));
  if (!made || IsPrimitive(made.get())) return made.release();
  PyObject* object = made.get();
  return Lift(made.release(), Pinned(object), true);
}

namespace {

// The file name is one of those that are not the user's (recorder_state.cc).
PyObject* NewForwarderMaker() {
  static constexpr const char* kText = "make = lambda f: lambda *args, **keywords: f(*args, **keywords)\n";
  PyRef code = PyRef::Steal(Py_CompileString(kText, "<frozen framejit>", Py_file_input));
  PyRef scope = PyRef::Steal(code ? PyDict_New() : nullptr);
  PyRef ran = PyRef::Steal(scope ? PyEval_EvalCode(code.get(), scope.get(), scope.get()) : nullptr);
  return ran ? Py_XNewRef(PyDict_GetItemString(scope.get(), "make")) : nullptr;
}

}  // namespace

// A Python function that passes its arguments on to `callable`: C code may call it, since its frame comes to the hook.
PyRef RecorderState::Impl::Forwarder(PyObject* callable) {
  static PyObject* maker = nullptr;
  PyRef forwarder;
  {
    Disarmed disarmed;
    if (maker == nullptr) maker = NewForwarderMaker();
    forwarder = PyRef::Steal(maker == nullptr ? nullptr : PyObject_CallOneArg(maker, callable));
  }
  if (!forwarder) return {};
  auto* function = reinterpret_cast<PyFunctionObject*>(forwarder.get());
  if (local_functions.insert(forwarder.get()).second) kept_alive.push_back(forwarder);
  PyObject* cell = PyTuple_GET_ITEM(function->func_closure, 0);
  if (local_cells.insert(cell).second) kept_alive.push_back(PyRef::Borrow(cell));
  return forwarder;
}

// --- copy ------------------------------------------------------------------------------------------------------------

namespace {

bool HasOverride(PyTypeObject* type, const char* name) {
  PyRef unicode = Interned(name);
  PyObject* found = unicode ? ShimTypeLookup(type, unicode.get()) : nullptr;
  return found != nullptr && found != ShimTypeLookup(&PyBaseObject_Type, unicode.get());
}

}  // namespace

namespace {

// Whether copyreg._slotnames says anything of the class. That function keeps its answer on the class.
bool HasSlots(PyTypeObject* type) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(type->tp_mro); ++i) {
    PyRef dict = PyRef::Steal(ShimTypeDict(reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(type->tp_mro, i))));
    PyObject* slots = dict ? PyDict_GetItemWithError(dict.get(), Names().slots) : nullptr;
    if (slots == nullptr) continue;
    PyRef names = PyUnicode_Check(slots) ? PyRef::Steal(PyTuple_Pack(1, slots)) : PyRef::Steal(PySequence_Tuple(slots));
    for (Py_ssize_t k = 0; names && k < PyTuple_GET_SIZE(names.get()); ++k) {
      PyObject* name = PyTuple_GET_ITEM(names.get(), k);
      if (!PyUnicode_Check(name) || (PyUnicode_CompareWithASCIIString(name, "__dict__") != 0 &&
                                     PyUnicode_CompareWithASCIIString(name, "__weakref__") != 0))
        return true;
    }
  }
  PyErr_Clear();
  return false;
}

}  // namespace

// object.__reduce_ex__(self, 2 or more), where it is (copyreg.__newobj__, (class,), state, None, None).
PyObject* RecorderState::Impl::ModelReduceEx(const NativeCall& call) {
  if (call.nargs != 2 || call.kwnames != nullptr || IsTensor(call.args[0]))
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
  PyObject* object = call.args[0];
  PyTypeObject* type = Py_TYPE(object);
  GuardType(type);
  const bool plain = NativeBase(type) == &PyBaseObject_Type && PyLong_Check(call.args[1]) &&
                     PyLong_AsLong(call.args[1]) >= 2 && type->tp_dictoffset != 0 && type->tp_itemsize == 0 &&
                     !HasOverride(type, "__getnewargs__") && !HasOverride(type, "__getnewargs_ex__") && !HasSlots(type);
  if (!IsOutside(object) && (!plain || HasOverride(type, "__reduce__"))) return CallPure(call);
  if (HasOverride(type, "__reduce__")) {
    PyRef reduce = Interned("__reduce__");
    PyRef method = PyRef::Steal(reduce ? GetAttr(object, reduce.get()) : nullptr);
    return method ? Call(method.get(), {}) : nullptr;
  }
  if (!plain) return BreakNull(BreakCode::kUnsupportedObject, std::string("a copy of a ") + type->tp_name);
  // What CPython asks at this place is kept on the class, for good.
  PyRef slot_names = ImportedAttribute("copyreg", "_slotnames");
  slot_names =
      PyRef::Steal(slot_names ? PyObject_CallOneArg(slot_names.get(), reinterpret_cast<PyObject*>(type)) : nullptr);
  if (!slot_names) return nullptr;
  PyRef state;
  if (HasOverride(type, "__getstate__")) {
    PyRef name = Interned("__getstate__");
    PyRef method = PyRef::Steal(name ? GetAttr(object, name.get()) : nullptr);
    state = PyRef::Steal(method ? Call(method.get(), {}) : nullptr);
  } else {
    state = PyRef::Steal(GetAttr(object, Names().dict));
    const int has_items = state ? IsTrue(state.get()) : -1;
    if (has_items < 0) return nullptr;
    if (has_items == 0) state = PyRef::Borrow(Py_None);
  }
  PyRef maker = ImportedAttribute("copyreg", "__newobj__");
  if (!state || !maker) return nullptr;
  return Py_BuildValue("(O(O)OOO)", maker.get(), reinterpret_cast<PyObject*>(type), state.get(), Py_None, Py_None);
}

// --- warnings --------------------------------------------------------------------------------------------------------

namespace {

// (globals, message, category, file, line): a warning as if the code of these globals gave it at that place.
PyObject* WarnAt(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 5) return nullptr;
  PyRef key = Interned("__warningregistry__");
  PyRef registry = PyRef::Borrow(key ? PyDict_GetItemWithError(args[0], key.get()) : nullptr);
  if (!registry && !PyErr_Occurred()) {
    registry = PyRef::Steal(PyDict_New());
    if (registry && PyDict_SetItem(args[0], key.get(), registry.get()) != 0) return nullptr;
  }
  if (!registry) return nullptr;
  PyObject* module = PyDict_GetItemString(args[0], "__name__");
  PyRef name = module != nullptr && PyUnicode_Check(module) ? PyRef::Borrow(module) : Interned("<string>");
  const int line = static_cast<int>(PyLong_AsLong(args[4]));
  if (!name || PyErr_WarnExplicitObject(args[2], args[1], args[3], line, name.get(), registry.get()) != 0)
    return nullptr;
  return Py_NewRef(Py_None);
}

PyObject* WarnAtFunction() {
  static PyMethodDef method = {"warn_at", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&WarnAt)),
                               METH_FASTCALL, nullptr};
  static PyObject* const function = PyCFunction_New(&method, nullptr);
  return function;
}

// Whether the field of a filter, a pattern, a text or None, lets `text` through. -1: an error.
int FieldMatches(PyObject* field, PyObject* text) {
  if (field == Py_None) return 1;
  if (text == nullptr) return -2;  // not known while recording
  if (PyUnicode_CheckExact(field)) return PyUnicode_Compare(field, text) == 0;
  PyRef matched = PyRef::Steal(PyObject_CallMethod(field, "match", "O", text));
  return !matched ? -1 : matched.get() != Py_None;
}

}  // namespace

// What the filters do with a warning; module null and line 0: of a frame outside the recording. As get_filter of
// Python/_warnings.c. 0, or -1 with a break or an exception.
int RecorderState::Impl::WarningAction(PyObject* category, PyObject* text, PyObject* module, long line,
                                       std::string* action) {
  PyRef warnings = PyRef::Steal(PyImport_ImportModule("warnings"));
  PyRef name = Interned("filters");
  PyRef filters = PyRef::Steal(warnings && name ? GetAttr(warnings.get(), name.get()) : nullptr);
  PyRef items = PyRef::Steal(filters ? AsTuple(filters.get()) : nullptr);
  if (!items) return -1;
  PyRef found;
  for (Py_ssize_t i = 0; !found && i < PyTuple_GET_SIZE(items.get()); ++i) {
    PyObject* item = PyTuple_GET_ITEM(items.get(), i);
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 5)
      return BreakInt(BreakCode::kUnsupportedObject, "a filter of warnings of an unknown form");
    const int relevant = PyObject_IsSubclass(category, PyTuple_GET_ITEM(item, 2));
    if (relevant < 0) return -1;
    if (relevant == 0) continue;
    const long at = PyLong_AsLong(PyTuple_GET_ITEM(item, 4));
    const int text_matches = FieldMatches(PyTuple_GET_ITEM(item, 1), text);
    if (text_matches == -1) return -1;
    if (text_matches == 0) continue;
    const int module_matches = FieldMatches(PyTuple_GET_ITEM(item, 3), module);
    if (module_matches == -1) return -1;
    if (module_matches == -2 || (at != 0 && line == 0))
      return BreakInt(BreakCode::kUnsupportedEffect, "a warning that is filtered by where the caller stands");
    if (module_matches == 1 && (at == 0 || at == line)) found = PyRef::Borrow(PyTuple_GET_ITEM(item, 0));
  }
  if (!found) {
    name = Interned("defaultaction");
    found = PyRef::Steal(name ? GetAttr(warnings.get(), name.get()) : nullptr);
  }
  const char* chars = found && PyUnicode_Check(found.get()) ? PyUnicode_AsUTF8(found.get()) : nullptr;
  if (chars == nullptr) return -1;
  *action = chars;
  if (*action == "ignore" || *action == "error") return 0;
  // C code and Python code of `warnings` will go by what is there when the effects are applied.
  PyRef real = PyRef::Steal(PyObject_GetAttrString(warnings.get(), "filters"));
  Shadow* list = FindShadow(filters.get());
  Shadow* module_shadow = nullptr;
  if (auto row = known.find(PyModule_GetDict(warnings.get())); row != known.end())
    module_shadow = FindShadow(row->second.lifted.get());
  bool changed = list == nullptr || list->touched || list->real.get() != real.get();
  for (const char* key : {"showwarning", "_showwarnmsg", "_showwarnmsg_impl", "onceregistry", "formatwarning"}) {
    PyObject* now = module_shadow == nullptr ? nullptr : PyDict_GetItemString(module_shadow->copy.get(), key);
    if (now != nullptr && !IsUnlifted(now)) changed |= now != PyDict_GetItemString(module_shadow->baseline.get(), key);
  }
  return changed ? BreakInt(BreakCode::kUnsupportedEffect, "a warning under filters that the function changed") : 0;
}

// warnings.warn(message, category, stacklevel): raised here, or shown when the effects are applied.
PyObject* RecorderState::Impl::ModelWarn(const NativeCall& call) {
  PyObject* message = ArgumentOf(call, 0, "message");
  PyObject* category = ArgumentOf(call, 1, "category");
  PyObject* level = ArgumentOf(call, 2, "stacklevel");
  PyObject* source = ArgumentOf(call, 3, "source");
  const bool usual = message != nullptr && PyUnicode_CheckExact(message) && (source == nullptr || source == Py_None) &&
                     (level == nullptr || PyLong_CheckExact(level)) &&
                     ArgumentOf(call, PY_SSIZE_T_MAX, "skip_file_prefixes") == nullptr && call.nargs <= 3;
  if (!usual) return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
  if (category == nullptr || category == Py_None) category = PyExc_UserWarning;
  if (!PyType_Check(category) || !IsOutside(category) || PyObject_IsSubclass(category, PyExc_Warning) != 1)
    return PyErr_Clear(), BreakNull(BreakCode::kUnsupportedCallable, "a warning of an unusual category");
  const long depth = std::max(1L, level == nullptr ? 1L : PyLong_AsLong(level));
  const long inside = static_cast<long>(frames.size());
  const LiveFrame* frame = depth <= inside ? frames[static_cast<size_t>(inside - depth)] : nullptr;
  const long line = frame == nullptr ? 0 : PyCode_Addr2Line(frame->code, frame->offset * 2);
  PyObject* module = frame == nullptr ? nullptr : PyDict_GetItemString(frame->globals, "__name__");
  std::string action;
  if (WarningAction(category, message, module, line, &action) != 0) return nullptr;
  if (action == "ignore") return Py_NewRef(Py_None);
  if (action == "error") {
    PyRef error = PyRef::Steal(Call(category, {message}));
    if (error) PyErr_SetObject(category, error.get());
    return nullptr;
  }
  PyRef arguments;
  if (frame != nullptr) {
    arguments =
        PyRef::Steal(Py_BuildValue("(OOOOl)", frame->globals, message, category, frame->code->co_filename, line));
  } else {
    arguments = PyRef::Steal(Py_BuildValue("(OOl)", message, category, depth - inside));
  }
  if (!arguments) return nullptr;
  writes.push_back(Write{.shadow = nullptr,
                         .cell = {},
                         .object = {},
                         .name = {},
                         .callable = PyRef::Borrow(frame != nullptr ? WarnAtFunction() : call.callable),
                         .arguments = std::move(arguments)});
  return Py_NewRef(Py_None);
}

}  // namespace framejit
