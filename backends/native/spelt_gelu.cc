#include "backends/native/spelt_gelu.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "graph/operator_table.h"

namespace framejit::native {
namespace {

enum class Rule { kProduct, kPower, kSum, kTanh };

const OperatorTable<Rule>& Rules() {
  static const auto* table = new OperatorTable<Rule>{
      {"aten::mul.Tensor", Rule::kProduct}, {"aten::mul.Scalar", Rule::kProduct},
      {"aten::add.Tensor", Rule::kSum},     {"aten::add.Scalar", Rule::kSum},
      {"aten::tanh", Rule::kTanh},          {"aten::pow.Tensor_Scalar", Rule::kPower},
  };
  return *table;
}

// A number and values, multiplied or added.
struct Terms {
  double number;
  absl::InlinedVector<ValueId, 4> values;
};

bool IsAbout(double value, double expected) { return std::abs(value - expected) <= 1e-6 * expected; }

class Finder {
 public:
  Finder(const Graph& graph, const std::vector<int32_t>& producers, const std::vector<int32_t>& reads, int32_t root)
      : graph_(graph),
        producers_(producers),
        reads_(reads),
        result_(graph.nodes[static_cast<size_t>(root)].outputs[0]) {}

  std::optional<SpeltGelu> Run() {
    const at::ScalarType dtype = graph_.meta(result_).dtype;
    if (dtype != at::kHalf && dtype != at::kBFloat16) return std::nullopt;
    // x / 2 and 1 + tanh(...)
    const Terms outer = Factors(result_);
    if (outer.values.size() != 2 || !IsAbout(outer.number, 0.5)) return std::nullopt;
    for (const size_t x : {0, 1}) {
      const std::vector<int32_t> taken = found_.nodes;
      found_.x = outer.values[x];
      if (IsRest(outer.values[1 - x])) {
        if (!AreAllLikeX()) return std::nullopt;
        CountReads();
        return std::move(found_);
      }
      found_.nodes = taken;
    }
    return std::nullopt;
  }

 private:
  // The node that makes the value for nobody else, or the outermost one, if its rule is this one.
  const Node* Take(ValueId id, Rule rule) {
    const int32_t producer = producers_[static_cast<size_t>(id)];
    if (producer < 0 || (id != result_ && reads_[static_cast<size_t>(id)] != 1)) return nullptr;
    const Node& node = graph_.nodes[static_cast<size_t>(producer)];
    const Rule* known = Rules().Find(node.op);
    if (known == nullptr || *known != rule) return nullptr;
    found_.nodes.push_back(producer);
    return &node;
  }

  static std::optional<double> Number(const Operand& operand) {
    if (operand.kind != Operand::Kind::kConstant || !operand.constant.isScalar()) return std::nullopt;
    const at::Scalar number = operand.constant.toScalar();
    return number.isFloatingPoint() || number.isIntegral(false) ? std::optional(number.toDouble()) : std::nullopt;
  }

  // Adds the operand to the terms: a number that is known, or a value.
  template <typename AddValue, typename AddNumber>
  static bool AddOperand(const Operand& operand, AddValue add_value, AddNumber add_number) {
    if (operand.kind == Operand::Kind::kValue && operand.value != kNoValue) return add_value(operand.value), true;
    const std::optional<double> number = Number(operand);
    if (number) add_number(*number);
    return number.has_value();
  }

  Terms Factors(ValueId id) {
    Terms terms{1, {}};
    Multiply(id, terms);
    return terms;
  }

  void Multiply(ValueId id, Terms& terms) {
    if (const Node* product = Take(id, Rule::kProduct)) {
      for (const Operand& operand : product->operands) {
        const auto multiply = [&](ValueId value) { Multiply(value, terms); };
        if (!AddOperand(operand, multiply, [&](double number) { terms.number *= number; })) terms.number = NAN;
      }
    } else if (const Node* power = Take(id, Rule::kPower)) {
      const double exponent = Number(power->operands[1]).value_or(0);
      if (exponent != 2 && exponent != 3) terms.number = NAN;
      for (int i = 0; i < exponent && exponent <= 3; ++i) terms.values.push_back(power->operands[0].value);
    } else {
      terms.values.push_back(id);
    }
  }

