#include "frame_eval/exit_plan.h"

#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/switches.h"
#include "frame_eval/cpython/shim.h"
#include "frame_eval/guards/guard_fetch.h"
#include "frame_eval/guards/iterators.h"
#include "frame_eval/print_exit_plan.h"

namespace framejit {
namespace {

PyObject* WrapTensor(at::Tensor& tensor) {
  if (!tensor.defined()) return Py_NewRef(Py_None);
  return THPVariable_Wrap(std::move(tensor));
}

// The same memory as an inference tensor, or as none: the mode it was recorded in says which.
at::Tensor WithInference(const at::Tensor& tensor, bool inference) {
  if (tensor.is_inference() == inference) return tensor;
  c10::InferenceMode mode(inference);
  const c10::DispatchKeySet keys = tensor.key_set() - c10::autograd_dispatch_keyset_with_ADInplaceOrView;
  at::Tensor made = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(tensor.storage()), keys, tensor.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return made;
}

// See RecipeKind::kGraphOutput.
void SetForm(at::Tensor& output, PyObject* form) {
  if (PyBool_Check(form)) {
    output = WithInference(output, form == Py_True);
    return;
  }
  auto* view = torch::autograd::impl::get_view_autograd_meta(output);
  if (view == nullptr || !view->has_bw_view()) return;
  const long meta = PyLong_AsLong(form);
  view->set_attr_version(static_cast<uint32_t>(output._version()) - (meta < 0 ? 1 : 0));
  view->set_creation_meta(static_cast<torch::autograd::CreationMeta>(meta < 0 ? ~meta : meta));
}

// __new__ of the builtin type `base` for its subclass `cls`, as cls.__new__ would reach it.
PyObject* NewSubclass(PyTypeObject* base, PyObject* cls, PyObject* argument = nullptr) {
  PyRef arguments = PyRef::Steal(argument == nullptr ? PyTuple_New(0) : PyTuple_Pack(1, argument));
  return arguments ? base->tp_new(reinterpret_cast<PyTypeObject*>(cls), arguments.get(), nullptr) : nullptr;
}

// types.SimpleNamespace is the one C type whose instances are made of their attributes alone, as those of classes are.
PyObject* NewInstance(PyObject* cls) {
  static PyTypeObject* const name_space = [] {
    PyObject* implementation = PySys_GetObject("implementation");
    return implementation == nullptr ? &PyBaseObject_Type : Py_TYPE(implementation);
  }();
  const bool is_space = PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(cls), name_space) != 0;
  return NewSubclass(is_space ? name_space : &PyBaseObject_Type, cls);
}

bool IsStructSequence(PyTypeObject* type) {
  PyRef dict = PyRef::Steal(ShimTypeDict(type));
  return dict && PyDict_GetItemString(dict.get(), "n_sequence_fields") != nullptr;
}

// Native descriptors (slots, C getters and setters) store outside __dict__; anything else of the class is not
// consulted, since the program's own setters were recorded as the plain writes they made.
bool SetOwnAttribute(PyObject* target, PyObject* key, PyObject* value) {
  if (PyType_Check(target)) return PyType_Type.tp_setattro(target, key, value) == 0;
  PyObject* descriptor = _PyType_Lookup(Py_TYPE(target), key);
  if (descriptor != nullptr &&
      (Py_TYPE(descriptor) == &PyMemberDescr_Type || Py_TYPE(descriptor) == &PyGetSetDescr_Type)) {
    PyRef held = PyRef::Borrow(descriptor);
    return Py_TYPE(descriptor)->tp_descr_set(descriptor, target, value) == 0;
  }
  PyRef dict = PyRef::Steal(PyObject_GenericGetDict(target, nullptr));
  if (!dict) return false;
  return value != nullptr ? PyDict_SetItem(dict.get(), key, value) == 0 : PyDict_DelItem(dict.get(), key) == 0;
}

bool SetDictItem(PyObject* dict, PyObject* key, PyObject* value) {
  if (value == nullptr) return (PyODict_Check(dict) ? PyODict_DelItem(dict, key) : PyDict_DelItem(dict, key)) == 0;
  return (PyODict_Check(dict) ? PyODict_SetItem(dict, key, value) : PyDict_SetItem(dict, key, value)) == 0;
}

bool CallDequeMethod(PyObject* deque, const char* name, PyObject* argument = nullptr) {
  auto* type = reinterpret_cast<PyObject*>(DequeType());
  PyRef method = PyRef::Steal(type == nullptr ? nullptr : PyObject_GetAttrString(type, name));
  if (!method) return false;
  return static_cast<bool>(PyRef::Steal(PyObject_CallFunctionObjArgs(method.get(), deque, argument, nullptr)));
}

c10::DimVector Integers(PyObject* tuple) {
  c10::DimVector integers;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i)
    integers.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i)));
  return integers;
}

