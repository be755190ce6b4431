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

// A size that follows from numbers alone: what it is in the recording, it always is.
constexpr char kAsRecorded[] = "=";

// Of the sizes of their first operand, whatever the others are.
constexpr std::array<std::string_view, 42> kLikeFirst = {
    "abs",     "bool",    "clone",      "contiguous", "cos",     "cumsum", "detach",   "dropout",     "exp",
    "float",   "gelu",    "half",       "layer_norm", "log",     "neg",    "relu",     "log_softmax", "rms_norm",
    "rsqrt",   "sigmoid", "silu",       "sin",        "softmax", "sqrt",   "square",   "tanh",        "to",
    "type",    "long",    "invert",     "isnan",      "erf",     "elu",    "softplus", "zeros_like",  "ones_like",
    "type_as", "int",     "reciprocal", "flip",       "tril",    "triu"};
constexpr std::array<std::string_view, 21> kBroadcast = {
    "add", "iadd", "sub", "isub", "mul", "imul", "truediv", "div",   "pow",         "eq",     "clamp",
    "ne",  "lt",   "le",  "gt",   "ge",  "and_", "or_",     "where", "masked_fill", "maximum"};
constexpr std::array<std::string_view, 3> kLikeSecond = {"expand_as", "view_as", "reshape_as"};
constexpr std::array<std::string_view, 8> kReduces = {"sum", "mean", "amax", "amin", "any", "all", "argmax", "argmin"};
constexpr std::array<std::string_view, 6> kFills = {"zeros", "ones", "empty", "full", "rand", "randn"};
constexpr std::array<std::string_view, 4> kFillsLike = {"new_zeros", "new_ones", "new_empty", "new_full"};

