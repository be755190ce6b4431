#include "graph/symbolic/size_names.h"

#include <Python.h>
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "graph/symbolic/call_name.h"

namespace framejit {
namespace {

using Kind = TorchArgument::Kind;
using Names = std::vector<std::string>;

// Of the sizes of their first operand, whatever the others are.
constexpr std::array<std::string_view, 36> kLikeFirst = {
    "abs",      "bool",  "clamp",   "clone",  "contiguous", "cos",     "cumsum",      "detach", "dropout",
    "exp",      "float", "gelu",    "half",   "layer_norm", "log",     "log_softmax", "neg",    "relu",
    "rms_norm", "rsqrt", "sigmoid", "silu",   "sin",        "softmax", "sqrt",        "square", "tanh",
    "to",       "type",  "long",    "invert", "isnan",      "erf",     "softplus",    "elu",    "zeros_like"};
constexpr std::array<std::string_view, 20> kBroadcast = {
    "add", "iadd", "sub", "isub", "mul", "imul", "truediv", "div",   "pow",         "eq",
    "ne",  "lt",   "le",  "gt",   "ge",  "and_", "or_",     "where", "masked_fill", "maximum"};

template <size_t N>
bool IsOneOf(std::string_view name, const std::array<std::string_view, N>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::optional<int64_t> IntOf(const TorchArgument& argument) {
  if (argument.kind != Kind::kConstant || argument.symbol != kNoSymbol || !argument.constant ||
      !PyLong_CheckExact(argument.constant.get()))
    return std::nullopt;
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(argument.constant.get(), &overflow);
  return overflow == 0 ? std::optional<int64_t>(value) : std::nullopt;
}

// (2, 3) and ((2, 3),), from the second argument on.
std::vector<TorchArgument> Listed(const TorchCall& call) {
  if (call.args.size() == 2 && !call.args[1].items.empty()) return call.args[1].items;
  return {call.args.begin() + 1, call.args.end()};
}

std::optional<size_t> DimensionOf(const TorchArgument& argument, size_t rank) {
  std::optional<int64_t> dimension = IntOf(argument);
  if (!dimension) return std::nullopt;
  if (*dimension < 0) *dimension += static_cast<int64_t>(rank);
  if (*dimension < 0 || *dimension >= static_cast<int64_t>(rank)) return std::nullopt;
  return static_cast<size_t>(*dimension);
}

// Empty names are sizes that are not known.
void Broadcast(Names& result, const Names& other) {
  if (other.size() > result.size()) result.insert(result.begin(), other.size() - result.size(), "1");
  const size_t offset = result.size() - other.size();
  for (size_t i = 0; i < other.size(); ++i) {
    std::string& size = result[offset + i];
    if (size == "1") {
      size = other[i];
    } else if (other[i] != "1" && other[i] != size) {
      size.clear();
    }
  }
}

}  // namespace

std::optional<Names> SizeNames::OfResult(const TorchCall& call, const TorchGraph& graph,
                                         const SymbolicProgram& program) const {
  if (call.args.empty() || call.kind == TorchCall::Kind::kAttribute) return std::nullopt;
  std::vector<const Names*> operands;
  for (const TorchArgument& argument : call.args) {
    if (argument.kind == Kind::kValue) operands.push_back(&Of(argument.value));
  }
  const std::string name = NameOfTarget(call);
  if (operands.empty() || name.empty()) return std::nullopt;
  Names sizes = *operands[0];
  const size_t rank = sizes.size();
  if (IsOneOf(name, kBroadcast)) {
    for (const Names* operand : operands) Broadcast(sizes, *operand);
    return sizes;
  }
  if (call.args[0].kind != Kind::kValue) return std::nullopt;
  if (IsOneOf(name, kLikeFirst)) return sizes;
  const auto type_of = [&](const TorchArgument& argument) {
    return graph.values[static_cast<size_t>(argument.value)].dtype;
  };
  if (name == "nonzero" && call.args.size() == 1 && call.kwargs.empty()) return Names{"", absl::StrCat(rank)};
  // By a mask: one size in place of those that it covers. By positions: theirs in place of the first.
  if ((name == "getitem" || name == "__getitem__") && operands.size() == 2 && call.args.size() == 2) {
    const c10::ScalarType type = type_of(call.args[1]);
    const bool is_mask = type == c10::ScalarType::Bool || type == c10::ScalarType::Byte;
    const size_t covered = is_mask ? operands[1]->size() : 1;
    if (covered == 0 || covered > rank) return std::nullopt;
    Names indexed = is_mask ? Names{""} : *operands[1];
    indexed.insert(indexed.end(), sizes.begin() + static_cast<std::ptrdiff_t>(covered), sizes.end());
    return indexed;
  }
  if ((name == "matmul" || name == "mm") && operands.size() == 2 && rank >= 1 && operands[1]->size() == 2)
    return sizes.back() = operands[1]->back(), sizes;
  if (name == "index_select" && call.args.size() == 3) {
    const auto dimension = DimensionOf(call.args[1], rank);
    if (!dimension || operands.size() != 2 || operands[1]->size() != 1) return std::nullopt;
    return sizes[*dimension] = operands[1]->front(), sizes;
  }
  if (name == "linear" && operands.size() >= 2 && rank >= 1 && operands[1]->size() == 2)
    return sizes.back() = (*operands[1])[0], sizes;
  if (name == "embedding" && operands.size() == 2) {
    const bool table_first = c10::isFloatingType(graph.values[static_cast<size_t>(call.args[0].value)].dtype);
    const Names& table = *operands[table_first ? 0 : 1];
    if (table.size() != 2) return std::nullopt;
    sizes = *operands[table_first ? 1 : 0];
    sizes.push_back(table[1]);
    return sizes;
  }
  if (name == "scaled_dot_product_attention" && operands.size() >= 3 && rank >= 2 && operands[2]->size() == rank)
    return sizes.back() = operands[2]->back(), sizes;
  if (name == "transpose" && call.args.size() == 3) {
    const auto a = DimensionOf(call.args[1], rank), b = DimensionOf(call.args[2], rank);
    if (!a || !b) return std::nullopt;
    return std::swap(sizes[*a], sizes[*b]), sizes;
  }
  if (name == "permute") {
    Names permuted;
    for (const TorchArgument& argument : Listed(call)) {
      const auto dimension = DimensionOf(argument, rank);
      if (!dimension) return std::nullopt;
      permuted.push_back(sizes[*dimension]);
    }
    return permuted;
  }
  if (name == "unsqueeze" && call.args.size() == 2) {
    const auto dimension = DimensionOf(call.args[1], rank + 1);
    if (!dimension) return std::nullopt;
    return sizes.insert(sizes.begin() + static_cast<std::ptrdiff_t>(*dimension), "1"), sizes;
  }
  if (name == "view" || name == "reshape") {
    Names viewed;
    for (const TorchArgument& argument : Listed(call)) {
      const std::optional<int64_t> size = IntOf(argument);
      if (argument.symbol != kNoSymbol) {
        viewed.push_back(program.symbols[static_cast<size_t>(argument.symbol)].text);
      } else {
        viewed.push_back(size && *size >= 0 ? absl::StrCat(*size) : "");
      }
    }
    return viewed;
  }
  return std::nullopt;
}

std::optional<Names> SizeNames::OfParts(const TorchCall& call) const {
  if (call.args.empty() || call.args[0].kind != Kind::kValue || call.kind == TorchCall::Kind::kAttribute)
    return std::nullopt;
  const std::string name = NameOfTarget(call);
  if (name != "split" && name != "chunk") return std::nullopt;
  Names sizes = Of(call.args[0].value);
  std::optional<size_t> dimension = sizes.empty() ? std::nullopt : std::optional<size_t>(0);
  if (call.args.size() > 2) dimension = DimensionOf(call.args[2], sizes.size());
  for (const auto& [key, argument] : call.kwargs) {
    if (PyUnicode_CompareWithASCIIString(key.get(), "dim") == 0) dimension = DimensionOf(argument, sizes.size());
  }
  if (!dimension) return std::nullopt;
  return sizes[*dimension].clear(), sizes;
}

void SizeNames::Set(TorchValueId value, std::optional<Names> sizes, const TorchGraph& graph,
                    const std::vector<std::string>& names) {
  const auto id = static_cast<size_t>(value);
  const auto& actual = graph.values[id].sizes;
  if (!sizes_[id].empty()) return;
  if (!sizes || sizes->size() != actual.size()) sizes = Names(actual.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    int64_t number = 0;
    const bool is_other = absl::SimpleAtoi((*sizes)[i], &number) && number != actual[i];
    if (!(*sizes)[i].empty() && !is_other) continue;
    (*sizes)[i] = absl::StrCat(names[id], ".shape[", i, "]");
    owners_.emplace((*sizes)[i], value);
  }
  sizes_[id] = *std::move(sizes);
}

void SizeNames::Follow(const TorchGraph& graph, const SymbolicProgram& program, const std::vector<std::string>& names) {
  sizes_.resize(graph.values.size());
  const auto numbers = [&](TorchValueId value) {
    Names sizes;
    for (const int64_t size : graph.values[static_cast<size_t>(value)].sizes) sizes.push_back(absl::StrCat(size));
    return sizes;
  };
  for (; inputs_ < program.varies.size() && inputs_ < graph.inputs.size(); ++inputs_) {
    const TorchValueId value = graph.inputs[inputs_];
    Set(value, program.varies[inputs_] ? std::nullopt : std::optional<Names>(numbers(value)), graph, names);
  }
  for (; constants_ < graph.constants.size(); ++constants_) {
    const TorchValueId value = graph.constants[constants_].first;
    Set(value, numbers(value), graph, names);
  }
  const auto name_parts = [&](const auto& self, const TorchArgument& result,
                              const std::optional<Names>& sizes) -> void {
    if (result.kind == Kind::kValue) Set(result.value, sizes, graph, names);
    for (const TorchArgument& item : result.items) self(self, item, sizes);
  };
  for (; calls_ < graph.calls.size(); ++calls_) {
    const TorchCall& call = graph.calls[calls_];
    const bool is_one = call.result.kind == Kind::kValue;
    name_parts(name_parts, call.result, is_one ? OfResult(call, graph, program) : OfParts(call));
  }
}

}  // namespace framejit
