// Classes that the recording makes: class statements, type(name, bases, namespace), metaclasses. Such a class is local:
// its attributes are read and written for real, and nothing of it is guarded. It cannot leave the recording.
#include "absl/container/inlined_vector.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

// type.__new__ calls __set_name__ and __init_subclass__ before it returns. A marker at the head of the namespace is
// the first object whose __set_name__ is called: it says that the class is local and takes itself out.
thread_local std::function<void(PyObject*)>* note_local_type = nullptr;

PyObject* MarkerSetName(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 2 || note_local_type == nullptr || !PyType_Check(args[0])) return Py_NewRef(Py_None);
  (*note_local_type)(args[0]);
  return PyType_Type.tp_setattro(args[0], args[1], nullptr) != 0 ? nullptr : Py_NewRef(Py_None);
}

PyObject* NewMarker() {
  static PyMethodDef methods[] = {
      {"__set_name__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&MarkerSetName)), METH_FASTCALL,
       nullptr},
      {nullptr, nullptr, 0, nullptr}};
  static PyType_Slot slots[] = {{Py_tp_methods, methods}, {0, nullptr}};
  static PyType_Spec spec = {"framejit.Marker", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT, slots};
  static PyObject* const type = PyType_FromSpec(&spec);
  return type == nullptr ? nullptr : PyObject_CallNoArgs(type);
}

// The namespace with a marker in front.
PyRef MarkedNamespace(PyObject* name_space) {
  PyRef marker = PyRef::Steal(NewMarker());
  PyRef marked = PyRef::Steal(marker ? PyDict_New() : nullptr);
  if (!marked || PyDict_SetItemString(marked.get(), "_framejit_marker", marker.get()) != 0 ||
      PyDict_Update(marked.get(), name_space) != 0) {
    return {};
  }
  return marked;
}

// As _PyType_CalculateMetaclass.
PyTypeObject* MetaclassOf(PyTypeObject* winner, PyObject* bases) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(bases); ++i) {
    PyTypeObject* other = Py_TYPE(PyTuple_GET_ITEM(bases, i));
    if (PyType_IsSubtype(winner, other)) continue;
    if (!PyType_IsSubtype(other, winner)) {
      PyErr_SetString(PyExc_TypeError,
                      "metaclass conflict: the metaclass of a derived class must be a (non-strict) subclass of the "
                      "metaclasses of all its bases");
      return nullptr;
    }
    winner = other;
  }
  return winner;
}

struct Keywords {
  absl::InlinedVector<PyObject*, 8> values;  // positional ones first, borrowed
  PyRef names;                               // or null
};

// `positional`, and the keyword arguments of the call but for `metaclass`.
bool PassOn(std::initializer_list<PyObject*> positional, const NativeCall& call, Keywords* result) {
  result->values.assign(positional.begin(), positional.end());
  PyRef names = PyRef::Steal(PyList_New(0));
  for (Py_ssize_t i = 0; names && call.kwnames != nullptr && i < PyTuple_GET_SIZE(call.kwnames); ++i) {
    PyObject* name = PyTuple_GET_ITEM(call.kwnames, i);
    if (PyUnicode_CompareWithASCIIString(name, "metaclass") == 0) continue;
    if (PyList_Append(names.get(), name) != 0) return false;
    result->values.push_back(call.args[call.nargs + i]);
  }
  if (names && PyList_GET_SIZE(names.get()) > 0) result->names = PyRef::Steal(PyList_AsTuple(names.get()));
  return !PyErr_Occurred();
}

}  // namespace

void RecorderState::Impl::NoteLocalType(PyObject* type) {
  if (local_types.insert(type).second) kept_alive.push_back(PyRef::Borrow(type));
  // What it inherits from classes outside rests on them.
  PyObject* mro = reinterpret_cast<PyTypeObject*>(type)->tp_mro;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); ++i) {
    GuardType(reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(mro, i)));
  }
}

SourceId RecorderState::Impl::TypeAttributeSource(PyTypeObject* type, PyObject* name) {
  PyTypeObject* owner = type;
  if (IsLocalType(type)) {
    owner = nullptr;
    for (Py_ssize_t i = 0; owner == nullptr && i < PyTuple_GET_SIZE(type->tp_mro); ++i) {
      auto* base = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(type->tp_mro, i));
      PyRef dict = PyRef::Steal(ShimTypeDict(base));
      if (dict && PyDict_GetItemWithError(dict.get(), name) != nullptr) owner = base;
    }
    if (owner == nullptr || IsLocalType(owner)) return kNoSource;
  }
  return Intern(SourceKind::kTypeAttribute, Pinned(reinterpret_cast<PyObject*>(owner)), name);
}

