// The end of a recording: what it wrote to outside objects as effects, its outputs, its result.
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "bytecode/exception_table.h"
#include "frame_eval/cpython/frame_view.h"
#include "frame_eval/guards/guard_fetch.h"
#include "frame_eval/guards/tensor_memory.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/program_gradients.h"
#include "graph/capture/recorder_impl.h"
#include "graph/fake/mutation.h"
#include "graph/passes/analysis.h"

namespace framejit {
namespace {

bool WritesInPlace(const Graph& graph) {
  for (const Node& node : graph.nodes) {
    if (MutatesArguments(node.op)) return true;
  }
  return false;
}

// Whether an item of a container is as it was. Of numbers and strings the value decides: which of two equal ones a
// container holds may differ between two calls that share a recording, since guards compare values.
bool IsUnchanged(PyObject* before, PyObject* now, const std::function<bool(PyObject*)>& is_symbol) {
  if (before == now || before == nullptr) return before == now;
  // Numbers that vary are equal in this call alone.
  if (is_symbol(before) || is_symbol(now)) return false;
  return IsPrimitive(before) && IsPrimitive(now) && ConstantsEqual(before, now);
}

// Equal keys of which one took the other's place: 1, 1.0 and True.
bool IsOtherKey(PyObject* before, PyObject* now) {
  return before != now && IsPrimitive(before) && IsPrimitive(now) && !ConstantsEqual(before, now);
}

// Whether both have the same elements; equal ones of other types are others. False as well where an error was raised.
bool AreSameSets(PyObject* before, PyObject* now) {
  if (PyObject_RichCompareBool(before, now, Py_EQ) != 1) return false;
  PyRef elements = PyRef::Steal(PyDict_New()), old_items = PyRef::Steal(PySequence_List(before));
  PyRef new_items = PyRef::Steal(PySequence_List(now));
  if (!elements || !old_items || !new_items) return false;
  const auto at = [](const PyRef& list, Py_ssize_t i) { return PyList_GET_ITEM(list.get(), i); };
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(old_items.get()); ++i) {
    if (PyDict_SetItem(elements.get(), at(old_items, i), at(old_items, i)) != 0) return false;
  }
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(new_items.get()); ++i) {
    PyObject* element = PyDict_GetItemWithError(elements.get(), at(new_items, i));
    if (element == nullptr || IsOtherKey(element, at(new_items, i))) return false;
  }
  return true;
}

// The keys of a dict in its own order, without user code.
PyRef KeysOf(PyObject* dict) {
  PyRef iterator = PyRef::Steal(NativeBase(Py_TYPE(dict))->tp_iter(dict));
  return PyRef::Steal(iterator ? PySequence_Tuple(iterator.get()) : nullptr);
}

}  // namespace

void RecorderState::Impl::AddEffect(EffectKind kind, RecipeId target, RecipeId key, RecipeId value) {
  recording->exit_plan.effects.push_back(
      Effect{.kind = kind, .target = target, .key = key, .value = value, .callable = {}, .arguments = {}});
}

RecipeId RecorderState::Impl::SourceRecipe(SourceId source) {
  Recipe recipe{.kind = RecipeKind::kSource, .object = {}, .source = source, .children = {}, .attributes = {}};
  recording->exit_plan.recipes.push_back(std::move(recipe));
  return static_cast<RecipeId>(recording->exit_plan.recipes.size()) - 1;
}

namespace {

struct DictChanges {
  std::vector<PyObject*> set;      // borrowed from the copy
  std::vector<PyObject*> deleted;  // borrowed from the original
  bool reordered = false;
};

// What differs between an outside dict and its shadow. An element that was read and put back as it was is no change.
bool FindChanges(const Shadow& shadow, PyObject* old_keys, PyObject* new_keys,
                 const std::function<bool(PyObject*)>& is_symbol, DictChanges* changes) {
  std::vector<PyObject*> expected;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(old_keys); ++i) {
    PyObject* key = PyTuple_GET_ITEM(old_keys, i);
    if (PyDict_GetItemWithError(shadow.copy.get(), key) != nullptr) {
      expected.push_back(key);
    } else {
      changes->deleted.push_back(key);
    }
  }
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(new_keys); ++i) {
    PyObject* key = PyTuple_GET_ITEM(new_keys, i);
    PyObject* value = PyDict_GetItemWithError(shadow.copy.get(), key);
    if (value == nullptr) return false;
    const auto position = static_cast<size_t>(i);
    if (position < expected.size() &&
        (PyObject_RichCompareBool(expected[position], key, Py_EQ) != 1 || IsOtherKey(expected[position], key)))
      changes->reordered = true;
    if (IsUnlifted(value) || IsUnchanged(PyDict_GetItemWithError(shadow.baseline.get(), key), value, is_symbol))
      continue;
    changes->set.push_back(key);
  }
  return !PyErr_Occurred();
}

}  // namespace