// As transpose_ and its kin do it, whose checks the recording has passed. A graph that ran the program's own calls has
// done it already.
bool SetLayout(PyObject* target, PyObject* layout) {
  const at::Tensor& tensor = THPVariable_Unpack(target);
  const c10::DimVector sizes = Integers(PyTuple_GET_ITEM(layout, 0)), strides = Integers(PyTuple_GET_ITEM(layout, 1));
  int64_t offset = Integers(PyTuple_GET_ITEM(layout, 2))[0];
  if (offset < 0) offset = tensor.storage_offset();
  // The operator that did it is among the steps of Trace::versions.
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
  return true;
}

}  // namespace

// Builds the objects of one call. An object is entered into the memo before its content is built, so that cycles close;
// tuples cannot be, so a tuple looks again after its items are built (as copy.deepcopy does).
class ExitProgram::Builder {
 public:
  Builder(const ExitProgram& program, absl::Span<PyObject* const> sources, std::vector<at::Tensor>& outputs,
          absl::Span<const PyRef> symbols)
      : program_(program),
        sources_(sources),
        outputs_(outputs),
        symbols_(symbols),
        memo_(program.plan_.recipes.size()) {}

  // Borrowed; null with an exception set. kNoRecipe gives null without one.
  PyObject* Get(RecipeId id) {
    if (id == kNoRecipe) return nullptr;
    PyRef& slot = memo_[static_cast<size_t>(id)];
    if (slot) return slot.get();
    const Recipe& recipe = program_.plan_.recipes[static_cast<size_t>(id)];
    PyRef made = PyRef::Steal(Make(recipe, id));
    if (!made) return nullptr;
    PyRef& again = memo_[static_cast<size_t>(id)];
    if (!again) again = std::move(made);
    return again.get();
  }

 private:
  PyObject* Make(const Recipe& recipe, RecipeId id) {
    switch (recipe.kind) {
      case RecipeKind::kConstant:
        return Py_NewRef(recipe.object.get());
      case RecipeKind::kSymbol:
        return Py_NewRef(symbols_[static_cast<size_t>(recipe.index)].get());
      case RecipeKind::kSource:
        return Py_NewRef(sources_[static_cast<size_t>(program_.source_position_[static_cast<size_t>(id)])]);
      case RecipeKind::kGraphOutput:
        return MakeOutput(recipe);
      case RecipeKind::kTuple:
        return MakeTuple(recipe);
      case RecipeKind::kList:
        return MakeList(recipe, id);
      case RecipeKind::kDict:
        return MakeDict(recipe, id);
      case RecipeKind::kSet:
        return MakeSet(recipe, id);
      case RecipeKind::kDeque:
        return MakeDeque(recipe, id);
      case RecipeKind::kSlice: {
        PyObject* parts[3];
        if (!GetAll(recipe, parts, 3)) return nullptr;
        return PySlice_New(parts[0], parts[1], parts[2]);
      }
      case RecipeKind::kInstance: {
        PyObject* instance = Enter(id, NewInstance(recipe.object.get()));
        return instance != nullptr && SetAttributes(recipe, instance) ? Py_NewRef(instance) : nullptr;
      }
      case RecipeKind::kFunction:
        return MakeFunction(recipe, id);
      case RecipeKind::kMethod: {
        PyObject* parts[2];
        if (!GetAll(recipe, parts, 2)) return nullptr;
        return PyMethod_New(parts[0], parts[1]);
      }
      case RecipeKind::kCell:
        return MakeCell(recipe, id);
      case RecipeKind::kException:
        return MakeException(recipe, id);
      case RecipeKind::kValue:
        return MakeValue(recipe, id);
      case RecipeKind::kSubclass:
        return MakeSubclass(recipe, id);
      case RecipeKind::kIterator: {
        PyObject* parts = Get(recipe.children[0]);
        return parts == nullptr ? nullptr : MakeIterator(reinterpret_cast<PyTypeObject*>(recipe.object.get()), parts);
      }
    }
    PyErr_SetString(PyExc_SystemError, "framejit: a recipe that cannot be built");
    return nullptr;
  }

