#include "backends/native/split_losses.h"

#include <ATen/core/Reduction.h>

#include "backends/alias.h"
#include "backends/native/node_splitter.h"

namespace framejit::native {
namespace {

constexpr const char* kLoss = "aten::nll_loss_forward";

// Operands of nll_loss_forward.
enum Position { kProbabilities, kTarget, kWeight, kReduction, kIgnored };

class LossSplitter : public NodeSplitter {
 public:
  explicit LossSplitter(Graph& graph)
      : NodeSplitter(graph, kLoss), producers_(Producers(graph)), read_(graph.values.size()) {
    const auto read = [&](ValueId id) {
      if (id != kNoValue) read_[static_cast<size_t>(id)] = true;
    };
    for (const Node& node : graph.nodes) ForEachOperandValue(node, read);
    for (ValueId id : graph.outputs) read(id);
    for (const InputMutation& mutation : graph.mutations) read(mutation.value);
  }

 private:
  bool Applies(const Node& node) const override {
    const int64_t reduction = node.operands[kReduction].constant.toInt();
    if (facts_->TouchesWritten(node) || reduction == at::Reduction::None || !IsAbsent(node.operands[kWeight])) {
      return false;
    }
    const ValueId id = node.operands[kProbabilities].value;
    const int32_t producer = producers_[static_cast<size_t>(id)];
    if (producer < 0 || OperatorName(graph_.nodes[static_cast<size_t>(producer)].op) != "aten::_log_softmax")
      return false;
    const TensorMeta &rows = graph_.meta(id), &target = graph_.meta(node.operands[kTarget].value);
    const bool floats = rows.dtype == at::kFloat || rows.dtype == at::kDouble;
    return floats && rows.sizes.size() == 2 && rows.numel() > 0 && rows.is_contiguous() && rows.sizes[1] > 1 &&
           rows.sizes[1] < INT32_MAX && target.dtype == at::kLong && target.sizes.size() == 1 &&
           target.is_contiguous() && target.device == rows.device;
  }

  void Split(const Node& loss) override {
    const ValueId rows = loss.operands[kProbabilities].value, target = loss.operands[kTarget].value;
    const int64_t count = graph_.meta(rows).sizes[0], classes = graph_.meta(rows).sizes[1];
    const at::ScalarType type = graph_.meta(rows).dtype;
    device_ = graph_.meta(rows).device;
    const Operand one = Operand::Constant(int64_t{1}), no = Operand::Constant(false);
    const Operand none = Operand::Constant(c10::IValue()), ignored = loss.operands[kIgnored];
    const ValueId indices = Alias(target, {count, 1}, {1, 1});
    Add("aten::unsqueeze", loss, {Operand::Value(target), one}, indices);
    const ValueId picked = New(type, {count, 1}, {1, 1});
    Add("aten::gather", loss, {Operand::Value(rows), one, Operand::Value(indices), no}, picked);
    if (device_.is_cuda()) return Reduce(loss, LossesOnGpu(loss, picked, classes), target, type);
    const ValueId spread = Alias(picked, {count, classes}, {1, 0});
    const Operand shape = Operand::Constant(c10::List<int64_t>({count, classes}));
    Add("aten::expand", loss, {Operand::Value(picked), shape, no}, spread);
    const ValueId losses = New(type, {count}, {1});
    const Operand each = Operand::Constant(static_cast<int64_t>(at::Reduction::None));
    Add(kLoss, loss, {Operand::Value(spread), Operand::Value(target), none, each, ignored}, losses);
    graph_.nodes.back().outputs.push_back(kNoValue);
    Reduce(loss, losses, target, type);
  }

  // There ATen's operator would copy what it is given, all classes of it. Targets that are no class end the use of the
  // GPU, as they do in eager mode.
  ValueId LossesOnGpu(const Node& loss, ValueId picked, int64_t classes) {
    const Operand target = loss.operands[kTarget];
    const int64_t count = graph_.meta(picked).sizes[0];
    const at::ScalarType type = graph_.meta(picked).dtype;
    const auto compare = [&](const char* name, Operand bound) {
      const ValueId result = New(at::kBool, {count}, {1});
      Add(name, loss, {target, std::move(bound)}, result);
      return result;
    };
    const auto join = [&](const char* name, ValueId a, ValueId b) {
      const ValueId result = New(at::kBool, {count}, {1});
      Add(name, loss, {Operand::Value(a), Operand::Value(b)}, result);
      return result;
    };
    const ValueId ignored = compare("aten::eq.Scalar", loss.operands[kIgnored]);
    const ValueId from_zero = compare("aten::ge.Scalar", Operand::Constant(int64_t{0}));
    const ValueId below = compare("aten::lt.Scalar", Operand::Constant(classes));
    const ValueId valid = join("aten::logical_or", ignored, join("aten::logical_and", from_zero, below));
    const ValueId all = New(at::kBool, {}, {});
    Add("aten::all", loss, {Operand::Value(valid)}, all);
    Add("aten::_assert_async", loss, {Operand::Value(all)}, kNoValue);
    const ValueId row = Alias(picked, {count}, {1});
    Add("aten::squeeze.dim", loss, {Operand::Value(picked), Operand::Constant(int64_t{1})}, row);
    const ValueId negative = New(type, {count}, {1}), losses = New(type, {count}, {1});
    Add("aten::neg", loss, {Operand::Value(row)}, negative);
    Add("aten::masked_fill.Scalar", loss,
        {Operand::Value(negative), Operand::Value(ignored), Operand::Constant(int64_t{0})}, losses);
    return losses;
  }

