// One form for what can be written in several, so that later passes and backends meet fewer cases. Every rewrite keeps
// results, metadata and memory exactly.
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "graph/operator_table.h"
#include "graph/passes/analysis.h"
#include "graph/passes/pipeline.h"

namespace framejit {
namespace {

// Operands that are dimensions of operand 0 (`extra`: they count one dimension more, as in unsqueeze).
struct DimensionOperands {
  int first;
  int last;
  int extra = 0;
};

const OperatorTable<DimensionOperands>& Dimensions() {
  static const auto* table = new OperatorTable<DimensionOperands>{
      {"aten::_softmax", {1, 1}},
      {"aten::_log_softmax", {1, 1}},
      {"aten::transpose.int", {1, 2}},
      {"aten::permute", {1, 1}},
      {"aten::unsqueeze", {1, 1, 1}},
      {"aten::squeeze.dim", {1, 1}},
      {"aten::squeeze.dims", {1, 1}},
      {"aten::sum.dim_IntList", {1, 1}},
      {"aten::mean.dim", {1, 1}},
      {"aten::amax", {1, 1}},
      {"aten::amin", {1, 1}},
      {"aten::max.dim", {1, 1}},
      {"aten::min.dim", {1, 1}},
      {"aten::argmax", {1, 1}},
      {"aten::argmin", {1, 1}},
      {"aten::var.correction", {1, 1}},
      {"aten::var_mean.correction", {1, 1}},
      {"aten::cumsum", {1, 1}},
      {"aten::select.int", {1, 1}},
      {"aten::slice.Tensor", {1, 1}},
      {"aten::split.Tensor", {2, 2}},
      {"aten::split_with_sizes", {2, 2}},
      {"aten::unbind.int", {1, 1}},
      {"aten::cat", {1, 1}},
      {"aten::stack", {1, 1, 1}},
      {"aten::glu", {1, 1}},
      {"aten::flip", {1, 1}},
      {"aten::gather", {1, 1}},
      {"aten::index_select", {1, 1}},
      {"aten::topk", {2, 2}},
      {"aten::sort", {1, 1}},
      {"aten::any.dim", {1, 1}},
      {"aten::all.dim", {1, 1}},
  };
  return *table;
}

struct ScalarForm {
  std::optional<c10::OperatorHandle> op;  // takes a number where the table's operator takes a tensor
  bool commutes;                          // the number may stand on the left
};

// The kernels of both forms are the same: the Scalar overloads wrap their number and call the Tensor ones.
const OperatorTable<ScalarForm>& ScalarForms() {
  static const auto* table = new OperatorTable<ScalarForm>{
      {"aten::add.Tensor", {FindOperator("aten::add.Scalar"), false}},
      {"aten::sub.Tensor", {FindOperator("aten::sub.Scalar"), false}},
      {"aten::mul.Tensor", {FindOperator("aten::mul.Scalar"), true}},
      {"aten::div.Tensor", {FindOperator("aten::div.Scalar"), false}},
      {"aten::eq.Tensor", {FindOperator("aten::eq.Scalar"), true}},
      {"aten::ne.Tensor", {FindOperator("aten::ne.Scalar"), true}},
      {"aten::lt.Tensor", {FindOperator("aten::lt.Scalar"), false}},
      {"aten::le.Tensor", {FindOperator("aten::le.Scalar"), false}},
      {"aten::gt.Tensor", {FindOperator("aten::gt.Scalar"), false}},
      {"aten::ge.Tensor", {FindOperator("aten::ge.Scalar"), false}},
  };
  return *table;
}

// Turn this / into this, operands as they are.
const OperatorTable<std::optional<c10::OperatorHandle>>& Synonyms() {
  static const auto* table = new OperatorTable<std::optional<c10::OperatorHandle>>{
      {"aten::_unsafe_view", FindOperator("aten::view")},
  };
  return *table;
}

class Canonicaliser {
 public:
  explicit Canonicaliser(Graph& graph) : graph_(graph), facts_(graph), constants_(graph.values.size(), nullptr) {
    for (const GraphConstant& constant : graph.constants) constants_[constant.id] = &constant.tensor;
  }

  int Run() {
    for (Node& node : graph_.nodes) {
      rewrites_ +=
          RenameSynonym(node) + GiveMemory(node) + TransposeForm(node) + CountFromFront(node) + UseScalarForm(node);
    }
    return rewrites_;
  }

