#include "backends/native/node_splitter.h"

#include <algorithm>
#include <utility>

#include "graph/operator_table.h"
#include "graph/passes/pointwise_meta.h"
#include "graph/print.h"

namespace framejit::native {
NodeSplitter::NodeSplitter(Graph& graph, const char* target) : graph_(graph), target_(FindOperator(target)) {}

void NodeSplitter::Run() {
  const auto is_target = [&](const Node& node) { return node.op == *target_; };
  if (!target_ || std::none_of(graph_.nodes.begin(), graph_.nodes.end(), is_target)) return;
  facts_.emplace(graph_);
  std::vector<bool> splits;
  for (const Node& node : graph_.nodes) splits.push_back(is_target(node) && Applies(node));
  if (std::find(splits.begin(), splits.end(), true) == splits.end()) return;
  for (const TensorMeta& meta : graph_.values) next_storage_ = std::max(next_storage_, meta.storage + 1);
  std::vector<Node> old = std::exchange(graph_.nodes, {});
  for (size_t i = 0; i < old.size(); ++i) {
    if (splits[i])
      Split(old[i]);
    else
      graph_.nodes.push_back(std::move(old[i]));
  }
}

ValueId NodeSplitter::New(TensorMeta meta) {
  meta.storage = next_storage_++;
  return graph_.AddValue(std::move(meta));
}

void NodeSplitter::Add(const char* name, const Node& origin, absl::InlinedVector<Operand, 4> operands, ValueId result) {
  Node node{*FindOperator(name)};
  node.operands = std::move(operands);
  const auto& arguments = node.op.schema().arguments();
  for (size_t i = node.operands.size(); i < arguments.size(); ++i)
    node.operands.push_back(Operand::Constant(*arguments[i].default_value()));
  node.location = origin.location;
  node.torch_call = origin.torch_call;
  if (!node.op.schema().returns().empty()) node.outputs.push_back(result);
  graph_.nodes.push_back(std::move(node));
}

ValueId NodeSplitter::Binary(const char* name, const Node& origin, ValueId a, ValueId b) {
  const TensorMeta &left = graph_.meta(a), &right = graph_.meta(b);
  const ValueId result = New(*PointwiseMeta({&left, &right}, c10::promoteTypes(left.dtype, right.dtype)));
  Add(name, origin, {Operand::Value(a), Operand::Value(b)}, result);
  return result;
}

ValueId NodeSplitter::WithNumber(const char* name, const Node& origin, ValueId value, double number) {
  const ValueId result = New(*PointwiseMeta({&graph_.meta(value)}, graph_.meta(value).dtype));
  Add(name, origin, {Operand::Value(value), Operand::Constant(number)}, result);
  return result;
}

ValueId NodeSplitter::Sum(const Node& origin, ValueId value, c10::IntArrayRef dims, bool keepdim, at::ScalarType type) {
  c10::DimVector sizes = graph_.meta(value).sizes;
  for (int64_t d : dims) sizes[static_cast<size_t>(d)] = 1;
  for (size_t i = dims.size(); !keepdim && i-- > 0;) sizes.erase(sizes.begin() + dims[i]);
  const ValueId sum = NewContiguous(value, std::move(sizes), type);
  Add("aten::sum.dim_IntList", origin,
      {Operand::Value(value), Operand::Constant(c10::List<int64_t>(dims)), Operand::Constant(keepdim),
       Operand::Constant(type)},
      sum);
  return sum;
}

ValueId NodeSplitter::View(const Node& origin, ValueId value, const c10::DimVector& sizes) {
  TensorMeta meta = graph_.meta(value);
  if (meta.sizes == sizes) return value;
  meta.sizes = sizes;
  meta.strides = ContiguousStrides(sizes);
  const ValueId view = graph_.AddValue(std::move(meta));
  Add("aten::view", origin, {Operand::Value(value), Operand::Constant(c10::List<int64_t>(c10::IntArrayRef(sizes)))},
      view);
  return view;
}

void NodeSplitter::ConvertInto(const Node& origin, ValueId value, ValueId result) {
  Add("aten::_to_copy", origin, {Operand::Value(value), Operand::Constant(graph_.meta(result).dtype)}, result);
}

ValueId NodeSplitter::NewContiguous(ValueId like, c10::DimVector sizes, at::ScalarType type) {
  TensorMeta meta;
  meta.dtype = type;
  meta.device = graph_.meta(like).device;
  meta.strides = ContiguousStrides(sizes);
  meta.sizes = std::move(sizes);
  return New(std::move(meta));
}

}  // namespace framejit::native