PyObject* RecorderState::Impl::LiftTypeAttribute(PyTypeObject* type, PyObject* name, PyObject* value) {
  const SourceId source = TypeAttributeSource(type, name);
  return source == kNoSource ? Scan(Py_NewRef(value)) : Lift(Py_NewRef(value), source, true);
}

void RecorderState::Impl::NoteFinalizable(PyObject* object) {
  if (object == nullptr || !PyType_SUPPORTS_WEAKREFS(Py_TYPE(object))) return;
  PyRef reference = PyRef::Steal(PyWeakref_NewRef(object, nullptr));
  if (reference) finalizable.push_back(std::move(reference));
  PyErr_Clear();
}

PyObject* RecorderState::Impl::RunClassBody(PyObject* function, PyObject* name_space) {
  auto* body = reinterpret_cast<PyFunctionObject*>(function);
  PyObject* outer = std::exchange(class_body, body->func_code);
  PyObject* cell = PyEval_EvalCodeEx(body->func_code, body->func_globals, name_space, nullptr, 0, nullptr, 0, nullptr,
                                     0, nullptr, body->func_closure);
  class_body = outer;
  return CheckFailure() != 0 ? (Py_XDECREF(cell), nullptr) : cell;
}

// The bases with those that are no classes replaced by what their __mro_entries__ says. As update_bases of
// Python/bltinmodule.c.
PyRef RecorderState::Impl::ResolveBases(PyObject* bases) {
  static PyObject* const name = PyUnicode_InternFromString("__mro_entries__");
  PyRef resolved = PyRef::Steal(PyList_New(0));
  bool changed = false;
  for (Py_ssize_t i = 0; resolved && i < PyTuple_GET_SIZE(bases); ++i) {
    PyObject* base = PyTuple_GET_ITEM(bases, i);
    PyRef entries;
    if (!PyType_Check(base)) {
      PyRef method = PyRef::Steal(GetAttr(base, name));
      if (!method && (broken() || !PyErr_ExceptionMatches(PyExc_AttributeError))) return {};
      PyErr_Clear();
      if (method) {
        entries = PyRef::Steal(Call(method.get(), {bases}));
        if (!entries) return {};
        if (!PyTuple_Check(entries.get())) {
          PyErr_SetString(PyExc_TypeError, "__mro_entries__ must return a tuple");
          return {};
        }
        changed = true;
      }
    }
    if (!entries) entries = PyRef::Steal(PyTuple_Pack(1, base));
    PyRef end = PyRef::Steal(PySequence_InPlaceConcat(resolved.get(), entries.get()));
    if (!entries || !end) return {};
  }
  if (!changed || !resolved) return resolved ? PyRef::Borrow(bases) : PyRef();
  return PyRef::Steal(PyList_AsTuple(resolved.get()));
}

// builtins.__build_class__(body, name, *bases, metaclass=, **keywords). Python/bltinmodule.c.
PyObject* RecorderState::Impl::ModelBuildClass(const NativeCall& call) {
  if (call.nargs < 2 || !PyFunction_Check(call.args[0]) || !PyUnicode_Check(call.args[1]))
    return BreakNull(BreakCode::kUnsupportedCallable, "__build_class__");
  PyRef given = PyRef::Steal(PyTuple_New(call.nargs - 2));
  PyObject* meta = nullptr;
  for (Py_ssize_t i = 2; given && i < call.nargs; ++i) PyTuple_SET_ITEM(given.get(), i - 2, Py_NewRef(call.args[i]));
  PyRef bases = given ? ResolveBases(given.get()) : PyRef();
  if (!bases) return nullptr;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(bases.get()); ++i) {
    if (!PyType_Check(PyTuple_GET_ITEM(bases.get(), i)))
      return BreakNull(BreakCode::kUnsupportedCallable, "a base that is no class");
  }
  for (Py_ssize_t i = 0; call.kwnames != nullptr && i < PyTuple_GET_SIZE(call.kwnames); ++i) {
    if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(call.kwnames, i), "metaclass") == 0)
      meta = call.args[call.nargs + i];
  }
  const bool has_base = PyTuple_GET_SIZE(bases.get()) > 0;
  if (meta == nullptr)
    meta = reinterpret_cast<PyObject*>(has_base ? Py_TYPE(PyTuple_GET_ITEM(bases.get(), 0)) : &PyType_Type);
  if (!PyType_Check(meta)) return BreakNull(BreakCode::kUnsupportedCallable, "a metaclass that is no class");
  meta = reinterpret_cast<PyObject*>(MetaclassOf(reinterpret_cast<PyTypeObject*>(meta), bases.get()));
  if (meta == nullptr) return nullptr;
  Keywords passed;
  PyRef name_space = PyRef::Steal(PyDict_New());
  PyRef prepare_name = PyRef::Steal(PyUnicode_InternFromString("__prepare__"));
  if (!prepare_name) return nullptr;
  if (ShimTypeLookup(reinterpret_cast<PyTypeObject*>(meta), prepare_name.get()) !=
      ShimTypeLookup(&PyType_Type, prepare_name.get())) {
    PyRef prepare = PyRef::Steal(GetAttr(meta, prepare_name.get()));
    if (!prepare || !PassOn({call.args[1], bases.get()}, call, &passed)) return nullptr;
    name_space = PyRef::Steal(Call(prepare.get(), passed.values.data(), 2, passed.names.get()));
  }
  if (!name_space) return nullptr;
  PyRef cell = PyRef::Steal(RunClassBody(call.args[0], name_space.get()));
  if (cell && bases.get() != given.get()) {
    PyRef key = PyRef::Steal(PyUnicode_InternFromString("__orig_bases__"));
    if (!key || SetItem(name_space.get(), key.get(), given.get()) != 0) return nullptr;
  }
  if (!cell || !PassOn({call.args[1], bases.get(), name_space.get()}, call, &passed)) return nullptr;
  return Call(meta, passed.values.data(), 3, passed.names.get());
}