template <size_t N>
bool IsOneOf(std::string_view name, const std::array<std::string_view, N>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool IsNumber(const std::string& size) {
  int64_t number = 0;
  return absl::SimpleAtoi(size, &number);
}

std::optional<int64_t> IntOf(const TorchArgument& argument) {
  if (argument.kind != Kind::kConstant || argument.symbol != kNoSymbol || !argument.constant ||
      !PyLong_CheckExact(argument.constant.get()))
    return std::nullopt;
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(argument.constant.get(), &overflow);
  return overflow == 0 ? std::optional<int64_t>(value) : std::nullopt;
}

bool IsNone(const TorchArgument& argument) {
  return argument.kind == Kind::kConstant && argument.constant.get() == Py_None;
}

// Of an argument that is a size; empty where it is none.
std::string SizeOf(const TorchArgument& argument, const SymbolicProgram& program) {
  if (argument.kind != Kind::kConstant || !argument.constant || !PyLong_CheckExact(argument.constant.get())) return "";
  int overflow = 0;
  const long long size = PyLong_AsLongLongAndOverflow(argument.constant.get(), &overflow);
  if (overflow != 0 || size < 0) return "";
  return argument.symbol != kNoSymbol ? program.symbols[static_cast<size_t>(argument.symbol)].text : absl::StrCat(size);
}

// (2, 3) and ((2, 3),), from that argument on.
std::vector<TorchArgument> Listed(const TorchCall& call, size_t first = 1) {
  if (call.args.size() == first + 1 && !call.args[first].items.empty()) return call.args[first].items;
  return {call.args.begin() + static_cast<std::ptrdiff_t>(first), call.args.end()};
}

const TorchArgument* Find(const TorchCall& call, size_t position, const char* keyword) {
  if (call.args.size() > position) return &call.args[position];
  for (const auto& [key, argument] : call.kwargs) {
    if (PyUnicode_CompareWithASCIIString(key.get(), keyword) == 0) return &argument;
  }
  return nullptr;
}

std::optional<size_t> DimensionOf(const TorchArgument& argument, size_t rank) {
  std::optional<int64_t> dimension = IntOf(argument);
  if (!dimension) return std::nullopt;
  if (*dimension < 0) *dimension += static_cast<int64_t>(rank);
  if (*dimension < 0 || *dimension >= static_cast<int64_t>(rank)) return std::nullopt;
  return static_cast<size_t>(*dimension);
}

// Argument `dim`, which is 0 where the call does not say it.
std::optional<size_t> DimensionOf(const TorchCall& call, size_t position, size_t rank) {
  const TorchArgument* argument = Find(call, position, "dim");
  if (argument != nullptr) return DimensionOf(*argument, rank);
  return rank > 0 ? std::optional<size_t>(0) : std::nullopt;
}

// Empty names are sizes that are not known. A number but 1 is the result's, or the operands do not fit.
void Broadcast(Names& result, const Names& other) {
  if (other.size() > result.size()) result.insert(result.begin(), other.size() - result.size(), "1");
  const size_t offset = result.size() - other.size();
  for (size_t i = 0; i < other.size(); ++i) {
    std::string& size = result[offset + i];
    if (other[i] == "1" || other[i] == size || (IsNumber(size) && size != "1")) continue;
    if (size == "1" || IsNumber(other[i])) {
      size = other[i];
    } else {
      size.clear();
    }
  }
}

// Of the size that a view calls -1: what the others leave. Where one of those is 0, torch raises.
std::string Quotient(Names all, const Names& others) {
  bool leaves_number = false;
  for (const std::string& other : others) {
    if (auto row = std::find(all.begin(), all.end(), other); row != all.end()) {
      all.erase(row);
    } else if (IsNumber(other)) {
      leaves_number |= other != "1";
    } else {
      return "";
    }
  }
  if (std::all_of(all.begin(), all.end(), IsNumber)) return kAsRecorded;
  std::erase(all, "1");
  return all.size() == 1 && !leaves_number ? all.front() : "";
}

Names OfView(const TorchCall& call, const Names& sizes, const SymbolicProgram& program) {
  Names viewed, others;
  std::optional<size_t> rest;
  for (const TorchArgument& argument : Listed(call)) {
    viewed.push_back(SizeOf(argument, program));
    if (IntOf(argument) == -1) {
      rest = viewed.size() - 1;
    } else {
      others.push_back(viewed.back());
    }
  }
  const bool knows_others = std::none_of(others.begin(), others.end(), [](const auto& size) { return size.empty(); });
  if (rest && knows_others) viewed[*rest] = Quotient(sizes, others);
  return viewed;
}

std::optional<Names> OfExpand(const TorchCall& call, const Names& sizes, const SymbolicProgram& program) {
  const std::vector<TorchArgument> listed = Listed(call);
  if (listed.size() < sizes.size()) return std::nullopt;
  Names expanded;
  for (size_t i = 0; i < listed.size(); ++i) {
    const size_t added = listed.size() - sizes.size();
    expanded.push_back(IntOf(listed[i]) == -1 && i >= added ? sizes[i - added] : SizeOf(listed[i], program));
  }
  return expanded;
}

std::string OfSlice(const TorchArgument& slice, const std::string& size, const SymbolicProgram& program) {
  const TorchArgument &start = slice.items[0], &stop = slice.items[1], &step = slice.items[2];
  const bool is_whole = (IsNone(start) || IntOf(start) == 0) && (IsNone(step) || IntOf(step) == 1) &&
                        (IsNone(stop) || SizeOf(stop, program) == size);
  if (is_whole) return size;
  const bool of_numbers = IsNumber(size) && std::all_of(slice.items.begin(), slice.items.end(), [](const auto& item) {
                            return IsNone(item) || IntOf(item).has_value();
                          });
  return of_numbers ? kAsRecorded : "";
}

// By ints, slices, None and ellipses.
std::optional<Names> OfItems(const std::vector<TorchArgument>& items, const Names& sizes,
                             const SymbolicProgram& program) {
  const auto is_ellipsis = [](const TorchArgument& item) { return item.constant.get() == Py_Ellipsis; };
  const auto is_int = [](const TorchArgument& item) {
    return item.kind == Kind::kConstant && item.constant && PyLong_CheckExact(item.constant.get());
  };
  const auto takes_dimension = [&](const TorchArgument& item) { return item.kind == Kind::kSlice || is_int(item); };
  const auto taken = static_cast<size_t>(std::count_if(items.begin(), items.end(), takes_dimension));
  if (taken > sizes.size() || std::count_if(items.begin(), items.end(), is_ellipsis) > 1) return std::nullopt;
  Names indexed;
  size_t dimension = 0;
  for (const TorchArgument& item : items) {
    if (item.kind == Kind::kSlice) {
      indexed.push_back(OfSlice(item, sizes[dimension++], program));
    } else if (is_int(item)) {
      ++dimension;
    } else if (IsNone(item)) {
      indexed.emplace_back("1");
    } else if (is_ellipsis(item)) {
      for (size_t i = taken; i < sizes.size(); ++i) indexed.push_back(sizes[dimension++]);
    } else {
      return std::nullopt;
    }
  }
  for (; dimension < sizes.size(); ++dimension) indexed.push_back(sizes[dimension]);
  return indexed;
}

// By a mask: one size in place of those that it covers. By positions: theirs in place of the first.
std::optional<Names> OfIndex(const TorchCall& call, const Names& sizes, const TorchGraph& graph, const Names* positions,
                             const SymbolicProgram& program) {
  if (call.args.size() != 2) return std::nullopt;
  const TorchArgument& index = call.args[1];
  if (index.kind == Kind::kTuple) return OfItems(index.items, sizes, program);
  if (index.kind != Kind::kValue) return OfItems({index}, sizes, program);
  const c10::ScalarType type = graph.values[static_cast<size_t>(index.value)].dtype;
  const bool is_mask = type == c10::ScalarType::Bool || type == c10::ScalarType::Byte;
  const size_t covered = is_mask ? positions->size() : 1;
  if (covered == 0 || covered > sizes.size()) return std::nullopt;
  Names indexed = is_mask ? Names{""} : *positions;
  indexed.insert(indexed.end(), sizes.begin() + static_cast<std::ptrdiff_t>(covered), sizes.end());
  return indexed;
}

// sum(x, dim, keepdim). Without `dim` there is no size to name.
std::optional<Names> OfReduction(const TorchCall& call, const Names& sizes) {
  const TorchArgument *dim = Find(call, 1, "dim"), *keep = Find(call, 2, "keepdim");
  if (dim == nullptr || (keep != nullptr && (keep->kind != Kind::kConstant || !PyBool_Check(keep->constant.get()))))
    return std::nullopt;
  const bool keeps = keep != nullptr && keep->constant.get() == Py_True;
  Names reduced = sizes;
  for (const TorchArgument& item : dim->items.empty() ? std::vector<TorchArgument>{*dim} : dim->items) {
    const auto dimension = DimensionOf(item, sizes.size());
    if (!dimension) return std::nullopt;
    reduced[*dimension] = keeps ? "1" : "";
  }
  if (!keeps) std::erase(reduced, "");
  return reduced;
}

// Batches of matrices.
std::optional<Names> OfProduct(const Names& left, const Names& right) {
  if (left.size() < 2 || right.size() < 2) return std::nullopt;
  Names batch(left.begin(), left.end() - 2);
  Broadcast(batch, Names(right.begin(), right.end() - 2));
  batch.push_back(left[left.size() - 2]);
  batch.push_back(right.back());
  return batch;
}

// Where heads are shared among queries, sizes that differ fit.
std::optional<Names> OfAttention(const TorchCall& call, const std::vector<const Names*>& operands) {
  const Names &query = *operands[0], &value = *operands[2];
  if (value.size() != query.size() || Find(call, 7, "enable_gqa") != nullptr) return std::nullopt;
  auto product = OfProduct(query, *operands[1]);
  return product ? OfProduct(*product, value) : std::nullopt;
}

}  // namespace

