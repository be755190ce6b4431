#include "frame_eval/guards/guard_tree.h"

#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/switches.h"
#include "frame_eval/cpython/monitoring.h"
#include "frame_eval/guards/tensor_memory.h"

namespace framejit {
namespace {

const char* const kMessages[] = {
#define GUARD(kind, operands, cost, message) message,
#include "frame_eval/guards/guards.def"
#undef GUARD
};

const char* CostName(GuardCost cost) {
  switch (cost) {
    case GuardCost::kFree:
      return "free";
    case GuardCost::kCheap:
      return "cheap";
    case GuardCost::kTensor:
      return "tensor";
    case GuardCost::kState:
      return "state";
  }
  return "";
}

bool IsDictKeyKind(SourceKind kind) { return kind == SourceKind::kDictItem || kind == SourceKind::kKwDefault; }

// The version of a type's attributes, assigned by CPython at the first lookup; 0 where CPython has run out of versions.
unsigned TypeVersion(PyTypeObject* type) {
  if (type->tp_version_tag == 0) {
    PyRef name = PyRef::Steal(PyUnicode_InternFromString("__class__"));
    if (name) _PyType_Lookup(type, name.get());
    if (PyErr_Occurred() != nullptr) PyErr_Clear();
  }
  return type->tp_version_tag;
}

bool HashKey(PyObject* key, Py_hash_t& hash) {
  hash = PyObject_Hash(key);
  if (hash != -1) return true;
  PyErr_Clear();
  return false;
}

// Nodes for the guarded and fetched sources and everything above them.
class TreeBuilder {
 public:
  TreeBuilder(const SourceTable& sources, GuardTree& tree)
      : sources_(sources), tree_(tree), needed_(sources.size(), false), node_of_(sources.size(), -1) {}

  void Need(SourceId id) {
    for (; id != kNoSource && !needed_[static_cast<size_t>(id)]; id = sources_[id].parent) {
      needed_[static_cast<size_t>(id)] = true;
      if (!SourceHasParent(sources_[id].kind)) break;
    }
  }

  absl::Status AddNodes() {
    for (SourceId id = 0; id < static_cast<SourceId>(sources_.size()); ++id) {
      if (!needed_[static_cast<size_t>(id)]) continue;
      const Source& source = sources_[id];
      GuardNode node;
      node.source.kind = source.kind;
      node.source.index = source.index;
      node.source.key = Holder(source.key.get());
      if (IsDictKeyKind(source.kind) && !HashKey(source.key.get(), node.source.hash)) {
        return absl::FailedPreconditionError(absl::StrCat("unhashable key in ", sources_.ToString(id)));
      }
      if (SourceHasParent(source.kind)) node.parent = NodeOf(source.parent);
      node_of_[static_cast<size_t>(id)] = static_cast<int32_t>(tree_.nodes.size());
      tree_.nodes.push_back(std::move(node));
    }
    LinkChildren();
    return absl::OkStatus();
  }

  int32_t NodeOf(SourceId id) const { return id == kNoSource ? -1 : node_of_[static_cast<size_t>(id)]; }

 private:
  void LinkChildren() {
    for (const GuardNode& node : tree_.nodes) {
      if (node.parent >= 0) ++tree_.nodes[static_cast<size_t>(node.parent)].child_count;
    }
    int32_t position = 0;
    for (GuardNode& node : tree_.nodes) {
      node.first_child = position;
      position += node.child_count;
      node.child_count = 0;
    }
    tree_.children.resize(static_cast<size_t>(position));
    for (size_t i = 0; i < tree_.nodes.size(); ++i) {
      if (tree_.nodes[i].parent < 0) continue;
      GuardNode& parent = tree_.nodes[static_cast<size_t>(tree_.nodes[i].parent)];
      tree_.children[static_cast<size_t>(parent.first_child + parent.child_count++)] = static_cast<int32_t>(i);
    }
  }

