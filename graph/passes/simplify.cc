// Algebraic simplification. A result gives way to a value that is there already, in two ways:
//  - the same memory seen the same way (no-op views, double transposes, views made twice): unless the result itself is
//  a
//    graph output, which must stay a tensor object of its own;
//  - an equal value in other memory (x * 1, copies, casts to the same dtype): unless the caller gets that memory.
// Only what is exact in IEEE arithmetic, signed zeros included: x + 0 is x for integers alone (-0.0 + 0 is 0.0), x - 0
// is x always. Memory that an operator of the graph writes is left alone.
#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "graph/constant.h"
#include "graph/operator_table.h"
#include "graph/passes/analysis.h"
#include "graph/passes/pipeline.h"

namespace framejit {
namespace {

enum class Rule {
  kAdd,             // op(x, number, alpha)
  kSubtract,        // op(x, number, alpha)
  kTimes,           // op(x, number): x where the number is 1
  kPower,           // pow(x, exponent)
  kCopy,            // op(x, ...): x where the metadata are equal
  kFunctionalCopy,  // copy(old, x)
  kCast,            // _to_copy(x, ...)
  kInvolution,      // op(op(x)) is x
  kIdempotent,      // op(op(x)) is op(x)
  kConcatenate,     // cat([x])
};

const OperatorTable<Rule>& Rules() {
  static const auto* table = new OperatorTable<Rule>{
      {"aten::add.Scalar", Rule::kAdd},          {"aten::sub.Scalar", Rule::kSubtract},
      {"aten::mul.Scalar", Rule::kTimes},        {"aten::div.Scalar", Rule::kTimes},
      {"aten::pow.Tensor_Scalar", Rule::kPower}, {"aten::clone", Rule::kCopy},
      {"aten::lift_fresh_copy", Rule::kCopy},    {"aten::copy", Rule::kFunctionalCopy},
      {"aten::_to_copy", Rule::kCast},           {"aten::neg", Rule::kInvolution},
      {"aten::logical_not", Rule::kInvolution},  {"aten::bitwise_not", Rule::kInvolution},
      {"aten::relu", Rule::kIdempotent},         {"aten::abs", Rule::kIdempotent},
      {"aten::floor", Rule::kIdempotent},        {"aten::ceil", Rule::kIdempotent},
      {"aten::trunc", Rule::kIdempotent},        {"aten::cat", Rule::kConcatenate},
  };
  return *table;
}

// Every value of `from` is a value of `to`, so that a cast there loses nothing.
bool IsExactWidening(at::ScalarType from, at::ScalarType to) {
  if (from == to) return true;
  switch (from) {
    case at::kBFloat16:
    case at::kHalf:
      return to == at::kFloat || to == at::kDouble;
    case at::kFloat:
      return to == at::kDouble;
    case at::kByte:
      return to == at::kShort || to == at::kInt || to == at::kLong || to == at::kFloat || to == at::kDouble;
    case at::kChar:
      return to == at::kShort || to == at::kInt || to == at::kLong || to == at::kFloat || to == at::kDouble;
    case at::kShort:
      return to == at::kInt || to == at::kLong || to == at::kFloat || to == at::kDouble;
    case at::kInt:
      return to == at::kLong || to == at::kDouble;
    default:
      return false;  // torch's enum: what is not listed is not known to be exact
  }
}

// The number itself: -0.0 is not 0.
bool IsNumber(const Operand& operand, double number) {
  if (operand.kind != Operand::Kind::kConstant) return false;
  if (operand.constant.isInt()) return SameConstant(static_cast<double>(operand.constant.toInt()), number);
  return operand.constant.isDouble() && SameConstant(operand.constant, number);
}

struct View {
  int32_t storage;
  const TensorMeta* meta;
  friend bool operator==(const View& a, const View& b) { return a.storage == b.storage && SameMeta(*a.meta, *b.meta); }
  template <typename H>
  friend H AbslHashValue(H h, const View& view) {
    const TensorMeta& meta = *view.meta;
    h = H::combine(std::move(h), view.storage, meta.storage_offset, meta.dtype);
    h = H::combine_contiguous(std::move(h), meta.sizes.data(), meta.sizes.size());
    return H::combine_contiguous(std::move(h), meta.strides.data(), meta.strides.size());
  }
};

class Simplifier {
 public:
  explicit Simplifier(Graph& graph)
      : graph_(graph), facts_(graph), map_(graph), kept_(graph.nodes), maker_(graph.values.size(), -1) {}

  // The nodes that are kept are in place when the simplifier goes.
  int Run() {
    for (ValueId id : graph_.inputs) RememberView(id);
    for (const GraphConstant& constant : graph_.constants) RememberView(constant.id);
    for (Node& node : graph_.nodes) {
      map_.ApplyTo(node);
      if (!HasEffect(node) && !facts_.TouchesWritten(node) && Simplified(node)) continue;
      for (ValueId id : node.outputs) {
        if (id == kNoValue) continue;
        maker_[id] = static_cast<int>(kept_.size());
        RememberView(id);
      }
      kept_.Keep(node);
    }
    map_.ApplyToResults(graph_);
    facts_.Apply(graph_);
    return rewrites_;
  }

 private:
  // True where the node is no longer needed; it may also have been rewritten in place.
  bool Simplified(Node& node) {
    if (node.outputs.size() != 1 || node.outputs[0] == kNoValue || !node.list_lengths.empty()) return false;
    ValueId result = node.outputs[0];
    if (SeenBefore(node, result)) return true;
    const Rule* rule = Rules().Find(node.op);
    if (rule == nullptr) return false;
    ValueId equal = EqualValue(*rule, node);
    return equal != kNoValue && BecomeEqual(result, equal);
  }

