#include "backends/training/layouts.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "backends/dispatch.h"
#include "graph/error_text.h"
#include "graph/fake/call_node.h"
#include "graph/fake/fake_session.h"
#include "graph/fake/number_answers.h"
#include "graph/fake/open_number.h"
#include "graph/number_operand.h"
#include "graph/recorded_level.h"

namespace framejit {
namespace {

class Relayout {
 public:
  Relayout(const Graph& graph, FakeSession& session)
      : graph_(graph), session_(session), tensors_(graph.values.size()) {}

  absl::StatusOr<Graph> Run(const std::vector<std::vector<int64_t>>& strides) {
    for (size_t i = 0; i < graph_.inputs.size(); ++i) {
      if (absl::Status status = AddInput(graph_.inputs[i], strides[i]); !status.ok()) return status;
    }
    for (const GraphConstant& constant : graph_.constants) {
      if (absl::Status status = AddConstant(constant); !status.ok()) return status;
    }
    for (const Node& node : graph_.nodes) {
      Call(node);
      if (session_.failure().has_value()) return absl::UnimplementedError(session_.failure()->detail);
    }
    for (const auto& [id, number] : numbers_) {
      if (number->looked) return absl::UnimplementedError("an open number is looked at");
    }
    Graph made = session_.graph();
    for (ValueId id : graph_.outputs) {
      const ValueId value = session_.ValueOf(tensors_[static_cast<size_t>(id)]);
      if (value == kNoValue || made.meta(value).sizes != graph_.meta(id).sizes)
        return absl::UnimplementedError("a gradient of another form");
      made.outputs.push_back(value);
    }
    for (Node& node : made.nodes) node.torch_call = -1;
    return made;
  }

 private:
  absl::Status AddInput(ValueId id, const std::vector<int64_t>& strides) {
    const TensorMeta& meta = graph_.meta(id);
    at::Tensor example;
    if (meta.is_number) {
      example = WrapNumber(meta.dtype == at::kDouble ? at::Scalar(0.375) : at::Scalar(int64_t{5}));
    } else {
      const at::IntArrayRef recorded(meta.strides);
      example = TensorWithoutMemory(meta.sizes, strides.empty() ? recorded : at::IntArrayRef(strides), meta.dtype,
                                    meta.device);
    }
    absl::StatusOr<at::Tensor> fake = session_.MakeInput(example);
    if (!fake.ok()) return fake.status();
    if (meta.is_number) {
      fake->unsafeGetTensorImpl()->set_wrapped_number(true);
      const ValueId input = session_.graph().inputs.back();
      session_.graph().values[static_cast<size_t>(input)].is_number = true;
      numbers_[id] = NumberOfValue(input, example.item());
    }
    tensors_[static_cast<size_t>(id)] = *std::move(fake);
    examples_.push_back(std::move(example));
    return absl::OkStatus();
  }

  // Numbers are not to be read, as a call's are.
  void Call(const Node& node) {
    torch::jit::Stack stack;
    PushOperands(node, [&](ValueId id) -> const at::Tensor& { return tensors_[static_cast<size_t>(id)]; }, stack);
    for (size_t i = 0; i < node.operands.size(); ++i) {
      if (IsNumberOperand(node, i)) stack[i] = ArgumentOfNumber(numbers_.at(node.operands[i].value));
    }
    CallOperator(node.op, stack);
    TORCH_INTERNAL_ASSERT(TakeResults(node, stack, tensors_), OperatorName(node.op), " returned other results");
  }

  // Numbers stand for themselves.
  absl::Status AddConstant(const GraphConstant& constant) {
    at::Tensor& tensor = tensors_[static_cast<size_t>(constant.id)];
    tensor = constant.tensor;
    if (tensor.dim() == 0) return absl::OkStatus();
    absl::StatusOr<at::Tensor> fake = session_.MakeConstant(tensor);
    if (!fake.ok()) return fake.status();
    tensor = *std::move(fake);
    return absl::OkStatus();
  }

  const Graph& graph_;
  FakeSession& session_;
  std::vector<at::Tensor> tensors_;  // by value of `graph_`
  absl::flat_hash_map<ValueId, std::shared_ptr<OpenNumber>> numbers_;
  std::vector<at::Tensor> examples_;  // alive, so that no two have one address
};

}  // namespace

absl::StatusOr<Graph> WithInputStrides(const Graph& graph, const std::vector<std::vector<int64_t>>& strides) {
  if (std::any_of(graph.values.begin(), graph.values.end(),
                  [](const TensorMeta& meta) { return meta.is_conj || meta.is_neg; }))
    return absl::UnimplementedError("lazy conjugation");
  c10::InferenceMode normal(false);
  FakeSession session;
  c10::impl::ExcludeDispatchKeyGuard below(kAboveRecordedViews);
  try {
    return Relayout(graph, session).Run(strides);
  } catch (const std::exception& error) {
    return absl::UnimplementedError(ErrorText(error));
  }
}

}  // namespace framejit
