#include "graph/fake/number_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "graph/fake/number_answers.h"
#include "graph/fake/recording.h"

namespace framejit {
namespace {

bool IsNarrow(at::ScalarType dtype) {
  return dtype == at::kChar || dtype == at::kByte || dtype == at::kShort || dtype == at::kInt;
}

bool IsPower(const OpInfo& info) { return info.name.name == "aten::pow" || info.name.name == "aten::pow_"; }

// Derivatives that are computed from the result know only slopes that are not negative.
bool IsOfResult(const Node& node) {
  return std::any_of(node.operands.begin(), node.operands.end(),
                     [](const Operand& operand) { return operand.constant.isBool() && operand.constant.toBool(); });
}

// Where the number is beyond the dtype, or is not recorded then.
bool Raises(const OpInfo& info) {
  const std::string& name = info.name.name;
  return IsClamp(info) || name.starts_with("aten::masked_fill") || name.starts_with("aten::fill") ||
         name == "aten::fmod" || name == "aten::remainder";
}

bool RaisesBelowZero(const OpInfo& info, const Node& node) {
  const std::string& name = info.name.name;
  if (name == "aten::leaky_relu_backward" || name == "aten::elu_backward") return IsOfResult(node);
  return name == "aten::softshrink";
}

// False where the number is none of the dtype.
bool DemandRange(OpenNumber& number, at::ScalarType dtype) {
  const auto bits = static_cast<int>(8 * c10::elementSize(dtype));
  const double low = dtype == at::kByte ? 0 : -std::ldexp(1.0, bits - 1);
  const double high = std::ldexp(1.0, dtype == at::kByte ? bits : bits - 1) - 1;
  const double hint = number.hint.toDouble();
  Demand(number, NumberRelation::kGreaterOrEqual, low);
  Demand(number, NumberRelation::kLessOrEqual, high);
  return hint >= low && hint <= high;
}

}  // namespace

bool IsClamp(const OpInfo& info) { return info.name.name.starts_with("aten::clamp"); }

double LargestNumberOf(at::ScalarType dtype) {
  if (dtype == at::kHalf) return std::numeric_limits<c10::Half>::max();
  if (dtype == at::kBFloat16) return std::numeric_limits<c10::BFloat16>::max();
  return std::numeric_limits<float>::max();
}

// Powers of integers are looked at.
bool IsSpecialPower(const OpInfo& info, const c10::IValue& first_argument, OpenNumber& number, bool is_base) {
  if (!IsPower(info) || FakeRecording::Current()->functionalizing) return false;
  if (!is_base && !at::isFloatingType(first_argument.toTensor().scalar_type())) return false;
  for (const double special : {1.0, 0.5, 2.0, 3.0, -0.5, -1.0, -2.0}) {
    Demand(number, NumberRelation::kEqual, special);
    if (number.hint.toDouble() == special) return true;
    if (is_base) return false;
  }
  return false;
}

// Kernels of the CPU that are given the number when they run convert it as eager's do in these dtypes: an int has to be
// one of a narrow integer type, beyond which eager wraps or raises.
void CheckOpenNumbers(const Graph& graph, const OpInfo& info, const Node& node,
                      absl::Span<const std::shared_ptr<OpenNumber>> numbers, bool in_place_of_number) {
  if (numbers.empty() || FakeRecording::Current()->functionalizing) return;  // the graph was recorded with them
  bool fits = true;
  double largest = std::numeric_limits<double>::infinity();
  const auto look = [&](ValueId id, bool is_result) {
    const TensorMeta& meta = graph.meta(id);
    if (meta.is_number) return;
    fits = fits && meta.device.is_cpu();
    const bool is_float = at::isFloatingType(meta.dtype), is_narrow = IsNarrow(meta.dtype);
    fits = fits && (is_float || is_narrow || meta.dtype == at::kLong || meta.dtype == at::kBool);
    if (is_float && meta.dtype != at::kDouble) largest = std::min(largest, LargestNumberOf(meta.dtype));
    const bool is_integral = is_narrow || meta.dtype == at::kLong || (in_place_of_number && meta.dtype == at::kBool);
    for (const auto& number : numbers) {
      fits = fits && (!is_result || !is_integral || !number->hint.isFloatingPoint());
      if (is_narrow && !number->hint.isFloatingPoint()) fits = fits && DemandRange(*number, meta.dtype);
    }
  };
  ForEachOperandValue(node, [&](ValueId id) { look(id, false); });
  for (ValueId id : node.outputs) {
    if (id != kNoValue) look(id, true);
  }
  fits = fits && !(IsPower(info) && !at::isFloatingType(graph.meta(node.outputs[0]).dtype));
  const bool raises = in_place_of_number || Raises(info);
  for (const auto& number : numbers) {
    number->looked |= !fits;
    if (raises) number->largest = std::min(number->largest, largest);
    if (RaisesBelowZero(info, node)) Demand(*number, NumberRelation::kGreaterOrEqual, 0);
  }
}

}  // namespace framejit