void RecorderState::Impl::DictEffects(const Shadow& shadow) {
  PyRef old_keys = KeysOf(shadow.real.get());
  PyRef new_keys = KeysOf(shadow.copy.get());
  DictChanges changes;
  const auto is_symbol = [this](PyObject* object) { return SymbolOf(object) != kNoSymbol; };
  if (!old_keys || !new_keys || !FindChanges(shadow, old_keys.get(), new_keys.get(), is_symbol, &changes)) {
    return Break(BreakCode::kInternalError, "the effects on a dict");
  }
  const bool instance = shadow.kind == ShadowKind::kInstanceDict;
  const RecipeId target = instance ? RecipeFor(shadow.owner.get()) : SourceRecipe(shadow.source);
  const EffectKind set = instance ? EffectKind::kSetAttribute : EffectKind::kSetDictItem;
  const EffectKind remove = instance ? EffectKind::kDeleteAttribute : EffectKind::kDeleteDictItem;
  if (shadow.cleared) {
    AddEffect(EffectKind::kClearDict, target, kNoRecipe, kNoRecipe);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(new_keys.get()); ++i) {
      PyObject* key = PyTuple_GET_ITEM(new_keys.get(), i);
      AddEffect(set, target, RecipeFor(key), RecipeFor(PyDict_GetItemWithError(shadow.copy.get(), key)));
    }
    return;
  }
  for (PyObject* key : changes.deleted) AddEffect(remove, target, RecipeFor(key), kNoRecipe);
  if (changes.reordered) {
    // Everything is taken out and put back in the new order.
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(new_keys.get()); ++i) {
      PyObject* key = PyTuple_GET_ITEM(new_keys.get(), i);
      PyObject* value = PyDict_GetItemWithError(shadow.copy.get(), key);
      const RecipeId key_recipe = RecipeFor(key);
      const RecipeId value_recipe =
          IsUnlifted(value) ? SourceRecipe(Intern(SourceKind::kDictItem, shadow.source, key)) : RecipeFor(value);
      if (PyDict_GetItemWithError(shadow.real.get(), key) != nullptr) AddEffect(remove, target, key_recipe, kNoRecipe);
      AddEffect(set, target, key_recipe, value_recipe);
    }
    return;
  }
  // In the order of the writes: which of the keys are there already is no part of the recording, and decides where the
  // others go. Where all keys were looked at it is, and C code may have written.
  const auto order = [&](PyObject* key) {
    const auto same = [&](const PyRef& written) { return PyObject_RichCompareBool(written.get(), key, Py_EQ) == 1; };
    return std::find_if(shadow.written.begin(), shadow.written.end(), same) - shadow.written.begin();
  };
  std::vector<std::pair<ptrdiff_t, PyObject*>> set_keys;
  for (PyObject* key : changes.set) set_keys.emplace_back(order(key), key);
  if (!shadow.full)
    std::stable_sort(set_keys.begin(), set_keys.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [position, key] : set_keys) {
    AddEffect(set, target, RecipeFor(key), RecipeFor(PyDict_GetItemWithError(shadow.copy.get(), key)));
  }
}

bool RecorderState::Impl::MovesIterators(const Shadow& shadow) {
  if (!shadow.touched) return false;
  if (shadow.kind == ShadowKind::kList) return PyList_GET_SIZE(shadow.real.get()) != PyList_GET_SIZE(shadow.copy.get());
  if (!PyDict_Check(shadow.copy.get())) return true;
  PyRef before = KeysOf(shadow.real.get()), now = KeysOf(shadow.copy.get());
  const bool same = before && now && PyObject_RichCompareBool(before.get(), now.get(), Py_EQ) == 1;
  PyErr_Clear();
  return !same;
}

