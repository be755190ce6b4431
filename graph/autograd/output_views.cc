#include "graph/autograd/output_views.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "graph/autograd/record_backward.h"
#include "graph/fake/fake_session.h"
#include "graph/passes/analysis.h"

namespace framejit {
namespace {

using torch::autograd::CreationMeta;

constexpr const char* kShared = "a result that requires grad shares memory with an input or another result";

absl::Status Refused(const char* why) { return absl::UnimplementedError(absl::StrCat(kShared, ", and ", why)); }

bool HasHooks(torch::autograd::Node& node) {
  return !node.tensor_pre_hooks().empty() || !node.pre_hooks().empty() || !node.post_hooks().empty() ||
         !node.retains_grad_hooks().empty();
}

// How autograd came to know a view; nothing where it knows none.
std::optional<CreationMeta> CreationOf(const at::Tensor& fake) {
  auto* meta = torch::autograd::impl::get_view_autograd_meta(fake);
  if (meta == nullptr || !meta->has_bw_view()) return std::nullopt;
  return meta->get_creation_meta();
}

class Finder {
 public:
  Finder(const Graph& graph, const std::vector<LiftedInput>& inputs, const std::vector<at::Tensor>& outputs)
      : graph_(graph), outputs_(outputs), producer_(graph.values.size(), -1) {
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      for (ValueId id : graph.nodes[i].outputs) {
        if (id != kNoValue) producer_[id] = static_cast<int32_t>(i);
      }
    }
    for (size_t i = 0; i < graph.inputs.size(); ++i) {
      input_.emplace(graph.inputs[i], i);
      input_storages_.insert(graph.meta(graph.inputs[i]).storage);
    }
    for (const LiftedInput& input : inputs) lifted_.emplace(input.position, input.fake);
    written_ = WrittenStorages(graph);
  }

  absl::StatusOr<ForwardOutputs> Run() {
    CountHolders();
    std::vector<size_t> views;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      if (!IsMadeAsView(i)) {
        results().push_back({AddOutput(graph_.outputs[i], outputs_[i], {i, false}), kNoValue});
      } else {
        results().emplace_back();
        views.push_back(i);
      }
    }
    for (size_t i : views) {
      if (absl::Status status = AddView(i); !status.ok()) return status;
    }
    for (auto& [index, call] : calls_) made_.views.calls.push_back(std::move(call));
    made_.views.value_count = local_.size();
    return std::move(made_);
  }

 private:
  struct Chain {
    std::vector<int32_t> nodes;  // from the result to the root
    ValueId root;
  };

  std::vector<OutputViews::Result>& results() { return made_.views.results; }

