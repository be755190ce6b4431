#include "graph/fake/open_number.h"

#include <ATen/ScalarOps.h>
#include <c10/core/ConstantSymNodeImpl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/utils/python_symnode.h>

#include <cmath>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "graph/fake/fake_tensor_impl.h"
#include "graph/fake/number_answers.h"
#include "graph/fake/recording.h"
#include "graph/fake/shown_numbers.h"

namespace framejit {
namespace {

using c10::IValue;

thread_local bool numbers_are_shown = false;

bool HoldsFloat(const at::Scalar& number) { return number.isFloatingPoint(); }

// A number that is open, or one that is compared with it.
class NumberNode final : public c10::SymNodeImpl {
 public:
  explicit NumberNode(std::shared_ptr<OpenNumber> number) : number_(std::move(number)) {}

  const std::shared_ptr<OpenNumber>& number() const { return number_; }

  bool is_int() override { return !HoldsFloat(number_->hint); }
  bool is_float() override { return HoldsFloat(number_->hint); }
  bool is_bool() override { return false; }
  bool has_hint() override { return true; }
  std::string str() override { return absl::StrCat("number", number_->value); }
  c10::SymNode clone() override { return c10::make_intrusive<NumberNode>(number_); }
  c10::SymNode wrap_int(int64_t number) override { return Given(at::Scalar(number)); }
  c10::SymNode wrap_float(double number) override { return Given(at::Scalar(number)); }

  int64_t int_() override { return Look().toLong(); }
  int64_t guard_int(const char*, int64_t) override { return Look().toLong(); }
  double guard_float(const char*, int64_t) override { return Look().toDouble(); }

  c10::SymNode eq(const c10::SymNode& other) override { return Answer(Compare(NumberRelation::kEqual, other)); }
  c10::SymNode ne(const c10::SymNode& other) override { return Answer(!Compare(NumberRelation::kEqual, other)); }
  c10::SymNode lt(const c10::SymNode& other) override { return Answer(Compare(NumberRelation::kLess, other)); }
  c10::SymNode le(const c10::SymNode& other) override { return Answer(Compare(NumberRelation::kLessOrEqual, other)); }
  c10::SymNode gt(const c10::SymNode& other) override { return Answer(Compare(NumberRelation::kGreater, other)); }
  c10::SymNode ge(const c10::SymNode& other) override {
    return Answer(Compare(NumberRelation::kGreaterOrEqual, other));
  }

 private:
  bool is_open() const { return number_->value != kNoValue; }

  // What comes of it is kept: the graph is one of the numbers of which the same is true.
  bool Compare(NumberRelation relation, const c10::SymNode& node) {
    auto* other = dynamic_cast<NumberNode*>(node.get());
    TORCH_CHECK(other != nullptr, "framejit: an open number is compared with another kind of number");
    const bool answer = Holds(relation, number_->hint.toDouble(), other->number_->hint.toDouble());
    NumberNode* open = is_open() ? this : other;
    NumberNode* constant = is_open() ? other : this;
    // Large ints are not what their doubles are.
    const bool exact = is_float() && other->is_float();
    FakeRecording* recording = FakeRecording::Current();
    const bool kept = recording != nullptr && recording->serial() == open->number_->recording_serial;
    if (!kept || (!exact && (constant->is_open() || !IsSmall(constant->number_->hint)))) {
      Look();
      other->Look();
    } else {
      recording->number_answers.push_back({open == this ? relation : Mirrored(relation), open->number_->value,
                                           constant->number_->value, constant->number_->hint.toDouble(), answer});
    }
    return answer;
  }

  static bool IsSmall(const at::Scalar& number) { return std::abs(number.toDouble()) < 1e15; }

  static NumberRelation Mirrored(NumberRelation relation) {
    switch (relation) {
      case NumberRelation::kEqual:
        return NumberRelation::kEqual;
      case NumberRelation::kLess:
        return NumberRelation::kGreater;
      case NumberRelation::kLessOrEqual:
        return NumberRelation::kGreaterOrEqual;
      case NumberRelation::kGreater:
        return NumberRelation::kLess;
      case NumberRelation::kGreaterOrEqual:
        return NumberRelation::kLessOrEqual;
    }
    return relation;
  }