namespace {

// Whether iterators over the deque that were made before the recording fail now: appending to a full one may change
// nothing else.
bool FailsIterators(PyObject* witness) {
  PyRef next = PyRef::Steal(PyIter_Next(witness));
  const bool failed = PyErr_Occurred() != nullptr;
  PyErr_Clear();
  return failed;
}

}  // namespace

// A list that kept its elements is extended; otherwise lists, sets and deques are replaced whole.
void RecorderState::Impl::SequenceEffects(const Shadow& shadow) {
  PyRef now = PyRef::Steal(PySequence_List(shadow.copy.get()));
  if (!now) return Break(BreakCode::kInternalError, "the effects on a container");
  const Py_ssize_t size = PyList_GET_SIZE(now.get());
  Py_ssize_t first = 0;  // the first element that is written
  EffectKind effect = EffectKind::kReplaceList;
  bool changed_form = false;  // of a deque: more than single items
  if (shadow.kind == ShadowKind::kSet) {
    if (AreSameSets(shadow.baseline.get(), shadow.copy.get())) return;
    PyErr_Clear();  // of a comparison; the set is replaced
  } else {
    const Py_ssize_t old_size = PyList_GET_SIZE(shadow.baseline.get());
    const auto is_symbol = [this](PyObject* object) { return SymbolOf(object) != kNoSymbol; };
    Py_ssize_t kept = 0;
    while (kept < std::min(size, old_size) &&
           IsUnchanged(PyList_GET_ITEM(shadow.baseline.get(), kept), PyList_GET_ITEM(now.get(), kept), is_symbol)) {
      ++kept;
    }
    changed_form = shadow.witness && FailsIterators(shadow.witness.get());
    if (kept == size && kept == old_size && !changed_form) return;
    if (kept == old_size && shadow.kind == ShadowKind::kList) first = kept, effect = EffectKind::kExtendList;
  }
  Recipe recipe{.kind = RecipeKind::kList, .object = {}, .children = {}, .attributes = {}};
  if (shadow.kind == ShadowKind::kSet) {
    recipe.kind = RecipeKind::kSet;
    recipe.object = PyRef::Borrow(reinterpret_cast<PyObject*>(&PySet_Type));
    effect = EffectKind::kReplaceSet;
  } else if (shadow.kind == ShadowKind::kDeque) {
    effect = changed_form ? EffectKind::kReplaceDeque : EffectKind::kSetDequeItems;
  }
  for (Py_ssize_t i = first; i < size; ++i) {
    PyObject* item = PyList_GET_ITEM(now.get(), i);
    const auto index = static_cast<int32_t>(i);
    recipe.children.push_back(IsUnlifted(item)
                                  ? SourceRecipe(Intern(SourceKind::kListItem, shadow.source, nullptr, index))
                                  : RecipeFor(item));
  }
  recording->exit_plan.recipes.push_back(std::move(recipe));
  const auto value = static_cast<RecipeId>(recording->exit_plan.recipes.size()) - 1;
  AddEffect(effect, SourceRecipe(shadow.source), kNoRecipe, value);
}

void RecorderState::Impl::WriteEffect(const Write& write) {
  if (write.shadow != nullptr) {
    PyDict_Check(write.shadow->copy.get()) ? DictEffects(*write.shadow) : SequenceEffects(*write.shadow);
  } else if (write.cell) {
    const PyRef& value = cell_values.at(write.cell.get()).value;
    const RecipeId target = SourceRecipe(cell_sources.at(write.cell.get()));
    AddEffect(EffectKind::kSetCell, target, kNoRecipe, value ? RecipeFor(value.get()) : kNoRecipe);
  } else if (write.callable) {
    recording->exit_plan.effects.push_back(
        Effect{.kind = EffectKind::kCall, .callable = write.callable, .arguments = write.arguments});
  } else {
    const PyRef& value = native_attributes.at({write.object.get(), write.name.get()});
    AddEffect(value ? EffectKind::kSetAttribute : EffectKind::kDeleteAttribute, RecipeFor(write.object.get()),
              RecipeFor(write.name.get()), RecipeFor(value.get()));
  }
}