 private:
  int RenameSynonym(Node& node) {
    const std::optional<c10::OperatorHandle>* same = Synonyms().Find(node.op);
    if (same == nullptr || !*same) return 0;
    // Only where the recording agrees that the memory is shared.
    if (graph_.meta(node.outputs[0]).storage != graph_.meta(node.operands[0].value).storage) return 0;
    if (facts_.Escapes(node.outputs[0])) return 0;  // the caller would see a view with a base
    node.op = **same;
    return 1;
  }

  // Turn this: _efficientzerotensor(sizes) / Into this: zeros(sizes). Forward-mode derivatives are made of zeros that
  // have no memory, which kernels and library calls by address need.
  static int GiveMemory(Node& node) {
    static const auto memoryless = FindOperator("aten::_efficientzerotensor");
    static const auto zeros = FindOperator("aten::zeros");
    if (!memoryless || !zeros || &node.op.schema() != &memoryless->schema()) return 0;
    node.op = *zeros;
    return 1;
  }

  // Turn this: t(x) / Into this: transpose(x, 0, 1). Below two dimensions t(x) is x, and stays.
  int TransposeForm(Node& node) {
    static const auto t = FindOperator("aten::t");
    static const auto transpose = FindOperator("aten::transpose.int");
    if (!t || !transpose || &node.op.schema() != &t->schema()) return 0;
    if (graph_.meta(node.operands[0].value).sizes.size() != 2) return 0;
    node.op = *transpose;
    node.operands.push_back(Operand::Constant(int64_t{0}));
    node.operands.push_back(Operand::Constant(int64_t{1}));
    return 1;
  }

  // Turn this: op(x, dim=-1) / Into this: op(x, dim=rank - 1)
  int CountFromFront(Node& node) {
    const DimensionOperands* row = Dimensions().Find(node.op);
    if (row == nullptr) return 0;
    const Operand& subject = node.operands[0];
    ValueId id = subject.kind == Operand::Kind::kValue ? subject.value
                 : subject.values.empty()              ? kNoValue
                                                       : subject.values[0];
    if (id == kNoValue) return 0;
    int64_t rank = std::max<int64_t>(static_cast<int64_t>(graph_.meta(id).sizes.size()) + row->extra, 1);
    int rewrites = 0;
    for (int i = row->first; i <= row->last; ++i) rewrites += MakeNonNegative(node.operands[i].constant, rank);
    return rewrites;
  }

  static int MakeNonNegative(c10::IValue& value, int64_t rank) {
    if (value.isInt() && value.toInt() < 0) {
      value = value.toInt() + rank;
      return 1;
    }
    if (!value.isIntList()) return 0;
    std::vector<int64_t> dims = value.toIntVector();
    bool negative = false;
    for (int64_t& dim : dims) {
      if (dim >= 0) continue;
      dim += rank;
      negative = true;
    }
    if (negative) value = c10::IValue(c10::List<int64_t>(dims));  // a new list: the old one may be shared
    return negative ? 1 : 0;
  }

  // Turn this: mul.Tensor(x, c) with c a wrapped number / Into this: mul.Scalar(x, number)
  int UseScalarForm(Node& node) {
    const ScalarForm* form = ScalarForms().Find(node.op);
    if (form == nullptr || !form->op) return 0;
    if (form->commutes && IsWrappedNumber(node.operands[0]) && !IsWrappedNumber(node.operands[1])) {
      std::swap(node.operands[0], node.operands[1]);
    }
    if (!IsWrappedNumber(node.operands[1]) || IsWrappedNumber(node.operands[0])) return 0;
    node.operands[1] = Operand::Constant(NumberOf(node.operands[1].value));
    node.op = *form->op;
    return 1;
  }

  const at::Scalar& NumberOf(ValueId constant) {
    auto [row, is_new] = numbers_.try_emplace(constant);
    if (is_new) row->second = constants_[constant]->item();
    return row->second;
  }

  bool IsWrappedNumber(const Operand& operand) const {
    if (operand.kind != Operand::Kind::kValue || operand.value == kNoValue) return false;
    const at::Tensor* tensor = constants_[operand.value];
    return tensor != nullptr && tensor->unsafeGetTensorImpl()->is_wrapped_number();
  }

  Graph& graph_;
  MemoryFacts facts_;
  std::vector<const at::Tensor*> constants_;          // by value
  absl::flat_hash_map<ValueId, at::Scalar> numbers_;  // of constants that torch wrapped
  int rewrites_ = 0;
};

}  // namespace

int Canonicalise(Graph& graph) { return Canonicaliser(graph).Run(); }

}  // namespace framejit