// cat((x, y), dim), stack((x, y), dim). `cat` leaves out what has one dimension of size 0.
std::optional<Names> SizeNames::OfJoined(const TorchCall& call, bool adds_dimension) const {
  std::vector<const Names*> parts;
  for (const TorchArgument& item : call.args[0].items) {
    if (item.kind != Kind::kValue) return std::nullopt;
    const Names& part = Of(item.value);
    if (adds_dimension || part != Names{"0"}) parts.push_back(&part);
  }
  if (parts.empty()) return std::nullopt;
  Names sizes = *parts[0];
  const auto dimension = DimensionOf(call, 1, sizes.size() + (adds_dimension ? 1 : 0));
  const bool same_rank =
      std::all_of(parts.begin(), parts.end(), [&](auto* part) { return part->size() == sizes.size(); });
  if (!dimension || !same_rank) return std::nullopt;
  for (const Names* part : parts) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (IsNumber((*part)[i])) sizes[i] = (*part)[i];
    }
  }
  if (adds_dimension)
    return sizes.insert(sizes.begin() + static_cast<std::ptrdiff_t>(*dimension), absl::StrCat(parts.size())), sizes;
  const bool of_numbers =
      std::all_of(parts.begin(), parts.end(), [&](auto* part) { return IsNumber((*part)[*dimension]); });
  if (parts.size() > 1) sizes[*dimension] = of_numbers ? kAsRecorded : "";
  return sizes;
}