  const SourceTable& sources_;
  GuardTree& tree_;
  std::vector<bool> needed_;
  std::vector<int32_t> node_of_;
};

// Adds the storage offset to the check that the tensor has.
bool RequireOffset(const Guard& guard, const TreeBuilder& builder, GuardTree& tree) {
  for (const GuardCheck& check : tree.checks) {
    if (check.kind != GuardKind::kTensorMatches || check.node != builder.NodeOf(guard.source)) continue;
    tree.tensor_checks[static_cast<size_t>(check.tensor)].RequireOffset(guard.number - 1);
    return true;
  }
  return false;
}

absl::StatusOr<GuardCheck> MakeCheck(const Guard& guard, const TreeBuilder& builder, GuardTree& tree) {
  GuardCheck check;
  check.kind = guard.kind;
  check.node = builder.NodeOf(guard.source);
  check.other = builder.NodeOf(guard.other);
  check.number = guard.number;
  PyObject* payload = guard.payload.get();
  check.identity = payload;
  if (guard.kind == GuardKind::kTensorMatches) {
    const at::Tensor* tensor = payload == nullptr ? nullptr : TensorOrNull(payload);
    if (tensor == nullptr) return absl::InternalError("a tensor guard without a tensor");
    check.tensor = static_cast<int32_t>(tree.tensor_checks.size());
    tree.tensor_checks.emplace_back(*tensor);
    if (guard.number < 0) tree.tensor_checks.back().LeaveSizesOpen();
    check.identity = nullptr;
    return check;
  }
  check.payload = Holder(payload);
  if (guard.kind == GuardKind::kKeyPresent || guard.kind == GuardKind::kKeyAbsent) {
    if (payload == nullptr || !HashKey(payload, check.hash))
      return absl::InternalError("a key guard without a hashable key");
  }
  if (guard.kind == GuardKind::kTypeVersion) {
    if (payload == nullptr || !PyType_Check(payload)) return absl::InternalError("a type guard without a type");
    if (check.number == 0) check.number = TypeVersion(reinterpret_cast<PyTypeObject*>(payload));
    if (check.number == 0) return absl::ResourceExhaustedError("CPython has run out of type versions");
  }
  return check;
}

}  // namespace

absl::StatusOr<GuardTree> GuardTree::Make(const SourceTable& sources, const GuardList& guards,
                                          absl::Span<const SourceId> fetch_sources,
                                          std::vector<std::string> argument_names) {
  GuardTree tree;
  tree.argument_names = std::move(argument_names);
  TreeBuilder builder(sources, tree);
  for (const Guard& guard : guards.guards()) {
    builder.Need(guard.source);
    builder.Need(guard.other);
  }
  for (SourceId id : fetch_sources) builder.Need(id);
  if (absl::Status status = builder.AddNodes(); !status.ok()) return status;
  for (SourceId id : fetch_sources) {
    int32_t node = builder.NodeOf(id);
    if (node < 0) return absl::InternalError("a fetched source that does not exist");
    tree.fetch.push_back(node);
    tree.nodes[static_cast<size_t>(node)].required = true;
  }
  for (const Guard& guard : guards.guards()) {
    if (IsSwitchedOff("guard", GuardKindName(guard.kind))) continue;
    if (guard.kind == GuardKind::kTorchState) {
      tree.torch_state = TorchState::Capture();
      continue;
    }
    if (guard.kind == GuardKind::kNoOverlap) {
      tree.no_overlap = true;
      continue;
    }
    if (guard.kind == GuardKind::kTensorMatches && guard.number > 0) {
      if (!RequireOffset(guard, builder, tree)) return absl::InternalError("an offset of a tensor without a guard");
      continue;
    }
    absl::StatusOr<GuardCheck> check = MakeCheck(guard, builder, tree);
    if (!check.ok()) return check.status();
    if (check->kind == GuardKind::kTypeVersion) {
      tree.ambient.push_back(*std::move(check));
    } else if (check->node < 0) {
      return absl::InternalError(absl::StrCat("a guard without a source: ", std::string(GuardKindName(guard.kind))));
    } else if (check->other >= 0) {
      tree.pairs.push_back(*std::move(check));
    } else {
      tree.checks.push_back(*std::move(check));
    }
  }
  std::stable_sort(tree.checks.begin(), tree.checks.end(),
                   [](const GuardCheck& a, const GuardCheck& b) { return a.node < b.node; });
  for (size_t i = 0; i < tree.checks.size(); ++i) {
    GuardNode& node = tree.nodes[static_cast<size_t>(tree.checks[i].node)];
    if (node.check_count++ == 0) node.first_check = static_cast<int32_t>(i);
  }
  return tree;
}

bool GuardTree::Holds(const GuardCheck& check, PyObject* object) const {
  if (check.kind == GuardKind::kArgumentAbsent) return object == nullptr;
  if (check.kind == GuardKind::kIdentityIs && check.identity == nullptr) return object == nullptr;
  if (object == nullptr) return false;
  switch (check.kind) {
    case GuardKind::kTypeIs:
      return reinterpret_cast<PyObject*>(Py_TYPE(object)) == check.payload.get();
    case GuardKind::kConstantIs:
      return ConstantsEqual(check.payload.get(), object);
    case GuardKind::kIdentityIs:
      return check.payload.get() == object;
    case GuardKind::kTensorMatches:
      return tensor_checks[static_cast<size_t>(check.tensor)].Matches(object);
    case GuardKind::kPlainLeaf: {
      const at::Tensor* tensor = TensorOrNull(object);
      return tensor != nullptr && IsPlainLeaf(*tensor, check.number != 0);
    }
    case GuardKind::kKeyPresent:
    case GuardKind::kKeyAbsent: {
      PyObject* key = check.payload.get();
      if (!PyDict_Check(object)) return false;
      // A key that is gone cannot be in a dict that would hold it.
      bool present = key != nullptr && DictItem(object, key, check.hash) != nullptr;
      return PyErr_Occurred() == nullptr && present == (check.kind == GuardKind::kKeyPresent);
    }
    case GuardKind::kLengthIs:
      return BuiltinLength(object) == check.number;
    case GuardKind::kKeysAre:
      return PyDict_Check(object) && DictKeysAre(object, check.payload.get());
    case GuardKind::kSetEquals:
      return SetEqualsConstants(object, check.payload.get());
    case GuardKind::kFunctionCode:
      return PyFunction_Check(object) && PyFunction_GET_CODE(object) == check.payload.get() &&
             !ShimIsMonitored(reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(object)));
    case GuardKind::kArgumentAbsent:
    case GuardKind::kTypeVersion:
    case GuardKind::kSameObject:
    case GuardKind::kNotSameObject:
    case GuardKind::kNoOverlap:
    case GuardKind::kTorchState:
      return true;  // not checks of one object; they are checked where they are kept
  }
  return false;
}

