#include "graph/passes/analysis.h"

#include <string_view>

#include "graph/operator_table.h"

namespace framejit {
namespace {

struct UndeclaredWrites {
  int training;     // the bool operand that turns them on
  int first, last;  // the operands written
};

// Running statistics that the schemas do not say are written.
const OperatorTable<UndeclaredWrites>& UndeclaredWriters() {
  static const auto* table = new OperatorTable<UndeclaredWrites>{
      {"aten::native_batch_norm", {5, 3, 4}},
      {"aten::cudnn_batch_norm", {5, 3, 4}},
      {"aten::miopen_batch_norm", {5, 3, 4}},
  };
  return *table;
}

bool WritesUndeclared(const Node& node) {
  const UndeclaredWrites* row = UndeclaredWriters().Find(node.op);
  if (row == nullptr) return false;
  const c10::IValue& training = node.operands[row->training].constant;
  return !training.isBool() || training.toBool();
}

const OperatorTable<bool>& RaisingOperators() {
  static const auto* table = new OperatorTable<bool>{
      {"aten::embedding", true},
      {"aten::index.Tensor", true},
      {"aten::index_select", true},
      {"aten::gather", true},
      {"aten::take", true},
      {"aten::take_along_dim", true},
      {"aten::scatter.src", true},
      {"aten::scatter.value", true},
      {"aten::scatter_add", true},
      {"aten::index_put", true},
      {"aten::index_add", true},
      {"aten::index_copy", true},
      {"aten::index_fill.int_Scalar", true},
      {"aten::nll_loss_forward", true},
      {"aten::nll_loss2d_forward", true},
      {"aten::_embedding_bag", true},
      {"aten::linalg_inv_ex", true},
      {"aten::linalg_cholesky_ex", true},
      {"aten::_linalg_solve_ex", true},
      {"aten::cholesky", true},
      {"aten::linalg_eigh", true},
      {"aten::one_hot", true},
      {"aten::masked_select", true},
      {"aten::_linalg_svd", true},
      {"aten::div.Tensor_mode", true},
      {"aten::remainder.Tensor", true},
      {"aten::fmod.Tensor", true},
  };
  return *table;
}

const OperatorTable<bool>& UninitializedOperators() {
  static const auto* table = new OperatorTable<bool>{
      {"aten::empty.memory_format", true}, {"aten::empty_strided", true},     {"aten::empty_like", true},
      {"aten::new_empty", true},           {"aten::new_empty_strided", true}, {"aten::empty_permuted", true},
  };
  return *table;
}

}  // namespace

bool HasEffect(const Node& node) {
  return node.outputs.empty() || MutatesArguments(node.op) || IsRandom(node.op) || WritesUndeclared(node);
}

bool MayRaiseOnData(const Node& node) { return RaisingOperators().Find(node.op) != nullptr; }

bool IsUninitialized(const Node& node) { return UninitializedOperators().Find(node.op) != nullptr; }

MemoryFacts::MemoryFacts(const Graph& graph) : graph_(graph) {
  int32_t storages = 0;
  for (const TensorMeta& meta : graph.values) storages = std::max(storages, meta.storage + 1);
  escapes_.assign(storages, false);
  feeds_mutation_.assign(storages, false);
  written_.assign(storages, false);
  merged_.resize(storages);
  for (int32_t i = 0; i < storages; ++i) merged_[i] = i;
  is_output_.assign(graph.values.size(), false);
  for (ValueId id : graph.outputs) {
    is_output_[id] = true;
    if (graph.meta(id).storage >= 0) escapes_[graph.meta(id).storage] = true;
  }
  for (const InputMutation& mutation : graph.mutations) {
    int32_t storage = graph.meta(mutation.value).storage;
    if (storage >= 0) feeds_mutation_[storage] = true;
  }
  for (const Node& node : graph.nodes) AddWrites(node);
}

void MemoryFacts::AddWrites(const Node& node) {
  auto write = [this](ValueId id) {
    int32_t storage = graph_.meta(id).storage;
    any_written_ = true;
    if (storage >= 0) {
      written_[storage] = true;
    } else {
      unknown_written_ = true;
    }
  };
  const auto& arguments = node.op.schema().arguments();
  const UndeclaredWrites* undeclared = WritesUndeclared(node) ? UndeclaredWriters().Find(node.op) : nullptr;
  if (undeclared == nullptr && !MutatesArguments(node.op)) return;
  for (size_t i = 0; i < node.operands.size() && i < arguments.size(); ++i) {
    int index = static_cast<int>(i);
    bool hidden = undeclared != nullptr && index >= undeclared->first && index <= undeclared->last;
    bool declared = arguments[i].alias_info() != nullptr && arguments[i].alias_info()->isWrite();
    if (!hidden && !declared) continue;
    const Operand& operand = node.operands[i];
    if (operand.kind == Operand::Kind::kValue && operand.value != kNoValue) write(operand.value);
    for (ValueId id : operand.values) {
      if (id != kNoValue) write(id);
    }
  }
}

absl::flat_hash_set<int32_t> WrittenStorages(const Graph& graph, size_t first_node) {
  absl::flat_hash_set<int32_t> written;
  for (size_t n = first_node; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    const auto& arguments = node.op.schema().arguments();
    for (size_t i = 0; i < node.operands.size(); ++i) {
      const c10::AliasInfo* alias = arguments[i].alias_info();
      if (alias == nullptr || !alias->isWrite()) continue;
      const Operand& operand = node.operands[i];
      if (operand.kind == Operand::Kind::kValue && operand.value != kNoValue)
        written.insert(graph.meta(operand.value).storage);
      for (ValueId id : operand.values) {
        if (id != kNoValue) written.insert(graph.meta(id).storage);
      }
    }
  }
  return written;
}

bool MemoryFacts::TouchesWritten(const Node& node) const {
  if (!any_written_) return false;
  bool touches = false;
  ForEachOperandValue(node, [&](const ValueId& id) { touches |= IsWritten(id); });
  for (ValueId id : node.outputs) touches |= id != kNoValue && IsWritten(id);
  return touches;
}

int32_t MemoryFacts::StorageOf(ValueId id) const {
  int32_t storage = graph_.meta(id).storage;
  if (storage < 0 || static_cast<size_t>(storage) >= merged_.size()) return -1;  // unknown, or made since
  while (merged_[storage] != storage) storage = merged_[storage];
  return storage;
}

void MemoryFacts::MergeStorage(int32_t from, int32_t into) {
  if (from == into) return;
  merged_[from] = into;
  if (escapes_[from]) escapes_[into] = true;
  if (feeds_mutation_[from]) feeds_mutation_[into] = true;
}

void MemoryFacts::Apply(Graph& graph) const {
  for (size_t i = 0; i < graph.values.size(); ++i) {
    int32_t storage = StorageOf(static_cast<ValueId>(i));
    if (storage >= 0) graph.values[i].storage = storage;
  }
}

bool SameMeta(const TensorMeta& a, const TensorMeta& b) {
  return a.dtype == b.dtype && a.device == b.device && a.sizes == b.sizes && a.strides == b.strides &&
         a.storage_offset == b.storage_offset && a.requires_grad == b.requires_grad && a.is_conj == b.is_conj &&
         a.is_neg == b.is_neg;
}

void ValueMap::ApplyToResults(Graph& graph) const {
  for (ValueId& id : graph.outputs) id = Resolve(id);
  for (InputMutation& mutation : graph.mutations) mutation.value = Resolve(mutation.value);
}

}  // namespace framejit
