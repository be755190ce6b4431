#include "frame_eval/guards/flat_list.h"

#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

#include "frame_eval/cpython/monitoring.h"
#include "frame_eval/cpython/shim.h"

namespace framejit {
namespace {

// Above this many nodes, walking an argument's subtree on each call costs more than comparing the argument.
constexpr size_t kMaxWalkedSubtree = 256;

uint64_t Word(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// Whether `__class__` of an instance of `type` can be assigned.
bool ClassCanChange(PyTypeObject* type) {
  return PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE) || PyType_IsSubtype(type, &PyModule_Type);
}

bool ChecksKeyOrder(const GuardTree& tree, const GuardNode& node) {
  auto first = tree.checks.begin() + node.first_check;
  return std::any_of(first, first + node.check_count,
                     [](const GuardCheck& check) { return check.kind == GuardKind::kKeysAre; });
}

const void* StorageOf(PyObject* object) {
  const at::Tensor* tensor = TensorOrNull(object);
  return tensor == nullptr || !tensor->has_storage() ? nullptr : tensor->storage().unsafeGetStorageImpl();
}

}  // namespace

void FlatList::AddWord(const void* address, uint64_t expected, int32_t owner) {
  if (!seen_.insert(reinterpret_cast<uintptr_t>(address)).second) return;
  entries_.push_back({reinterpret_cast<uintptr_t>(address), expected});
  owners_.push_back(owner);
}

void FlatList::AddWord32(const void* address, uint32_t expected, int32_t owner) {
  if (!seen_.insert(reinterpret_cast<uintptr_t>(address)).second) return;
  entries_.push_back({reinterpret_cast<uintptr_t>(address) | kWord32, expected});
  owners_.push_back(owner);
}

void FlatList::AddOperation(Operation operation, int32_t operand, int32_t owner) {
  entries_.push_back({kOperation, static_cast<uint64_t>(operation) << 32 | static_cast<uint32_t>(operand)});
  owners_.push_back(owner);
}

void FlatList::Rebuild(const GuardTree& tree, const CallState& state, const GuardObjects& objects) {
  size_t count = tree.nodes.size();
  is_volatile_.resize(count, false);
  walk_argument_.resize(count, false);
  stable_.assign(count, false);
  dynamic_.assign(count, false);
  is_fresh_.assign(count, false);
  for (auto* list : {&fresh_, &pinned_, &owners_, &pairs_, &dynamic_nodes_, &fresh_tensors_}) list->clear();
  watches_.Clear();
  entries_.clear();
  volatile_dicts_.clear();
  tensors_.clear();
  seen_.clear();
  function_ = state.function;
  AddArguments(tree, state, objects);
  AddAmbient(tree);
  for (size_t i = 0; i < count; ++i) {
    if (!is_fresh_[i]) AddNode(tree, objects, static_cast<int32_t>(i));
  }
  AddTensors(tree, objects);
  for (size_t i = 0; i < count; ++i) {
    if (dynamic_[i]) dynamic_nodes_.push_back(static_cast<int32_t>(i));
  }
  for (size_t i = 0; i < tree.pairs.size(); ++i) {
    const GuardCheck& pair = tree.pairs[i];
    if (dynamic_[static_cast<size_t>(pair.node)] || dynamic_[static_cast<size_t>(pair.other)]) {
      pairs_.push_back(static_cast<int32_t>(i));
    }
  }
  seen_.clear();
}

// Arguments are new objects on each call, so their subtrees are walked, but for arguments that carry much state (self),
// which are compared. A function that varies is like an argument; its address may be another function's by now. A tuple
// that is an argument (the state of frames that were left is one) is walked, and its items are like arguments.
void FlatList::AddArguments(const GuardTree& tree, const CallState& state, const GuardObjects& objects) {
  size_t count = tree.nodes.size();
  std::vector<int32_t> root(count, -1);
  std::vector<size_t> subtree(count, 0);
  std::vector<bool> has_instance(count, false);
  std::vector<bool> is_carrier(count, false);
  auto is_root = [&](const GuardNode& node) {
    if (node.parent >= 0) return static_cast<bool>(is_carrier[static_cast<size_t>(node.parent)]);
    return node.source.kind == SourceKind::kArgument ||
           (node.source.kind == SourceKind::kFunction && state.function_varies);
  };
  for (size_t i = 0; i < count; ++i) {
    const GuardNode& node = tree.nodes[i];
    root[i] = is_root(node) ? static_cast<int32_t>(i) : node.parent >= 0 ? root[static_cast<size_t>(node.parent)] : -1;
    if (root[i] < 0) continue;
    is_carrier[i] = root[i] == static_cast<int32_t>(i) && objects[i] != nullptr && PyTuple_CheckExact(objects[i]);
    ++subtree[static_cast<size_t>(root[i])];
    if (node.source.kind == SourceKind::kInstanceDict) has_instance[static_cast<size_t>(root[i])] = true;
  }
  for (size_t i = 0; i < count; ++i) {
    if (root[i] < 0) continue;
    size_t argument = static_cast<size_t>(root[i]);
    bool walk = !has_instance[argument] || (walk_argument_[argument] && subtree[argument] <= kMaxWalkedSubtree) ||
                tree.nodes[argument].source.kind == SourceKind::kFunction;
    is_fresh_[i] = dynamic_[i] = walk;
    if (walk) fresh_.push_back(static_cast<int32_t>(i));
    if (!walk && argument == i) pinned_.push_back(static_cast<int32_t>(i));
  }
}

void FlatList::AddAmbient(const GuardTree& tree) {
  for (const GuardCheck& check : tree.ambient) {
    auto* type = reinterpret_cast<PyTypeObject*>(check.payload.get());
    if (PyObject** word = check.payload.liveness_word()) AddWord(word, Word(type), -1);
    AddType(type, static_cast<uint32_t>(check.number), -1);
  }
}

void FlatList::AddType(PyTypeObject* type, uint32_t version, int32_t owner) {
  const void* tag = &type->tp_version_tag;
  if (seen_.contains(reinterpret_cast<uintptr_t>(tag))) return;
  if (watches_.WatchType(type, owner))
    seen_.insert(reinterpret_cast<uintptr_t>(tag));
  else
    AddWord32(tag, version, owner);
}

namespace {

// Whether what the node checks of `object` may become another without a change to whatever holds the object.
bool CanChangeInPlace(const GuardTree& tree, const GuardNode& node, PyObject* object) {
  for (int32_t c = 0; c < node.check_count; ++c) {
    switch (tree.checks[static_cast<size_t>(node.first_check + c)].kind) {
      case GuardKind::kLengthIs:
      case GuardKind::kSetEquals:
      case GuardKind::kFunctionCode:
      case GuardKind::kKeyPresent:
      case GuardKind::kKeyAbsent:
      case GuardKind::kKeysAre:
      case GuardKind::kPlainLeaf:
        return true;
      case GuardKind::kTypeIs:
        if (ClassCanChange(Py_TYPE(object))) return true;
        break;
      case GuardKind::kTypeVersion:
      case GuardKind::kConstantIs:
      case GuardKind::kIdentityIs:
      case GuardKind::kSameObject:
      case GuardKind::kNotSameObject:
      case GuardKind::kTensorMatches:  // tensors_
      case GuardKind::kNoOverlap:
      case GuardKind::kArgumentAbsent:
      case GuardKind::kTorchState:
        break;
    }
  }
  return false;
}

}  // namespace

void FlatList::AddNode(const GuardTree& tree, const GuardObjects& objects, int32_t index) {
  size_t i = static_cast<size_t>(index);
  const GuardNode& node = tree.nodes[i];
  PyObject* object = objects[i];
  size_t parent = static_cast<size_t>(std::max(node.parent, 0));
  PyObject* parent_object = node.parent < 0 ? nullptr : objects[parent];
  bool parent_stable = node.parent >= 0 && stable_[parent];
  if (object == nullptr && node.source.kind != SourceKind::kArgument) {
    AddOperation(Operation::kRefetch, index, index);  // must be absent again
    return;
  }
  bool refetch = false;
  switch (node.source.kind) {
    case SourceKind::kArgument:  // a pinned one: compared and checked before the entries
      break;
    case SourceKind::kFunction:
      stable_[i] = true;
      break;
    case SourceKind::kPinned:
      stable_[i] = true;
      if (PyObject** word = node.source.key.liveness_word()) AddWord(word, Word(object), index);
      break;
    case SourceKind::kInstanceDict:
      AddWord(_PyObject_GetDictPtr(parent_object), Word(object), index);
      break;
    case SourceKind::kDictItem:
      // A volatile dict checks its leaves itself, when they may be other objects. What has children below might be
      // another object at the same address, and what can change in place is no matter of the dict's version.
      refetch = is_volatile_[parent] && (!node.leaf() || CanChangeInPlace(tree, node, object));
      stable_[i] = !refetch;
      dynamic_[i] = is_volatile_[parent] && node.leaf();
      break;
    case SourceKind::kTypeAttribute: {
      auto* type = reinterpret_cast<PyTypeObject*>(parent_object);
      refetch = type->tp_version_tag == 0;
      stable_[i] = !refetch;
      if (!refetch) AddType(type, type->tp_version_tag, index);
      break;
    }
    case SourceKind::kGlobals:
    case SourceKind::kBuiltins:
    case SourceKind::kCell:
    case SourceKind::kTupleItem:
    case SourceKind::kMethodSelf:
    case SourceKind::kMethodFunction:
      stable_[i] = parent_stable;
      refetch = !parent_stable && !std::binary_search(pinned_.begin(), pinned_.end(), index);
      break;
    case SourceKind::kAttribute:
    case SourceKind::kListItem:
    case SourceKind::kDequeItem:
    case SourceKind::kCellContents:
    case SourceKind::kDefault:
    case SourceKind::kKwDefault:
    case SourceKind::kPartialField:
    case SourceKind::kIteratorParts:
    case SourceKind::kNativeValue:
    case SourceKind::kWeakReferent:
    case SourceKind::kTensorGrad:
      refetch = true;
      break;
  }
  if (refetch) {
    AddOperation(Operation::kRefetch, index, index);
    if (node.leaf()) dynamic_[i] = true;
  }
  if (stable_[i] && !dynamic_[i]) AddStableChecks(tree, objects, index);
  // The next object of a dynamic node is looked at itself, and this one's version may be gone by then.
  if (dynamic_[i]) return;
  if (object != nullptr && PyDict_Check(object) && NeedsDictVersion(tree, index)) {
    AddDict(tree, objects, index);
  } else if (node.source.kind == SourceKind::kInstanceDict && node.check_count > 0) {
    AddOperation(Operation::kRecheck, index, index);
  }
}

bool FlatList::NeedsDictVersion(const GuardTree& tree, int32_t index) const {
  const GuardNode& node = tree.nodes[static_cast<size_t>(index)];
  for (int32_t c = 0; c < node.child_count; ++c) {
    int32_t child = tree.children[static_cast<size_t>(node.first_child + c)];
    if (tree.nodes[static_cast<size_t>(child)].source.kind == SourceKind::kDictItem) return true;
  }
  for (int32_t c = 0; c < node.check_count; ++c) {
    switch (tree.checks[static_cast<size_t>(node.first_check + c)].kind) {
      case GuardKind::kKeyPresent:
      case GuardKind::kKeyAbsent:
      case GuardKind::kKeysAre:
      case GuardKind::kLengthIs:
        return true;
      case GuardKind::kTypeIs:
      case GuardKind::kTypeVersion:
      case GuardKind::kConstantIs:
      case GuardKind::kIdentityIs:
      case GuardKind::kSameObject:
      case GuardKind::kNotSameObject:
      case GuardKind::kTensorMatches:
      case GuardKind::kPlainLeaf:
      case GuardKind::kNoOverlap:
      case GuardKind::kSetEquals:
      case GuardKind::kFunctionCode:
      case GuardKind::kArgumentAbsent:
      case GuardKind::kTorchState:
        break;
    }
  }
  return false;
}

void FlatList::AddDict(const GuardTree& tree, const GuardObjects& objects, int32_t index) {
  size_t i = static_cast<size_t>(index);
  PyObject* dict = objects[i];
  const uint64_t* version = ShimDictVersionSlot(dict);
  if (version == nullptr) is_volatile_[i] = true;
  if (!is_volatile_[i]) {
    if (!watches_.WatchDict(dict, index)) AddWord(version, *version, index);
    // The order of an OrderedDict can change without its version; its length and items cannot. Every module has several
    // of them (its hooks), guarded by length alone.
    if (PyODict_Check(dict) && ChecksKeyOrder(tree, tree.nodes[i])) AddOperation(Operation::kRecheck, index, index);
    return;
  }
  volatile_dicts_.push_back({index, ShimDictVersion(dict)});
  AddOperation(Operation::kVolatileDict, static_cast<int32_t>(volatile_dicts_.size() - 1), index);
}

void FlatList::AddStableChecks(const GuardTree& tree, const GuardObjects& objects, int32_t index) {
  const GuardNode& node = tree.nodes[static_cast<size_t>(index)];
  PyObject* object = objects[static_cast<size_t>(index)];
  if (object == nullptr) return;
  for (int32_t c = 0; c < node.check_count; ++c) {
    const GuardCheck& check = tree.checks[static_cast<size_t>(node.first_check + c)];
    switch (check.kind) {
      case GuardKind::kTypeIs:
        if (ClassCanChange(Py_TYPE(object))) AddWord(&object->ob_type, Word(Py_TYPE(object)), index);
        break;
      case GuardKind::kLengthIs:
        if (PyList_Check(object)) {
          AddWord(&reinterpret_cast<PyVarObject*>(object)->ob_size, static_cast<uint64_t>(Py_SIZE(object)), index);
        } else if (!PyTuple_Check(object) && !PyDict_Check(object)) {
          AddOperation(Operation::kRecheck, index, index);
        }
        break;
      case GuardKind::kFunctionCode:
        AddWord(&reinterpret_cast<PyFunctionObject*>(object)->func_code, Word(check.identity), index);
        // What a tool asked for stays where it is when it is asked for no longer.
        if (void* const* slot = ShimMonitoringSlot(reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(object)))) {
          if (*slot != nullptr) AddOperation(Operation::kRecheck, index, index);
          if (*slot == nullptr) AddWord(slot, 0, index);
        }
        break;
      case GuardKind::kSetEquals:
      case GuardKind::kPlainLeaf:
        AddOperation(Operation::kRecheck, index, index);
        break;
      case GuardKind::kTypeVersion:
      case GuardKind::kConstantIs:  // the same object, and constants do not change
      case GuardKind::kIdentityIs:
      case GuardKind::kSameObject:  // pairs_
      case GuardKind::kNotSameObject:
      case GuardKind::kTensorMatches:  // tensors_
      case GuardKind::kNoOverlap:
      case GuardKind::kKeyPresent:  // the dict's version
      case GuardKind::kKeyAbsent:
      case GuardKind::kKeysAre:
      case GuardKind::kArgumentAbsent:
      case GuardKind::kTorchState:
        break;
    }
  }
}