// What was written is none of the other objects that were read: with one object in both places, what was read would be
// what was written.
void RecorderState::Impl::GuardAgainstAliases() {
  // Tensors of which no two share memory are different ones, and their gradients are nobody else's.
  const auto is_gradient = [](const Write& write) { return write.object && IsTensor(write.object.get()); };
  const bool gradients = std::any_of(writes.begin(), writes.end(), is_gradient);
  const bool disjoint = gradients && !InputsShareMemory();
  if (disjoint) AddGuard(GuardKind::kNoOverlap, kNoSource);
  for (const Write& write : writes) {
    if (disjoint && is_gradient(write)) continue;
    PyObject* target = write.object.get();
    if (write.shadow != nullptr) target = (write.shadow->owner ? write.shadow->owner : write.shadow->real).get();
    const Provenance* written = target == nullptr ? nullptr : FindKnown(target);
    if (written == nullptr) continue;
    for (const auto& [object, other] : known) {
      if (object != other.real.get() || object == written->real.get() || (other.pinned && written->pinned)) continue;
      if (Py_TYPE(object) != Py_TYPE(written->real.get()) || other.source == written->source) continue;
      AddGuard(GuardKind::kNotSameObject, written->source, nullptr, 0, other.source);
    }
  }
}

// Of tensors that the recording made and that leave it.
void RecorderState::Impl::GradientEffects() {
  for (const PyRef& tensor : Gradients().with_gradients) {
    if (!recipe_of.contains(tensor.get())) continue;
    PyRef gradient = PyRef::Steal(PyObject_GetAttr(tensor.get(), Names().grad));
    if (!gradient) return Break(BreakCode::kInternalError, "the gradient of a result");
    AddEffect(EffectKind::kSetAttribute, RecipeFor(tensor.get()), RecipeFor(Names().grad), RecipeFor(gradient.get()));
  }
}

void RecorderState::Impl::BuildEffects() {
  GuardAgainstAliases();
  // A recipe may lift nothing, so `writes` does not grow here.
  for (const Write& write : writes) {
    WriteEffect(write);
    if (broken()) return;
  }
  GradientEffects();
  LayoutEffects();
  AddTorchStateEffects();
  CheckArrays();
  CheckFinalizable();
}

namespace {

// A generator that stands inside a `try` or `with` of its own.
bool IsInsideTry(PyObject* generator) {
  PyRef held = PyRef::Steal(PyObject_GetAttrString(generator, "gi_code"));
  PyRef frame = PyRef::Steal(PyObject_GetAttrString(generator, "gi_frame"));
  PyErr_Clear();
  if (!held || !frame || frame.get() == Py_None) return false;
  auto* code = reinterpret_cast<PyCodeObject*>(held.get());
  FrameView view(ShimGeneratorFrame(generator));
  std::optional<ExceptionHandler> handler = FindExceptionHandler(code, view.lasti());
  if (!handler.has_value() || kShimGeneratorsHaveHandler == 0) return handler.has_value();
  std::optional<ExceptionHandler> whole = FindExceptionHandler(code, static_cast<int>(Py_SIZE(code)) - 1);
  return !whole.has_value() || handler->target != whole->target;
}

}  // namespace

// What is still alive, is not rebuilt on each call and has code to run when it dies is garbage in a cycle: in eager
// mode that code runs when the cycle is collected.
void RecorderState::Impl::CheckFinalizable() {
  for (const PyRef& reference : finalizable) {
    PyObject* object = PyWeakref_GetObject(reference.get());
    if (object == nullptr || object == Py_None || recipe_of.contains(object)) continue;
    if (PyGen_CheckExact(object) && !IsInsideTry(object)) continue;
    return Break(BreakCode::kUnsupportedEffect, "an object with code to run when it dies is left in a cycle");
  }
}

// Of the real tensors, as the guard NoOverlap judges it.
bool RecorderState::Impl::InputsShareMemory() const {
  TensorMemory memory;
  for (const auto& [object, provenance] : known) {
    if (object != provenance.real.get() || !IsTensor(object) || IsFakeTensor(object)) continue;
    if (!memory.Add(TensorOf(object))) return true;
  }
  return false;
}