// FunctionMeta.__init__ makes the class of a custom Function's backward nodes, which is local as well, and counts them
// for the process.
int RecorderState::Impl::InitFunction(PyObject* type, const NativeCall& call) {
  PyRef init = PyRef::Steal(PyObject_GetAttr(reinterpret_cast<PyObject*>(Py_TYPE(type)), Names().init));
  absl::InlinedVector<PyObject*, 8> args{type};
  args.insert(args.end(), call.args, call.args + call.total());
  PyRef done = init ? PyRef::Steal(CallUnrecorded({init.get(), args.data(), call.nargs + 1, call.kwnames})) : PyRef();
  PyRef backward = PyRef::Steal(done ? PyObject_GetAttrString(type, "_backward_cls") : nullptr);
  if (backward && PyType_Check(backward.get())) NoteLocalType(backward.get());
  return backward ? 0 : -1;
}

// metaclass(name, bases, namespace, **keywords): its __new__, then its __init__.
PyObject* RecorderState::Impl::CallMetaclass(const NativeCall& call) {
  auto* meta = reinterpret_cast<PyTypeObject*>(call.callable);
  GuardType(meta);
  PyRef maker = PyRef::Steal(GetAttr(call.callable, Names().new_));
  PyRef made =
      PyRef::Steal(maker ? CallWithSelf(maker.get(), call.callable, call.args, call.nargs, call.kwnames) : nullptr);
  if (!made || !PyObject_TypeCheck(made.get(), meta)) return made.release();
  PyRef init = PyRef::Borrow(ShimTypeLookup(Py_TYPE(made.get()), Names().init));
  if (!init || !PyFunction_Check(init.get())) {
    // That of a C metaclass, such as torch's, finishes the class.
    PyRef args = PyRef::Steal(PyTuple_New(call.nargs));
    for (Py_ssize_t i = 0; args && i < call.nargs; ++i) PyTuple_SET_ITEM(args.get(), i, Py_NewRef(call.args[i]));
    const initproc finish = NativeBase(meta)->tp_init;
    const bool finished = finish == PyType_Type.tp_init;
    return args && (finished || finish(made.get(), args.get(), nullptr) == 0) ? made.release() : nullptr;
  }
  if (std::string_view(meta->tp_name) == "FunctionMeta" && QualifiedName(init.get()).starts_with("torch.autograd."))
    return InitFunction(made.get(), call) != 0 ? nullptr : made.release();
  PyRef done = PyRef::Steal(CallWithSelf(init.get(), made.get(), call.args, call.nargs, call.kwnames));
  return done ? made.release() : nullptr;
}

// type.__new__(metaclass, name, bases, namespace, **keywords)
PyObject* RecorderState::Impl::ModelNewType(const NativeCall& call) {
  if (call.nargs != 4 || !PyType_Check(call.args[0]) || !PyTuple_CheckExact(call.args[2]) ||
      !PyDict_Check(call.args[3]))
    return BreakNull(BreakCode::kUnsupportedCallable, "type.__new__");
  if (Prepare(call.args[3]) != 0) return nullptr;
  PyRef marked = MarkedNamespace(call.args[3]);
  if (!marked) return nullptr;
  absl::InlinedVector<PyObject*, 8> args(call.args, call.args + call.total());
  args[3] = marked.get();
  std::function<void(PyObject*)> note = [this](PyObject* type) { NoteLocalType(type); };
  auto* outer = std::exchange(note_local_type, &note);
  PyObject* type = CallReal({call.callable, args.data(), call.nargs, call.kwnames});
  note_local_type = outer;
  return type;
}

}  // namespace framejit