  static c10::SymNode Given(const at::Scalar& hint) {
    return c10::make_intrusive<NumberNode>(std::make_shared<OpenNumber>(OpenNumber{.hint = hint}));
  }
  static c10::SymNode Answer(bool answer) { return c10::make_intrusive<c10::ConstantSymNodeImpl<bool>>(answer); }

  at::Scalar Look() {
    number_->looked |= !numbers_are_shown;
    return number_->hint;
  }

  std::shared_ptr<OpenNumber> number_;
};

struct Overloads {
  const char* of_numbers;
  const char* of_tensors;
};
// The kernels of both forms are the same: those of the first wrap their numbers and call the second, or the second
// calls the first with what the tensor is worth.
constexpr Overloads kOverloads[] = {
    {"aten::add.Scalar", "aten::add.Tensor"},
    {"aten::sub.Scalar", "aten::sub.Tensor"},
    {"aten::mul.Scalar", "aten::mul.Tensor"},
    {"aten::div.Scalar", "aten::div.Tensor"},
    {"aten::rsub.Scalar", "aten::rsub.Tensor"},
    {"aten::eq.Scalar", "aten::eq.Tensor"},
    {"aten::ne.Scalar", "aten::ne.Tensor"},
    {"aten::lt.Scalar", "aten::lt.Tensor"},
    {"aten::le.Scalar", "aten::le.Tensor"},
    {"aten::gt.Scalar", "aten::gt.Tensor"},
    {"aten::ge.Scalar", "aten::ge.Tensor"},
    {"aten::masked_fill.Scalar", "aten::masked_fill.Tensor"},
    {"aten::fill_.Scalar", "aten::fill_.Tensor"},
    {"aten::clamp", "aten::clamp.Tensor"},
    {"aten::clamp_min", "aten::clamp_min.Tensor"},
    {"aten::clamp_max", "aten::clamp_max.Tensor"},
    {"aten::clamp_", "aten::clamp_.Tensor"},
    {"aten::masked_fill_.Scalar", "aten::masked_fill_.Tensor"},
    {"aten::clamp_min_", "aten::clamp_min_.Tensor"},
    {"aten::clamp_max_", "aten::clamp_max_.Tensor"},
    {"aten::remainder.Scalar", "aten::remainder.Tensor"},
    {"aten::fmod.Scalar", "aten::fmod.Tensor"},
};

// Operators that ask nothing of their numbers but what kernels compute with them, and their forms that write in place.
// What kernels do otherwise for some numbers is none of the graph's affair, but for pow's (RecordedCall).
constexpr std::string_view kOpenOperators[] = {
    "aten::add.Tensor",
    "aten::add.Scalar",
    "aten::sub.Tensor",
    "aten::sub.Scalar",
    "aten::rsub.Tensor",
    "aten::rsub.Scalar",
    "aten::addcmul",
    "aten::addcdiv",
    "aten::lerp.Scalar",
    "aten::pow.Tensor_Scalar",
    "aten::pow.Scalar",
    "aten::leaky_relu",
    "aten::leaky_relu_backward",
    "aten::elu",
    "aten::elu_backward",
    "aten::hardtanh",
    "aten::hardtanh_backward",
    "aten::softplus",
    "aten::softplus_backward",
    "aten::threshold",
    "aten::threshold_backward",
    "aten::softshrink",
    "aten::softshrink_backward",
    "aten::hardshrink",
    "aten::hardshrink_backward",
    "aten::scalar_tensor",
    "aten::full",
    "aten::full_like",
    "aten::new_full",
    "aten::fill.Scalar",
    "aten::index_fill.int_Scalar",
    "aten::scatter.value",
    "aten::addmm",
    "aten::baddbmm",
};

std::string FullName(const c10::OperatorHandle& op) {
  const c10::OperatorName& name = op.operator_name();
  return name.overload_name.empty() ? name.name : absl::StrCat(name.name, ".", name.overload_name);
}

c10::SymNode NodeOf(const IValue& value) {
  if (value.isSymFloat()) return value.toSymFloat().toSymNodeImpl();
  if (value.isSymInt() && value.toSymInt().is_symbolic()) return value.toSymInt().toSymNode();
  return {};
}

// "aten::add_.Tensor" as "aten::add.Tensor".
std::string WithoutMark(const c10::OperatorHandle& op) {
  const c10::OperatorName& name = op.operator_name();
  const std::string base = name.name.ends_with('_') ? name.name.substr(0, name.name.size() - 1) : name.name;
  return name.overload_name.empty() ? base : absl::StrCat(base, ".", name.overload_name);
}

// Whether the call is on fakes, or makes a tensor of none.
bool IsRecorded(const torch::jit::Stack& stack, size_t base) {
  bool any_tensor = false, any_fake = false;
  for (size_t i = base; i < stack.size(); ++i) {
    if (!stack[i].isTensor() || !stack[i].toTensor().defined()) continue;
    any_tensor = true;
    any_fake = any_fake || AsFake(stack[i].toTensor()) != nullptr;
  }
  return any_fake || !any_tensor;
}

// What an argument is worth for those that do not know open numbers.
void Specialise(IValue& value) {
  if (value.isSymFloat()) {
    value = value.toSymFloat().guard_float(__FILE__, __LINE__);
  } else if (value.isSymInt()) {
    value = value.toSymInt().guard_int(__FILE__, __LINE__);
  } else if (value.isSymIntList() && !value.isIntList()) {
    c10::List<int64_t> ints;
    for (const c10::SymInt& item : value.toSymIntVector()) ints.push_back(item.guard_int(__FILE__, __LINE__));
    value = std::move(ints);
  }
}

}  // namespace

bool Holds(NumberRelation relation, double left, double right) {
  switch (relation) {
    case NumberRelation::kEqual:
      return left == right;
    case NumberRelation::kLess:
      return left < right;
    case NumberRelation::kLessOrEqual:
      return left <= right;
    case NumberRelation::kGreater:
      return left > right;
    case NumberRelation::kGreaterOrEqual:
      return left >= right;
  }
  return false;
}

ShownNumbers::ShownNumbers() : before_(std::exchange(numbers_are_shown, true)) {}
ShownNumbers::~ShownNumbers() { numbers_are_shown = before_; }

const std::vector<NumberAnswer>& NumberAnswers() { return FakeRecording::Current()->number_answers; }

void Demand(OpenNumber& number, NumberRelation relation, double constant) {
  const bool answer = Holds(relation, number.hint.toDouble(), constant);
  FakeRecording::Current()->number_answers.push_back({relation, number.value, kNoValue, constant, answer});
}

std::shared_ptr<OpenNumber> NumberOfValue(ValueId value, const at::Scalar& hint) {
  return FakeRecording::Current()->NumberOfValue(value, hint);
}

// Torch's parser puts a node of Python's in front of ours.
std::shared_ptr<OpenNumber> NumberOfNode(const c10::SymNode& node) {
  if (auto* number = dynamic_cast<NumberNode*>(node.get())) return number->number();
  auto* python = dynamic_cast<torch::impl::PythonSymNodeImpl*>(node.get());
  if (python == nullptr) return nullptr;
  pybind11::gil_scoped_acquire gil;
  const pybind11::handle object = python->getPyObj();
  if (!pybind11::isinstance<c10::SymNodeImpl>(object)) return nullptr;
  const auto inner = object.cast<c10::SymNode>();
  auto* number = dynamic_cast<NumberNode*>(inner.get());
  return number == nullptr ? nullptr : number->number();
}

PyObject* ObjectOfNumber(std::shared_ptr<OpenNumber> number) {
  const bool is_float = HoldsFloat(number->hint);
  c10::SymNode node = c10::make_intrusive<NumberNode>(std::move(number));
  const pybind11::handle type = is_float ? torch::get_symfloat_class() : torch::get_symint_class();
  return type(pybind11::cast(std::move(node))).release().ptr();
}

std::shared_ptr<OpenNumber> NumberOfWrapped(const at::Tensor& tensor) {
  pybind11::gil_scoped_acquire gil;
  pybind11::object object = pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(tensor));
  pybind11::object number = pybind11::getattr(object, "_wrapped_number", pybind11::none());
  if (torch::is_symfloat(number)) return NumberOfNode(number.cast<c10::SymFloat>().toSymNodeImpl());
  if (!torch::is_symint(number)) return nullptr;
  const auto value = number.cast<c10::SymInt>();
  return value.is_symbolic() ? NumberOfNode(value.toSymNode()) : nullptr;
}

