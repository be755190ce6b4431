// Numbers and sizes that come of the data of tensors: `item`, `tolist`, `nonzero`, masks, `unique`. While recording,
// they are what this call's tensors give (FakeSession::RealValue); in the recording they are symbols that nothing may
// depend on: where a branch, a key or C code asks what one is worth, the recording breaks. What is known of their
// limits may decide a comparison, and what the program says of them by torch._check is checked in each call.
#include <c10/core/ScalarType.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "graph/capture/program_gradients.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

using Kind = TorchArgument::Kind;
// More numbers of one tensor are data for a program to loop over, not sizes.
constexpr int64_t kMaxNumbers = 64;

constexpr std::array<std::string_view, 9> kChecks = {"_check",
                                                     "_check_index",
                                                     "_check_value",
                                                     "_check_type",
                                                     "_check_not_implemented",
                                                     "_check_is_size",
                                                     "_constrain_as_size",
                                                     "sym_constrain_range",
                                                     "sym_constrain_range_for_size"};

template <typename Visit>
void ForEachPart(const TorchArgument& argument, Visit visit) {
  visit(argument);
  for (const TorchArgument& item : argument.items) ForEachPart(item, visit);
}

template <typename Visit>
void ForEachArgument(const TorchCall& call, Visit visit) {
  for (const TorchArgument& argument : call.args) ForEachPart(argument, visit);
  for (const auto& [key, argument] : call.kwargs) ForEachPart(argument, visit);
}

std::string NameOf(PyObject* callable) {
  PyRef name =
      PyUnicode_Check(callable) ? PyRef::Borrow(callable) : PyRef::Steal(PyObject_GetAttrString(callable, "__name__"));
  const char* text = name && PyUnicode_Check(name.get()) ? PyUnicode_AsUTF8(name.get()) : nullptr;
  PyErr_Clear();
  return text == nullptr ? "" : text;
}

std::optional<int64_t> IntOf(PyObject* object) {
  if (object == nullptr || !PyLong_CheckExact(object)) return std::nullopt;
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0 ? std::optional<int64_t>(value) : std::nullopt;
}

NumberRange RangeOfDtype(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Bool:
      return {0, 1};
    case c10::ScalarType::Byte:
      return {0, std::numeric_limits<uint8_t>::max()};
    case c10::ScalarType::Char:
      return {std::numeric_limits<int8_t>::min(), std::numeric_limits<int8_t>::max()};
    case c10::ScalarType::Short:
      return {std::numeric_limits<int16_t>::min(), std::numeric_limits<int16_t>::max()};
    case c10::ScalarType::Int:
      return {std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()};
    default:
      return {};
  }
}

std::string RangeText(const NumberRange& range) {
  return absl::StrCat(range.low ? absl::StrCat(*range.low) : "any", " to ",
                      range.high ? absl::StrCat(*range.high) : "any");
}

// Whether every number of the one range is less than every one of the other: that it is; that none is; or neither.
std::optional<bool> IsLess(const NumberRange& left, const NumberRange& right) {
  if (left.high && right.low && *left.high < *right.low) return true;
  if (left.low && right.high && *left.low >= *right.high) return false;
  return std::nullopt;
}

std::optional<bool> Not(std::optional<bool> known) { return known ? std::optional<bool>(!*known) : std::nullopt; }

std::optional<bool> Compare(std::string_view name, const NumberRange& left, const NumberRange& right) {
  if (name == "lt") return IsLess(left, right);
  if (name == "gt") return IsLess(right, left);
  if (name == "le") return Not(IsLess(right, left));
  if (name == "ge") return Not(IsLess(left, right));
  const bool differ = IsLess(left, right).value_or(false) || IsLess(right, left).value_or(false);
  if (name == "eq" && differ) return false;
  if (name == "ne" && differ) return true;
  return std::nullopt;
}

// A comparison as another one: (a > b) is (b < a), (a >= b) is not (a < b). `holds` is what it says.
struct Fact {
  std::string text;
  bool holds;
};