  void CountHolders() {
    for (ValueId id : graph_.inputs) ++held_[graph_.meta(id).storage];
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const int32_t storage = graph_.meta(graph_.outputs[i]).storage;
      ++held_[storage];
      if (outputs_[i].requires_grad()) differentiable_.insert(storage);
    }
  }

  // A view of what nobody else holds is made as one where that can be: it is no other tensor until it is written.
  bool IsMadeAsView(size_t i) {
    const int32_t storage = graph_.meta(graph_.outputs[i]).storage;
    if (held_.at(storage) > 1) return differentiable_.contains(storage);
    const std::optional<CreationMeta> creation = CreationOf(outputs_[i]);
    if (!outputs_[i].requires_grad() || !creation.has_value()) return false;
    if (creation == CreationMeta::MULTI_OUTPUT_NODE) return true;  // to write it is an error
    if (written_.contains(storage) || !Root(i).ok()) return false;
    const Chain chain = ChainOf(i);
    const absl::StatusOr<at::Tensor> root = RootOfMemory(i, chain);
    return root.ok() && CheckRoot(chain.root, *root).ok() && FindHistory(i, chain, *root).ok() &&
           std::all_of(chain.nodes.begin(), chain.nodes.end(),
                       [&](int32_t node) { return CheckCall(graph_.nodes[node], false).ok(); });
  }

  Chain ChainOf(size_t i) const {
    Chain chain{{}, graph_.outputs[i]};
    while (producer_[chain.root] >= 0 && IsView(graph_, graph_.nodes[producer_[chain.root]])) {
      chain.nodes.push_back(producer_[chain.root]);
      chain.root = graph_.nodes[producer_[chain.root]].operands[0].value;
    }
    return chain;
  }

  // The fake of what result number `i` is a view of.
  absl::StatusOr<at::Tensor> Root(size_t i) const {
    const Chain chain = ChainOf(i);
    const at::Tensor& output = outputs_[i];
    if (const auto row = input_.find(chain.root); row != input_.end()) {
      const auto lifted = lifted_.find(row->second);
      if (chain.nodes.empty() || lifted == lifted_.end()) return Refused("it is no view of it");
      return lifted->second;
    }
    if (chain.nodes.empty()) return output;
    if (!CreationOf(output).has_value()) return Refused("autograd does not know it as a view");
    at::Tensor base(output._base());
    if (FakeSession::Current()->ValueOf(base) != chain.root) return Refused("it is a view of something else");
    return base;
  }

  int32_t AddOutput(ValueId value, at::Tensor fake, OutputViews::Place place) {
    made_.values.push_back(value);
    made_.fakes.push_back(std::move(fake));
    made_.views.places.push_back(place);
    return static_cast<int32_t>(made_.values.size() - 1);
  }

  absl::Status AddView(size_t i) {
    const int32_t storage = graph_.meta(graph_.outputs[i]).storage;
    if (written_.contains(storage)) return Refused("that is written");
    const Chain chain = ChainOf(i);
    absl::StatusOr<at::Tensor> root = RootOfMemory(i, chain);
    if (!root.ok()) return root.status();
    const bool of_input = input_.contains(chain.root);
    if (absl::Status status = AddRoot(i, chain, *root, of_input); !status.ok()) return status;
    if (chain.nodes.empty()) {
      results()[i].output = forward_.at(chain.root);
      return absl::OkStatus();
    }
    std::vector<uint64_t> sequences(chain.nodes.size(), 0);
    if (outputs_[i].requires_grad()) {
      absl::StatusOr<std::vector<uint64_t>> history = FindHistory(i, chain, *root);
      if (!history.ok()) return history.status();
      sequences = *std::move(history);
      if (of_input) made_.looks_at_inputs.insert(made_.looks_at_inputs.end(), sequences.begin(), sequences.end());
    }
    for (size_t k = 0; k < chain.nodes.size(); ++k) {
      if (absl::Status status = AddCall(chain.nodes[k], i, of_input, sequences[k]); !status.ok()) return status;
    }
    results()[i].view = Local(graph_.outputs[i]);
    return absl::OkStatus();
  }

  // One for all results in this memory.
  absl::StatusOr<at::Tensor> RootOfMemory(size_t i, const Chain& chain) const {
    const int32_t storage = graph_.meta(graph_.outputs[i]).storage;
    if (!input_.contains(chain.root)) {
      if (input_storages_.contains(storage)) return Refused("no view leads there");
      for (size_t k = 0; k < outputs_.size(); ++k) {
        if (graph_.meta(graph_.outputs[k]).storage == storage && ChainOf(k).root != chain.root)
          return Refused("no view leads there");
      }
      // A result that knows its base, or is the base.
      for (size_t k = 0; k < outputs_.size(); ++k) {
        if (graph_.meta(graph_.outputs[k]).storage != storage) continue;
        if (absl::StatusOr<at::Tensor> root = Root(k); root.ok()) return root;
      }
    }
    return Root(i);
  }

  absl::Status AddRoot(size_t i, const Chain& chain, const at::Tensor& root, bool of_input) {
    if (forward_.contains(chain.root)) return absl::OkStatus();
    int32_t position = 0;
    if (of_input) {
      position = static_cast<int32_t>(input_.at(chain.root));
    } else {
      const auto itself = std::find(graph_.outputs.begin(), graph_.outputs.end(), chain.root);
      const bool is_base = itself == graph_.outputs.end();
      if (absl::Status status = CheckRoot(chain.root, root); !status.ok()) return status;
      const size_t place = is_base ? ViewOf(root, i) : static_cast<size_t>(itself - graph_.outputs.begin());
      position = AddOutput(chain.root, root, {place, is_base});
    }
    forward_.emplace(chain.root, position);
    made_.views.roots.push_back({Local(chain.root), of_input, static_cast<size_t>(position)});
    return absl::OkStatus();
  }

  absl::Status CheckRoot(ValueId value, const at::Tensor& root) const {
    if (std::find(graph_.outputs.begin(), graph_.outputs.end(), value) != graph_.outputs.end()) return absl::OkStatus();
    if (!torch::autograd::impl::hooks(root).empty() || root.retains_grad())
      return Refused("what it is a view of has a hook");
    if (root.requires_grad() && root.grad_fn() == nullptr) return Refused("that is a leaf");
    return absl::OkStatus();
  }

  // A result whose base it is.
  size_t ViewOf(const at::Tensor& root, size_t otherwise) const {
    for (size_t k = 0; k < outputs_.size(); ++k) {
      if (CreationOf(outputs_[k]).has_value() && outputs_[k]._base().is_same(root)) return k;
    }
    return otherwise;
  }

  // Autograd has one node for each view, and nothing of the program's in between: their sequence numbers.
  absl::StatusOr<std::vector<uint64_t>> FindHistory(size_t i, const Chain& chain, const at::Tensor& root) const {
    const std::optional<CreationMeta> creation = CreationOf(outputs_[i]);
    if (creation != CreationMeta::DEFAULT && creation != CreationMeta::MULTI_OUTPUT_NODE)
      return Refused("writing to it is an error");
    std::vector<uint64_t> sequences;
    torch::autograd::Node* node = outputs_[i].grad_fn().get();
    for (size_t k = 0; k < chain.nodes.size(); ++k) {
      if (node == nullptr || IsCustomFunction(*node) || HasHooks(*node) || node->num_outputs() != 1)
        return Refused("its history is more than views");
      sequences.push_back(node->sequence_nr());
      node = node->next_edge(0).function.get();
    }
    if (node == nullptr || node != torch::autograd::impl::gradient_edge(root).function.get())
      return Refused("its history is more than views");
    return sequences;
  }

  // Whether gradients were recorded when a result was made. What is in front of a `detach` does not show.
  absl::StatusOr<bool> Gradients(size_t output) const {
    const std::optional<CreationMeta> creation = CreationOf(outputs_[output]);
    if (creation == CreationMeta::NO_GRAD_MODE) return false;
    if (!creation.has_value() || creation == CreationMeta::DEFAULT || creation == CreationMeta::MULTI_OUTPUT_NODE)
      return true;
    return Refused("it is a view of another kind");
  }

  static absl::Status CheckCall(const Node& node, bool of_input) {
    // Its offset counts from where the memory begins, which a backend chooses.
    if (!of_input && node.op.schema().name() == "aten::as_strided") return Refused("as_strided makes it");
    size_t operands = 0;
    ForEachOperandValue(node, [&](const ValueId&) { ++operands; });
    return operands == 1 ? absl::OkStatus() : Refused("it is a view of another kind");
  }

  absl::Status AddCall(int32_t index, size_t output, bool of_input, uint64_t sequence) {
    absl::StatusOr<bool> gradients = Gradients(output);
    if (!gradients.ok()) return gradients.status();
    if (outputs_[output].requires_grad()) differentiated_.insert(index);
    if (auto made = calls_.find(index); made != calls_.end()) {
      made->second.sequence = std::max(made->second.sequence, sequence);
      made->second.gradients = differentiated_.contains(index) || (made->second.gradients && *gradients);
      return absl::OkStatus();
    }
    Node node = graph_.nodes[index];
    if (absl::Status status = CheckCall(node, of_input); !status.ok()) return status;
    ForEachOperandValue(node, [&](ValueId& id) { id = Local(id); });
    for (ValueId& id : node.outputs) {
      if (id != kNoValue) id = Local(id);
    }
    calls_.emplace(index, OutputViews::Call{std::move(node), *gradients, of_input, sequence});
    return absl::OkStatus();
  }

  ValueId Local(ValueId id) { return local_.emplace(id, static_cast<ValueId>(local_.size())).first->second; }

  const Graph& graph_;
  const std::vector<at::Tensor>& outputs_;
  std::vector<int32_t> producer_;                   // by value: the node's index
  absl::flat_hash_map<ValueId, size_t> input_;      // positions
  absl::flat_hash_map<size_t, at::Tensor> lifted_;  // by position
  absl::flat_hash_set<int32_t> input_storages_, written_, differentiable_;
  absl::flat_hash_map<int32_t, int> held_;         // by storage: by how many inputs and results
  absl::flat_hash_map<ValueId, int32_t> forward_;  // roots: positions among inputs or forward outputs
  absl::flat_hash_map<ValueId, ValueId> local_;    // the numbers in OutputViews
  std::map<int32_t, OutputViews::Call> calls_;     // by node, in the program's order
  absl::flat_hash_set<int32_t> differentiated_;    // nodes that lead to results that require grad
  ForwardOutputs made_;
};

}  // namespace

bool IsView(const Graph& graph, const Node& node) {
  if (node.operands.empty() || node.operands[0].kind != Operand::Kind::kValue || HasEffect(node)) return false;
  const ValueId base = node.operands[0].value;
  if (base == kNoValue || graph.meta(base).storage < 0) return false;
  return std::all_of(node.outputs.begin(), node.outputs.end(),
                     [&](ValueId id) { return id != kNoValue && graph.meta(id).storage == graph.meta(base).storage; });
}

absl::StatusOr<ForwardOutputs> FindForwardOutputs(const Graph& graph, const std::vector<LiftedInput>& inputs,
                                                  const std::vector<at::Tensor>& outputs) {
  return Finder(graph, inputs, outputs).Run();
}

}  // namespace framejit
