// See interpret.h.
#include "backends/loop/interpret.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace framejit::loop {
namespace {

struct Scalar {
  long double f = 0;
  int64_t i = 0;
};

template <typename T>
T ReadAs(const void* base, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(base) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T>
void WriteAs(void* base, int64_t index, T value) {
  std::memcpy(static_cast<char*>(base) + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

template <typename T>
long double UnaryFloat(Op op, long double operand) {
  const T x = static_cast<T>(operand);
  switch (op) {
    case Op::kNeg:
      return -x;
    case Op::kAbs:
      return std::fabs(x);
    case Op::kSqrt:
      return std::sqrt(x);
    case Op::kRsqrt:
      return T(1) / std::sqrt(x);
    case Op::kReciprocal:
      return T(1) / x;
    case Op::kFloor:
      return std::floor(x);
    case Op::kCeil:
      return std::ceil(x);
    case Op::kRound:
      return std::nearbyint(x);
    case Op::kTrunc:
      return std::trunc(x);
    case Op::kExp:
      return std::exp(x);
    case Op::kExpm1:
      return std::expm1(x);
    case Op::kLog:
      return std::log(x);
    case Op::kLog1p:
      return std::log1p(x);
    case Op::kTanh:
      return std::tanh(x);
    case Op::kSigmoid:
      return T(1) / (T(1) + std::exp(-x));
    case Op::kErf:
      return std::erf(x);
    case Op::kGelu:
      return x * T(0.5) * std::erfc(-x * T(M_SQRT1_2));
    case Op::kNormalCdf:
      return T(0.5) * std::erfc(-x * T(M_SQRT1_2));
    case Op::kExpNonPositive: {
      const T result = std::exp(x > T(0) ? T(0) : x);
      return result < std::numeric_limits<T>::min() ? T(0) : result;
    }
    case Op::kSin:
      return std::sin(x);
    case Op::kCos:
      return std::cos(x);
    case Op::kExp2:
      return std::exp2(x);
    case Op::kLog2:
      return std::log2(x);
    case Op::kLog10:
      return std::log10(x);
    case Op::kErfc:
      return std::erfc(x);
    case Op::kTan:
      return std::tan(x);
    case Op::kAsin:
      return std::asin(x);
    case Op::kAcos:
      return std::acos(x);
    case Op::kAtan:
      return std::atan(x);
    case Op::kSinh:
      return std::sinh(x);
    case Op::kCosh:
      return std::cosh(x);
    default:
      return std::numeric_limits<T>::quiet_NaN();
  }
}

template <typename T>
long double BinaryFloat(Op op, long double left, long double right) {
  const T x = static_cast<T>(left), y = static_cast<T>(right);
  switch (op) {
    case Op::kAdd:
    case Op::kReduceSum:
      return static_cast<T>(x + y);
    case Op::kSub:
      return static_cast<T>(x - y);
    case Op::kMul:
    case Op::kReduceProd:
      return static_cast<T>(x * y);
    case Op::kDiv:
      return static_cast<T>(x / y);
    case Op::kMin:
    case Op::kReduceMin:
      return std::isnan(x) || (!std::isnan(y) && x < y) ? x : y;
    case Op::kMax:
    case Op::kReduceMax:
      return std::isnan(x) || (!std::isnan(y) && x > y) ? x : y;
    case Op::kPow:
      return std::pow(x, y);
    case Op::kAtan2:
      return std::atan2(x, y);
    case Op::kFmod:
      return std::fmod(x, y);
    default:
      return std::numeric_limits<T>::quiet_NaN();
  }
}

// Wrapping arithmetic; the caller truncates to the type.
int64_t BinaryInt(Op op, int64_t x, int64_t y) {
  const uint64_t ux = static_cast<uint64_t>(x), uy = static_cast<uint64_t>(y);
  switch (op) {
    case Op::kAdd:
    case Op::kReduceSum:
      return static_cast<int64_t>(ux + uy);
    case Op::kSub:
      return static_cast<int64_t>(ux - uy);
    case Op::kMul:
    case Op::kReduceProd:
      return static_cast<int64_t>(ux * uy);
    case Op::kMin:
    case Op::kReduceMin:
      return std::min(x, y);
    case Op::kMax:
    case Op::kReduceMax:
      return std::max(x, y);
    case Op::kAnd:
      return x & y;
    case Op::kOr:
      return x | y;
    case Op::kXor:
      return x ^ y;
    default:
      return 0;
  }
}

template <typename T>
bool Compare(Op op, T x, T y) {
  switch (op) {
    case Op::kEq:
      return x == y;
    case Op::kNe:
      return x != y;
    case Op::kLt:
      return x < y;
    case Op::kLe:
      return x <= y;
    case Op::kGt:
      return x > y;
    case Op::kGe:
      return x >= y;
    default:
      return false;
  }
}

int64_t WrapInt(DType dtype, int64_t value) {
  switch (dtype) {
    case DType::kBool:
      return value != 0;
    case DType::kUInt8:
      return static_cast<uint8_t>(value);
    case DType::kInt8:
      return static_cast<int8_t>(value);
    case DType::kInt16:
      return static_cast<int16_t>(value);
    case DType::kInt32:
      return static_cast<int32_t>(value);
    case DType::kInt64:
      return value;
    case DType::kFloat16:
    case DType::kBFloat16:
    case DType::kFloat32:
    case DType::kFloat64:
      return value;
  }
  return value;
}

bool HoldsFloat(DType dtype) { return IsFloat(dtype) || ClassOf(dtype) == DTypeClass::kNarrowFloat; }

// What cvttss2si and cvttsd2si give: the "indefinite" value when out of range. To 64 bits for i64, else to 32 bits.
int64_t FloatToInt(DType dtype, long double value) {
  const bool wide = dtype == DType::kInt64;
  const long double limit = wide ? 0x1p63L : 0x1p31L;
  if (!(value > -limit - 1 && value < limit)) {
    return wide ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int32_t>::min();
  }
  return static_cast<int64_t>(value);
}

class Interpreter {
 public:
  Interpreter(const Kernel& kernel, void* const* buffers, Precision precision)
      : kernel_(kernel), buffers_(buffers), exact_(precision == Precision::kExact), index_(kernel.dims.size()) {}

  void Run() {
    // Rows without elements still have row values: position 0, at which element-level memory is not touched.
    values_.assign(kernel_.nodes.size(), std::vector<Scalar>(Positions()));
    for (int64_t row = 0; row < kernel_.row_count(); ++row) {
      int64_t rest = row;
      for (size_t d = kernel_.dims.size() - 1; d-- > 0;) {
        index_[d] = rest % kernel_.dims[d].size;
        rest /= kernel_.dims[d].size;
      }
      for (size_t id = 0; id < kernel_.nodes.size(); ++id) RunNode(id);
    }
  }

 private:
  int64_t Positions() const { return std::max<int64_t>(1, kernel_.inner_size()); }

  void RunNode(size_t id) {
    const Node& node = kernel_.nodes[id];
    if (IsReduction(node.op)) {
      const Scalar result = Reduce(node);
      values_[id].assign(Positions(), result);
      return;
    }
    const bool memory = node.op == Op::kLoad || node.op == Op::kStore;
    if (memory && kernel_.inner_size() == 0 && kernel_.accesses[node.attr].strides.back() != 0) return;
    for (int64_t i = 0; i < Positions(); ++i) {
      index_.back() = i;
      values_[id][i] = Evaluate(node, i);
    }
  }

  Scalar Reduce(const Node& node) {
    Scalar acc;
    if (node.op == Op::kReduceProd) acc.f = acc.i = 1;
    const std::vector<Scalar>& source = values_[node.operands[0]];
    for (int64_t i = 0; i < kernel_.inner_size(); ++i) {
      const bool starts = i == 0 && (node.op == Op::kReduceMax || node.op == Op::kReduceMin);
      acc = starts ? source[0] : Binary(node, acc, source[i]);
    }
    return acc;
  }

  Scalar Binary(const Node& node, const Scalar& x, const Scalar& y) const {
    Scalar out;
    if (!IsFloat(node.dtype)) {
      out.i = WrapInt(node.dtype, BinaryInt(node.op, x.i, y.i));
    } else if (exact_) {
      out.f = BinaryFloat<long double>(node.op, x.f, y.f);
    } else {
      out.f = node.dtype == DType::kFloat32 ? BinaryFloat<float>(node.op, x.f, y.f)
                                            : BinaryFloat<double>(node.op, x.f, y.f);
    }
    return out;
  }

  Scalar Unary(const Node& node, const Scalar& x) const {
    Scalar out;
    if (node.op == Op::kNot) {
      out.i = node.dtype == DType::kBool ? !x.i : ~x.i;
    } else if (!IsFloat(node.dtype)) {
      const bool negate = node.op == Op::kNeg || x.i < 0;
      out.i = WrapInt(node.dtype, negate ? BinaryInt(Op::kSub, 0, x.i) : x.i);
    } else if (exact_) {
      out.f = UnaryFloat<long double>(node.op, x.f);
    } else {
      out.f = node.dtype == DType::kFloat32 ? UnaryFloat<float>(node.op, x.f) : UnaryFloat<double>(node.op, x.f);
    }
    return out;
  }

  Scalar Cast(DType from, DType to, const Scalar& x) const {
    Scalar out;
    if (!HoldsFloat(to)) {
      if (to == DType::kBool)
        out.i = HoldsFloat(from) ? x.f != 0 : x.i != 0;
      else
        out.i = WrapInt(to, HoldsFloat(from) ? FloatToInt(to, x.f) : x.i);
      return out;
    }
    out.f = HoldsFloat(from) ? x.f : static_cast<long double>(x.i);
    if (to == DType::kBFloat16) out.f = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(out.f)));
    if (to == DType::kFloat16) out.f = Float16ToFloat(FloatToFloat16(static_cast<float>(out.f)));
    if (!exact_ && to == DType::kFloat32) out.f = static_cast<float>(out.f);
    if (!exact_ && to == DType::kFloat64) out.f = static_cast<double>(out.f);
    return out;
  }

  Scalar Evaluate(const Node& node, int64_t i) {
    const auto operand = [&](int n) -> const Scalar& { return values_[node.operands[n]][i]; };
    Scalar out;
    if (node.op == Op::kConst) {
      out.f = node.float_value, out.i = node.int_value;
    } else if (node.op == Op::kIndex) {
      out.i = index_[node.attr];
    } else if (node.op == Op::kLoad) {
      out = Load(node);
    } else if (node.op == Op::kStore) {
      Store(node, operand(0));
    } else if (node.op == Op::kCast) {
      out = Cast(kernel_.nodes[node.operands[0]].dtype, node.dtype, operand(0));
    } else if (node.op == Op::kSelect) {
      out = operand(0).i ? operand(1) : operand(2);
    } else if (IsComparison(node.op)) {
      const bool floats = IsFloat(kernel_.nodes[node.operands[0]].dtype);
      out.i = floats ? Compare(node.op, operand(0).f, operand(1).f) : Compare(node.op, operand(0).i, operand(1).i);
    } else {
      out = OperandCount(node.op) == 1 ? Unary(node, operand(0)) : Binary(node, operand(0), operand(1));
    }
    return out;
  }

  int64_t Offset(const Access& access) const {
    int64_t offset = access.offset;
    for (size_t d = 0; d < index_.size(); ++d) offset += access.strides[d] * index_[d];
    return offset;
  }

  Scalar Load(const Node& node) const {
    const Access& access = kernel_.accesses[node.attr];
    const void* base = buffers_[access.buffer];
    const int64_t at = Offset(access);
    Scalar out;
    switch (node.dtype) {
      case DType::kBool:
        out.i = ReadAs<uint8_t>(base, at) != 0;
        break;
      case DType::kUInt8:
        out.i = ReadAs<uint8_t>(base, at);
        break;
      case DType::kInt8:
        out.i = ReadAs<int8_t>(base, at);
        break;
      case DType::kInt16:
        out.i = ReadAs<int16_t>(base, at);
        break;
      case DType::kInt32:
        out.i = ReadAs<int32_t>(base, at);
        break;
      case DType::kInt64:
        out.i = ReadAs<int64_t>(base, at);
        break;
      case DType::kFloat16:
        out.f = Float16ToFloat(ReadAs<uint16_t>(base, at));
        break;
      case DType::kBFloat16:
        out.f = BFloat16ToFloat(ReadAs<uint16_t>(base, at));
        break;
      case DType::kFloat32:
        out.f = ReadAs<float>(base, at);
        break;
      case DType::kFloat64:
        out.f = ReadAs<double>(base, at);
        break;
    }
    return out;
  }

  void Store(const Node& node, const Scalar& value) const {
    const Access& access = kernel_.accesses[node.attr];
    void* base = buffers_[access.buffer];
    const int64_t at = Offset(access);
    switch (node.dtype) {
      case DType::kBool:
      case DType::kUInt8:
      case DType::kInt8:
        return WriteAs(base, at, static_cast<uint8_t>(value.i));
      case DType::kInt16:
        return WriteAs(base, at, static_cast<int16_t>(value.i));
      case DType::kInt32:
        return WriteAs(base, at, static_cast<int32_t>(value.i));
      case DType::kInt64:
        return WriteAs(base, at, value.i);
      case DType::kFloat16:
        return WriteAs(base, at, FloatToFloat16(static_cast<float>(value.f)));
      case DType::kBFloat16:
        return WriteAs(base, at, FloatToBFloat16(static_cast<float>(value.f)));
      case DType::kFloat32:
        return WriteAs(base, at, static_cast<float>(value.f));
      case DType::kFloat64:
        return WriteAs(base, at, static_cast<double>(value.f));
    }
  }

  const Kernel& kernel_;
  void* const* buffers_;
  const bool exact_;
  std::vector<int64_t> index_;
  std::vector<std::vector<Scalar>> values_;
};

}  // namespace

uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float BFloat16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToFloat16(float value) {
  const uint16_t sign = static_cast<uint16_t>((std::bit_cast<uint32_t>(value) >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude = m * 2^exponent, m in [0.5, 1)
  const int ulp = magnitude < 0x1p-14f ? -24 : exponent - 11;
  const double units = std::nearbyint(std::ldexp(static_cast<double>(magnitude), -ulp));
  if (ulp == -24) return sign | static_cast<uint16_t>(units);  // subnormal, or rounds up to the least normal
  return static_cast<uint16_t>(sign | (((ulp + 24) << 10) + static_cast<int>(units)));
}

float Float16ToFloat(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 0x3ff;
  float magnitude;
  if (exponent == 31)
    magnitude = mantissa ? std::numeric_limits<float>::quiet_NaN() : INFINITY;
  else if (exponent == 0)
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  else
    magnitude = std::ldexp(static_cast<float>(mantissa | 0x400), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

void Interpret(const Kernel& kernel, void* const* buffers, Precision precision) {
  Interpreter(kernel, buffers, precision).Run();
}

}  // namespace framejit::loop
