// See operator_text.h.
#include "backends/cuda/codegen/operator_text.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace framejit::cuda {

using loop::DType;
using loop::DTypeClass;
using loop::Node;
using loop::Op;

const char* TypeText(DType dtype, bool memory) {
  switch (dtype) {
    case DType::kBool:
      return memory ? "u8" : "bool";
    case DType::kUInt8:
      return "u8";
    case DType::kInt8:
      return "i8";
    case DType::kInt16:
      return "i16";
    case DType::kInt32:
      return "int";
    case DType::kInt64:
      return "i64";
    case DType::kFloat16:
      return "f16";
    case DType::kBFloat16:
      return "bf16";
    case DType::kFloat32:
      return "float";
    case DType::kFloat64:
      return "double";
  }
  return "";
}

namespace {

// A floating constant, exactly.
template <typename T>
std::string Digits(T value) {
  char text[40];
  const auto result = std::to_chars(text, text + sizeof text, value);
  std::string out(text, result.ptr);
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

std::string FloatText(DType dtype, double value) {
  const bool single = dtype == DType::kFloat32;
  if (std::isnan(value)) return single ? "__int_as_float(0x7fc00000)" : "__longlong_as_double(0x7ff8000000000000ll)";
  if (std::isinf(value) || (single && std::isinf(static_cast<float>(value)))) {
    return absl::StrCat(value < 0 ? "-" : "",
                        single ? "__int_as_float(0x7f800000)" : "__longlong_as_double(0x7ff0000000000000ll)");
  }
  return single ? Digits(static_cast<float>(value)) + "f" : Digits(value);
}

std::string IntText(DType dtype, int64_t value) {
  if (dtype == DType::kBool) return value != 0 ? "true" : "false";
  const char* suffix = dtype == DType::kInt64 ? "ll" : "";
  const int64_t least = dtype == DType::kInt64 ? std::numeric_limits<int64_t>::min() : INT32_MIN;
  if (value == least) return absl::StrCat("(", value + 1, suffix, " - 1)");
  return absl::StrCat(value, suffix);
}

bool HoldsFloat(DType dtype) { return loop::IsFloat(dtype) || loop::ClassOf(dtype) == DTypeClass::kNarrowFloat; }

std::string CastText(DType from, DType to, std::string x) {
  if (loop::ClassOf(from) == DTypeClass::kNarrowFloat) {
    x = absl::StrCat("Float(", x, ")");
    from = DType::kFloat32;
  }
  switch (to) {
    case DType::kBool:
      return absl::StrCat(x, " != 0");
    case DType::kFloat16:
      return absl::StrCat("Half((float)", x, ")");
    case DType::kBFloat16:
      return absl::StrCat("BFloat((float)", x, ")");
    case DType::kUInt8:
      // As torch: negative numbers wrap like integers.
      return absl::StrCat(HoldsFloat(from) ? "(u8)(i64)" : "(u8)", x);
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
    case DType::kInt64:
    case DType::kFloat32:
    case DType::kFloat64:
      return absl::StrCat("(", TypeText(to), ")", x);
  }
  return x;
}

// Of a function of CUDA's library: name or namef.
std::string CallText(const char* name, DType dtype, const std::string& x, const std::string& y = "") {
  return absl::StrCat(name, dtype == DType::kFloat32 ? "f(" : "(", x, y.empty() ? "" : ", ", y, ")");
}

}  // namespace

std::string ApproximateText(Op op, const std::string& x, const std::string& y) {
  switch (op) {
    case Op::kExp:
    case Op::kExpNonPositive:
      return absl::StrCat("ApproximateExp(", x, ")");
    case Op::kDiv:
      return absl::StrCat("ApproximateDiv(", x, ", ", y, ")");
    case Op::kReciprocal:
      return absl::StrCat("ApproximateDiv(1.0f, ", x, ")");
    case Op::kSigmoid:
      return absl::StrCat("ApproximateReciprocal(1.0f + ApproximateExp(-", x, "))");
    case Op::kGelu:
      return absl::StrCat(x, " * ApproximateNormalCdf(", x, ")");
    case Op::kNormalCdf:
      return absl::StrCat("ApproximateNormalCdf(", x, ")");
    default:
      return "";
  }
}

std::string OperatorText(const Node& node, DType from, const std::string& x, const std::string& y,
                         const std::string& z) {
  const bool is_float = loop::IsFloat(from);
  const auto infix = [&](const char* op) { return absl::StrCat(x, " ", op, " ", y); };
  const auto wraps = [&](const char* op, const char* function) {
    return is_float ? infix(op) : absl::StrCat(function, "(", x, ", ", y, ")");
  };
  const auto call = [&](const char* name) { return CallText(name, from, x); };
  const auto call2 = [&](const char* name) { return CallText(name, from, x, y); };
  const std::string one = from == DType::kFloat32 ? "1.0f" : "1.0";
  switch (node.op) {
    case Op::kConst:
      return loop::IsFloat(node.dtype) ? FloatText(node.dtype, node.float_value) : IntText(node.dtype, node.int_value);
    case Op::kCast:
      return CastText(from, node.dtype, x);
    case Op::kNeg:
      return is_float ? "-" + x : absl::StrCat("Neg(", x, ")");
    case Op::kAbs:
      return is_float ? call("fabs") : absl::StrCat(x, " < 0 ? Neg(", x, ") : ", x);
    case Op::kSqrt:
      return call("sqrt");
    case Op::kRsqrt:
      return call("rsqrt");
    case Op::kReciprocal:
      return absl::StrCat(one, " / ", x);
    case Op::kFloor:
      return call("floor");
    case Op::kCeil:
      return call("ceil");
    case Op::kRound:
      return call("rint");
    case Op::kTrunc:
      return call("trunc");
    case Op::kExp:
      return call("exp");
    case Op::kExpNonPositive:
      return absl::StrCat("ExpNonPositive(", x, ")");
    case Op::kGelu:
      return absl::StrCat(x, " * NormalCdf(", x, ")");
    case Op::kNormalCdf:
      return absl::StrCat("NormalCdf(", x, ")");
    case Op::kExpm1:
      return call("expm1");
    case Op::kLog:
      return call("log");
    case Op::kLog1p:
      return call("log1p");
    case Op::kTanh:
      return call("tanh");
    case Op::kSigmoid:
      return absl::StrCat(one, " / (", one, " + ", CallText("exp", from, "-" + x), ")");
    case Op::kErf:
      return call("erf");
    case Op::kSin:
      return call("sin");
    case Op::kCos:
      return call("cos");
    case Op::kExp2:
      return call("exp2");
    case Op::kLog2:
      return call("log2");
    case Op::kLog10:
      return call("log10");
    case Op::kErfc:
      return call("erfc");
    case Op::kTan:
      return call("tan");
    case Op::kAsin:
      return call("asin");
    case Op::kAcos:
      return call("acos");
    case Op::kAtan:
      return call("atan");
    case Op::kSinh:
      return call("sinh");
    case Op::kCosh:
      return call("cosh");
    case Op::kPow:
      return call2("pow");
    case Op::kAtan2:
      return call2("atan2");
    case Op::kFmod:
      return call2("fmod");
    case Op::kAdd:
      return wraps("+", "Add");
    case Op::kSub:
      return wraps("-", "Sub");
    case Op::kMul:
      return wraps("*", "Mul");
    case Op::kDiv:
      return infix("/");
    case Op::kMin:
      return absl::StrCat("Min(", x, ", ", y, ")");
    case Op::kMax:
      return absl::StrCat("Max(", x, ", ", y, ")");
    case Op::kNot:
      return (from == DType::kBool ? "!" : "~") + x;
    case Op::kAnd:
      return infix("&");
    case Op::kOr:
      return infix("|");
    case Op::kXor:
      return infix("^");
    case Op::kEq:
      return infix("==");
    case Op::kNe:
      return infix("!=");
    case Op::kLt:
      return infix("<");
    case Op::kLe:
      return infix("<=");
    case Op::kGt:
      return infix(">");
    case Op::kGe:
      return infix(">=");
    case Op::kSelect:
      return absl::StrCat(x, " ? ", y, " : ", z);
    case Op::kIndex:
    case Op::kLoad:
    case Op::kStore:
    case Op::kReduceSum:
    case Op::kReduceProd:
    case Op::kReduceMax:
    case Op::kReduceMin:
      break;  // no expressions
  }
  return "";
}

const char* ReductionName(Op op) {
  return op == Op::kReduceSum ? "SumOf" : op == Op::kReduceProd ? "ProdOf" : op == Op::kReduceMax ? "MaxOf" : "MinOf";
}

std::string IdentityText(const Node& reduction) {
  const bool is_float = loop::IsFloat(reduction.dtype);
  const bool is_max = reduction.op == Op::kReduceMax;
  if (reduction.op == Op::kReduceSum) return "0";
  if (reduction.op == Op::kReduceProd) return "1";
  if (is_float) return FloatText(reduction.dtype, is_max ? -INFINITY : INFINITY);
  const bool wide = reduction.dtype == DType::kInt64;
  const int64_t least = wide ? std::numeric_limits<int64_t>::min() : INT32_MIN;
  const int64_t most = wide ? std::numeric_limits<int64_t>::max() : INT32_MAX;
  return IntText(reduction.dtype, is_max ? least : most);
}

}  // namespace framejit::cuda
