#include "backends/native/alike.h"

#include "absl/hash/hash.h"
#include "graph/constant.h"
#include "graph/passes/analysis.h"

namespace framejit::native {

bool ValuePairs::Add(ValueId a, ValueId b) {
  if (a == kNoValue || b == kNoValue) return a == b;
  ValueId &to = to_[static_cast<size_t>(a)], &from = from_[static_cast<size_t>(b)];
  if (to != kNoValue || from != kNoValue) return to == b && from == a;
  to = b;
  from = a;
  pairs_.emplace_back(a, b);
  if (a == b) return true;
  const TensorMeta &one = facts_.graph.meta(a), &other = facts_.graph.meta(b);
  return !IsConstant(a) && !IsConstant(b) && one.is_number == other.is_number && SameMeta(one, other);
}

void ValuePairs::Clear() {
  for (const auto& [a, b] : pairs_) to_[static_cast<size_t>(a)] = from_[static_cast<size_t>(b)] = kNoValue;
  pairs_.clear();
}

bool AreAlike(const Node& a, const Node& b, ValuePairs& values) {
  if (a.op != b.op || a.operands.size() != b.operands.size() || a.outputs.size() != b.outputs.size()) return false;
  if (!a.list_lengths.empty() || !b.list_lengths.empty()) return false;
  for (size_t i = 0; i < a.operands.size(); ++i) {
    const Operand &x = a.operands[i], &y = b.operands[i];
    if (x.kind != y.kind || x.kind == Operand::Kind::kValueList) return false;
    if (x.kind == Operand::Kind::kConstant && !SameConstant(x.constant, y.constant)) return false;
    if (x.kind == Operand::Kind::kValue && !values.Add(x.value, y.value)) return false;
  }
  for (size_t i = 0; i < a.outputs.size(); ++i) {
    if (!values.Add(a.outputs[i], b.outputs[i])) return false;
  }
  return true;
}

int32_t LoweredUnits::Find(int32_t unit) {
  std::vector<int32_t>& candidates = seen_[HashOf(fusion_.units[static_cast<size_t>(unit)])];
  for (int32_t earlier : candidates) {
    values_.Clear();
    if (Pair(earlier, unit)) return earlier;
  }
  candidates.push_back(unit);
  return -1;
}

size_t LoweredUnits::HashOf(const Unit& unit) const {
  size_t hash = absl::HashOf(unit.domain, unit.inner_dims, unit.columns);
  for (int32_t n : unit.nodes) hash = absl::HashOf(hash, &facts_.graph.nodes[static_cast<size_t>(n)].op.schema());
  return hash;
}

bool LoweredUnits::Pair(int32_t a, int32_t b) {
  const Unit &one = fusion_.units[static_cast<size_t>(a)], &other = fusion_.units[static_cast<size_t>(b)];
  if (one.segment_dim >= 0 || other.segment_dim >= 0 || one.nodes.size() != other.nodes.size()) return false;
  if (one.domain != other.domain || one.inner_dims != other.inner_dims || one.columns != other.columns) return false;
  for (size_t i = 0; i < one.nodes.size(); ++i) {
    if (!PairNodes(one.nodes[i], other.nodes[i])) return false;
  }
  return true;
}

bool LoweredUnits::PairNodes(int32_t a, int32_t b) {
  const Node &x = facts_.graph.nodes[static_cast<size_t>(a)], &y = facts_.graph.nodes[static_cast<size_t>(b)];
  if (!AreAlike(x, y, values_) || !PairSources(x, y)) return false;
  if (fusion_.node_maps[static_cast<size_t>(a)] != fusion_.node_maps[static_cast<size_t>(b)]) return false;
  for (size_t i = 0; i < x.outputs.size(); ++i) {
    if (x.outputs[i] == kNoValue) continue;
    const auto one = static_cast<size_t>(x.outputs[i]), other = static_cast<size_t>(y.outputs[i]);
    if (stored_[one] != stored_[other] || fusion_.value_maps[one] != fusion_.value_maps[other]) return false;
  }
  return true;
}

bool LoweredUnits::PairSources(const Node& a, const Node& b) {
  for (size_t i = 0; i < a.operands.size(); ++i) {
    const ValueId x = a.operands[i].value, y = b.operands[i].value;
    if (a.operands[i].kind != Operand::Kind::kValue || x == kNoValue) continue;
    if (!values_.Add(fusion_.sources[static_cast<size_t>(x)], fusion_.sources[static_cast<size_t>(y)])) return false;
  }
  return true;
}

}  // namespace framejit::native
