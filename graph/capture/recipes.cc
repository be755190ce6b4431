// Recipes: how each object that leaves the recording is built afresh on a call. One rule by type; identity and cycles
// are kept because an object has one recipe.
#include <algorithm>
#include <cmath>

#include "frame_eval/guards/iterators.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unread.h"
#include "graph/symbolic/replay.h"

namespace framejit {
namespace {

// Immutable objects that may be shared between calls.
bool IsShareable(PyObject* object) {
  const WellKnown& n = Names();
  PyTypeObject* type = Py_TYPE(object);
  return type == n.device || type == &PyRange_Type || type == n.size || type == n.match || IsNumPyScalar(object);
}

bool IsSharedTuple(PyObject* object, int depth = 0) {
  if (IsPrimitive(object)) return true;
  if (!PyTuple_CheckExact(object) || depth > 8) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
    if (!IsSharedTuple(PyTuple_GET_ITEM(object, i), depth + 1)) return false;
  }
  return true;
}

// An exception that was made and not raised yet, of a class that adds no fields of its own to BaseException's.
bool IsPlainException(PyObject* object, PyTypeObject* base) {
  if (!PyExceptionInstance_Check(object) ||
      base->tp_basicsize != static_cast<Py_ssize_t>(sizeof(PyBaseExceptionObject)))
    return false;
  auto* exception = reinterpret_cast<PyBaseExceptionObject*>(object);
  if (exception->traceback != nullptr || exception->context != nullptr || exception->cause != nullptr ||
      exception->suppress_context != 0 || exception->args == nullptr) {
    return false;
  }
  return IsPythonClass(Py_TYPE(object)) || exception->dict == nullptr || PyDict_GET_SIZE(exception->dict) == 0;
}

bool IsSimpleNamespace(PyTypeObject* type) {
  PyObject* implementation = PySys_GetObject("implementation");
  return implementation != nullptr && type == Py_TYPE(implementation);
}

// list[int] and the like, of classes that outlive the recording.
bool IsSharedAlias(PyObject* object) {
  if (Py_TYPE(object) != &Py_GenericAliasType) return false;
  PyRef origin = PyRef::Steal(PyObject_GetAttrString(object, "__origin__"));
  PyRef args = PyRef::Steal(PyObject_GetAttrString(object, "__args__"));
  PyErr_Clear();
  return origin && args && IsConstant(origin.get()) && IsConstant(args.get());
}

PyRef ClassOrNull(PyObject* object, PyTypeObject* plain) {
  return Py_TYPE(object) == plain ? PyRef() : PyRef::Borrow(reinterpret_cast<PyObject*>(Py_TYPE(object)));
}

// A NaN is hashed by its address, which decides where a set has it: two recordings of one call would differ.
void PutNansLast(PyObject* list) {
  PyObject** items = PySequence_Fast_ITEMS(list);
  std::stable_partition(items, items + PyList_GET_SIZE(list),
                        [](PyObject* item) { return !(PyFloat_Check(item) && std::isnan(PyFloat_AS_DOUBLE(item))); });
}

}  // namespace

RecipeId RecorderState::Impl::NewRecipe(PyObject* object, RecipeKind kind) {
  auto& recipes = recording->exit_plan.recipes;
  const auto id = static_cast<RecipeId>(recipes.size());
  recipes.push_back(Recipe{.kind = kind, .object = {}, .children = {}, .attributes = {}});
  recipe_of.emplace(object, id);
  recipe_objects.push_back(PyRef::Borrow(object));
  return id;
}

RecipeId RecorderState::Impl::Unsupported(PyObject* object) {
  Break(BreakCode::kUnsupportedOutput, Py_TYPE(object)->tp_name);
  return kNoRecipe;
}

