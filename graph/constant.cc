#include "graph/constant.h"

#include <ATen/core/jit_type.h>

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace framejit {
namespace {

template <typename T>
struct NamedValue {
  const char* name;
  T value;
};

constexpr NamedValue<at::ScalarType> kDtypes[] = {
    {"float32", at::kFloat},
    {"float64", at::kDouble},
    {"float16", at::kHalf},
    {"bfloat16", at::kBFloat16},
    {"int64", at::kLong},
    {"int32", at::kInt},
    {"int16", at::kShort},
    {"int8", at::kChar},
    {"uint8", at::kByte},
    {"bool", at::kBool},
    {"complex64", at::kComplexFloat},
    {"complex128", at::kComplexDouble},
    {"complex32", at::kComplexHalf},
    {"uint16", at::ScalarType::UInt16},
    {"uint32", at::ScalarType::UInt32},
    {"uint64", at::ScalarType::UInt64},
    {"float8_e5m2", at::ScalarType::Float8_e5m2},
    {"float8_e4m3fn", at::ScalarType::Float8_e4m3fn},
    {"float8_e5m2fnuz", at::ScalarType::Float8_e5m2fnuz},
    {"float8_e4m3fnuz", at::ScalarType::Float8_e4m3fnuz},
};

constexpr NamedValue<at::Layout> kLayouts[] = {
    {"strided", at::kStrided},      {"sparse_coo", at::kSparse},    {"sparse_csr", at::kSparseCsr},
    {"sparse_csc", at::kSparseCsc}, {"sparse_bsr", at::kSparseBsr}, {"sparse_bsc", at::kSparseBsc},
    {"mkldnn", at::kMkldnn},        {"jagged", at::kJagged},
};

constexpr NamedValue<at::MemoryFormat> kMemoryFormats[] = {
    {"contiguous_format", at::MemoryFormat::Contiguous},
    {"preserve_format", at::MemoryFormat::Preserve},
    {"channels_last", at::MemoryFormat::ChannelsLast},
    {"channels_last_3d", at::MemoryFormat::ChannelsLast3d},
};

template <typename Table, typename T>
const char* NameIn(const Table& table, T value) {
  for (const auto& row : table) {
    if (row.value == value) return row.name;
  }
  return "unknown";
}

template <typename T, typename Table>
std::optional<T> ValueIn(const Table& table, std::string_view name) {
  for (const auto& row : table) {
    if (name == row.name) return row.value;
  }
  return std::nullopt;
}

constexpr const char* kKindNames[] = {"Tensor",  "Tensor[]",     "int",       "float",  "bool",
                                      "complex", "Scalar",       "str",       "Device", "ScalarType",
                                      "Layout",  "MemoryFormat", "Generator", "list",   "any"};

ArgumentKind KindOf(const c10::Type& type) {
  switch (type.kind()) {
    case c10::TypeKind::TensorType:
      return ArgumentKind::kTensor;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      return ArgumentKind::kInt;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType:
      return ArgumentKind::kFloat;
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType:
      return ArgumentKind::kBool;
    case c10::TypeKind::ComplexType:
      return ArgumentKind::kComplex;
    case c10::TypeKind::NumberType:
      return ArgumentKind::kScalar;
    case c10::TypeKind::StringType:
      return ArgumentKind::kString;
    case c10::TypeKind::DeviceObjType:
      return ArgumentKind::kDevice;
    case c10::TypeKind::ScalarTypeType:
      return ArgumentKind::kScalarType;
    case c10::TypeKind::LayoutType:
      return ArgumentKind::kLayout;
    case c10::TypeKind::MemoryFormatType:
      return ArgumentKind::kMemoryFormat;
    case c10::TypeKind::GeneratorType:
      return ArgumentKind::kGenerator;
    default:
      return ArgumentKind::kOther;  // torch's enum, not ours: new kinds are "anything"
  }
}

std::string PrintItem(const c10::IValue& value, ArgumentKind kind) {
  if (value.isNone()) return "None";
  if (value.isBool()) return value.toBool() ? "True" : "False";
  if (value.isInt()) {
    int64_t number = value.toInt();
    if (kind == ArgumentKind::kScalarType) return DtypeName(static_cast<at::ScalarType>(number));
    if (kind == ArgumentKind::kLayout) return LayoutName(static_cast<at::Layout>(number));
    if (kind == ArgumentKind::kMemoryFormat) return MemoryFormatName(static_cast<at::MemoryFormat>(number));
    return absl::StrCat(number);
  }
  if (value.isDouble()) return PrintDouble(value.toDouble());
  if (value.isComplexDouble()) {
    c10::complex<double> number = value.toComplexDouble();
    return absl::StrCat("complex(", PrintDouble(number.real()), ", ", PrintDouble(number.imag()), ")");
  }
  if (value.isString()) return PrintString(value.toStringRef());
  if (value.isDevice()) return PrintString(value.toDevice().str());
  return absl::StrCat("<", std::string(value.tagKind()), ">");
}

}  // namespace

const char* DtypeName(at::ScalarType dtype) { return NameIn(kDtypes, dtype); }
std::optional<at::ScalarType> DtypeFromName(std::string_view name) { return ValueIn<at::ScalarType>(kDtypes, name); }
const char* LayoutName(at::Layout layout) { return NameIn(kLayouts, layout); }
std::optional<at::Layout> LayoutFromName(std::string_view name) { return ValueIn<at::Layout>(kLayouts, name); }
const char* MemoryFormatName(at::MemoryFormat format) { return NameIn(kMemoryFormats, format); }
std::optional<at::MemoryFormat> MemoryFormatFromName(std::string_view name) {
  return ValueIn<at::MemoryFormat>(kMemoryFormats, name);
}

ArgumentType TypeOf(const c10::Argument& argument) {
  ArgumentType result;
  c10::TypePtr type = argument.real_type();
  if (auto optional = type->cast<c10::OptionalType>()) {
    result.optional = true;
    type = optional->getElementType();
  }
  auto list = type->cast<c10::ListType>();
  if (!list) {
    result.kind = KindOf(*type);
    return result;
  }
  c10::TypePtr element = list->getElementType();
  if (auto optional = element->cast<c10::OptionalType>()) element = optional->getElementType();
  result.element = KindOf(*element);
  result.kind = result.element == ArgumentKind::kTensor ? ArgumentKind::kTensorList : ArgumentKind::kList;
  return result;
}

std::string ArgumentTypeName(const ArgumentType& type) {
  bool list = type.kind == ArgumentKind::kList;
  const char* name = kKindNames[static_cast<size_t>(list ? type.element : type.kind)];
  return absl::StrCat(name, list ? "[]" : "", type.optional ? "?" : "");
}

bool SameConstant(const c10::IValue& a, const c10::IValue& b) {
  if (a.isDouble() && b.isDouble())
    return std::bit_cast<uint64_t>(a.toDouble()) == std::bit_cast<uint64_t>(b.toDouble());
  if (a.isComplexDouble() && b.isComplexDouble()) {
    c10::complex<double> x = a.toComplexDouble();
    c10::complex<double> y = b.toComplexDouble();
    return SameConstant(x.real(), y.real()) && SameConstant(x.imag(), y.imag());
  }
  if (a.isList() && b.isList()) {
    c10::ArrayRef<c10::IValue> x = a.toListRef();
    c10::ArrayRef<c10::IValue> y = b.toListRef();
    if (x.size() != y.size()) return false;
    for (size_t i = 0; i < x.size(); ++i) {
      if (!SameConstant(x[i], y[i])) return false;
    }
    return true;
  }
  if (a.isNone() || b.isNone()) return a.isNone() && b.isNone();
  if (a.isInt() && b.isInt()) return a.toInt() == b.toInt();
  if (a.isBool() && b.isBool()) return a.toBool() == b.toBool();
  if (a.isString() && b.isString()) return a.toStringRef() == b.toStringRef();
  if (a.isDevice() && b.isDevice()) return a.toDevice() == b.toDevice();
  return a.is(b);
}

bool SameTensor(const at::Tensor& a, const at::Tensor& b) {
  constexpr int64_t kMaxBytes = 4096;
  if (a.is_same(b)) return true;
  if (a.scalar_type() != b.scalar_type() || a.device() != b.device() || a.sizes() != b.sizes()) return false;
  if (a.strides() != b.strides() || a.is_conj() != b.is_conj() || a.is_neg() != b.is_neg()) return false;
  if (a.unsafeGetTensorImpl()->is_wrapped_number() != b.unsafeGetTensorImpl()->is_wrapped_number()) return false;
  if (!a.is_cpu() || !a.is_contiguous() || a.numel() * static_cast<int64_t>(a.element_size()) > kMaxBytes) return false;
  return std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.numel() * a.element_size()) == 0;
}