  Terms Summands(ValueId id) {
    Terms terms{0, {}};
    const Node* sum = Take(id, Rule::kSum);
    if (sum == nullptr || Number(sum->operands[2]) != 1.0) return {NAN, {}};
    for (size_t i = 0; i < 2; ++i) {
      const auto add = [&](ValueId value) { terms.values.push_back(value); };
      if (!AddOperand(sum->operands[i], add, [&](double number) { terms.number += number; })) terms.number = NAN;
    }
    return terms;
  }

  // 1 + tanh(sqrt(2 / pi) ...)
  bool IsRest(ValueId id) {
    const Terms sum = Summands(id);
    if (sum.number != 1 || sum.values.size() != 1) return false;
    const Node* tanh = Take(sum.values[0], Rule::kTanh);
    if (tanh == nullptr) return false;
    const Terms inner = Factors(tanh->operands[0].value);
    if (!IsAbout(inner.number, M_SQRT2 * M_2_SQRTPI / 2)) return false;
    if (inner.values.size() == 1) return IsSumWithCube(inner.values[0], 3);
    if (inner.values.size() != 2) return false;
    const bool first = inner.values[0] == found_.x;
    return inner.values[first ? 0 : 1] == found_.x && IsSumWithCube(inner.values[first ? 1 : 0], 2);
  }

  // x + 0.044715 x^3 (`power` 3), or 1 + 0.044715 x^2.
  bool IsSumWithCube(ValueId id, size_t power) {
    const Terms sum = Summands(id);
    const bool x_first = !sum.values.empty() && sum.values[0] == found_.x;
    if (power == 3 && (sum.number != 0 || sum.values.size() != 2 || sum.values[x_first ? 0 : 1] != found_.x))
      return false;
    if (power == 2 && (sum.number != 1 || sum.values.size() != 1)) return false;
    const Terms term = Factors(sum.values[power == 3 && x_first ? 1 : 0]);
    const auto is_x = [&](ValueId value) { return value == found_.x; };
    return IsAbout(term.number, 0.044715) && term.values.size() == power &&
           std::all_of(term.values.begin(), term.values.end(), is_x);
  }

  // Everything is of the dtype and the layout of x.
  bool AreAllLikeX() const {
    const TensorMeta& x = graph_.meta(found_.x);
    return std::all_of(found_.nodes.begin(), found_.nodes.end(), [&](int32_t node) {
      const TensorMeta& meta = graph_.meta(graph_.nodes[static_cast<size_t>(node)].outputs[0]);
      return meta.dtype == x.dtype && meta.sizes == x.sizes && meta.strides == x.strides;
    });
  }

  void CountReads() {
    for (const int32_t node : found_.nodes) {
      ForEachOperandValue(graph_.nodes[static_cast<size_t>(node)],
                          [&](ValueId id) { found_.reads += id == found_.x ? 1 : 0; });
    }
  }

  const Graph& graph_;
  const std::vector<int32_t>& producers_;
  const std::vector<int32_t>& reads_;
  const ValueId result_;
  SpeltGelu found_;
};

}  // namespace

std::optional<SpeltGelu> FindSpeltGelu(const Graph& graph, const std::vector<int32_t>& producers,
                                       const std::vector<int32_t>& reads, int32_t node) {
  const Rule* rule = Rules().Find(graph.nodes[static_cast<size_t>(node)].op);
  if (rule == nullptr || *rule != Rule::kProduct) return std::nullopt;
  return Finder(graph, producers, reads, node).Run();
}

}  // namespace framejit::native