RecipeId RecorderState::Impl::RecipeFor(PyObject* object) {
  if (broken() || object == nullptr) return kNoRecipe;
  if (auto row = recipe_of.find(object); row != recipe_of.end()) return row->second;
  auto& recipes = recording->exit_plan.recipes;
  if (const SymbolId symbol = SymbolOf(object); symbol != kNoSymbol) {
    if (const SourceId source = SourceOfNumber(symbol); source != kNoSource) {
      const RecipeId id = SourceRecipe(source);
      recipe_of.emplace(object, id);
      return id;
    }
    const RecipeId id = NewRecipe(object, RecipeKind::kSymbol);
    recipes[static_cast<size_t>(id)].index = symbol;
    return id;
  }
  if (IsUnread(object)) return SourceRecipe(UnreadSource(object));
  // Of classes made inside: another class, and instances of another one, each call.
  if (IsUnlifted(object) || local_types.contains(object) || IsLocalType(Py_TYPE(object))) return Unsupported(object);
  if (PyLong_CheckExact(object) && !GuardAddresses(object)) return Unsupported(object);
  if (IsTensor(object)) return TensorRecipe(object);
  if (Shadow* shadow = FindShadow(object)) {
    const RecipeId id = NewRecipe(object, RecipeKind::kSource);
    recipes[static_cast<size_t>(id)].source = shadow->source;
    return id;
  }
  if (PyFunction_Check(object)) {
    Provenance* provenance = FindKnown(object);
    if (provenance != nullptr && !provenance->pinned) return SourceRecipe(provenance->source);
  }
  const bool holds_symbol = HoldsSymbol(object);
  if ((!holds_symbol && IsSharedTuple(object) && GuardAddresses(object)) ||
      (PyFunction_Check(object) ? !local_functions.contains(object) : PyType_Check(object) || PyModule_Check(object))) {
    const RecipeId id = NewRecipe(object, RecipeKind::kConstant);
    recipes[static_cast<size_t>(id)].object = PyRef::Borrow(object);
    return id;
  }
  if (Provenance* provenance = FindKnown(object); provenance != nullptr) {
    const RecipeId id = NewRecipe(object, RecipeKind::kSource);
    recipes[static_cast<size_t>(id)].source = provenance->source;
    return id;
  }
  if (PyFunction_Check(object)) return FunctionRecipe(object);
  const PyCFunctionObject* native = PyCFunction_Check(object) ? reinterpret_cast<PyCFunctionObject*>(object) : nullptr;
  if (native != nullptr && native->m_self != nullptr && !PyModule_Check(native->m_self) &&
      !PyType_Check(native->m_self)) {
    return Unsupported(object);
  }
  if (Py_TYPE(object) == Names().method_wrapper || Py_TYPE(object) == Names().lru_cache) return Unsupported(object);
  if (IsCodeLike(object) || (IsShareable(object) && !holds_symbol) || IsSharedAlias(object)) {
    const RecipeId id = NewRecipe(object, RecipeKind::kConstant);
    recipes[static_cast<size_t>(id)].object = PyRef::Borrow(object);
    return id;
  }
  return InstanceRecipe(object);
}

// Where the function enters or leaves inference mode, the graph's results are not all of the kind that it makes.
// What a graph output is besides its values; null: as the graph makes it.
PyRef RecorderState::Impl::OutputForm(PyObject* object) const {
  const at::Tensor& tensor = TensorOf(object);
  if (changes_inference) return PyRef::Borrow(tensor.is_inference() ? Py_True : Py_False);
  return ViewForm(tensor);
}

// A lifted input that is returned is that input; anything else is an output of the graph.
RecipeId RecorderState::Impl::TensorRecipe(PyObject* tensor) {
  if (!IsFakeTensor(tensor) || IsTransformed(TensorOf(tensor))) {
    Break(BreakCode::kUnknownTensor, "in the result");
    return kNoRecipe;
  }
  auto& recipes = recording->exit_plan.recipes;
  if (Provenance* provenance = FindKnown(tensor)) {
    const RecipeId id = NewRecipe(tensor, RecipeKind::kSource);
    recipes[static_cast<size_t>(id)].source = provenance->source;
    return id;
  }
  PyObject* dict = ShimInstanceDict(tensor);
  const bool plain = Py_TYPE(tensor) == Names().tensor;
  if (!plain && Py_TYPE(tensor) != Names().parameter && !IsPlainTensorSubclass(Py_TYPE(tensor)))
    return Unsupported(tensor);
  if (!plain || (dict != nullptr && PyDict_GET_SIZE(dict) > 0)) {
    const RecipeId whole = NewRecipe(tensor, RecipeKind::kSubclass);
    Recipe output{.kind = RecipeKind::kGraphOutput, .object = {}, .children = {}, .attributes = {}};
    output.index = static_cast<int32_t>(graph_outputs.size());
    output.object = OutputForm(tensor);
    graph_outputs.push_back(PyRef::Borrow(tensor));
    recipes.push_back(std::move(output));
    recipes[static_cast<size_t>(whole)].object = PyRef::Borrow(reinterpret_cast<PyObject*>(Py_TYPE(tensor)));
    recipes[static_cast<size_t>(whole)].children = {static_cast<RecipeId>(recipes.size()) - 1};
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t cursor = 0; dict != nullptr && PyDict_Next(dict, &cursor, &key, &value) && !broken();) {
      const RecipeId child = RecipeFor(value);
      recipes[static_cast<size_t>(whole)].attributes.emplace_back(PyRef::Borrow(key), child);
    }
    return whole;
  }
  const RecipeId id = NewRecipe(tensor, RecipeKind::kGraphOutput);
  recipes[static_cast<size_t>(id)].index = static_cast<int32_t>(graph_outputs.size());
  recipes[static_cast<size_t>(id)].object = OutputForm(tensor);
  graph_outputs.push_back(PyRef::Borrow(tensor));
  return id;
}