void FlatList::AddTensors(const GuardTree& tree, const GuardObjects& objects) {
  stable_storages_.clear();
  for (const GuardCheck& check : tree.checks) {
    if (check.kind != GuardKind::kTensorMatches) continue;
    size_t node = static_cast<size_t>(check.node);
    // Tensors in fresh or refetched places are checked there; those in volatile dicts may change under any version.
    if (is_fresh_[node] || !stable_[node]) {
      if (dynamic_[node]) {
        fresh_tensors_.push_back(check.node);
      } else if (tree.no_overlap) {
        stable_storages_.insert(StorageOf(objects[node]));
      }
      continue;
    }
    if (dynamic_[node]) {
      fresh_tensors_.push_back(check.node);
    } else if (tree.no_overlap) {
      stable_storages_.insert(StorageOf(objects[node]));
    }
    tensors_.push_back({check.node, check.tensor, dynamic_[node] ? nullptr : StorageOf(objects[node])});
  }
}

bool FlatList::CheckVolatileDict(const GuardTree& tree, VolatileDict& dict, GuardObjects& objects) {
  const GuardNode& node = tree.nodes[static_cast<size_t>(dict.node)];
  PyObject* object = objects[static_cast<size_t>(dict.node)];
  uint64_t version = ShimDictVersion(object);
  if (version == dict.version && !PyODict_Check(object)) return true;
  if (!tree.NodeHolds(dict.node, object)) return false;
  for (int32_t c = 0; c < node.child_count; ++c) {
    int32_t child_index = tree.children[static_cast<size_t>(node.first_child + c)];
    const GuardNode& child = tree.nodes[static_cast<size_t>(child_index)];
    if (child.source.kind != SourceKind::kDictItem) continue;
    PyObject* key = child.source.key.get();
    PyObject* item = key == nullptr ? nullptr : DictItem(object, key, child.source.hash);
    if (!child.leaf()) {
      if (item != objects[static_cast<size_t>(child_index)]) return false;
      continue;
    }
    if (!tree.NodeHolds(child_index, item)) return false;
    objects[static_cast<size_t>(child_index)] = item;
  }
  dict.version = version;
  return true;
}