  // Puts a shell (stolen) into the memo before its content is built; borrowed.
  PyObject* Enter(RecipeId id, PyObject* shell) {
    memo_[static_cast<size_t>(id)] = PyRef::Steal(shell);
    return shell;
  }

  bool GetAll(const Recipe& recipe, PyObject** parts, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      parts[i] = Get(recipe.children[i]);
      if (parts[i] == nullptr) return false;
    }
    return true;
  }

  bool SetAttributes(const Recipe& recipe, PyObject* object) {
    for (const auto& [key, child] : recipe.attributes) {
      PyObject* value = Get(child);
      if (value == nullptr || !SetOwnAttribute(object, key.get(), value)) return false;
    }
    return true;
  }

  // An output may be returned at several places; the first wrapping takes the tensor, the memo serves the others. Two
  // recipes for one output would be two Python objects for one tensor, so the wrapper is kept by output as well.
  PyObject* MakeOutput(const Recipe& recipe) {
    PyRef& wrapped = wrapped_outputs_[recipe.index];
    at::Tensor& output = outputs_[static_cast<size_t>(recipe.index)];
    if (!wrapped && recipe.object && output.defined()) SetForm(output, recipe.object.get());
    if (!wrapped) wrapped = PyRef::Steal(WrapTensor(output));
    return Py_XNewRef(wrapped.get());
  }

  PyObject* MakeTuple(const Recipe& recipe) {
    PyRef items = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(recipe.children.size())));
    if (!items) return nullptr;
    for (size_t i = 0; i < recipe.children.size(); ++i) {
      PyObject* item = Get(recipe.children[i]);
      if (item == nullptr) return nullptr;
      PyTuple_SET_ITEM(items.get(), static_cast<Py_ssize_t>(i), Py_NewRef(item));
    }
    PyObject* cls = recipe.object.get();
    if (cls == nullptr) return items.release();
    auto* type = reinterpret_cast<PyTypeObject*>(cls);
    PyRef tuple = PyRef::Steal(NewSubclass(IsStructSequence(type) ? type : &PyTuple_Type, cls, items.get()));
    return tuple && SetAttributes(recipe, tuple.get()) ? tuple.release() : nullptr;
  }

  PyObject* MakeList(const Recipe& recipe, RecipeId id) {
    PyObject* cls = recipe.object.get();
    PyObject* list = Enter(id, cls == nullptr ? PyList_New(0) : NewSubclass(&PyList_Type, cls));
    if (list == nullptr) return nullptr;
    for (RecipeId child : recipe.children) {
      PyObject* item = Get(child);
      if (item == nullptr || PyList_Append(list, item) < 0) return nullptr;
    }
    return SetAttributes(recipe, list) ? Py_NewRef(list) : nullptr;
  }

  PyObject* MakeDict(const Recipe& recipe, RecipeId id) {
    PyObject* cls = recipe.object.get();
    bool ordered = cls != nullptr && PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(cls), &PyODict_Type);
    PyObject* dict =
        Enter(id, cls == nullptr ? PyDict_New() : NewSubclass(ordered ? &PyODict_Type : &PyDict_Type, cls));
    if (dict == nullptr) return nullptr;
    for (size_t i = 0; i + 1 < recipe.children.size(); i += 2) {
      PyObject* key = Get(recipe.children[i]);
      PyObject* value = key == nullptr ? nullptr : Get(recipe.children[i + 1]);
      if (value == nullptr || !SetDictItem(dict, key, value)) return nullptr;
    }
    return SetAttributes(recipe, dict) ? Py_NewRef(dict) : nullptr;
  }

  PyObject* MakeSet(const Recipe& recipe, RecipeId id) {
    PyObject* cls = recipe.object.get();
    auto* type = cls == nullptr ? &PySet_Type : reinterpret_cast<PyTypeObject*>(cls);
    if (PyType_IsSubtype(type, &PyFrozenSet_Type)) {
      PyRef items = PyRef::Steal(PyList_New(0));
      for (RecipeId child : recipe.children) {
        PyObject* item = Get(child);
        if (!items || item == nullptr || PyList_Append(items.get(), item) < 0) return nullptr;
      }
      if (!items) return nullptr;
      PyRef set = PyRef::Steal(NewSubclass(&PyFrozenSet_Type, reinterpret_cast<PyObject*>(type), items.get()));
      return set && SetAttributes(recipe, set.get()) ? set.release() : nullptr;
    }
    PyObject* set = Enter(id, NewSubclass(&PySet_Type, reinterpret_cast<PyObject*>(type)));
    if (set == nullptr) return nullptr;
    for (RecipeId child : recipe.children) {
      PyObject* item = Get(child);
      if (item == nullptr || PySet_Add(set, item) < 0) return nullptr;
    }
    return SetAttributes(recipe, set) ? Py_NewRef(set) : nullptr;
  }

  PyObject* MakeDeque(const Recipe& recipe, RecipeId id) {
    PyTypeObject* base = DequeType();
    if (base == nullptr) return nullptr;
    PyObject* cls = recipe.object ? recipe.object.get() : reinterpret_cast<PyObject*>(base);
    PyObject* deque = Enter(id, NewSubclass(base, cls));
    if (deque == nullptr) return nullptr;
    if (recipe.index >= 0) {
      PyRef arguments = PyRef::Steal(Py_BuildValue("(()i)", recipe.index));
      if (!arguments || base->tp_init(deque, arguments.get(), nullptr) < 0) return nullptr;
    }
    for (RecipeId child : recipe.children) {
      PyObject* item = Get(child);
      if (item == nullptr || !CallDequeMethod(deque, "append", item)) return nullptr;
    }
    return SetAttributes(recipe, deque) ? Py_NewRef(deque) : nullptr;
  }

  PyObject* MakeException(const Recipe& recipe, RecipeId id) {
    PyObject* args = Get(recipe.children[0]);
    auto* type = reinterpret_cast<PyTypeObject*>(recipe.object.get());
    auto* plain = reinterpret_cast<PyTypeObject*>(PyExc_BaseException);
    PyObject* exception = args == nullptr ? nullptr : Enter(id, plain->tp_new(type, args, nullptr));
    return exception != nullptr && SetAttributes(recipe, exception) ? Py_NewRef(exception) : nullptr;
  }

  PyObject* MakeValue(const Recipe& recipe, RecipeId id) {
    PyObject* plain = Get(recipe.children[0]);
    if (plain == nullptr) return nullptr;
    PyObject* value = Enter(id, NewSubclass(Py_TYPE(plain), recipe.object.get(), plain));
    return value != nullptr && SetAttributes(recipe, value) ? Py_NewRef(value) : nullptr;
  }

  PyObject* MakeSubclass(const Recipe& recipe, RecipeId id) {
    PyRef tensor = PyRef::Steal(MakeOutput(program_.plan_.recipes[static_cast<size_t>(recipe.children[0])]));
    if (!tensor || PyObject_SetAttrString(tensor.get(), "__class__", recipe.object.get()) != 0) return nullptr;
    PyObject* made = Enter(id, tensor.release());
    return SetAttributes(recipe, made) ? Py_NewRef(made) : nullptr;
  }

  PyObject* MakeCell(const Recipe& recipe, RecipeId id) {
    PyObject* cell = Enter(id, PyCell_New(nullptr));
    RecipeId child = recipe.children.empty() ? kNoRecipe : recipe.children[0];
    if (cell == nullptr || child == kNoRecipe) return Py_XNewRef(cell);
    PyObject* contents = Get(child);
    return contents != nullptr && PyCell_Set(cell, contents) == 0 ? Py_NewRef(cell) : nullptr;
  }

  // Children: globals, name, defaults, kwdefaults, closure, annotations, dict.
  PyObject* MakeFunction(const Recipe& recipe, RecipeId id) {
    PyObject* globals = Get(recipe.children[0]);
    if (globals == nullptr) return nullptr;
    PyObject* function = Enter(id, PyFunction_New(recipe.object.get(), globals));
    if (function == nullptr) return nullptr;
    using Setter = int (*)(PyObject*, PyObject*);
    static constexpr Setter kSetters[] = {
        [](PyObject* f, PyObject* value) { return PyObject_SetAttrString(f, "__name__", value); },
        &PyFunction_SetDefaults,
        [](PyObject* f, PyObject* value) { return PyObject_SetAttrString(f, "__kwdefaults__", value); },
        &PyFunction_SetClosure,
        // As MAKE_FUNCTION sets them: a tuple of names and values, of which CPython makes a dict when it is asked for.
        [](PyObject* f, PyObject* value) {
          Py_XSETREF(reinterpret_cast<PyFunctionObject*>(f)->func_annotations, Py_NewRef(value));
          return 0;
        },
        [](PyObject* f, PyObject* value) { return PyObject_SetAttrString(f, "__dict__", value); },
        [](PyObject* f, PyObject* value) { return PyObject_SetAttrString(f, "__qualname__", value); },
    };
    for (size_t i = 0; i < std::size(kSetters) && i + 1 < recipe.children.size(); ++i) {
      if (recipe.children[i + 1] == kNoRecipe) continue;
      PyObject* value = Get(recipe.children[i + 1]);
      if (value == nullptr || kSetters[i](function, value) < 0) return nullptr;
    }
    return Py_NewRef(function);
  }

  const ExitProgram& program_;
  absl::Span<PyObject* const> sources_;
  std::vector<at::Tensor>& outputs_;
  absl::Span<const PyRef> symbols_;
  std::vector<PyRef> memo_;
  absl::flat_hash_map<int32_t, PyRef> wrapped_outputs_;
};