Fact FactOf(std::string_view name, const std::string& left, const std::string& right, bool holds) {
  const bool swaps = name == "gt" || name == "le", negates = name == "le" || name == "ge" || name == "ne";
  const char* sign = name == "eq" || name == "ne" ? "==" : "<";
  return {swaps ? absl::StrCat(right, sign, left) : absl::StrCat(left, sign, right), holds != negates};
}

bool IsComparison(std::string_view name) {
  return name == "lt" || name == "le" || name == "gt" || name == "ge" || name == "eq" || name == "ne";
}

// Limits that no number of 64 bits has are none.
std::optional<int64_t> Added(std::optional<int64_t> left, std::optional<int64_t> right) {
  int64_t sum = 0;
  if (!left || !right || __builtin_add_overflow(*left, *right, &sum)) return std::nullopt;
  return sum;
}

std::optional<int64_t> Negated(std::optional<int64_t> number) {
  if (!number || *number == std::numeric_limits<int64_t>::min()) return std::nullopt;
  return -*number;
}

NumberRange ComputedRange(std::string_view name, const NumberRange& left, const NumberRange& right) {
  if (name == "add") return {Added(left.low, right.low), Added(left.high, right.high)};
  if (name == "sub") return {Added(left.low, Negated(right.high)), Added(left.high, Negated(right.low))};
  if (name == "mul" && left.low.value_or(-1) >= 0 && right.low.value_or(-1) >= 0) return {0, std::nullopt};
  if (name == "floordiv" && left.low.value_or(-1) >= 0 && right.low.value_or(0) > 0) return {0, left.high};
  if (name == "mod" && right.low.value_or(0) > 0 && right.high) return {0, *right.high - 1};
  if (name == "max" && (left.low || right.low)) return {std::max(left.low, right.low), std::nullopt};
  if (name == "min" && left.low && right.low) return {std::min(*left.low, *right.low), std::nullopt};
  return {};
}

}  // namespace

bool RecorderState::Impl::SaysWhatItExpects(PyCodeObject* code) {
  auto [row, is_new] = expects.try_emplace(code, false);
  if (!is_new) return row->second;
  kept_alive.push_back(PyRef::Borrow(reinterpret_cast<PyObject*>(code)));
  const char* file = PyUnicode_AsUTF8(code->co_filename);
  PyErr_Clear();
  if (file == nullptr || std::string_view(file).find("/torch/") != std::string_view::npos) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_names); ++i) {
    const std::string name = NameOf(PyTuple_GET_ITEM(code->co_names, i));
    row->second |= std::find(kChecks.begin(), kChecks.end(), name) != kChecks.end();
  }
  return row->second;
}

bool RecorderState::Impl::MayReadData() {
  using Data = RecordRequest::Data;
  if (request.sizes == nullptr || !request.sizes->is_open() || request.data == Data::kNever || EngineRuns() ||
      InsideTransform() || ReadsInCheckpoint())
    return false;
  return request.data == Data::kAlways || std::any_of(frames.begin(), frames.end(), [&](const LiveFrame* frame) {
           return SaysWhatItExpects(frame->code);
         });
}