bool FlatList::RunOperation(const GuardTree& tree, uint64_t operand, const CallState& state, GuardObjects& objects,
                            std::vector<PyRef>& owned) {
  int32_t index = static_cast<int32_t>(operand & 0xffffffffu);
  switch (static_cast<Operation>(operand >> 32)) {
    case Operation::kRefetch: {
      const GuardNode& node = tree.nodes[static_cast<size_t>(index)];
      PyObject* parent = node.parent < 0 ? nullptr : objects[static_cast<size_t>(node.parent)];
      PyObject* object = Fetch(node.source, parent, state, owned);
      if (!node.leaf() && object != objects[static_cast<size_t>(index)]) return false;
      objects[static_cast<size_t>(index)] = object;
      return tree.NodeHolds(index, object);
    }
    case Operation::kRecheck:
      return tree.NodeHolds(index, objects[static_cast<size_t>(index)]);
    case Operation::kVolatileDict:
      return CheckVolatileDict(tree, volatile_dicts_[static_cast<size_t>(index)], objects);
  }
  return false;
}

void FlatList::OnMismatch(size_t entry) {
  int32_t owner = owners_[entry];
  if (owner >= 0 && (entries_[entry].address & kOperation) == 0) is_volatile_[static_cast<size_t>(owner)] = true;
}

