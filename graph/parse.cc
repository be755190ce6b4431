#include "graph/parse.h"

#include <ATen/ops/zeros.h>

#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "graph/constant.h"
#include "graph/error_text.h"
#include "graph/print.h"
#include "graph/text_cursor.h"

namespace framejit {
namespace {

constexpr ValueId kMaxValueId = 1 << 24;  // a typing error must not allocate all memory

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<Graph> Run() {
    int number = 0;
    while (!text_.empty()) {
      cursor_ = TextCursor(TakeLine(), ++number);
      if (cursor_.AtEnd() || cursor_.Peek('#')) continue;
      if (returned_) cursor_.Expected("nothing after 'return'");
      if (cursor_.ok()) ParseLine();
      if (cursor_.ok() && !cursor_.AtEnd() && !cursor_.Peek('#')) cursor_.Expected("the end of the line");
      if (!cursor_.ok()) return cursor_.status();
    }
    if (!returned_) return absl::InvalidArgumentError(absl::StrCat("line ", number, ": expected 'return'"));
    return std::move(graph_);
  }

 private:
  std::string_view TakeLine() {
    size_t end = std::min(text_.find('\n'), text_.size());
    std::string_view line = text_.substr(0, end);
    text_.remove_prefix(std::min(end + 1, text_.size()));
    return line;
  }

  void ParseLine() {
    if (cursor_.TakeWord("input")) return ParseInput();
    if (cursor_.TakeWord("constant")) return ParseConstant();
    if (cursor_.TakeWord("mutate")) return ParseMutation();
    if (cursor_.TakeWord("return")) return ParseReturn();
    if (cursor_.TakeWord("strict")) return void(graph_.modes.strict = true);
    if (cursor_.TakeWord("reduce_overhead")) return void(graph_.modes.reduce_overhead = true);
    if (cursor_.TakeWord("autotune")) return void(graph_.modes.autotune = true);
    if (cursor_.TakeWord("open_sizes")) return void(graph_.modes.open_sizes = true);
    ParseNode();
  }

  void ParseInput() {
    ValueId id = ParseDefinition();
    if (cursor_.ok()) graph_.inputs.push_back(id);
  }

  void ParseConstant() {
    ValueId id = ParseDefinition();
    bool wrapped = cursor_.TakeWord("wrapped");
    cursor_.Take("=");
    if (cursor_.ok()) graph_.constants.push_back({id, ParseElements(graph_.meta(id), wrapped)});
  }

  void ParseMutation() {
    InputMutation mutation;
    mutation.input = ParseId();
    cursor_.Take("<-");
    mutation.value = ParseId();
    graph_.mutations.push_back(mutation);
  }

  void ParseReturn() {
    returned_ = true;
    if (cursor_.AtEnd() || cursor_.Peek('#')) return;
    do {
      graph_.outputs.push_back(ParseId());
    } while (cursor_.TakeIf(","));
  }

  // --- values -------------------------------------------------------------------------------------------------------
  ValueId ParseId() {
    cursor_.Take("%");
    int64_t id = cursor_.TakeInt("a value number");
    if (cursor_.ok() && (id < 0 || id > kMaxValueId)) cursor_.Expected("a value number below 2^24");
    return static_cast<ValueId>(id);
  }

  ValueId ParseIdOrNone() { return cursor_.TakeWord("none") || cursor_.TakeWord("None") ? kNoValue : ParseId(); }

  // "%3: float32[2] @1"
  ValueId ParseDefinition() {
    ValueId id = ParseId();
    cursor_.Take(":");
    TensorMeta meta = ParseType();
    if (!cursor_.ok()) return kNoValue;
    if (graph_.values.size() <= static_cast<size_t>(id)) graph_.values.resize(id + 1);
    graph_.values[id] = std::move(meta);
    return id;
  }

  TensorMeta ParseType() {
    TensorMeta meta;
    std::optional<at::ScalarType> dtype = DtypeFromName(cursor_.PeekIdentifier());
    if (!dtype) cursor_.Expected("a dtype");
    cursor_.TakeIdentifier();
    meta.dtype = dtype.value_or(at::kFloat);
    meta.sizes = ParseInts();
    meta.strides = cursor_.TakeIf("strides=") ? ParseInts() : ContiguousStrides(meta.sizes);
    if (cursor_.TakeIf("offset=")) meta.storage_offset = cursor_.TakeInt("an offset");
    if (cursor_.TakeIf("device=")) meta.device = ParseDevice();
    meta.requires_grad = cursor_.TakeWord("requires_grad");
    meta.is_number = cursor_.TakeWord("number");
    meta.is_conj = cursor_.TakeWord("conj");
    meta.is_neg = cursor_.TakeWord("neg");
    if (cursor_.TakeIf("@")) meta.storage = static_cast<int32_t>(cursor_.TakeInt("a storage number"));
    return meta;
  }