// item, tolist, int and float of a tensor.
PyObject* RecorderState::Impl::ReadNumbers(const NativeCall& call) {
  const bool is_method = Py_TYPE(call.callable) == &PyMethodDescr_Type;
  const auto stop = [&] { return BreakNull(BreakCode::kTensorData, QualifiedName(call.callable)); };
  if ((!is_method && !PyType_Check(call.callable)) || call.total() != 1 || !IsTensor(call.args[0])) return stop();
  PyObject* target = is_method ? reinterpret_cast<PyDescrObject*>(call.callable)->d_name : call.callable;
  const std::string name = NameOf(target);
  const at::Tensor& tensor = TensorOf(call.args[0]);
  const bool is_int = name == "int" || name == "__int__", is_float = name == "float" || name == "__float__";
  if ((!is_int && !is_float && name != "item" && name != "tolist") || !IsFakeTensor(call.args[0])) return stop();
  // There are two bools: a symbol would be both.
  const bool is_bool = tensor.scalar_type() == at::kBool && !is_int && !is_float;
  if (is_bool || tensor.is_complex() || tensor.numel() > kMaxNumbers) return stop();
  TorchCall ask{.kind = is_method ? TorchCall::Kind::kMethod : TorchCall::Kind::kFunction,
                .target = PyRef::Borrow(target),
                .args = {},
                .kwargs = {},
                .result = {}};
  const TorchValueId value = TorchValue(tensor, false);
  std::optional<at::Tensor> real = value < 0 ? std::nullopt : session.RealValue(tensor);
  if (!real) return stop();
  ask.args.push_back({.kind = Kind::kValue, .constant = {}, .value = value, .items = {}, .keys = {}});
  const std::string text = AskText(ask, recording->symbolic, ValueNames());
  size_names.Follow(recording->torch_graph, recording->symbolic, value_names);
  const std::vector<std::string>& sizes = size_names.Of(value);
  const bool is_list = name == "tolist" && tensor.dim() > 0;
  if (is_list && std::any_of(sizes.begin(), sizes.end(), [&](const auto& size) { return IsUnbackedSize(size); }))
    return BreakAtUnbacked(text), nullptr;
  PyRef result;
  {
    FakeSession::Pause pause;
    Disarmed disarmed;
    PyRef wrapped = PyRef::Steal(THPVariable_Wrap(*std::move(real)));
    result = PyRef::Steal(wrapped ? PyObject_CallOneArg(call.callable, wrapped.get()) : nullptr);
  }
  if (!result) return nullptr;
  is_symbolic = recording->symbolic.of_data = true;
  PyRef answer = PyRef::Steal(AnswerPart(result.get(), true, text, &ask.result));
  if (!answer) return nullptr;
  const NumberRange range = RangeOfDtype(tensor.scalar_type());
  AddUnbacked(ask.result, range);
  ForEachPart(ask.result, [&](const TorchArgument& part) {
    if (part.symbol == kNoSymbol) return;
    TellSymbol(part.symbol, PyFloat_CheckExact(part.constant.get()) ? "any float" : RangeText(range), true);
  });
  SymbolStep step{.kind = SymbolStep::Kind::kAsk};
  step.ask = std::move(ask);
  AddStep(std::move(step));
  return answer.release();
}

void RecorderState::Impl::NoteData(const TorchCall& call, bool read) {
  if (read) {
    is_symbolic = recording->symbolic.of_data = true;
    recording->symbolic.data_calls.push_back(static_cast<int32_t>(&call - recording->torch_graph.calls.data()));
  }
  if (!read && unbacked.empty() && data_values.empty()) return;
  bool comes_of_data = read;
  ForEachArgument(call, [&](const TorchArgument& argument) {
    if (argument.kind == Kind::kValue) comes_of_data |= data_values.contains(argument.value);
    comes_of_data |= IsUnbacked(argument.symbol) && PyLong_CheckExact(argument.constant.get());
  });
  if (!comes_of_data) return;
  ForEachPart(call.result, [&](const TorchArgument& part) {
    if (part.kind == Kind::kValue) data_values.insert(part.value);
  });
}

// The sizes of inputs come of data where the program says so.
bool RecorderState::Impl::IsUnbackedSize(const std::string& name) const {
  int64_t number = 0;
  if (absl::SimpleAtoi(name, &number)) return false;
  if (unbacked_texts.contains(name)) return true;
  const TorchValueId owner = size_names.OwnerOf(name);
  const std::vector<TorchValueId>& inputs = recording->torch_graph.inputs;
  return data_values.contains(owner) && std::find(inputs.begin(), inputs.end(), owner) == inputs.end();
}

void RecorderState::Impl::AddUnbacked(SymbolId symbol, NumberRange range) {
  unbacked.emplace(symbol, range);
  unbacked_texts.insert(recording->symbolic.symbols[static_cast<size_t>(symbol)].text);
}

void RecorderState::Impl::AddUnbacked(const TorchArgument& result, const NumberRange& range) {
  ForEachPart(result, [&](const TorchArgument& part) {
    if (part.symbol != kNoSymbol) AddUnbacked(part.symbol, range);
  });
}