// A tensor without a gradient that is written by what has one carries a history out of the call. Leaves and what has a
// history of its own are written where no gradients are recorded: their fakes are leaves. Results that share memory
// with these (`.data`) have a history or none; a functional graph would give the input itself.
bool RecorderState::Impl::WritesUnderAutograd() const {
  const absl::flat_hash_set<int32_t> written = WrittenStorages(FakeSession::Current()->graph());
  absl::flat_hash_set<int32_t> given;
  for (const PyRef& output : graph_outputs) given.insert(FakeSession::MetaOf(TensorOf(output.get())).storage);
  for (const auto& [object, provenance] : known) {
    PyObject* fake = provenance.lifted.get();
    if (object != provenance.real.get() || !IsTensor(fake) || !IsFakeTensor(fake)) continue;
    const int32_t storage = FakeSession::MetaOf(TensorOf(fake)).storage;
    if (!written.contains(storage)) continue;
    if (!TensorOf(fake).is_leaf() || (TensorOf(fake).requires_grad() && given.contains(storage))) return true;
  }
  return false;
}

namespace {

bool WritesInferenceTensors(const absl::node_hash_map<PyObject*, Provenance>& known,
                            const absl::flat_hash_set<int32_t>& written) {
  for (const auto& [object, provenance] : known) {
    PyObject* fake = provenance.lifted.get();
    if (object != provenance.real.get() || !IsTensor(fake) || !IsFakeTensor(fake)) continue;
    if (TensorOf(object).is_inference() && written.contains(FakeSession::MetaOf(TensorOf(fake)).storage)) return true;
  }
  return false;
}

bool TakesData(const TorchGraph& graph) {
  return std::any_of(graph.calls.begin(), graph.calls.end(), [](const TorchCall& call) {
    return call.kind == TorchCall::Kind::kAttribute && PyUnicode_Compare(call.target.get(), Names().data) == 0;
  });
}

// So that each call fetches the generators from outside, of which the graph holds others (random_state.cc).
void LendGenerators(const absl::node_hash_map<PyObject*, Provenance>& known, const absl::flat_hash_set<PyObject*>& used,
                    ExitPlan& plan) {
  for (const auto& [object, provenance] : known) {
    PyObject* own = provenance.lifted.get();
    if (object == own || !used.contains(own)) continue;
    Recipe recipe{.kind = RecipeKind::kSource, .object = provenance.lifted, .children = {}, .attributes = {}};
    recipe.source = provenance.source;
    plan.recipes.push_back(std::move(recipe));
  }
}

}  // namespace

// What the fakes of inputs saw is what the program's own calls do; a graph writes each input once.
void RecorderState::Impl::NoteVersions() {
  const Graph& graph = session.graph();
  absl::flat_hash_set<int32_t> written = WrittenStorages(graph);
  for (const Node& node : graph.nodes) {
    if (!WritesRunningStatistics(node)) continue;
    for (size_t operand : {kBatchNormMean, kBatchNormVariance})
      written.insert(graph.meta(node.operands[operand].value).storage);
  }
  for (const LiftedInput& input : LiftedInputs()) {
    if (input.fake.is_inference() || !written.contains(FakeSession::MetaOf(input.fake).storage)) continue;
    recording->versions.emplace_back(input.position, static_cast<uint32_t>(input.fake._version()));
  }
}

// Of results that are looks at inputs, those that count with these: what `.data` gives does not.
void RecorderState::Impl::NoteOutputVersions() {
  const Graph& graph = session.graph();
  const absl::flat_hash_set<int32_t> written = WrittenStorages(graph);
  absl::flat_hash_map<int32_t, int64_t> of_inputs;  // by storage
  for (const LiftedInput& input : LiftedInputs()) {
    if (!input.fake.is_inference()) of_inputs.emplace(FakeSession::MetaOf(input.fake).storage, input.fake._version());
  }
  for (size_t i = 0; i < graph_outputs.size(); ++i) {
    const at::Tensor& output = TensorOf(graph_outputs[i].get());
    const int32_t storage = graph.meta(graph.outputs[i]).storage;
    if (output.is_inference() || !written.contains(storage)) continue;
    const auto input = of_inputs.find(storage);
    if (input != of_inputs.end() && input->second != output._version()) continue;
    recording->output_versions.emplace_back(i, static_cast<uint32_t>(output._version()));
  }
}