  c10::DimVector ParseInts() {
    c10::DimVector ints;
    cursor_.Take("[");
    while (cursor_.ok() && !cursor_.TakeIf("]")) {
      if (!ints.empty()) cursor_.Take(",");
      ints.push_back(cursor_.TakeInt("a number"));
    }
    return ints;
  }

  c10::Device ParseDevice() {
    std::string name = cursor_.TakeString();
    try {
      if (cursor_.ok()) return c10::Device(name);
    } catch (const std::exception&) {
      cursor_.Expected("a device");
    }
    return c10::Device(c10::kCPU);
  }

  // --- constants ----------------------------------------------------------------------------------------------------
  at::Tensor ParseElements(const TensorMeta& meta, bool wrapped) {
    std::vector<c10::IValue> items;
    cursor_.Take("[");
    while (cursor_.ok() && !cursor_.TakeIf("]")) {
      if (!items.empty()) cursor_.Take(",");
      items.push_back(ParseScalar());
    }
    if (cursor_.ok() && static_cast<int64_t>(items.size()) != meta.numel()) {
      cursor_.Expected(absl::StrCat(meta.numel(), " elements, not ", items.size()));
    }
    if (!cursor_.ok()) return {};
    try {
      at::Tensor tensor = MakeTensor(meta, items);
      if (wrapped) tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
      return tensor;
    } catch (const std::exception& error) {
      cursor_.Expected(absl::StrCat("a constant that torch can make (", ErrorText(error), ")"));
      return {};
    }
  }

  // Elements in logical order, placed by the strides (which may overlap or leave gaps).
  static at::Tensor MakeTensor(const TensorMeta& meta, const std::vector<c10::IValue>& items) {
    int64_t span = items.empty() ? 0 : 1;
    for (size_t d = 0; d < meta.sizes.size(); ++d) span += items.empty() ? 0 : (meta.sizes[d] - 1) * meta.strides[d];
    at::Tensor buffer = at::zeros({meta.storage_offset + span}, at::TensorOptions().dtype(meta.dtype));
    std::vector<int64_t> index(meta.sizes.size(), 0);
    for (const c10::IValue& item : items) {
      int64_t offset = meta.storage_offset;
      for (size_t d = 0; d < index.size(); ++d) offset += index[d] * meta.strides[d];
      buffer[offset].fill_(item.toScalar());
      for (size_t d = index.size(); d-- > 0;) {
        if (++index[d] < meta.sizes[d]) break;
        index[d] = 0;
      }
    }
    at::Tensor tensor = buffer.to(meta.device).as_strided(meta.sizes, meta.strides, meta.storage_offset);
    return tensor;
  }

  c10::IValue ParseScalar() {
    if (cursor_.TakeWord("True")) return true;
    if (cursor_.TakeWord("False")) return false;
    if (cursor_.TakeIf("complex(")) {
      double real = ParseScalar().toScalar().toDouble();
      cursor_.Take(",");
      double imaginary = ParseScalar().toScalar().toDouble();
      cursor_.Take(")");
      return c10::complex<double>(real, imaginary);
    }
    if (cursor_.TakeIf("-inf")) return -std::numeric_limits<double>::infinity();
    if (cursor_.TakeWord("inf")) return std::numeric_limits<double>::infinity();
    if (cursor_.TakeIf("nan(0x")) {
      double value = std::bit_cast<double>(cursor_.TakeHex());
      cursor_.Take(")");
      return value;
    }
    if (cursor_.TakeWord("nan")) return std::bit_cast<double>(0x7ff8000000000000ull);
    return ParseNumber();
  }

  c10::IValue ParseNumber() {
    std::string_view text = cursor_.TakeNumber("a number");
    if (!cursor_.ok()) return int64_t{0};
    if (text.find_first_of(".e") == std::string_view::npos) {
      int64_t integer = 0;
      if (!ParseInteger(text, 10, integer)) cursor_.Expected("an integer of 64 bits");
      return integer;
    }
    double value = 0;
    auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (result.ec != std::errc() || result.ptr != text.data() + text.size())
      cursor_.Expected("a floating-point number");
    return value;
  }

  // --- nodes --------------------------------------------------------------------------------------------------------
  struct Result {
    bool list = false;
    std::vector<ValueId> ids;
  };

  void ParseNode() {
    std::vector<Result> results;
    if (cursor_.Peek('%') || cursor_.Peek('[') || cursor_.PeekIdentifier() == "none") {
      do {
        results.push_back(ParseResult());
      } while (cursor_.TakeIf(","));
      cursor_.Take("=");
    }
    std::optional<c10::OperatorHandle> op = ParseOperator();
    if (!op) return;
    Node node{*op};
    ParseOperands(node);
    AddResults(results, node);
    ParseNodeLocation(node);
    if (cursor_.ok()) graph_.nodes.push_back(std::move(node));
  }