absl::StatusOr<std::unique_ptr<ExitProgram>> ExitProgram::Make(ExitPlan plan, size_t graph_outputs) {
  std::erase_if(plan.effects,
                [](const Effect& effect) { return IsSwitchedOff("effect", EffectKindName(effect.kind)); });
  auto program = std::unique_ptr<ExitProgram>(new ExitProgram(std::move(plan)));
  if (absl::Status status = program->CheckReferences(graph_outputs); !status.ok()) return status;
  program->ChooseShape();
  return program;
}

absl::Status ExitProgram::CheckReferences(size_t graph_outputs) {
  auto known = [&](RecipeId id) {
    return id == kNoRecipe || (id >= 0 && static_cast<size_t>(id) < plan_.recipes.size());
  };
  if (plan_.result == kNoRecipe || !known(plan_.result)) return absl::InternalError("exit plan without a result");
  absl::flat_hash_map<SourceId, int32_t> positions;
  source_position_.assign(plan_.recipes.size(), -1);
  for (size_t i = 0; i < plan_.recipes.size(); ++i) {
    const Recipe& recipe = plan_.recipes[i];
    for (RecipeId child : recipe.children) {
      if (!known(child)) return absl::InternalError(absl::StrCat("recipe ", i, " refers to unknown recipe ", child));
    }
    for (const auto& attribute : recipe.attributes) {
      if (!known(attribute.second)) {
        return absl::InternalError(
            absl::StrCat("recipe ", i, " has an attribute of unknown recipe ", attribute.second));
      }
    }
    if (recipe.kind == RecipeKind::kGraphOutput && static_cast<size_t>(recipe.index) >= graph_outputs) {
      return absl::InternalError(absl::StrCat("recipe ", i, " refers to unknown graph output ", recipe.index));
    }
    if (recipe.kind != RecipeKind::kSource) continue;
    auto [it, inserted] = positions.try_emplace(recipe.source, static_cast<int32_t>(sources_.size()));
    if (inserted) sources_.push_back(recipe.source);
    source_position_[i] = it->second;
  }
  for (const Effect& effect : plan_.effects) {
    if (!known(effect.target) || !known(effect.key) || !known(effect.value)) {
      return absl::InternalError("an effect refers to an unknown recipe");
    }
  }
  return absl::OkStatus();
}