FlatList::Outcome FlatList::Check(const GuardTree& tree, const CallState& state, GuardObjects& objects,
                                  std::vector<PyRef>& owned) {
  if (state.function != function_ && !state.function_varies) return Outcome::kMismatch;
  for (int32_t index : fresh_) {
    size_t i = static_cast<size_t>(index);
    const GuardNode& node = tree.nodes[i];
    PyObject* parent = node.parent < 0 ? nullptr : objects[static_cast<size_t>(node.parent)];
    objects[i] = Fetch(node.source, parent, state, owned);
    if (!tree.NodeHolds(index, objects[i])) return Outcome::kFail;
  }
  for (int32_t index : pinned_) {
    size_t i = static_cast<size_t>(index);
    const int32_t parent = tree.nodes[i].parent;  // a tuple that was fetched above
    PyObject* object =
        Fetch(tree.nodes[i].source, parent < 0 ? nullptr : objects[static_cast<size_t>(parent)], state, owned);
    if (object != objects[i]) {
      walk_argument_[i] = true;
      return Outcome::kMismatch;
    }
    if (!tree.NodeHolds(index, object)) return Outcome::kFail;
  }
  if (watches_.tripped()) {
    if (watches_.tripped_by() >= 0) is_volatile_[static_cast<size_t>(watches_.tripped_by())] = true;
    return Outcome::kMismatch;
  }
  const Entry* entries = entries_.data();
  for (size_t i = 0, count = entries_.size(); i < count; ++i) {
    const Entry entry = entries[i];
    bool same;
    if ((entry.address & (kWord32 | kOperation)) == 0) {
      same = *reinterpret_cast<const uint64_t*>(entry.address) == entry.expected;
    } else if (entry.address == kOperation) {
      same = RunOperation(tree, entry.expected, state, objects, owned);
    } else {
      same = *reinterpret_cast<const uint32_t*>(entry.address & ~kWord32) == entry.expected;
    }
    if (!same) {
      OnMismatch(i);
      return Outcome::kMismatch;
    }
  }
  for (const StableTensor& row : tensors_) {
    PyObject* object = objects[static_cast<size_t>(row.node)];
    const at::Tensor& tensor = THPVariable_Unpack(object);
    if (!tree.tensor_checks[static_cast<size_t>(row.check)].Matches(tensor)) return Outcome::kFail;
  }
  for (int32_t pair : pairs_) {
    if (!tree.PairHolds(tree.pairs[static_cast<size_t>(pair)], objects)) return Outcome::kFail;
  }
  if (tree.no_overlap && !OverlapUnchanged(tree, objects)) return Outcome::kMismatch;
  return Outcome::kPass;
}

