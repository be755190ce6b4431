#include "graph/symbolic/open_graph.h"

#include <optional>

#include "absl/container/flat_hash_map.h"
#include "graph/constant.h"
#include "graph/fake/open_number.h"
#include "graph/passes/analysis.h"

namespace framejit {
namespace {

class Matcher {
 public:
  Matcher(const Graph& open, absl::Span<const at::Scalar> numbers, const Graph& recorded)
      : open_(open), recorded_(recorded), to_recorded_(open.values.size(), kNoValue), numbers_(numbers) {}

  bool Run() {
    if (!MatchInputs() || open_.nodes.size() != recorded_.nodes.size() ||
        open_.outputs.size() != recorded_.outputs.size() || open_.mutations.size() != recorded_.mutations.size())
      return false;
    for (size_t i = 0; i < open_.nodes.size(); ++i) {
      if (!MatchNode(open_.nodes[i], recorded_.nodes[i])) return false;
    }
    for (size_t i = 0; i < open_.outputs.size(); ++i) {
      if (!SameValue(open_.outputs[i], recorded_.outputs[i])) return false;
    }
    return true;
  }

 private:
  using Constants = absl::flat_hash_map<ValueId, const at::Tensor*>;

  bool MatchInputs() {
    for (const GraphConstant& constant : open_.constants) open_constants_[constant.id] = &constant.tensor;
    for (const GraphConstant& constant : recorded_.constants) recorded_constants_[constant.id] = &constant.tensor;
    auto recorded = recorded_.inputs.begin();
    auto number = numbers_.begin();
    for (ValueId input : open_.inputs) {
      if (open_.meta(input).is_number) {
        if (number == numbers_.end()) return false;
        number_of_[input] = *number++;
      } else if (recorded == recorded_.inputs.end() || !Bind(input, *recorded++)) {
        return false;
      }
    }
    return recorded == recorded_.inputs.end() && number == numbers_.end();
  }

  bool Bind(ValueId open, ValueId recorded) {
    if (open == kNoValue || recorded == kNoValue) return open == recorded;
    const TensorMeta &a = open_.meta(open), &b = recorded_.meta(recorded);
    if (!SameMeta(a, b) || !SameMemory(a.storage, b.storage)) return false;
    to_recorded_[static_cast<size_t>(open)] = recorded;
    return true;
  }

  // Which values share memory is the same in both.
  bool SameMemory(int32_t open, int32_t recorded) {
    return storage_.try_emplace(open, recorded).first->second == recorded &&
           storage_back_.try_emplace(recorded, open).first->second == open;
  }

  bool SameValue(ValueId open, ValueId recorded) {
    if (open == kNoValue || recorded == kNoValue) return open == recorded;
    if (ValueId& known = to_recorded_[static_cast<size_t>(open)]; known != kNoValue) return known == recorded;
    const auto a = open_constants_.find(open), b = recorded_constants_.find(recorded);
    if (a == open_constants_.end() || b == recorded_constants_.end() || !SameTensor(*a->second, *b->second))
      return false;
    return Bind(open, recorded);
  }

  static std::optional<at::Scalar> NumberOf(const Operand& operand, const Constants& constants) {
    if (operand.kind == Operand::Kind::kConstant && operand.constant.isScalar()) return operand.constant.toScalar();
    if (operand.kind != Operand::Kind::kValue) return std::nullopt;
    const auto row = constants.find(operand.value);
    if (row == constants.end() || !row->second->unsafeGetTensorImpl()->is_wrapped_number()) return std::nullopt;
    return row->second->item();
  }

  static bool IsAbsent(const Operand& operand) {
    return operand.kind == Operand::Kind::kConstant
               ? operand.constant.isNone()
               : operand.kind == Operand::Kind::kValue && operand.value == kNoValue;
  }

  bool MatchOperand(const Operand& open, const Operand& recorded) {
    if (IsAbsent(open) || IsAbsent(recorded)) return IsAbsent(open) && IsAbsent(recorded);
    std::optional<at::Scalar> number = NumberOf(open, open_constants_);
    if (open.kind == Operand::Kind::kValue && open.value != kNoValue) {
      if (auto row = number_of_.find(open.value); row != number_of_.end()) number = row->second;
    }
    if (std::optional<at::Scalar> other = NumberOf(recorded, recorded_constants_); number || other)
      return number && other && SameConstant(c10::IValue(*number), c10::IValue(*other));
    if (open.kind != recorded.kind) return false;
    switch (open.kind) {
      case Operand::Kind::kConstant:
        return SameConstant(open.constant, recorded.constant);
      case Operand::Kind::kValue:
        return SameValue(open.value, recorded.value);
      case Operand::Kind::kValueList:
        break;
    }
    if (open.values.size() != recorded.values.size()) return false;
    for (size_t i = 0; i < open.values.size(); ++i) {
      if (!SameValue(open.values[i], recorded.values[i])) return false;
    }
    return true;
  }

  bool MatchNode(const Node& open, const Node& recorded) {
    const std::optional<c10::OperatorHandle> form = TensorOverload(recorded.op);
    const bool same_op = &open.op.schema() == &recorded.op.schema() || (form && &open.op.schema() == &form->schema());
    if (!same_op || open.operands.size() != recorded.operands.size() ||
        open.outputs.size() != recorded.outputs.size() || open.torch_call != recorded.torch_call)
      return false;
    for (size_t i = 0; i < open.operands.size(); ++i) {
      if (!MatchOperand(open.operands[i], recorded.operands[i])) return false;
    }
    for (size_t i = 0; i < open.outputs.size(); ++i) {
      if (!Bind(open.outputs[i], recorded.outputs[i])) return false;
    }
    return true;
  }

  const Graph& open_;
  const Graph& recorded_;
  std::vector<ValueId> to_recorded_;  // by value of `open_`
  absl::Span<const at::Scalar> numbers_;
  absl::flat_hash_map<ValueId, at::Scalar> number_of_;
  Constants open_constants_, recorded_constants_;
  absl::flat_hash_map<int32_t, int32_t> storage_, storage_back_;
};

}  // namespace

std::vector<at::Scalar> NumberValues(absl::Span<const NumberInput> inputs, const std::vector<PyRef>& symbols) {
  std::vector<at::Scalar> values;
  for (const NumberInput& input : inputs) {
    PyObject* number = symbols[static_cast<size_t>(input.symbol)].get();
    values.push_back(PyFloat_CheckExact(number) ? at::Scalar(PyFloat_AS_DOUBLE(number))
                                                : at::Scalar(int64_t{PyLong_AsLongLong(number)}));
  }
  return values;
}

bool IsOpenFormOf(const Graph& open, absl::Span<const at::Scalar> numbers, const Graph& recorded) {
  return Matcher(open, numbers, recorded).Run();
}

}  // namespace framejit