void ExitProgram::ChooseShape() {
  if (!plan_.effects.empty()) return;
  const Recipe& result = plan_.recipes[static_cast<size_t>(plan_.result)];
  if (result.kind == RecipeKind::kGraphOutput && !result.object) shape_ = Shape::kOneTensor;
  if (result.kind != RecipeKind::kTuple || result.object) return;
  absl::flat_hash_set<int32_t> outputs;
  for (RecipeId child : result.children) {
    const Recipe& item = plan_.recipes[static_cast<size_t>(child)];
    if (item.kind != RecipeKind::kGraphOutput || item.object || !outputs.insert(item.index).second) return;
  }
  shape_ = Shape::kTensorTuple;
}

PyObject* ExitProgram::Run(absl::Span<PyObject* const> sources, std::vector<at::Tensor>& outputs,
                           absl::Span<const PyRef> symbols) const {
  const Recipe& result = plan_.recipes[static_cast<size_t>(plan_.result)];
  if (shape_ == Shape::kOneTensor) return WrapTensor(outputs[static_cast<size_t>(result.index)]);
  if (shape_ == Shape::kTensorTuple) {
    PyRef tuple = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(result.children.size())));
    for (size_t i = 0; tuple && i < result.children.size(); ++i) {
      const Recipe& item = plan_.recipes[static_cast<size_t>(result.children[i])];
      PyObject* wrapped = WrapTensor(outputs[static_cast<size_t>(item.index)]);
      if (wrapped == nullptr) return nullptr;
      PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), wrapped);
    }
    return tuple.release();
  }
  Builder builder(*this, sources, outputs, symbols);
  PyRef value = PyRef::Borrow(builder.Get(plan_.result));
  if (!value) return nullptr;
  for (const Effect& effect : plan_.effects) {
    for (RecipeId id : {effect.target, effect.key, effect.value}) {
      if (id != kNoRecipe && builder.Get(id) == nullptr) return nullptr;
    }
  }
  for (const Effect& effect : plan_.effects) {
    if (!ApplyEffect(effect, builder)) return nullptr;
  }
  return value.release();
}