void RecorderState::Impl::BreakAtUnbacked(const std::string& text) {
  recording->broke_at_unbacked |= !broken();
  Break(BreakCode::kDataDependent, text);
}

NumberRange RecorderState::Impl::RangeOf(const TorchArgument& argument) const {
  if (auto row = unbacked.find(argument.symbol); row != unbacked.end()) return row->second;
  if (argument.symbol != kNoSymbol || argument.kind != Kind::kConstant) return {};
  const std::optional<int64_t> number = IntOf(argument.constant.get());
  return {number, number};
}

void RecorderState::Impl::Narrow(const TorchArgument& argument, const NumberRange& range) {
  auto row = unbacked.find(argument.symbol);
  if (row == unbacked.end() || !PyLong_CheckExact(argument.constant.get())) return;
  NumberRange& known = row->second;
  if (range.low) known.low = std::max(known.low.value_or(*range.low), *range.low);
  if (range.high) known.high = std::min(known.high.value_or(*range.high), *range.high);
}

// Among the values that the innermost frame is about to call with is a function that checks them.
bool RecorderState::Impl::IsBeingChecked() const {
  if (frames.empty()) return false;
  const LiveFrame& frame = *frames.back();
  return std::any_of(frame.stack_base, *frame.stack_top,
                     [](PyObject* object) { return object != nullptr && FindCallable(object) == Treatment::kCheck; });
}

RecorderState::Impl::Judgement RecorderState::Impl::JudgeData(const TorchCall& ask) {
  if (unbacked.empty() && data_values.empty()) return Judgement::kOpen;
  bool of_number = false;
  TorchValueId value = -1;
  ForEachArgument(ask, [&](const TorchArgument& argument) {
    of_number |= IsUnbacked(argument.symbol);
    if (argument.kind == Kind::kValue && data_values.contains(argument.value)) value = argument.value;
  });
  if (value >= 0) JudgeSizes(ask, value);
  return value < 0 && of_number ? JudgeNumbers(ask) : Judgement::kOpen;
}

// What else tensors say, how many dimensions they have for example, has to be the same in each call.
void RecorderState::Impl::JudgeSizes(const TorchCall& ask, TorchValueId value) {
  size_names.Follow(recording->torch_graph, recording->symbolic, ValueNames());
  const std::vector<std::string>& names = size_names.Of(value);
  const bool of_first = NameOf(ask.target.get()) == "len" && !names.empty();
  const bool any =
      of_first ? IsUnbackedSize(names[0])
               : std::any_of(names.begin(), names.end(), [&](const auto& name) { return IsUnbackedSize(name); });
  ForEachPart(ask.result, [&](const TorchArgument& part) {
    if (part.symbol == kNoSymbol) return;
    const std::string& text = recording->symbolic.symbols[static_cast<size_t>(part.symbol)].text;
    const bool is_named = std::find(names.begin(), names.end(), text) != names.end();
    if (is_named ? IsUnbackedSize(text) : any) AddUnbacked(part.symbol, {0, std::nullopt});
  });
}