  // --- the same memory ----------------------------------------------------------------------------------------------
  void RememberView(ValueId id) {
    int32_t storage = facts_.StorageOf(id);
    if (storage >= 0 && !facts_.IsWritten(id)) views_.try_emplace(View{storage, &graph_.meta(id)}, id);
  }

  // Turn this: y = view(...) of memory that x shows in the same way / Into this: x
  bool SeenBefore(const Node& node, ValueId result) {
    if (facts_.IsOutput(result)) return false;
    int32_t storage = facts_.StorageOf(result);
    bool is_view = false;
    ForEachOperandValue(node, [&](const ValueId& id) { is_view |= storage >= 0 && facts_.StorageOf(id) == storage; });
    if (!is_view) return false;
    auto seen = views_.find(View{storage, &graph_.meta(result)});
    if (seen == views_.end()) return false;
    map_.Replace(result, seen->second);
    ++rewrites_;
    return true;
  }

  // --- an equal value -----------------------------------------------------------------------------------------------
  bool BecomeEqual(ValueId result, ValueId equal) {
    if (!SameMeta(graph_.meta(result), graph_.meta(equal)) || facts_.IsWritten(equal)) return false;
    if (facts_.Escapes(result) || facts_.FeedsMutation(result)) return false;
    int32_t from = facts_.StorageOf(result);
    int32_t into = facts_.StorageOf(equal);
    if (from < 0 || into < 0) return false;
    map_.Replace(result, equal);
    facts_.MergeStorage(from, into);
    ++rewrites_;
    return true;
  }

  const Node* MakerOf(ValueId id) const {
    return id != kNoValue && maker_[id] >= 0 ? &kept_[static_cast<size_t>(maker_[id])] : nullptr;
  }

  // The node that makes operand 0, where it has the same operator and no other operands.
  const Node* SameOperatorBelow(const Node& node) const {
    const Node* below = MakerOf(node.operands[0].value);
    return below != nullptr && &below->op.schema() == &node.op.schema() ? below : nullptr;
  }

  // The value that the node's result equals, or kNoValue.
  ValueId EqualValue(Rule rule, Node& node) {
    const Operand& subject = node.operands[0];
    at::ScalarType dtype = graph_.meta(node.outputs[0]).dtype;
    bool arithmetic = rule == Rule::kAdd || rule == Rule::kSubtract || rule == Rule::kTimes;
    if (arithmetic && at::isComplexType(dtype)) return kNoValue;  // infinities times the zero imaginary part
    switch (rule) {
      case Rule::kAdd: {
        bool floating = at::isFloatingType(dtype);
        bool zero = floating ? IsNumber(node.operands[1], -0.0) : IsNumber(node.operands[1], 0);
        return zero && IsNumber(node.operands[2], 1) ? subject.value : kNoValue;
      }
      case Rule::kSubtract:
        return IsNumber(node.operands[1], 0) && IsNumber(node.operands[2], 1) ? subject.value : kNoValue;
      case Rule::kTimes:
        return IsNumber(node.operands[1], 1) ? subject.value : kNoValue;
      case Rule::kPower:
        return IsNumber(node.operands[1], 1) ? subject.value : kNoValue;
      case Rule::kCopy:
        return subject.value;
      case Rule::kFunctionalCopy:
        return node.operands[1].value;
      case Rule::kCast:
        return SkipWidening(node);
      case Rule::kInvolution: {
        const Node* below = SameOperatorBelow(node);
        return below != nullptr ? below->operands[0].value : kNoValue;
      }
      case Rule::kIdempotent:
        return SameOperatorBelow(node) != nullptr ? subject.value : kNoValue;
      case Rule::kConcatenate:
        return subject.values.size() == 1 ? subject.values[0] : kNoValue;
    }
    return kNoValue;
  }

  // Turn this: _to_copy(_to_copy(x, wider), dtype) / Into this: _to_copy(x, dtype), which is x where nothing is left to
  // do. The layouts must agree, since the copy takes over its operand's strides.
  ValueId SkipWidening(Node& node) {
    ValueId wide = node.operands[0].value;
    const Node* below = SameOperatorBelow(node);
    if (below != nullptr) {
      ValueId narrow = below->operands[0].value;
      const TensorMeta& from = graph_.meta(narrow);
      const TensorMeta& to = graph_.meta(wide);
      bool exact = IsExactWidening(from.dtype, to.dtype) && from.device == to.device && from.strides == to.strides;
      // Out of range, an integer wraps where a float of the same value is undefined.
      at::ScalarType dtype = graph_.meta(node.outputs[0]).dtype;
      bool changes_kind = at::isIntegralType(from.dtype, true) && !at::isIntegralType(to.dtype, true);
      exact = exact && !(changes_kind && at::isIntegralType(dtype, true) && dtype != from.dtype);
      if (exact && !facts_.IsWritten(narrow)) {
        node.operands[0].value = narrow;
        wide = narrow;
        ++rewrites_;
      }
    }
    return wide;
  }

  Graph& graph_;
  MemoryFacts facts_;
  ValueMap map_;
  KeptNodes kept_;
  std::vector<int> maker_;  // by value: index into kept_, or -1
  absl::flat_hash_map<View, ValueId> views_;
  int rewrites_ = 0;
};

}  // namespace

int Simplify(Graph& graph) { return Simplifier(graph).Run(); }

}  // namespace framejit