  Result ParseResult() {
    Result result;
    if (!cursor_.TakeIf("[")) {
      result.ids.push_back(cursor_.TakeWord("none") ? kNoValue : ParseDefinition());
      return result;
    }
    result.list = true;
    while (cursor_.ok() && !cursor_.TakeIf("]")) {
      if (!result.ids.empty()) cursor_.Take(",");
      result.ids.push_back(cursor_.TakeWord("none") ? kNoValue : ParseDefinition());
    }
    return result;
  }

  std::optional<c10::OperatorHandle> ParseOperator() {
    std::string_view rest = cursor_.rest();
    std::string_view name = rest.substr(0, rest.find_first_of("( #"));
    size_t scope = name.find("::");
    if (!cursor_.ok() || scope == std::string_view::npos) {
      cursor_.Expected("an operator such as aten::add.Tensor");
      return std::nullopt;
    }
    size_t dot = name.find('.', scope);
    std::string overload(dot == std::string_view::npos ? "" : name.substr(dot + 1));
    auto op = c10::Dispatcher::singleton().findSchema({std::string(name.substr(0, dot)), overload});
    if (!op) cursor_.Expected(absl::StrCat("an operator that torch knows, not ", std::string(name)));
    cursor_.Take(name);
    return op;
  }

  void ParseOperands(Node& node) {
    const auto& arguments = node.op.schema().arguments();
    std::vector<std::optional<Operand>> operands(arguments.size());
    size_t position = 0;
    cursor_.Take("(");
    for (bool first = true; cursor_.ok() && !cursor_.TakeIf(")"); first = false) {
      if (!first) cursor_.Take(",");
      size_t index = ArgumentIndex(arguments, position++);
      if (!cursor_.ok()) return;
      if (operands[index]) return cursor_.Expected(absl::StrCat("'", arguments[index].name(), "' only once"));
      operands[index] = ParseOperand(TypeOf(arguments[index]));
    }
    for (size_t i = 0; i < arguments.size() && cursor_.ok(); ++i) {
      node.operands.push_back(operands[i] ? *operands[i] : DefaultOf(arguments[i]));
    }
  }

  // The argument that comes next: by "name=", or by position.
  size_t ArgumentIndex(const std::vector<c10::Argument>& arguments, size_t position) {
    std::string_view name = cursor_.PeekIdentifier();
    if (!name.empty() && cursor_.rest().substr(name.size()).starts_with('=')) {
      for (size_t i = 0; i < arguments.size(); ++i) {
        if (arguments[i].name() != name) continue;
        cursor_.TakeIdentifier();
        cursor_.Take("=");
        return i;
      }
      cursor_.Expected(absl::StrCat("an argument of the schema, not '", std::string(name), "'"));
    } else if (position >= arguments.size()) {
      cursor_.Expected(absl::StrCat("at most ", arguments.size(), " operands"));
    }
    return position;
  }

  Operand DefaultOf(const c10::Argument& argument) {
    if (!argument.default_value()) {
      cursor_.Expected(absl::StrCat("the operand '", argument.name(), "'"));
      return {};
    }
    if (TypeOf(argument).kind == ArgumentKind::kTensor) return Operand::Value(kNoValue);
    return Operand::Constant(*argument.default_value());
  }

  Operand ParseOperand(const ArgumentType& type) {
    if (type.kind == ArgumentKind::kTensor) return Operand::Value(ParseIdOrNone());
    if (type.optional && cursor_.TakeWord("None")) return Operand::Constant(c10::IValue());
    if (type.kind == ArgumentKind::kTensorList) return ParseValueList();
    if (type.kind != ArgumentKind::kList) return Operand::Constant(ParseConstantOf(type.kind));
    std::vector<c10::IValue> items;
    cursor_.Take("[");
    while (cursor_.ok() && !cursor_.TakeIf("]")) {
      if (!items.empty()) cursor_.Take(",");
      items.push_back(ParseConstantOf(type.element));
    }
    return Operand::Constant(cursor_.ok() ? MakeList(items, type.element) : c10::IValue());
  }

  Operand ParseValueList() {
    std::vector<ValueId> ids;
    cursor_.Take("[");
    while (cursor_.ok() && !cursor_.TakeIf("]")) {
      if (!ids.empty()) cursor_.Take(",");
      ids.push_back(ParseIdOrNone());
    }
    return Operand::ValueList(std::move(ids));
  }