// The stable inputs were disjoint at the last walk, which is a statement about their storages' addresses alone; so it
// is enough that these are unchanged and that the few dynamic inputs are none of them and disjoint among themselves.
bool FlatList::OverlapUnchanged(const GuardTree& tree, const GuardObjects& objects) const {
  for (const StableTensor& row : tensors_) {
    if (row.storage == nullptr) continue;
    if (THPVariable_Unpack(objects[static_cast<size_t>(row.node)]).storage().unsafeGetStorageImpl() != row.storage) {
      return false;
    }
  }
  for (size_t a = 0; a < fresh_tensors_.size(); ++a) {
    PyObject* object = objects[static_cast<size_t>(fresh_tensors_[a])];
    const at::Tensor* tensor = TensorOrNull(object);
    if (tensor == nullptr || !tensor->has_storage()) continue;
    const c10::Storage& storage = tensor->storage();
    if (stable_storages_.contains(storage.unsafeGetStorageImpl())) return false;
    for (size_t b = 0; b < a; ++b) {
      const at::Tensor* other = TensorOrNull(objects[static_cast<size_t>(fresh_tensors_[b])]);
      if (other == nullptr || !other->has_storage()) continue;
      if (other->storage().unsafeGetStorageImpl() == storage.unsafeGetStorageImpl()) return false;
      if (storage.nbytes() != 0 && other->storage().data() == storage.data()) return false;
    }
  }
  return true;
}

}  // namespace framejit