size_t HashConstant(const c10::IValue& value) {
  if (value.isDouble()) return absl::HashOf(1, std::bit_cast<uint64_t>(value.toDouble()));
  if (value.isInt()) return absl::HashOf(2, value.toInt());
  if (value.isBool()) return absl::HashOf(3, value.toBool());
  if (value.isString()) return absl::HashOf(4, value.toStringRef());
  if (value.isList()) {
    size_t hash = 5;
    for (const c10::IValue& item : value.toListRef()) hash = absl::HashOf(hash, HashConstant(item));
    return hash;
  }
  return 6;
}

std::string PrintDouble(double value) {
  if (std::isnan(value)) {
    uint64_t bits = std::bit_cast<uint64_t>(value);
    // Only NaNs that another computation could tell apart show their bits.
    return bits == 0x7ff8000000000000 ? "nan" : absl::StrFormat("nan(0x%x)", bits);
  }
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[32];
  auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  std::string text(buffer, end);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string PrintString(std::string_view text) {
  std::string result = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += static_cast<char>(c);
    } else if (c < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(&result, "\\x%02x", c);
    } else {
      result += static_cast<char>(c);
    }
  }
  return result + "\"";
}

std::string PrintConstant(const c10::IValue& value, const ArgumentType& type) {
  if (!value.isList()) return PrintItem(value, type.kind);
  std::string result = "[";
  for (const c10::IValue& item : value.toListRef()) {
    absl::StrAppend(&result, result.size() > 1 ? ", " : "", PrintItem(item, type.element));
  }
  return result + "]";
}

}  // namespace framejit