bool GuardTree::NodeHolds(int32_t node, PyObject* object, const GuardCheck** failed) const {
  const GuardNode& row = nodes[static_cast<size_t>(node)];
  if (row.required && object == nullptr) return false;
  for (int32_t i = 0; i < row.check_count; ++i) {
    const GuardCheck& check = checks[static_cast<size_t>(row.first_check + i)];
    if (Holds(check, object)) continue;
    if (failed != nullptr) *failed = &check;
    return false;
  }
  return true;
}

bool GuardTree::PairHolds(const GuardCheck& check, const GuardObjects& objects) const {
  bool same = objects[static_cast<size_t>(check.node)] == objects[static_cast<size_t>(check.other)];
  return same == (check.kind == GuardKind::kSameObject);
}

bool GuardTree::TypeVersionHolds(const GuardCheck& check) {
  auto* type = reinterpret_cast<PyTypeObject*>(check.payload.get());
  return type != nullptr && type->tp_version_tag == static_cast<unsigned>(check.number);
}

// A tensor that the recording reached twice has one check, so the same tensor in two checks is an overlap too.
bool GuardTree::InputsAreDisjoint(const GuardObjects& objects) const {
  TensorMemory memory;
  for (const GuardCheck& check : checks) {
    if (check.kind != GuardKind::kTensorMatches) continue;
    const at::Tensor* tensor = TensorOrNull(objects[static_cast<size_t>(check.node)]);
    if (tensor != nullptr && !memory.Add(*tensor)) return false;
  }
  return true;
}

bool GuardTree::Walk(const CallState& state, GuardObjects& objects, std::vector<PyRef>& owned,
                     std::string* reason) const {
  objects.assign(nodes.size(), nullptr);
  auto fail = [&](std::string text) {
    if (reason != nullptr) *reason = std::move(text);
    return false;
  };
  if (torch_state.has_value()) {
    TorchState now = TorchState::Capture();
    if (!(now == *torch_state)) return fail(absl::StrCat("torch state changed: ", torch_state->Difference(now)));
  }
  for (const GuardCheck& check : ambient) {
    if (!TypeVersionHolds(check)) return fail(reason == nullptr ? "" : FailureText(check, objects));
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    const GuardNode& node = nodes[i];
    PyObject* parent = node.parent < 0 ? nullptr : objects[static_cast<size_t>(node.parent)];
    objects[i] = Fetch(node.source, parent, state, owned);
    const GuardCheck* failed = nullptr;
    if (NodeHolds(static_cast<int32_t>(i), objects[i], &failed)) continue;
    if (reason == nullptr) return false;
    return fail(failed != nullptr ? FailureText(*failed, objects)
                                  : absl::StrCat(NodeText(static_cast<int32_t>(i)), " is no longer there"));
  }
  for (const GuardCheck& check : pairs) {
    if (!PairHolds(check, objects)) return fail(reason == nullptr ? "" : FailureText(check, objects));
  }
  if (no_overlap && !InputsAreDisjoint(objects)) return fail(kMessages[static_cast<size_t>(GuardKind::kNoOverlap)]);
  return true;
}