// Those that were not replaced by others (`.data` was set), by position.
std::vector<LiftedInput> RecorderState::Impl::LiftedInputs() const {
  absl::flat_hash_map<SourceId, size_t> positions;
  for (size_t i = 0; i < recording->inputs.size(); ++i) positions.emplace(recording->inputs[i], i);
  std::vector<LiftedInput> inputs;
  for (const auto& [object, provenance] : known) {
    PyObject* fake = provenance.lifted.get();
    if (object != provenance.real.get() || !IsTensor(fake) || !IsFakeTensor(fake)) continue;
    if (const auto row = positions.find(provenance.source); row != positions.end())
      inputs.push_back({row->second, TensorOf(fake)});
  }
  std::sort(inputs.begin(), inputs.end(), [](const auto& a, const auto& b) { return a.position < b.position; });
  return inputs;
}

void RecorderState::Impl::CollectOutputs() {
  Graph& graph = session.graph();
  if (!Gradients().HooksAreLeft()) return Break(BreakCode::kAutograd, "a hook that is removed or changes");
  GuardAbsoluteViews();
  for (const PyRef& output : graph_outputs) {
    const at::Tensor& tensor = TensorOf(output.get());
    graph.outputs.push_back(session.ValueOf(tensor));
    const TorchValueId id = TorchValue(tensor, false);
    if (id < 0) return Break(BreakCode::kInternalError, "a result that no recorded call made");
    recording->torch_graph.outputs.push_back(id);
    recording->needs_autograd |= tensor.requires_grad();
  }
  const bool mutates = WritesInPlace(graph);
  const bool writes_under_autograd = mutates && WritesUnderAutograd();
  if (mutates && recording->inputs.size() > 1) {
    recording->inputs_overlap = InputsShareMemory();
    if (!recording->inputs_overlap) AddGuard(GuardKind::kNoOverlap, kNoSource);
  }
  if (mutates && !recording->inputs_overlap) NoteVersions();
  const bool counts_apart = recording->inputs_overlap && TakesData(recording->torch_graph);
  if (counts_apart)
    recording->torch_level = "inputs that share memory are written, and `.data` counts writes of its own";
  if (mutates && !counts_apart) NoteOutputVersions();
  CheckDefaultDtype();
  recording->needs_autograd |= writes_under_autograd;
  if (changes_inference) recording->no_joint = "inference mode is entered or left inside";
  if (mutates && !entry_state.autograd.inference && WritesInferenceTensors(known, WrittenStorages(graph)))
    recording->torch_level = "an inference tensor is written, which inference mode alone may do";
  LendGenerators(known, used_generators, recording->exit_plan);
  if (!used_generators.empty()) recording->no_joint = "it draws from a generator that is passed to the operators";
  if (changes_random_state) recording->no_joint = "the state of a random generator is set inside";
  if (changes_dtype) recording->no_joint = "the default dtype is set inside";
  if (writes_under_autograd) recording->no_joint = "an input is written under autograd";
  if (recording->inputs_overlap) recording->no_joint = "inputs that share memory are written";
  if (recording->inputs_overlap && request.backward) BreakAtBackward();
  if (IsSymbolic()) FinishSymbols();
  if (broken() || !recording->needs_autograd || !request.backward) return;
  NoteCheckpointReads();
  if (broken()) return;
  if (!recording->no_joint.empty()) return BreakAtBackward();
  std::vector<LiftedInput> inputs = LiftedInputs();
  std::erase_if(inputs, [](const LiftedInput& input) { return !input.fake.requires_grad(); });
  std::vector<at::Tensor> outputs;
  for (const PyRef& output : graph_outputs) outputs.push_back(TensorOf(output.get()));
  absl::StatusOr<std::unique_ptr<JointGraph>> joint =
      RecordGradients(*recording, Gradients(), session, inputs, outputs, [&] { return !writes.empty(); });
  if (joint.ok()) {
    recording->joint = *std::move(joint);
  } else {
    recording->no_joint = std::string(joint.status().message());
    if (IsSymbolic()) StayStatic(recording->no_joint);
    BreakAtBackward();
  }
}

