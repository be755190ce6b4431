// See rounding.h.
#include "backends/cpu/codegen/rounding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace framejit::cpu {
namespace {

using loop::DType;
using loop::DTypeClass;
using loop::Kernel;
using loop::Node;
using loop::Op;
using loop::ValueId;

// A format of `bits` significant bits, whose least exponent (of a number written 1.x) is `lowest`.
struct Format {
  int bits;
  int lowest;
  double largest;
};

Format FormatOf(DType dtype) {
  if (dtype == DType::kFloat16) return {11, -14, 65504.0};
  return {8, -126, 0x1.fep127};
}

bool IsNumberOf(double value, const Format& format) {
  if (!std::isfinite(value) || value == 0) return true;
  if (std::abs(value) > format.largest) return false;
  const int unit = std::max(std::ilogb(value), format.lowest) - (format.bits - 1);
  const double units = std::scalbn(value, -unit);
  return units == std::trunc(units);
}

class Finder {
 public:
  explicit Finder(const Kernel& kernel) : kernel_(kernel), facts_(kernel.nodes.size()) {
    for (size_t id = 0; id < kernel.nodes.size(); ++id) facts_[id] = FactsOf(kernel.nodes[id]);
  }

  std::vector<Rounding> Find() const {
    std::vector<bool> computed_with(kernel_.nodes.size(), false);
    for (const Node& node : kernel_.nodes) {
      for (int i = 0; node.op != Op::kStore && i < OperandCount(node.op); ++i) computed_with[node.operands[i]] = true;
    }
    std::vector<Rounding> out(kernel_.nodes.size());
    for (size_t id = 0; id < out.size(); ++id) {
      const Node& node = kernel_.nodes[id];
      if (node.op != Op::kCast || ClassOf(node.dtype) != DTypeClass::kNarrowFloat) continue;
      const Facts& operand = facts_[node.operands[0]];
      const bool is_number = node.dtype == DType::kFloat16 ? operand.float16 : operand.bfloat16;
      out[id].kind = is_number            ? Rounding::Kind::kNone
                     : !computed_with[id] ? Rounding::Kind::kStored
                                          : Rounding::Kind::kFull;
      out[id].short_nans = operand.short_nans;
    }
    return out;
  }

 private:
  struct Facts {
    bool bfloat16 = false, float16 = false;  // always a number of the type, infinity or NaN
    bool short_nans = false;
  };

  Facts FactsOf(const Node& node) const {
    switch (node.op) {
      case Op::kConst:
        return OfConstant(node);
      case Op::kLoad:
        return OfType(node.dtype, /*converted=*/false);
      case Op::kCast:
        return OfCast(node);
      // Chosen among the operands, up to their sign; of a number with few bits, the integers beside it have no more.
      case Op::kNeg:
      case Op::kAbs:
      case Op::kMin:
      case Op::kMax:
      case Op::kSelect:
      case Op::kReduceMax:
      case Op::kReduceMin:
      case Op::kFloor:
      case Op::kCeil:
      case Op::kRound:
      case Op::kTrunc:
        return OfOperands(node);
      // The arithmetic of x86 gives the operand's NaN, or one of its own, which is short; so do the functions of
      // math.cc that are made of it alone.
      case Op::kAdd:
      case Op::kSub:
      case Op::kMul:
      case Op::kDiv:
      case Op::kSqrt:
      case Op::kRsqrt:
      case Op::kReciprocal:
      case Op::kReduceSum:
      case Op::kReduceProd:
      case Op::kExp:
      case Op::kExpNonPositive:
      case Op::kTanh:
      case Op::kSigmoid:
      case Op::kErf:
      case Op::kGelu:
      case Op::kNormalCdf:
        return Facts{.short_nans = OfOperands(node).short_nans && node.dtype == DType::kFloat32};
      default:
        return {};
    }
  }

  Facts OfConstant(const Node& node) const {
    if (!loop::IsFloat(node.dtype)) return {};
    const bool is_nan = std::isnan(node.float_value);
    const auto bits = std::bit_cast<uint32_t>(static_cast<float>(node.float_value));
    return {.bfloat16 = IsNumberOf(node.float_value, FormatOf(DType::kBFloat16)),
            .float16 = IsNumberOf(node.float_value, FormatOf(DType::kFloat16)),
            .short_nans = !is_nan || (bits & 0xffff) == 0};
  }

  // A value of this type, or what it becomes as f32.
  static Facts OfType(DType dtype, bool converted) {
    switch (dtype) {
      case DType::kBFloat16:
        return {.bfloat16 = true, .short_nans = true};
      case DType::kFloat16:
        return {.float16 = true};
      case DType::kBool:
      case DType::kUInt8:
      case DType::kInt8:
        return {.bfloat16 = converted, .float16 = converted, .short_nans = converted};
      case DType::kInt16:
      case DType::kInt32:
      case DType::kInt64:
        return {.short_nans = converted};
      case DType::kFloat32:
      case DType::kFloat64:
        return {};
    }
    return {};
  }

  Facts OfCast(const Node& node) const {
    const DType from = kernel_.nodes[node.operands[0]].dtype;
    const Facts operand = facts_[node.operands[0]];
    if (ClassOf(node.dtype) == DTypeClass::kNarrowFloat) {
      Facts facts = OfType(node.dtype, false);
      facts.bfloat16 |= operand.bfloat16 && node.dtype == DType::kBFloat16;
      facts.short_nans |= operand.short_nans;
      return facts;
    }
    if (node.dtype != DType::kFloat32) return {};
    if (loop::IsFloat(from) || ClassOf(from) == DTypeClass::kNarrowFloat) {
      // A long NaN of f64 may be a long one of f32; a number of f64 is rounded to f32 before it is one of fewer bits.
      return from == DType::kFloat64 ? Facts{} : operand;
    }
    return OfType(from, true);
  }

  Facts OfOperands(const Node& node) const {
    Facts all{.bfloat16 = true, .float16 = true, .short_nans = true};
    for (int i = node.op == Op::kSelect ? 1 : 0; i < OperandCount(node.op); ++i) {
      const Facts& one = facts_[node.operands[i]];
      all.bfloat16 &= one.bfloat16;
      all.float16 &= one.float16;
      all.short_nans &= one.short_nans;
    }
    return all;
  }

  const Kernel& kernel_;
  std::vector<Facts> facts_;
};

}  // namespace

std::vector<Rounding> FindRoundings(const Kernel& kernel) { return Finder(kernel).Find(); }

std::vector<bool> FindReadAsBFloat16(const Kernel& kernel) {
  std::vector<bool> found(kernel.nodes.size(), true);
  for (const loop::Node& node : kernel.nodes) {
    const bool rounds = node.op == Op::kCast && node.dtype == DType::kBFloat16;
    for (int i = 0; i < OperandCount(node.op) && !rounds; ++i) found[node.operands[i]] = false;
  }
  return found;
}

}  // namespace framejit::cpu