RecipeId RecorderState::Impl::FunctionRecipe(PyObject* function) {
  auto* object = reinterpret_cast<PyFunctionObject*>(function);
  // Of code whose globals the recording made: another dict each call.
  if (local_namespaces.contains(object->func_globals)) return Unsupported(function);
  const RecipeId id = NewRecipe(function, RecipeKind::kFunction);
  std::vector<RecipeId> children;
  RecipeId globals = NewRecipe(object->func_globals, RecipeKind::kConstant);
  recording->exit_plan.recipes[static_cast<size_t>(globals)].object = PyRef::Borrow(object->func_globals);
  children.push_back(globals);
  for (PyObject* part : {object->func_name, object->func_defaults, object->func_kwdefaults, object->func_closure,
                         object->func_annotations, object->func_dict}) {
    children.push_back(part == nullptr ? kNoRecipe : RecipeFor(part));
  }
  const auto* code = reinterpret_cast<PyCodeObject*>(object->func_code);
  const bool renamed = PyUnicode_Compare(object->func_qualname, code->co_qualname) != 0;
  children.push_back(renamed ? RecipeFor(object->func_qualname) : kNoRecipe);
  Recipe& recipe = recording->exit_plan.recipes[static_cast<size_t>(id)];
  recipe.object = PyRef::Borrow(object->func_code);
  recipe.children = std::move(children);
  return id;
}

void RecorderState::Impl::AddChildren(RecipeId id, PyObject* sequence) {
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(sequence) && !broken(); ++i) {
    const RecipeId child = RecipeFor(PySequence_Fast_GET_ITEM(sequence, i));
    recording->exit_plan.recipes[static_cast<size_t>(id)].children.push_back(child);
  }
}

// The content of __dict__ and of slots.
void RecorderState::Impl::AddAttributes(RecipeId id, PyObject* object) {
  auto add = [&](PyObject* name, PyObject* value) {
    const RecipeId child = RecipeFor(value);
    recording->exit_plan.recipes[static_cast<size_t>(id)].attributes.emplace_back(PyRef::Borrow(name), child);
  };
  PyTypeObject* type = Py_TYPE(object);
  for (PyTypeObject* base = type; base != nullptr && IsPythonClass(base); base = base->tp_base) {
    PyRef members = PyRef::Steal(PyObject_GetAttr(reinterpret_cast<PyObject*>(base), Names().dict));
    PyRef values = PyRef::Steal(members ? PyMapping_Items(members.get()) : nullptr);
    for (Py_ssize_t i = 0; values && i < PyList_GET_SIZE(values.get()); ++i) {
      PyObject* name = PyTuple_GET_ITEM(PyList_GET_ITEM(values.get(), i), 0);
      PyObject* descriptor = PyTuple_GET_ITEM(PyList_GET_ITEM(values.get(), i), 1);
      if (Py_TYPE(descriptor) != &PyMemberDescr_Type) continue;
      PyRef value =
          PyRef::Steal(Py_TYPE(descriptor)->tp_descr_get(descriptor, object, reinterpret_cast<PyObject*>(type)));
      if (value) add(name, value.get());
      PyErr_Clear();
    }
  }
  if (PyDict_Check(object) && PyType_IsSubtype(type, Names().default_dict)) {
    PyRef factory = PyRef::Steal(PyObject_GenericGetAttr(object, Names().default_factory));
    if (factory) add(Names().default_factory, factory.get());
  }
  if ((!IsPythonClass(type) && !IsSimpleNamespace(type)) || type->tp_dictoffset == 0) return;
  PyRef dict = PyRef::Steal(ShimMaterializeInstanceDict(object));
  if (!dict) return PyErr_Clear();
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  for (Py_ssize_t cursor = 0; PyDict_Next(dict.get(), &cursor, &key, &value) && !broken();) add(key, value);
}