// Eager calls the function of a checkpoint once more in the backward: what it reads must be what it was.
void RecorderState::Impl::NoteCheckpointReads() {
  if (Gradients().checkpoints.empty()) return;
  recording->checkpoints = true;
  std::vector<std::pair<at::Tensor, int64_t>> arguments;
  for (const ProgramGradients::Checkpoint& checkpoint : Gradients().checkpoints)
    arguments.insert(arguments.end(), checkpoint.arguments.begin(), checkpoint.arguments.end());
  for (const auto& [argument, version] : arguments) {
    if (argument._version() == version) continue;
    Break(BreakCode::kAutograd, "a checkpoint, which is given what is written behind it");
    recording->stops = std::move(Gradients().checkpoint_stops);
    return;
  }
  for (const auto& [cell, value] : checkpoint_cells) {
    const auto written = cell_values.find(cell.get());
    PyObject* now = written == cell_values.end() ? PyCell_GET(cell.get()) : written->second.value.get();
    if (now == value.get()) continue;
    Break(BreakCode::kAutograd, "a checkpoint whose function reads a variable that changes behind it");
    recording->stops = std::move(Gradients().checkpoint_stops);
    return;
  }
  for (const Guard& guard : recording->guards.guards()) {
    const bool of_call = guard.kind == GuardKind::kTorchState || guard.kind == GuardKind::kPlainLeaf ||
                         guard.kind == GuardKind::kNoOverlap || guard.kind == GuardKind::kSameObject ||
                         guard.kind == GuardKind::kNotSameObject;
    if (!of_call && checkpoint_reads.contains(guard.source)) recording->checkpoint_reads.Add(guard);
  }
}

// A graph with a backward that the program ran, which would run call by call or under torch's own autograd: better is
// one that ends in front of it, whose backward is compiled.
void RecorderState::Impl::BreakAtBackward() {
  if (!Gradients().runs_backward) return;
  Break(BreakCode::kAutograd, "a backward: " + recording->no_joint);
  recording->stops = std::move(Gradients().backward_stops);
}

std::unique_ptr<Recording> RecorderState::Impl::Finish(PyObject* result) {
  RecordingHook::Arm(false);
  PyRef owned = PyRef::Steal(result);
  const bool in_the_middle = std::exchange(stopped, false);
  if (in_the_middle) PyErr_Clear();  // what unwound the frames
  if (!broken() && CheckFailure() == 0) {
    if (!owned && !in_the_middle) {
      PyRef raised = TakeException();
      PyRef text = PyRef::Steal(raised ? PyObject_Str(raised.get()) : nullptr);
      const char* message = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
      PyErr_Clear();
      Break(BreakCode::kRaised, !raised              ? ""
                                : message == nullptr ? Py_TYPE(raised.get())->tp_name
                                                     : std::string(Py_TYPE(raised.get())->tp_name) + ": " + message);
      recording->stops = StopsOfRaise(raised.get());
    } else {
      recording->exit_plan.result = in_the_middle ? StateRecipe(0, &recording->resume) : RecipeFor(owned.get());
      if (!broken()) BuildEffects();
      if (!broken()) CollectOutputs();
    }
  }
  PyErr_Clear();
  RestoreTorchState();
  std::unique_ptr<Recording> done = Result();
  recording = std::make_unique<Recording>();
  owned = {};
  Drop();
  return done;
}

// What the recording made dies while the hook still sees frames: generators that are closed now must not run their
// `finally` natively.
void RecorderState::Impl::Drop() {
  stopped = dropping = true;
  const bool armed = RecordingHook::Arm(true);
  // In the program these objects do not exist: neither now nor when their cycles are collected is their __del__ to run.
  for (const PyRef& reference : finalizable) ShimMarkFinalized(PyWeakref_GetObject(reference.get()));
  finalizable.clear();
  left.clear();
  program_gradients.reset();
  recipe_of.clear();
  recipe_objects.clear();
  graph_outputs.clear();
  writes.clear();
  cell_values.clear();
  native_attributes.clear();
  shadows.clear();
  known.clear();
  arrays.clear();
  kept_alive.clear();
  RecordingHook::Arm(armed);
  PyErr_Clear();
}

std::unique_ptr<Recording> RecorderState::Impl::Result() {
  if (broken()) {
    recording->exit_plan = {};
    recording->torch_graph = {};
    recording->inputs.clear();
    recording->resume = {};
  } else {
    recording->graph = std::move(session.graph());
  }
  return std::move(recording);
}

}  // namespace framejit