  // The typed lists that operators unbox.
  c10::IValue MakeList(const std::vector<c10::IValue>& items, ArgumentKind element) {
    auto typed = [&items](auto list, auto convert) {
      for (const c10::IValue& item : items) list.push_back(convert(item));
      return c10::IValue(std::move(list));
    };
    if (element == ArgumentKind::kInt)
      return typed(c10::List<int64_t>(), [](const auto& item) { return item.toInt(); });
    if (element == ArgumentKind::kFloat)
      return typed(c10::List<double>(), [](const auto& item) { return item.toDouble(); });
    if (element == ArgumentKind::kBool) return typed(c10::List<bool>(), [](const auto& item) { return item.toBool(); });
    if (element == ArgumentKind::kScalar) {
      return typed(c10::List<at::Scalar>(), [](const auto& item) { return item.toScalar(); });
    }
    if (element == ArgumentKind::kString) {
      return typed(c10::List<std::string>(), [](const auto& item) { return item.toStringRef(); });
    }
    cursor_.Expected("a list of numbers or strings");
    return {};
  }

  c10::IValue ParseConstantOf(ArgumentKind kind) {
    switch (kind) {
      case ArgumentKind::kString:
        return cursor_.TakeString();
      case ArgumentKind::kDevice:
        return ParseDevice();
      case ArgumentKind::kScalarType:
        return ParseName(DtypeFromName, "a dtype");
      case ArgumentKind::kLayout:
        return ParseName(LayoutFromName, "a layout");
      case ArgumentKind::kMemoryFormat:
        return ParseName(MemoryFormatFromName, "a memory format");
      case ArgumentKind::kInt:
        return Checked(ParseScalar(), [](const c10::IValue& value) { return value.isInt(); }, "an integer");
      case ArgumentKind::kFloat:
        return Checked(ParseScalar(), [](const c10::IValue& value) { return value.isDouble(); }, "a float such as 1.0");
      case ArgumentKind::kBool:
        return Checked(ParseScalar(), [](const c10::IValue& value) { return value.isBool(); }, "True or False");
      case ArgumentKind::kComplex:
        return Checked(ParseScalar(), [](const c10::IValue& value) { return value.isComplexDouble(); }, "complex(...)");
      case ArgumentKind::kScalar:
        return ParseScalar();
      case ArgumentKind::kGenerator:
      case ArgumentKind::kTensor:
      case ArgumentKind::kTensorList:
      case ArgumentKind::kList:
      case ArgumentKind::kOther:
        break;
    }
    cursor_.Expected("an operand that has a textual form");
    return {};
  }

  template <typename Test>
  c10::IValue Checked(c10::IValue value, Test test, const char* what) {
    if (cursor_.ok() && !test(value)) cursor_.Expected(what);
    return value;
  }

  template <typename Lookup>
  c10::IValue ParseName(Lookup lookup, const char* what) {
    auto found = lookup(cursor_.PeekIdentifier());
    if (!found) cursor_.Expected(what);
    cursor_.TakeIdentifier();
    return found ? static_cast<int64_t>(*found) : int64_t{0};
  }

  void AddResults(const std::vector<Result>& results, Node& node) {
    for (const Result& result : results) {
      node.outputs.insert(node.outputs.end(), result.ids.begin(), result.ids.end());
      if (result.list) node.list_lengths.push_back(static_cast<int32_t>(result.ids.size()));
    }
  }

  // "# at model.py:12 in forward (call 4)", each half optional; any other comment says nothing.
  void ParseNodeLocation(Node& node) {
    std::string_view rest = cursor_.rest();
    if (!cursor_.ok() || !rest.starts_with("# at ")) return;
    rest.remove_prefix(5);
    size_t call = rest.rfind("(call ");
    if (call != std::string_view::npos && rest.ends_with(')')) {
      std::string_view number = rest.substr(call + 6, rest.size() - call - 7);
      if (!ParseInteger(number, 10, node.torch_call)) return cursor_.Expected("(call NUMBER)");
      rest = rest.substr(0, call == 0 ? 0 : call - 1);
    }
    if (rest.empty()) return;
    size_t in = rest.rfind(" in ");
    size_t colon = rest.rfind(':', in);
    SourceLocation location;
    bool valid = in != std::string_view::npos && colon != std::string_view::npos &&
                 ParseInteger(rest.substr(colon + 1, in - colon - 1), 10, location.line);
    if (!valid) return cursor_.Expected("a location such as '# at model.py:12 in forward'");
    location.file = std::string(rest.substr(0, colon));
    location.function = std::string(rest.substr(in + 4));
    auto [row, added] = locations_.try_emplace(PrintLocation(location), static_cast<int32_t>(graph_.locations.size()));
    if (added) graph_.locations.push_back(std::move(location));
    node.location = row->second;
  }

  std::string_view text_;
  TextCursor cursor_;
  Graph graph_;
  std::map<std::string, int32_t> locations_;
  bool returned_ = false;
};

}  // namespace

absl::StatusOr<Graph> ParseGraph(std::string_view text) { return Parser(text).Run(); }

}  // namespace framejit