bool ExitProgram::ApplyEffect(const Effect& effect, Builder& builder) const {
  PyObject* target = builder.Get(effect.target);
  PyObject* key = builder.Get(effect.key);
  PyObject* value = builder.Get(effect.value);
  switch (effect.kind) {
    case EffectKind::kSetAttribute:
      return SetOwnAttribute(target, key, value);
    case EffectKind::kDeleteAttribute:
      return SetOwnAttribute(target, key, nullptr);
    case EffectKind::kSetDictItem:
      return SetDictItem(target, key, value);
    case EffectKind::kDeleteDictItem:
      return SetDictItem(target, key, nullptr);
    case EffectKind::kClearDict:
      return static_cast<bool>(
          PyRef::Steal(PyObject_CallMethod(reinterpret_cast<PyObject*>(&PyODict_Type), "clear", "O", target)));
    case EffectKind::kReplaceList:
      return PyList_SetSlice(target, 0, PyList_GET_SIZE(target), value) == 0;
    case EffectKind::kExtendList:
      return PyList_SetSlice(target, PyList_GET_SIZE(target), PyList_GET_SIZE(target), value) == 0;
    case EffectKind::kReplaceSet:
      return PySet_Clear(target) == 0 && _PySet_Update(target, value) == 0;
    case EffectKind::kReplaceDeque:
      return CallDequeMethod(target, "clear") && CallDequeMethod(target, "extend", value);
    case EffectKind::kSetDequeItems:
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); ++i) {
        if (PySequence_SetItem(target, i, PyList_GET_ITEM(value, i)) != 0) return false;
      }
      return true;
    case EffectKind::kSetCell:
      return PyCell_Set(target, value) == 0;
    case EffectKind::kSetLayout:
      return SetLayout(target, value);
    case EffectKind::kCall:
      return static_cast<bool>(PyRef::Steal(PyObject_Call(effect.callable.get(), effect.arguments.get(), nullptr)));
  }
  return false;
}

int ExitProgram::Traverse(visitproc visit, void* arg) const {
  for (const Recipe& recipe : plan_.recipes) {
    Py_VISIT(recipe.object.get());
    for (const auto& attribute : recipe.attributes) Py_VISIT(attribute.first.get());
  }
  for (const Effect& effect : plan_.effects) {
    Py_VISIT(effect.callable.get());
    Py_VISIT(effect.arguments.get());
  }
  return 0;
}

}  // namespace framejit