std::optional<Names> SizeNames::OfResult(const TorchCall& call, const TorchGraph& graph,
                                         const SymbolicProgram& program) const {
  if (call.args.empty() || call.kind == TorchCall::Kind::kAttribute) return std::nullopt;
  std::vector<const Names*> operands;
  for (const TorchArgument& argument : call.args) {
    if (argument.kind == Kind::kValue) operands.push_back(&Of(argument.value));
  }
  const std::string name = NameOfTarget(call);
  if (name == "cat" || name == "stack") return OfJoined(call, name == "stack");
  if (name == "arange" && call.args.size() == 1 && Find(call, 1, "end") == nullptr)
    return Names{SizeOf(call.args[0], program)};
  if (IsOneOf(name, kFills) || IsOneOf(name, kFillsLike)) {
    const size_t first = IsOneOf(name, kFills) ? 0 : 1;
    Names sizes;
    const bool has_value = name == "full" || name == "new_full";
    if (call.args.size() <= first) return std::nullopt;
    for (const TorchArgument& argument : has_value ? call.args[first].items : Listed(call, first))
      sizes.push_back(SizeOf(argument, program));
    return sizes;
  }
  if (operands.empty() || name.empty()) return std::nullopt;
  Names sizes = *operands[0];
  const size_t rank = sizes.size();
  if (IsOneOf(name, kBroadcast)) {
    for (const auto& [key, argument] : call.kwargs) {
      if (argument.kind == Kind::kValue) operands.push_back(&Of(argument.value));
    }
    for (const Names* operand : operands) Broadcast(sizes, *operand);
    return sizes;
  }
  if (call.args[0].kind != Kind::kValue) return std::nullopt;
  if (IsOneOf(name, kLikeFirst)) return sizes;
  if (IsOneOf(name, kLikeSecond) && operands.size() == 2) return *operands[1];
  if (IsOneOf(name, kReduces)) return OfReduction(call, sizes);
  if (name == "nonzero" && call.args.size() == 1 && call.kwargs.empty()) return Names{"", absl::StrCat(rank)};
  if (name == "getitem" || name == "__getitem__")
    return OfIndex(call, sizes, graph, operands.size() == 2 ? operands[1] : nullptr, program);
  if ((name == "matmul" || name == "mm" || name == "bmm") && operands.size() == 2) {
    if (operands[1]->size() == 2 && rank >= 1) return sizes.back() = operands[1]->back(), sizes;
    return OfProduct(sizes, *operands[1]);
  }
  if (name == "addmm" && operands.size() == 3 && operands[1]->size() == 2 && operands[2]->size() == 2)
    return Names{(*operands[1])[0], (*operands[2])[1]};
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
  if (name == "scaled_dot_product_attention" && operands.size() >= 3) return OfAttention(call, operands);
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
  if (name == "unsqueeze") {
    const auto dimension = DimensionOf(call, 1, rank + 1);
    if (!dimension) return std::nullopt;
    return sizes.insert(sizes.begin() + static_cast<std::ptrdiff_t>(*dimension), "1"), sizes;
  }
  if (name == "view" || name == "reshape") return OfView(call, sizes, program);
  if (name == "expand") return OfExpand(call, sizes, program);
  return std::nullopt;
}

std::optional<Names> SizeNames::OfParts(const TorchCall& call) const {
  if (call.args.empty() || call.args[0].kind != Kind::kValue || call.kind == TorchCall::Kind::kAttribute)
    return std::nullopt;
  const std::string name = NameOfTarget(call);
  const bool removes_dimension = name == "unbind";
  if (name != "split" && name != "chunk" && !removes_dimension) return std::nullopt;
  Names sizes = Of(call.args[0].value);
  const auto dimension = DimensionOf(call, removes_dimension ? 1 : 2, sizes.size());
  if (!dimension) return std::nullopt;
  if (removes_dimension) return sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(*dimension)), sizes;
  const bool has_symbol = std::any_of(call.args.begin(), call.args.end(), HasSymbol) ||
                          std::any_of(call.kwargs.begin(), call.kwargs.end(),
                                      [](const auto& keyword) { return HasSymbol(keyword.second); });
  const bool of_numbers = IsNumber(sizes[*dimension]) && !has_symbol;
  return sizes[*dimension] = of_numbers ? kAsRecorded : "", sizes;
}

void SizeNames::Set(TorchValueId value, std::optional<Names> sizes, const TorchGraph& graph,
                    const std::vector<std::string>& names) {
  const auto id = static_cast<size_t>(value);
  const auto& actual = graph.values[id].sizes;
  if (!sizes_[id].empty()) return;
  if (!sizes || sizes->size() != actual.size()) sizes = Names(actual.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    if ((*sizes)[i] == kAsRecorded) (*sizes)[i] = absl::StrCat(actual[i]);
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
