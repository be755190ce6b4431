// Constants of a graph: how operand constants compare and print. "Same" is exact: a double is its bits (0.0 is not
// -0.0, a NaN is itself), an integer is not a float, and lists compare element by element.
#ifndef FRAMEJIT_GRAPH_CONSTANT_H_
#define FRAMEJIT_GRAPH_CONSTANT_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace framejit {

// What an argument's schema type says about the IValues it takes: the schemas store dtypes, layouts and memory formats
// as ints, so that the type is needed to print them.
enum class ArgumentKind : uint8_t {
  kTensor,
  kTensorList,
  kInt,
  kFloat,
  kBool,
  kComplex,
  kScalar,
  kString,
  kDevice,
  kScalarType,
  kLayout,
  kMemoryFormat,
  kGenerator,
  kList,   // of the element type's kind, below
  kOther,  // type variables, dictionaries, custom classes: anything goes
};

struct ArgumentType {
  ArgumentKind kind = ArgumentKind::kOther;
  ArgumentKind element = ArgumentKind::kOther;  // kList
  bool optional = false;
};

ArgumentType TypeOf(const c10::Argument& argument);
// "int", "float[]", "ScalarType?", for messages.
std::string ArgumentTypeName(const ArgumentType& type);

bool SameConstant(const c10::IValue& a, const c10::IValue& b);
// Equal dtype, layout in memory, device, wrapped-number flag and content, bit for bit. Looks at small CPU tensors only;
// everything else is the same only as itself.
bool SameTensor(const at::Tensor& a, const at::Tensor& b);
// Consistent with SameConstant.
size_t HashConstant(const c10::IValue& value);

// The text of a constant operand; graph/parse.h reads it back. Generators have no textual form that parses.
std::string PrintConstant(const c10::IValue& value, const ArgumentType& type);
// Shortest text that reads back as the same double, and that no reader takes for an integer.
std::string PrintDouble(double value);
std::string PrintString(std::string_view text);  // quoted and escaped

// "float32"; nullopt for an unknown name. (const char*, since abseil may have a string_view of its own.)
const char* DtypeName(at::ScalarType dtype);
std::optional<at::ScalarType> DtypeFromName(std::string_view name);
// "strided", "sparse", ...
const char* LayoutName(at::Layout layout);
std::optional<at::Layout> LayoutFromName(std::string_view name);
// "contiguous_format", "channels_last", ...
const char* MemoryFormatName(at::MemoryFormat format);
std::optional<at::MemoryFormat> MemoryFormatFromName(std::string_view name);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CONSTANT_H_