  void Reduce(const Node& loss, ValueId losses, ValueId target, at::ScalarType type) {
    const bool mean = loss.operands[kReduction].constant.toInt() == at::Reduction::Mean;
    const Operand none = Operand::Constant(c10::IValue());
    const int64_t count = graph_.meta(losses).sizes[0];
    const bool total_is_read = loss.outputs[1] != kNoValue && read_[static_cast<size_t>(loss.outputs[1])];
    const ValueId total = total_is_read ? loss.outputs[1] : New(type, {}, {});
    if (mean || total_is_read) {
      const ValueId counts = New(at::kBool, {count}, {1});
      Add("aten::ne.Scalar", loss, {Operand::Value(target), loss.operands[kIgnored]}, counts);
      Add("aten::sum", loss, {Operand::Value(counts), Operand::Constant(static_cast<int64_t>(type))}, total);
    }
    const ValueId sum = mean ? New(type, {}, {}) : loss.outputs[0];
    Add("aten::sum", loss, {Operand::Value(losses), none}, sum);
    if (mean) Add("aten::div.Tensor", loss, {Operand::Value(sum), Operand::Value(total)}, loss.outputs[0]);
  }

  ValueId New(at::ScalarType type, c10::IntArrayRef sizes, c10::IntArrayRef strides) {
    TensorMeta meta;
    meta.dtype = type;
    meta.device = device_;
    meta.sizes.assign(sizes.begin(), sizes.end());
    meta.strides.assign(strides.begin(), strides.end());
    return NodeSplitter::New(std::move(meta));
  }

  ValueId Alias(ValueId of, c10::IntArrayRef sizes, c10::IntArrayRef strides) {
    TensorMeta meta = graph_.meta(of);
    meta.sizes.assign(sizes.begin(), sizes.end());
    meta.strides.assign(strides.begin(), strides.end());
    return graph_.AddValue(std::move(meta));
  }

  const std::vector<int32_t> producers_;
  std::vector<bool> read_;         // by ValueId
  c10::Device device_{c10::kCPU};  // of the loss that is being split
};

// The one node that reads the value; null where there are others, or the caller receives it.
const Node* OnlyUser(const GraphFacts& facts, ValueId id) {
  const std::vector<int32_t>& users = facts.users[static_cast<size_t>(id)];
  if (users.size() != 1 || facts.escapes[static_cast<size_t>(id)]) return nullptr;
  return &facts.graph.nodes[static_cast<size_t>(users[0])];
}

}  // namespace

void SplitLosses(Graph& graph) { LossSplitter(graph).Run(); }

bool IsCheckedGather(const GraphFacts& facts, const Node& node) {
  if (node.outputs[0] == kNoValue) return false;
  const Node* spread = OnlyUser(facts, node.outputs[0]);
  if (spread == nullptr) return false;
  if (OperatorName(spread->op) == "aten::squeeze.dim") {  // LossesOnGpu
    const Node* negative = OnlyUser(facts, spread->outputs[0]);
    if (negative == nullptr || OperatorName(negative->op) != "aten::neg") return false;
    const Node* losses = OnlyUser(facts, negative->outputs[0]);
    return losses != nullptr && OperatorName(losses->op) == "aten::masked_fill.Scalar" &&
           losses->torch_call == node.torch_call;
  }
  if (OperatorName(spread->op) != "aten::expand") return false;
  const Node* loss = OnlyUser(facts, spread->outputs[0]);
  if (loss == nullptr || OperatorName(loss->op) != kLoss || loss->torch_call != node.torch_call) return false;
  if (loss->operands[kReduction].constant.toInt() != at::Reduction::None) return false;
  if (facts.graph.meta(spread->outputs[0]).sizes != facts.graph.meta(node.operands[0].value).sizes) return false;
  const ValueId indices = node.operands[2].value;
  const int32_t view = facts.producers[static_cast<size_t>(indices)];
  if (view < 0) return false;
  const Node& unsqueeze = facts.graph.nodes[static_cast<size_t>(view)];
  return OperatorName(unsqueeze.op) == "aten::unsqueeze" &&
         unsqueeze.operands[0].value == loss->operands[kTarget].value;
}

}  // namespace framejit::native