std::string GuardTree::NodeText(int32_t node) const {
  if (node < 0) return "";
  const GuardNode& row = nodes[static_cast<size_t>(node)];
  return SourceText(row.source.kind, NodeText(row.parent), row.source.key.get(), row.source.index, argument_names);
}

std::string GuardTree::CheckText(const GuardCheck& check) const {
  std::string operand;
  if (check.tensor >= 0) {
    operand = tensor_checks[static_cast<size_t>(check.tensor)].ToString();
  } else if (check.other >= 0) {
    operand = NodeText(check.other);
  } else if (check.kind == GuardKind::kLengthIs) {
    operand = absl::StrCat(check.number);
  } else if (check.identity != nullptr) {
    operand = ObjectText(check.payload.get());
  }
  return absl::StrCat(std::string(GuardKindName(check.kind)), " ", NodeText(check.node), check.node < 0 ? "" : " ",
                      operand, " [", CostName(GuardKindCost(check.kind)), "]\n");
}

std::string GuardTree::FailureText(const GuardCheck& check, const GuardObjects& objects) const {
  PyObject* object = check.node < 0 ? nullptr : objects[static_cast<size_t>(check.node)];
  std::string actual, expected = check.identity == nullptr ? "nothing" : ObjectText(check.payload.get());
  switch (check.kind) {
    case GuardKind::kTypeIs:
      actual = object == nullptr ? "absent" : Py_TYPE(object)->tp_name;
      break;
    case GuardKind::kTensorMatches:
      actual = tensor_checks[static_cast<size_t>(check.tensor)].Difference(object);
      expected = tensor_checks[static_cast<size_t>(check.tensor)].ToString();
      break;
    case GuardKind::kLengthIs:
      actual = object == nullptr ? "absent" : absl::StrCat(BuiltinLength(object));
      break;
    case GuardKind::kConstantIs:
    case GuardKind::kIdentityIs:
    case GuardKind::kTypeVersion:
    case GuardKind::kSameObject:
    case GuardKind::kNotSameObject:
    case GuardKind::kPlainLeaf:
    case GuardKind::kNoOverlap:
    case GuardKind::kKeyPresent:
    case GuardKind::kKeyAbsent:
    case GuardKind::kKeysAre:
    case GuardKind::kSetEquals:
    case GuardKind::kFunctionCode:
    case GuardKind::kArgumentAbsent:
    case GuardKind::kTorchState:
      actual = object == nullptr ? "absent" : ObjectText(object);
      break;
  }
  return absl::StrReplaceAll(kMessages[static_cast<size_t>(check.kind)], {{"{source}", NodeText(check.node)},
                                                                          {"{actual}", actual},
                                                                          {"{payload}", expected},
                                                                          {"{other}", NodeText(check.other)},
                                                                          {"{number}", absl::StrCat(check.number)}});
}

std::string GuardTree::ToString() const {
  std::string text;
  if (torch_state.has_value()) text += "TorchState [state]\n";
  if (no_overlap) text += "NoOverlap [tensor]\n";
  for (const GuardCheck& check : ambient) text += CheckText(check);
  for (const GuardCheck& check : checks) text += CheckText(check);
  for (const GuardCheck& check : pairs) text += CheckText(check);
  return text;
}

int GuardTree::Traverse(visitproc visit, void* arg) const {
  for (const GuardNode& node : nodes) {
    if (int result = node.source.key.Traverse(visit, arg); result != 0) return result;
  }
  for (const auto* list : {&checks, &pairs, &ambient}) {
    for (const GuardCheck& check : *list) {
      if (int result = check.payload.Traverse(visit, arg); result != 0) return result;
    }
  }
  return 0;
}

}  // namespace framejit
