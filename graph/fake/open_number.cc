#include "graph/fake/open_number.h"

#include <ATen/ScalarOps.h>
#include <c10/core/ConstantSymNodeImpl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/utils/python_symnode.h>

#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "graph/fake/recording.h"

namespace framejit {
namespace {

using c10::IValue;

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

  c10::SymNode eq(const c10::SymNode& other) override { return Answer(Number() == Number(other)); }
  c10::SymNode ne(const c10::SymNode& other) override { return Answer(Number() != Number(other)); }
  c10::SymNode lt(const c10::SymNode& other) override { return Answer(Number() < Number(other)); }
  c10::SymNode le(const c10::SymNode& other) override { return Answer(Number() <= Number(other)); }
  c10::SymNode gt(const c10::SymNode& other) override { return Answer(Number() > Number(other)); }
  c10::SymNode ge(const c10::SymNode& other) override { return Answer(Number() >= Number(other)); }

 private:
  static c10::SymNode Given(const at::Scalar& hint) {
    return c10::make_intrusive<NumberNode>(std::make_shared<OpenNumber>(OpenNumber{.hint = hint}));
  }
  static c10::SymNode Answer(bool answer) { return c10::make_intrusive<c10::ConstantSymNodeImpl<bool>>(answer); }

  at::Scalar Look() {
    number_->looked = true;
    return number_->hint;
  }
  static at::Scalar ValueOf(const c10::SymNode& node) {
    auto* number = dynamic_cast<NumberNode*>(node.get());
    TORCH_CHECK(number != nullptr, "framejit: an open number is compared with another kind of number");
    return number->Look();
  }
  double Number() { return Look().toDouble(); }
  static double Number(const c10::SymNode& node) { return ValueOf(node).toDouble(); }

  std::shared_ptr<OpenNumber> number_;
};

struct Overloads {
  const char* of_numbers;
  const char* of_tensors;
};
// The kernels of both forms are the same: those of the first wrap their numbers and call the second, or the second
// calls the first with what the tensor is worth.
constexpr Overloads kOverloads[] = {
    {"aten::add.Scalar", "aten::add.Tensor"},      {"aten::sub.Scalar", "aten::sub.Tensor"},
    {"aten::mul.Scalar", "aten::mul.Tensor"},      {"aten::div.Scalar", "aten::div.Tensor"},
    {"aten::rsub.Scalar", "aten::rsub.Tensor"},    {"aten::eq.Scalar", "aten::eq.Tensor"},
    {"aten::ne.Scalar", "aten::ne.Tensor"},        {"aten::lt.Scalar", "aten::lt.Tensor"},
    {"aten::le.Scalar", "aten::le.Tensor"},        {"aten::gt.Scalar", "aten::gt.Tensor"},
    {"aten::ge.Scalar", "aten::ge.Tensor"},        {"aten::masked_fill.Scalar", "aten::masked_fill.Tensor"},
    {"aten::fill_.Scalar", "aten::fill_.Tensor"},  {"aten::clamp", "aten::clamp.Tensor"},
    {"aten::clamp_min", "aten::clamp_min.Tensor"}, {"aten::clamp_max", "aten::clamp_max.Tensor"},
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

void TakeNumbers(std::optional<c10::OperatorHandle>& op, torch::jit::Stack& stack, size_t base) {
  bool any = false;
  for (size_t i = base; i < stack.size(); ++i) any = any || NodeOf(stack[i]);
  std::optional<c10::OperatorHandle> overload = any ? TensorOverload(*op) : std::nullopt;
  FakeRecording* recording = FakeRecording::Current();
  for (size_t i = base; i < stack.size(); ++i) {
    const std::shared_ptr<OpenNumber> number = NumberOfNode(NodeOf(stack[i]));
    const c10::TypeKind kind =
        overload ? overload->schema().arguments()[i - base].type()->kind() : c10::TypeKind::NumberType;
    const bool as_tensor = kind != c10::TypeKind::NumberType && !stack[i].isTensor() && !stack[i].isNone();
    if (as_tensor && number != nullptr && recording != nullptr) {
      stack[i] = recording->TensorOfNumber(number);
    } else if (as_tensor && stack[i].isScalar()) {
      stack[i] = WrapNumber(stack[i].toScalar());
    } else {
      Specialise(stack[i]);
    }
  }
  if (overload) op = overload;
}

}  // namespace framejit