RecipeId RecorderState::Impl::InstanceRecipe(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  PyTypeObject* base = NativeBase(type);
  auto finish = [&](RecipeId id, PyRef object_class, PyObject* items) {
    recording->exit_plan.recipes[static_cast<size_t>(id)].object = std::move(object_class);
    if (items != nullptr) AddChildren(id, items);
    AddAttributes(id, object);
    return broken() ? kNoRecipe : id;
  };
  if (PyTuple_Check(object))
    return finish(NewRecipe(object, RecipeKind::kTuple), ClassOrNull(object, &PyTuple_Type), object);
  if (base == &PyList_Type)
    return finish(NewRecipe(object, RecipeKind::kList), ClassOrNull(object, &PyList_Type), object);
  if (base == &PyDict_Type || base == Names().ordered_dict || base == Names().default_dict) {
    PyRef items = PyRef::Steal(PyList_New(0));
    PyRef iterator = PyRef::Steal(base->tp_iter(object));
    while (PyRef key = PyRef::Steal(items && iterator ? PyIter_Next(iterator.get()) : nullptr)) {
      PyObject* value = PyDict_GetItemWithError(object, key.get());
      if (value == nullptr || PyList_Append(items.get(), key.get()) != 0 || PyList_Append(items.get(), value) != 0)
        break;
    }
    if (PyErr_Occurred()) return Unsupported(object);
    return finish(NewRecipe(object, RecipeKind::kDict), ClassOrNull(object, &PyDict_Type), items.get());
  }
  if (base == &PySet_Type || base == &PyFrozenSet_Type || base == Names().deque) {
    PyRef items = PyRef::Steal(PySequence_List(object));
    if (!items) return Unsupported(object);
    if (base != Names().deque) PutNansLast(items.get());
    const RecipeId id = NewRecipe(object, base == Names().deque ? RecipeKind::kDeque : RecipeKind::kSet);
    if (base == Names().deque) {
      PyRef maxlen = PyRef::Steal(PyObject_GetAttrString(object, "maxlen"));
      const bool bounded = maxlen && maxlen.get() != Py_None;
      recording->exit_plan.recipes[static_cast<size_t>(id)].index =
          bounded ? static_cast<int32_t>(PyLong_AsLong(maxlen.get())) : -1;
    }
    return finish(id, PyRef::Borrow(reinterpret_cast<PyObject*>(type)), items.get());
  }
  if (type == &PySlice_Type) {
    auto* slice = reinterpret_cast<PySliceObject*>(object);
    PyRef parts = PyRef::Steal(PyTuple_Pack(3, slice->start, slice->stop, slice->step));
    return parts ? finish(NewRecipe(object, RecipeKind::kSlice), PyRef(), parts.get()) : Unsupported(object);
  }
  if (type == &PyMethod_Type) {
    PyRef parts = PyRef::Steal(PyTuple_Pack(2, PyMethod_GET_FUNCTION(object), PyMethod_GET_SELF(object)));
    return parts ? finish(NewRecipe(object, RecipeKind::kMethod), PyRef(), parts.get()) : Unsupported(object);
  }
  if (type == &PyCell_Type) {
    if (auto row = cell_sources.find(object); row != cell_sources.end() && !local_cells.contains(object)) {
      return SourceRecipe(row->second);
    }
    PyRef contents = PyRef::Steal(PyCell_GET(object) == nullptr ? PyTuple_New(0) : PyTuple_Pack(1, PyCell_GET(object)));
    return contents ? finish(NewRecipe(object, RecipeKind::kCell), PyRef(), contents.get()) : Unsupported(object);
  }
  if (IsPlainIterator(object)) {
    PyRef parts = IteratorParts(object);
    if (!parts) return Unsupported(object);
    // Iterators are made before the effects, of the container as it is outside.
    const Shadow* over = PyTuple_GET_SIZE(parts.get()) > 0 ? FindShadow(PyTuple_GET_ITEM(parts.get(), 0)) : nullptr;
    if (over != nullptr && MovesIterators(*over)) return Unsupported(object);
    PyRef alone = PyRef::Steal(PyTuple_Pack(1, parts.get()));
    return alone ? finish(NewRecipe(object, RecipeKind::kIterator), PyRef::Borrow(reinterpret_cast<PyObject*>(type)),
                          alone.get())
                 : Unsupported(object);
  }
  if (IsPlainException(object, base)) {
    PyRef args = PyRef::Steal(PyTuple_Pack(1, reinterpret_cast<PyBaseExceptionObject*>(object)->args));
    return args ? finish(NewRecipe(object, RecipeKind::kException), PyRef::Borrow(reinterpret_cast<PyObject*>(type)),
                         args.get())
                : Unsupported(object);
  }
  if (IsNativeValue(object)) {
    PyRef value = NativeValue(object);
    PyRef alone = PyRef::Steal(value ? PyTuple_Pack(1, value.get()) : nullptr);
    return alone ? finish(NewRecipe(object, RecipeKind::kValue), PyRef::Borrow(reinterpret_cast<PyObject*>(type)),
                          alone.get())
                 : Unsupported(object);
  }
  if ((base == &PyBaseObject_Type && IsPythonClass(type)) || IsSimpleNamespace(base)) {
    return finish(NewRecipe(object, RecipeKind::kInstance), PyRef::Borrow(reinterpret_cast<PyObject*>(type)), nullptr);
  }
  return Unsupported(object);
}

}  // namespace framejit