at::Tensor WrapNumber(const at::Scalar& number) {
  at::Tensor tensor = c10::scalar_to_tensor(number);
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

std::optional<c10::OperatorHandle> TensorOverload(const c10::OperatorHandle& op) {
  static const auto* table = [] {
    auto* made = new absl::flat_hash_map<std::string, c10::OperatorHandle>;
    for (const Overloads& row : kOverloads) {
      const std::string name = row.of_tensors;
      const size_t dot = name.find('.');
      auto found = c10::Dispatcher::singleton().findSchema({name.substr(0, dot), name.substr(dot + 1)});
      if (found) made->emplace(row.of_numbers, *found);
    }
    return made;
  }();
  const auto row = table->find(FullName(op));
  return row == table->end() ? std::nullopt : std::make_optional(row->second);
}

bool TakesOpenNumbers(const c10::OperatorHandle& op) {
  static const auto* names =
      new absl::flat_hash_set<std::string_view>(std::begin(kOpenOperators), std::end(kOpenOperators));
  return names->contains(WithoutMark(op));
}

std::shared_ptr<OpenNumber> NumberOfArgument(const IValue& value) {
  const FakeRecording* recording = FakeRecording::Current();
  std::shared_ptr<OpenNumber> number = NumberOfNode(NodeOf(value));
  if (number == nullptr || recording == nullptr || number->recording_serial != recording->serial()) return nullptr;
  return number;
}

IValue ArgumentOfNumber(const std::shared_ptr<OpenNumber>& number) {
  c10::SymNode node = c10::make_intrusive<NumberNode>(number);
  if (HoldsFloat(number->hint)) return c10::SymFloat(std::move(node));
  return c10::SymInt(std::move(node));
}

void TakeNumbers(std::optional<c10::OperatorHandle>& op, torch::jit::Stack& stack, size_t base) {
  bool any = false;
  for (size_t i = base; i < stack.size(); ++i) any = any || NodeOf(stack[i]);
  std::optional<c10::OperatorHandle> overload = any ? TensorOverload(*op) : std::nullopt;
  FakeRecording* recording = FakeRecording::Current();
  const c10::OperatorHandle& taker = overload ? *overload : *op;
  const bool stays_open = recording != nullptr && TakesOpenNumbers(taker) && IsRecorded(stack, base);
  // Functionalization asks what shapes operators give, before it has them recorded.
  std::optional<ShownNumbers> shown;
  if (recording != nullptr && recording->functionalizing && TakesOpenNumbers(taker)) shown.emplace();
  for (size_t i = base; i < stack.size(); ++i) {
    const std::shared_ptr<OpenNumber> number = NumberOfNode(NodeOf(stack[i]));
    const c10::TypeKind kind =
        overload ? overload->schema().arguments()[i - base].type()->kind() : c10::TypeKind::NumberType;
    const bool as_tensor = kind != c10::TypeKind::NumberType && !stack[i].isTensor() && !stack[i].isNone();
    if (as_tensor && number != nullptr && recording != nullptr) {
      stack[i] = recording->TensorOfNumber(number);
    } else if (as_tensor && stack[i].isScalar()) {
      stack[i] = WrapNumber(stack[i].toScalar());
    } else if (stays_open && NumberOfArgument(stack[i]) != nullptr &&
               taker.schema().arguments()[i - base].type()->kind() == c10::TypeKind::NumberType) {
      continue;
    } else {
      Specialise(stack[i]);
    }
  }
  if (overload) op = overload;
}

}  // namespace framejit
