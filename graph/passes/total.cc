// See the header.
#include "graph/passes/total.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace framejit {
namespace {

const absl::flat_hash_map<std::string_view, std::string_view>& Rows() {
  static const auto* rows = new absl::flat_hash_map<std::string_view, std::string_view>{
#define TOTAL(name, dtypes) {"aten::" name, dtypes},
#include "graph/passes/total_operators.def"
#undef TOTAL
  };
  return *rows;
}

char ClassOf(at::ScalarType dtype) {
  if (dtype == at::kBool) return 'b';
  if (dtype == at::kHalf || dtype == at::kBFloat16) return 'h';
  if (dtype == at::kFloat || dtype == at::kDouble) return 'f';
  if (dtype == at::kComplexFloat || dtype == at::kComplexDouble) return 'c';
  return at::isIntegralType(dtype, /*includeBool=*/false) ? 'i' : '-';
}

struct Range {
  double lowest;
  double largest;
};

template <typename T>
Range RangeOf() {
  return {static_cast<double>(std::numeric_limits<T>::lowest()), static_cast<double>(std::numeric_limits<T>::max())};
}

// The numbers that scalar operands may be: kernels raise where their dtype cannot hold one.
Range RangeOf(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBool:
      return RangeOf<double>();  // any number is true or false
    case at::kByte:
      return RangeOf<uint8_t>();
    case at::kChar:
      return RangeOf<int8_t>();
    case at::kShort:
      return RangeOf<int16_t>();
    case at::kHalf:
      return RangeOf<c10::Half>();
    case at::kBFloat16:
      return RangeOf<c10::BFloat16>();
    case at::kFloat:
    case at::kComplexFloat:
      return RangeOf<float>();
    case at::kDouble:
    case at::kComplexDouble:
      return RangeOf<double>();
    default:
      return RangeOf<int32_t>();  // torch's enum: other integers
  }
}

bool IsNumberIn(const Range& range, const c10::IValue& constant) {
  if (!constant.isInt() && !constant.isDouble()) return !constant.isComplexDouble();
  const double number = constant.isInt() ? static_cast<double>(constant.toInt()) : constant.toDouble();
  return number >= range.lowest && number <= range.largest;
}

bool IsView(const c10::FunctionSchema& schema) {
  for (const c10::Argument& result : schema.returns()) {
    if (result.alias_info() == nullptr || result.alias_info()->isWrite()) return false;
  }
  return !schema.returns().empty();
}

}  // namespace

bool IsTotal(const Graph& graph, const Node& node) {
  const c10::FunctionSchema& schema = node.op.schema();
  if (IsView(schema)) return true;
  auto row = Rows().find(schema.name());
  if (row == Rows().end() || schema.overload_name().find("out") != std::string::npos) return false;
  bool total = true;
  Range range = RangeOf<double>();
  const auto visit = [&](const ValueId& id) {
    if (id == kNoValue) return;
    const TensorMeta& meta = graph.meta(id);
    total &= row->second.find(ClassOf(meta.dtype)) != std::string_view::npos && meta.device.is_cpu();
    const Range own = RangeOf(meta.dtype);
    range = {std::max(range.lowest, own.lowest), std::min(range.largest, own.largest)};
  };
  ForEachOperandValue(node, visit);
  for (const ValueId& id : node.outputs) visit(id);
  for (const Operand& operand : node.operands) {
    total &= operand.kind != Operand::Kind::kConstant || IsNumberIn(range, operand.constant);
  }
  return total;
}

}  // namespace framejit