RecorderState::Impl::Judgement RecorderState::Impl::JudgeNumbers(const TorchCall& ask) {
  const std::string name = NameOf(ask.target.get());
  const bool is_binary = ask.args.size() == 2 && ask.kwargs.empty();
  const NumberRange left = ask.args.empty() ? NumberRange() : RangeOf(ask.args[0]);
  const NumberRange right = is_binary ? RangeOf(ask.args[1]) : NumberRange();
  bool demands = false;
  ForEachPart(ask.result,
              [&](const TorchArgument& part) { demands |= part.kind == Kind::kConstant && part.symbol == kNoSymbol; });
  if (!demands) {
    AddUnbacked(ask.result, is_binary ? ComputedRange(name, left, right) : NumberRange());
    return Judgement::kOpen;
  }
  const bool holds = ask.result.constant.get() == Py_True;
  const auto text = [&](const TorchArgument& argument) {
    return argument.symbol != kNoSymbol ? recording->symbolic.symbols[static_cast<size_t>(argument.symbol)].text
                                        : ObjectText(argument.constant.get());
  };
  const bool compares = is_binary && IsComparison(name);
  const Fact fact = compares ? FactOf(name, text(ask.args[0]), text(ask.args[1]), holds) : Fact{"", false};
  if (auto row = checked_facts.find(fact.text); compares && row != checked_facts.end() && row->second == fact.holds)
    return Judgement::kDecided;
  if (is_binary && Compare(name, left, right) == holds) return Judgement::kDecided;
  if ((name == "bool" || name == "truth") && holds && left.low.value_or(0) > 0) return Judgement::kDecided;
  if (!IsBeingChecked()) return BreakAtUnbacked(AskText(ask, recording->symbolic, ValueNames())), Judgement::kBroke;
  if (!compares) return Judgement::kChecked;
  checked_facts[fact.text] = fact.holds;
  const auto order = [&](const TorchArgument& smaller, const TorchArgument& larger, int64_t step) {
    const NumberRange low = RangeOf(smaller), high = RangeOf(larger);
    Narrow(smaller, {std::nullopt, Added(high.high, -step)});
    Narrow(larger, {Added(low.low, step), std::nullopt});
  };
  if (name == (holds ? "lt" : "ge")) order(ask.args[0], ask.args[1], 1);
  if (name == (holds ? "le" : "gt")) order(ask.args[0], ask.args[1], 0);
  if (name == (holds ? "gt" : "le")) order(ask.args[1], ask.args[0], 1);
  if (name == (holds ? "ge" : "lt")) order(ask.args[1], ask.args[0], 0);
  if (name == (holds ? "eq" : "ne")) Narrow(ask.args[0], right), Narrow(ask.args[1], left);
  return Judgement::kChecked;
}

// Conditions are checked where they are computed; what fails raises natively, as eager does.
PyObject* RecorderState::Impl::ModelCheck(const NativeCall& call) {
  const std::string name = NameOf(call.callable);
  const auto fails = [&] { return BreakNull(BreakCode::kRaised, absl::StrCat("torch.", name, " fails")); };
  if (name.starts_with("_check") && name != "_check_is_size")
    return call.nargs > 0 && call.args[0] == Py_True ? Py_NewRef(Py_None) : fails();
  TorchCall ask{.kind = TorchCall::Kind::kFunction,
                .target = PyRef::Borrow(call.callable),
                .args = {},
                .kwargs = {},
                .result = {}};
  ask.result.constant = PyRef::Borrow(Py_None);
  bool has_symbol = false;
  NumberRange range;
  if (name != "sym_constrain_range") range.low = 0;
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    const std::string key = i < call.nargs ? "" : NameOf(PyTuple_GET_ITEM(call.kwnames, i - call.nargs));
    if (i == 1 && i < call.nargs) continue;  // the message of _check_is_size
    if (key == "message") continue;
    TorchArgument argument;
    if (!NumberArgument(call.args[i], &argument)) return fails();
    has_symbol |= HasSymbol(argument);
    if (argument.symbol == kNoSymbol && key == "min") range.low = IntOf(call.args[i]);
    if (argument.symbol == kNoSymbol && key == "max") range.high = IntOf(call.args[i]);
    if (i < call.nargs) {
      ask.args.push_back(std::move(argument));
    } else {
      ask.kwargs.emplace_back(PyRef::Borrow(PyTuple_GET_ITEM(call.kwnames, i - call.nargs)), std::move(argument));
    }
  }
  PyRef result = PyRef::Steal(CallUnrecorded(call));
  if (!result) return PyErr_Clear(), fails();
  if (!has_symbol) return Py_NewRef(Py_None);
  if (!ask.args.empty()) Narrow(ask.args[0], range);
  SymbolStep step{.kind = SymbolStep::Kind::kAsk};
  step.ask = std::move(ask);
  step.is_check = true;
  AddStep(std::move(step));
  return Py_NewRef(Py_None);
}

}  // namespace framejit
