#include "graph/autograd/partition.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "graph/autograd/min_cut.h"
#include "graph/autograd/record_backward.h"
#include "graph/autograd/write_notices.h"
#include "graph/operator_table.h"
#include "graph/passes/analysis.h"

namespace framejit {
namespace {

bool IsRecomputed(const Node& node) {
  static const auto* table = new OperatorTable<bool>{
#define RECOMPUTED(name) {name, true},
#include "graph/autograd/recomputed.def"
#undef RECOMPUTED
  };
  return table->Find(node.op) != nullptr;
}

bool IsPointwise(const Node& node) { return node.op.hasTag(at::Tag::pointwise); }

bool IsTrainingBatchNorm(const Node& node, std::string_view name, size_t training) {
  return node.op.schema().name() == name && node.operands[training].constant.toBool();
}

// Batch normalization in training mode is handed the running statistics and does not read them: what it gives does not
// depend on them, and its backward is not to keep them.
constexpr size_t kStatistics[] = {3, 4};

bool IgnoresStatistics(const Node& node) {
  return IsTrainingBatchNorm(node, "aten::_native_batch_norm_legit_functional", 5) ||
         IsTrainingBatchNorm(node, "aten::native_batch_norm_backward", 7);
}

bool IsInCheckpoint(const Node& node) { return node.torch_call <= kFirstCheckpoint; }

bool IsRandomState(const Node& node) { return node.op.schema().name() == "framejit::random_state"; }

// By node: the draws that it is one of.
absl::flat_hash_map<int32_t, std::shared_ptr<const Draws>> FindDraws(const Graph& graph) {
  absl::flat_hash_map<int32_t, std::shared_ptr<const Draws>> found;
  std::shared_ptr<Draws> current;
  int32_t checkpoint = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (!IsRandom(node.op)) continue;
    if (current != nullptr && node.torch_call != checkpoint) current = nullptr;
    if (current == nullptr) {
      if (!IsInCheckpoint(node) || !IsRandomState(node)) continue;
      current = std::make_shared<Draws>();
      current->state = node.outputs[0];
      checkpoint = node.torch_call;
    } else {
      current->nodes.push_back(static_cast<int32_t>(i));
      found.emplace(static_cast<int32_t>(i), current);
    }
  }
  return found;
}

class Partitioner {
 public:
  explicit Partitioner(Partition& partition) : partition_(partition), graph_(partition.joint.graph) {}

  absl::Status Run() {
    Prepare();
    for (size_t i = 0; i < graph_.nodes.size(); ++i) ClassifyNode(i);
    FindLeavingCheckpoints();
    if (absl::Status status = CheckWrites(); !status.ok()) return status;
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (!in_backward_[i]) continue;
      ForEachOperandValue(graph_.nodes[i], [&](ValueId& id) { Need(id, IsPointwise(graph_.nodes[i])); });
    }
    for (size_t i = joint().output_count; i < graph_.outputs.size(); ++i) {
      const ValueId id = graph_.outputs[i];
      if (origin_[id] == Origin::kConstant) return absl::UnimplementedError("a gradient is a constant");
      Need(id, false);
    }
    if (absl::Status status = Choose(); !status.ok()) return status;
    MakeForward();
    FindUsers();
    return absl::OkStatus();
  }

 private:
  enum class Origin : uint8_t { kNode, kInput, kTangent, kConstant };

  JointGraph& joint() { return partition_.joint; }

  void Prepare() {
    const size_t count = graph_.values.size();
    for (TensorMeta& meta : graph_.values) meta.requires_grad = false;
    origin_.assign(count, Origin::kNode);
    position_.assign(count, -1);
    output_.assign(count, -1);
    producer_.assign(count, -1);
    needed_.assign(count, false);
    only_pointwise_.assign(count, true);
    partition_.depends_on_tangent.assign(count, false);
    partition_.is_saved.assign(count, false);
    in_backward_.assign(graph_.nodes.size(), false);
    for (size_t i = 0; i < graph_.inputs.size(); ++i) {
      const bool tangent = i >= joint().input_count;
      origin_[graph_.inputs[i]] = tangent ? Origin::kTangent : Origin::kInput;
      position_[graph_.inputs[i]] = static_cast<int32_t>(i);
      if (tangent) partition_.depends_on_tangent[graph_.inputs[i]] = true;
    }
    for (const GraphConstant& constant : graph_.constants) origin_[constant.id] = Origin::kConstant;
    partition_.draws = FindDraws(graph_);
    for (size_t i = joint().output_count; i-- > 0;) output_[graph_.outputs[i]] = static_cast<int32_t>(i);
  }

  void ClassifyNode(size_t index) {
    Node& node = graph_.nodes[index];
    if (IgnoresStatistics(node) && node.op.schema().name() == "aten::native_batch_norm_backward") {
      for (size_t operand : kStatistics) node.operands[operand] = Operand::Value(kNoValue);
    }
    if (node.op.schema().name() == "aten::cudnn_batch_norm_backward") TakeReserveItself(node);
    bool depends = false;
    ForEachOperandValue(node, [&](ValueId& id) { depends = depends || partition_.depends_on_tangent[id]; });
    in_backward_[index] = depends;
    for (ValueId id : node.outputs) {
      if (id == kNoValue) continue;
      producer_[id] = static_cast<int32_t>(index);
      partition_.depends_on_tangent[id] = depends;
    }
  }

  // Its formula copies cuDNN's reserve where the graph is retained, as it is while recording. How large that is nobody
  // but cuDNN knows: it can be handed on and not copied.
  void TakeReserveItself(Node& node) {
    constexpr size_t kReserve = 8;
    ValueId& reserve = node.operands[kReserve].value;
    if (reserve == kNoValue || producer_[reserve] < 0) return;
    const Node& producer = ProducerOf(reserve);
    if (producer.op.schema().name() == "aten::clone") reserve = producer.operands[0].value;
  }

  // What the forward writes must not matter to anything but what is written: it is gone when the backward runs.
  absl::Status CheckWrites() {
    std::vector<bool> touched(graph_.values.size(), false);
    absl::flat_hash_map<int32_t, bool> storages;
    for (const InputMutation& mutation : graph_.mutations) {
      if (partition_.depends_on_tangent[mutation.value])
        return absl::UnimplementedError("the backward writes an input");
      touched[mutation.input] = true;
      storages[graph_.meta(mutation.input).storage] = true;
      partition_.written_inputs.push_back(position_[mutation.input]);
    }
    std::sort(partition_.written_inputs.begin(), partition_.written_inputs.end());
    if (graph_.mutations.empty() || joint().freed) return absl::OkStatus();  // freed: no backward computes anything
    for (const Node& node : graph_.nodes) {
      bool reads = false;
      for (size_t i = 0; i < node.operands.size(); ++i) {
        if (IgnoresStatistics(node) && (i == kStatistics[0] || i == kStatistics[1])) continue;
        const Operand& operand = node.operands[i];
        if (operand.kind == Operand::Kind::kValue && operand.value != kNoValue) reads = reads || touched[operand.value];
        for (ValueId id : operand.values) reads = reads || (id != kNoValue && touched[id]);
      }
      for (ValueId id : node.outputs) {
        if (id != kNoValue) touched[id] = reads;
      }
    }
    for (size_t i = 0; i < graph_.outputs.size(); ++i) {
      const bool in_written = storages.contains(graph_.meta(graph_.outputs[i]).storage);
      if (touched[graph_.outputs[i]] || in_written) {
        return absl::UnimplementedError("a result or a gradient depends on an input that is written");
      }
    }
    return absl::OkStatus();
  }

  // A value that the backward reads. Views are made again over what they look at.
  void Need(ValueId id, bool by_pointwise) {
    if (partition_.depends_on_tangent[id] || origin_[id] == Origin::kConstant) return;
    if (needed_[id] && (by_pointwise || !only_pointwise_[id])) return;
    needed_[id] = true;
    only_pointwise_[id] = only_pointwise_[id] && by_pointwise;
    if (!IsMadeAgain(id)) return;
    if (const Draws* draws = DrawsOf(id)) {
      Need(draws->state, false);
      for (int32_t node : draws->nodes) {
        ForEachOperandValue(graph_.nodes[static_cast<size_t>(node)], [&](ValueId& operand) { Need(operand, false); });
      }
      return;
    }
    const bool fuses = IsView(graph_, ProducerOf(id)) ? by_pointwise : IsPointwise(ProducerOf(id));
    ForEachOperandValue(ProducerOf(id), [&](ValueId& operand) { Need(operand, fuses); });
  }

  Node& ProducerOf(ValueId id) { return graph_.nodes[producer_[id]]; }

  // Null where the value is not drawn again.
  const Draws* DrawsOf(ValueId id) const {
    const auto row = partition_.draws.find(producer_[id]);
    return row == partition_.draws.end() ? nullptr : row->second.get();
  }

  // What other parts of the forward, or the caller, get from a checkpoint: eager has it all the same.
  void FindLeavingCheckpoints() {
    leaves_checkpoint_.assign(graph_.values.size(), false);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (in_backward_[i] || graph_.nodes[i].torch_call == kBackwardCall) continue;
      ForEachOperandValue(graph_.nodes[i], [&](ValueId& id) {
        if (producer_[id] >= 0 && ProducerOf(id).torch_call != graph_.nodes[i].torch_call)
          leaves_checkpoint_[id] = true;
      });
    }
    for (size_t i = 0; i < joint().output_count; ++i) leaves_checkpoint_[graph_.outputs[i]] = true;
    for (size_t i = graph_.nodes.size(); i-- > 0;) {  // with what it is a view of
      const Node& node = graph_.nodes[i];
      if (!IsView(graph_, node)) continue;
      for (ValueId id : node.outputs) {
        if (leaves_checkpoint_[id]) leaves_checkpoint_[node.operands[0].value] = true;
      }
    }
  }

  // What the engine computed of values of the forward alone, views, what is made of nothing, and the inside of
  // checkpoints.
  bool IsMadeAgain(ValueId id) {
    if (producer_[id] < 0) return false;
    const Node& node = ProducerOf(id);
    if (DrawsOf(id) != nullptr) return !leaves_checkpoint_[id];
    if (HasEffect(node)) return false;
    if (IsInCheckpoint(node) && !leaves_checkpoint_[id]) return true;
    if (node.torch_call == kBackwardCall || IsView(graph_, node)) return true;
    if (MayRaiseOnData(node)) return false;
    bool any = false;
    ForEachOperandValue(ProducerOf(id), [&](ValueId&) { any = true; });
    return !any;
  }

  // Save or recompute: inputs and results that the backward reads are saved in any case, as eager's nodes do, and so is
  // what it reads in operators that fuse with nothing. Of the rest, what takes the fewest bytes.
  absl::Status Choose() {
    for (ValueId id : graph_.inputs) {
      if (origin_[id] == Origin::kInput && needed_[id]) Save(id, SavedValue::Kind::kInput, position_[id]);
    }
    const std::vector<bool> cut = FewestBytes();
    for (const Node& node : graph_.nodes) {
      for (ValueId id : node.outputs) {
        if (id == kNoValue || (!IsSavedAnyway(id) && !cut[id])) continue;
        Save(id, output_[id] >= 0 ? SavedValue::Kind::kOutput : SavedValue::Kind::kIntermediate, output_[id]);
      }
    }
    for (const SavedValue& saved : partition_.saved) {
      for (const InputMutation& mutation : graph_.mutations) {
        if (graph_.meta(saved.value).storage == graph_.meta(mutation.input).storage) {
          return absl::UnimplementedError("the backward reads an input that is written");
        }
      }
    }
    return absl::OkStatus();
  }

  bool IsSavedAnyway(ValueId id) {
    return needed_[id] && producer_[id] >= 0 && !IsMadeAgain(id) && (output_[id] >= 0 || !only_pointwise_[id]);
  }

  // The values to save so that all others which the backward reads can be computed again, by recomputed.def.
  std::vector<bool> FewestBytes() {
    CutProblem problem;
    std::vector<int> vertex_of(graph_.values.size(), -1);
    std::vector<ValueId> values;
    auto vertex = [&](ValueId id) {
      if (vertex_of[id] < 0) {
        vertex_of[id] = static_cast<int>(values.size());
        values.push_back(id);
      }
      return vertex_of[id];
    };
    for (size_t i = 0; i < graph_.values.size(); ++i) {
      const auto id = static_cast<ValueId>(i);
      if (!needed_[id] || producer_[id] < 0 || IsMadeAgain(id) || IsSavedAnyway(id)) continue;
      problem.sinks.push_back(vertex(id));
    }
    const absl::flat_hash_set<int32_t> visible = StoragesOutside();
    WriteNotices notices(joint());
    std::vector<GradientSet> readers =
        notices.Readers([&](size_t node) { return in_backward_[node]; }, [&](ValueId id) { return IsMadeAgain(id); });
    // Behind all that may be computed of it, so that its readers are known.
    std::set<std::pair<int32_t, int>, std::greater<>> open;
    for (size_t v = 0; v < values.size(); ++v) open.emplace(producer_[values[v]], static_cast<int>(v));
    while (!open.empty()) {
      const int v = open.extract(open.begin()).value().second;
      const ValueId id = values[static_cast<size_t>(v)];
      if (!CanRecompute(id)) {
        problem.sources.push_back(v);
        continue;
      }
      ForEachOperandValue(ProducerOf(id), [&](ValueId& operand) {
        // What a checkpoint reads it reads anew.
        if (IsFree(operand) && (IsInCheckpoint(ProducerOf(id)) || IsNoticed(operand, readers[id], notices))) return;
        WriteNotices::Add(readers[operand], readers[id]);
        if (vertex_of[operand] < 0) open.emplace(producer_[operand], vertex(operand));
        problem.edges.emplace_back(vertex(operand), v);
      });
    }
    for (ValueId id : values) problem.weights.push_back(WeightOf(id, visible));
    std::vector<bool> chosen(graph_.values.size(), false);
    for (int v : MinimumVertexCut(problem)) chosen[values[static_cast<size_t>(v)]] = true;
    return chosen;
  }

  // Memory that the program can see: a write to it is not to disturb what eager does not save.
  absl::flat_hash_set<int32_t> StoragesOutside() {
    absl::flat_hash_set<int32_t> storages;
    for (size_t i = 0; i < joint().input_count; ++i) storages.insert(graph_.meta(graph_.inputs[i]).storage);
    for (size_t i = 0; i < joint().output_count; ++i) storages.insert(graph_.meta(graph_.outputs[i]).storage);
    return storages;
  }

  int64_t WeightOf(ValueId id, const absl::flat_hash_set<int32_t>& visible) {
    if (producer_[id] < 0 || IsMadeAgain(id)) return CutProblem::kNever;
    const TensorMeta& meta = graph_.meta(id);
    if (!needed_[id] && visible.contains(meta.storage)) return CutProblem::kNever;
    const int64_t bytes = meta.numel() * static_cast<int64_t>(c10::elementSize(meta.dtype));
    return std::max<int64_t>(bytes, 1);
  }

  // There for the backward in any case.
  bool IsFree(ValueId id) {
    if (origin_[id] == Origin::kConstant) return true;
    return (origin_[id] == Origin::kInput ? needed_[id] : IsSavedAnyway(id)) && IsHeldByAll(id);
  }

  // Whether in eager mode the backward of every single output would notice a write to the input or the output, so that
  // it may read it although eager's would read something else.
  bool IsHeldByAll(ValueId id) {
    const EngineNodes& engine = joint().engine;
    const size_t count = joint().differentiable_outputs.size();
    if (count < 2 || engine.nodes.empty()) return true;
    if (sources_.empty()) sources_ = engine.Sources();
    const bool is_input = origin_[id] == Origin::kInput;
    if (!is_input && output_[id] < 0) return true;  // nobody writes it
    OutputMask holders = 0;
    for (size_t n = 0; n < engine.nodes.size(); ++n) {
      const std::vector<int32_t>& held = is_input ? engine.nodes[n].inputs : engine.nodes[n].outputs;
      const int32_t index = is_input ? position_[id] : output_[id];
      if (std::find(held.begin(), held.end(), index) != held.end()) holders |= sources_[n];
    }
    return holders == AllOutputs(count);
  }

  // Whether eager's backward for these gradients would notice as well where the input or the output was written.
  bool IsNoticed(ValueId id, const GradientSet& gradients, WriteNotices& notices) {
    if (joint().engine.nodes.empty() || origin_[id] == Origin::kConstant) return true;
    if (origin_[id] == Origin::kInput) return notices.AllNotice(gradients, true, position_[id]);
    return output_[id] < 0 || notices.AllNotice(gradients, false, output_[id]);
  }

  bool CanRecompute(ValueId id) {
    if (producer_[id] < 0) return false;
    const Node& node = ProducerOf(id);
    return IsMadeAgain(id) || (node.outputs.size() == 1 && IsRecomputed(node));
  }

  void Save(ValueId id, SavedValue::Kind kind, int32_t index) {
    partition_.is_saved[id] = true;
    partition_.saved.push_back(SavedValue{.kind = kind, .value = id, .index = index});
  }

  void MakeForward() {
    Graph& forward = partition_.forward;
    forward.values = graph_.values;
    // A `detach` of one is no look at it that does nothing: what it leads to is no view of a tensor that requires grad.
    for (int32_t position : joint().differentiable_inputs)
      forward.values[graph_.inputs[static_cast<size_t>(position)]].requires_grad = true;
    forward.inputs.assign(graph_.inputs.begin(),
                          graph_.inputs.begin() + static_cast<std::ptrdiff_t>(joint().input_count));
    forward.constants = graph_.constants;
    forward.mutations = graph_.mutations;
    forward.locations = graph_.locations;
    forward.outputs.assign(graph_.outputs.begin(),
                           graph_.outputs.begin() + static_cast<std::ptrdiff_t>(joint().output_count));
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (!in_backward_[i]) forward.nodes.push_back(graph_.nodes[i]);
    }
    for (SavedValue& saved : partition_.saved) {
      if (saved.kind != SavedValue::Kind::kIntermediate) continue;
      for (size_t i = 0; i < joint().output_count; ++i) {
        if (graph_.meta(graph_.outputs[i]).storage == graph_.meta(saved.value).storage) {
          saved.shares_output = static_cast<int32_t>(i);
        }
      }
      saved.index = static_cast<int32_t>(forward.outputs.size());
      forward.outputs.push_back(saved.value);
    }
    DropEngineWork(forward);
  }

  // What the engine computed of values of the forward alone is made again in the backward.
  static void DropEngineWork(Graph& forward) {
    std::vector<bool> used(forward.values.size(), false), dropped(forward.nodes.size(), false);
    for (ValueId id : forward.outputs) used[id] = true;
    for (const InputMutation& mutation : forward.mutations) used[mutation.value] = true;
    for (size_t i = forward.nodes.size(); i-- > 0;) {
      const Node& node = forward.nodes[i];
      dropped[i] = node.torch_call == kBackwardCall && !HasEffect(node) &&
                   std::none_of(node.outputs.begin(), node.outputs.end(),
                                [&](ValueId id) { return id != kNoValue && used[id]; });
      if (!dropped[i]) ForEachOperandValue(node, [&](const ValueId& id) { used[id] = true; });
    }
    size_t index = 0;
    std::erase_if(forward.nodes, [&](const Node&) { return dropped[index++]; });
  }

  void FindUsers() {
    const std::vector<bool> all(joint().differentiable_inputs.size(), true);
    const bool single = joint().sections.size() == 1;
    for (size_t section = single ? 0 : 1; section < joint().sections.size(); ++section) {
      for (int32_t index : ExtractBackward(partition_, section, all).saved) {
        partition_.saved[static_cast<size_t>(index)].used_by |= joint().sections[section].tangents;
      }
    }
    for (size_t i = 0; i < joint().cuts.size(); ++i) {
      if (joint().cuts[i].points.empty()) continue;
      for (int32_t index : ExtractBackward(partition_, joint().sections.size() + i, all).saved)
        partition_.saved[static_cast<size_t>(index)].used_by |= OutputMask{1} << i;
      const std::vector<bool> none(all.size(), false);
      for (int32_t index : ExtractBackward(partition_, joint().sections.size() + i, none).saved)
        partition_.saved[static_cast<size_t>(index)].cut_by |= OutputMask{1} << i;
    }
    FindPurposes();
    FindReadAnew();
    HoldUnread();
  }

  bool WritesInput(int32_t position) const {
    return std::binary_search(partition_.written_inputs.begin(), partition_.written_inputs.end(), position);
  }

  // What eager's nodes save and their formulas take the sizes of alone. The running statistics that batch normalization
  // writes have no versions.
  void HoldUnread() {
    const EngineNodes& engine = joint().engine;
    const std::vector<OutputMask> sources = engine.Sources();
    const size_t count = joint().differentiable_inputs.size();
    const std::vector<std::vector<uint64_t>> purposes = engine.Purposes(count);
    const size_t read = partition_.saved.size();
    const auto hold = [&](SavedValue::Kind kind, int32_t index, size_t node) {
      const auto is_it = [&](const SavedValue& saved) { return saved.kind == kind && saved.index == index; };
      auto row = std::find_if(partition_.saved.begin(), partition_.saved.end(), is_it);
      if (row < partition_.saved.begin() + static_cast<std::ptrdiff_t>(read)) return;
      if (row == partition_.saved.end()) {
        row = partition_.saved.insert(row, SavedValue{.kind = kind, .index = index});
        row->used_for.assign(count, false);
      }
      row->used_by |= sources[node];
      for (size_t i = 0; i < count; ++i)
        row->used_for[i] = row->used_for[i] || (purposes[node][i / 64] >> (i % 64) & 1) != 0;
    };
    for (size_t n = 0; n < engine.nodes.size(); ++n) {
      for (int32_t input : engine.nodes[n].inputs) {
        if (!WritesInput(input)) hold(SavedValue::Kind::kInput, input, n);
      }
      for (int32_t output : engine.nodes[n].outputs) {
        if (output < static_cast<int32_t>(joint().output_count)) hold(SavedValue::Kind::kOutput, output, n);
      }
    }
    partition_.holds_unread = partition_.saved.size() > read;
  }

  void FindReadAnew() {
    std::vector<bool> read_outside(graph_.values.size(), false);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      if (in_backward_[i] || node.torch_call == kBackwardCall || IsInCheckpoint(node)) continue;
      ForEachOperandValue(node, [&](const ValueId& id) { read_outside[id] = true; });
    }
    for (ValueId id : partition_.forward.outputs) read_outside[id] = true;
    const auto is_held = [&](int32_t input) {
      return std::any_of(joint().engine.nodes.begin(), joint().engine.nodes.end(), [&](const EngineNode& node) {
        return std::find(node.inputs.begin(), node.inputs.end(), input) != node.inputs.end();
      });
    };
    for (SavedValue& saved : partition_.saved) {
      saved.read_anew = saved.kind == SavedValue::Kind::kInput && !read_outside[saved.value] && !is_held(saved.index);
    }
  }

  // Which gradients are made of each saved value, up to what is saved itself.
  void FindPurposes() {
    const size_t inputs = joint().differentiable_inputs.size();
    std::vector<std::vector<bool>> purposes(graph_.values.size());
    const auto add = [](std::vector<bool>& to, const std::vector<bool>& from) {
      if (to.empty()) to.assign(from.size(), false);
      for (size_t i = 0; i < from.size(); ++i) to[i] = to[i] || from[i];
    };
    // A point's gradient is for all that the output depends on.
    for (size_t i = 0; i < joint().cuts.size(); ++i) {
      const BackwardSection& alone = joint().sections.size() == 1 ? joint().sections[0] : joint().sections[i + 1];
      std::vector<bool> reached;
      for (int32_t gradient : alone.gradients) reached.push_back(gradient >= 0);
      for (int32_t position : joint().cuts[i].point_gradients) {
        if (position >= 0) add(purposes[graph_.outputs[static_cast<size_t>(position)]], reached);
      }
    }
    for (const BackwardSection& section : joint().sections) {
      for (size_t i = 0; i < inputs; ++i) {
        if (section.gradients[i] < 0) continue;
        std::vector<bool> one(inputs, false);
        one[i] = true;
        add(purposes[graph_.outputs[static_cast<size_t>(section.gradients[i])]], one);
      }
    }
    for (size_t i = graph_.nodes.size(); i-- > 0;) {
      std::vector<bool> of_node;
      for (ValueId id : graph_.nodes[i].outputs) {
        if (id != kNoValue && !purposes[id].empty() && !partition_.is_saved[id]) add(of_node, purposes[id]);
      }
      if (of_node.empty()) continue;
      const auto row = partition_.draws.find(static_cast<int32_t>(i));
      if (row != partition_.draws.end()) add(purposes[row->second->state], of_node);
      ForEachOperandValue(graph_.nodes[i], [&](ValueId& id) { add(purposes[id], of_node); });
    }
    for (SavedValue& saved : partition_.saved) {
      saved.used_for = purposes[saved.value];
      if (saved.used_for.empty()) saved.used_for.assign(inputs, true);
    }
  }

  Partition& partition_;
  Graph& graph_;
  std::vector<Origin> origin_;           // by value
  std::vector<int32_t> position_;        // by value: in Graph::inputs
  std::vector<int32_t> output_;          // by value: in Graph::outputs, the call's
  std::vector<int32_t> producer_;        // by value: the node's index
  std::vector<bool> needed_;             // by value: the backward reads it
  std::vector<bool> only_pointwise_;     // by value: all of the backward that reads it is pointwise
  std::vector<OutputMask> sources_;      // by node of EngineNodes
  std::vector<bool> in_backward_;        // by node
  std::vector<bool> leaves_checkpoint_;  // by value
};

// Walks from the gradients to what the forward left.
class Extractor {
 public:
  Extractor(const Partition& partition, size_t section, const std::vector<bool>& wanted)
      : partition_(partition),
        source_(partition.joint.graph),
        cut_(section < partition.joint.sections.size()
                 ? nullptr
                 : &partition.joint.cuts[section - partition.joint.sections.size()]),
        section_(cut_ == nullptr ? partition.joint.sections[section] : cut_->section) {
    made_.assign(source_.values.size(), false);
    producer_.assign(source_.values.size(), -1);
    for (size_t i = 0; i < source_.nodes.size(); ++i) {
      for (ValueId id : source_.nodes[i].outputs) {
        if (id != kNoValue) producer_[id] = static_cast<int32_t>(i);
      }
    }
    TakeGradients(wanted);
  }

  BackwardGraph Run() {
    result_.graph.values = source_.values;
    result_.graph.locations = source_.locations;
    used_.assign(source_.values.size(), false);
    live_ = LiveNodes();
    for (size_t i = 0; i < source_.nodes.size(); ++i) {
      if (live_[i] && DependsOnTangent(source_.nodes[i])) Emit(i);
    }
    for (ValueId id : result_.graph.outputs) Provide(id);
    TakeInputs();
    FindCopies();
    return std::move(result_);
  }

 private:
  void TakeGradients(const std::vector<bool>& wanted) {
    for (size_t i = 0; i < section_.gradients.size(); ++i) {
      const bool given = wanted[i] && section_.gradients[i] >= 0;
      result_.gradients.push_back(given ? static_cast<int32_t>(result_.graph.outputs.size()) : -1);
      if (given) result_.graph.outputs.push_back(source_.outputs[static_cast<size_t>(section_.gradients[i])]);
    }
    for (size_t i = 0; cut_ != nullptr && i < cut_->points.size(); ++i) {
      const int32_t position = cut_->point_gradients[i];
      result_.point_gradients.push_back(position < 0 ? -1 : static_cast<int32_t>(result_.graph.outputs.size()));
      if (position >= 0) result_.graph.outputs.push_back(source_.outputs[static_cast<size_t>(position)]);
    }
  }

  bool DependsOnTangent(const Node& node) const {
    return std::any_of(node.outputs.begin(), node.outputs.end(),
                       [&](ValueId id) { return id != kNoValue && partition_.depends_on_tangent[id]; });
  }

  // What the gradients need, up to saved values.
  std::vector<bool> LiveNodes() const {
    std::vector<bool> values(source_.values.size(), false), nodes(source_.nodes.size(), false);
    for (ValueId id : result_.graph.outputs) values[id] = true;
    for (size_t i = source_.nodes.size(); i-- > 0;) {
      const Node& node = source_.nodes[i];
      nodes[i] = std::any_of(node.outputs.begin(), node.outputs.end(),
                             [&](ValueId id) { return id != kNoValue && values[id] && !partition_.is_saved[id]; });
      if (nodes[i]) ForEachOperandValue(node, [&](const ValueId& id) { values[id] = true; });
    }
    return nodes;
  }

  // A recomputed value is computed right before what first reads it.
  void Provide(ValueId id) {
    if (used_[id]) return;
    used_[id] = true;
    if (partition_.is_saved[id] || producer_[id] < 0) return;
    const auto row = partition_.draws.find(producer_[id]);
    if (row != partition_.draws.end()) {
      DrawAgain(*row->second);
    } else {
      Emit(static_cast<size_t>(producer_[id]));
    }
  }

  // From the state that the generator had in the forward, up to the last draw that is needed. What other draws gave is
  // saved or unused; they only move the generator on.
  void DrawAgain(const Draws& draws) {
    if (!drawn_.insert(&draws).second) return;
    const ValueId before = NewValueLike(draws.state);
    const Operand generator = source_.nodes[static_cast<size_t>(producer_[draws.state])].operands[0];
    AddCall("framejit::random_state", {generator}, {before});
    Provide(draws.state);
    AddCall("framejit::set_random_state", {generator, Operand::Value(draws.state)}, {});
    auto last = draws.nodes.end();
    while (last != draws.nodes.begin() && !live_[static_cast<size_t>(*(last - 1))]) --last;
    for (auto index = draws.nodes.begin(); index != last; ++index) {
      Node node = source_.nodes[static_cast<size_t>(*index)];
      ForEachOperandValue(node, [&](ValueId id) { Provide(id); });
      for (ValueId& id : node.outputs) {
        if (id == kNoValue) continue;
        if (partition_.is_saved[id]) {
          id = NewValueLike(id);
        } else {
          made_[id] = used_[id] = true;
        }
      }
      result_.graph.nodes.push_back(std::move(node));
    }
    AddCall("framejit::set_random_state", {generator, Operand::Value(before)}, {});
  }

  ValueId NewValueLike(ValueId id) {
    TensorMeta meta = source_.meta(id);
    for (const TensorMeta& other : result_.graph.values) meta.storage = std::max(meta.storage, other.storage + 1);
    return result_.graph.AddValue(std::move(meta));
  }

  void AddCall(const char* op, absl::InlinedVector<Operand, 4> operands, absl::InlinedVector<ValueId, 2> outputs) {
    result_.graph.nodes.push_back(Node{.op = c10::Dispatcher::singleton().findSchemaOrThrow(op, ""),
                                       .operands = std::move(operands),
                                       .outputs = std::move(outputs),
                                       .list_lengths = {},
                                       .torch_call = kBackwardCall});
  }

  void Emit(size_t index) {
    const Node& node = source_.nodes[index];
    for (ValueId id : node.outputs) {
      if (id == kNoValue) continue;
      if (made_[id]) return;
    }
    for (ValueId id : node.outputs) {
      if (id != kNoValue) made_[id] = used_[id] = true;
    }
    ForEachOperandValue(node, [&](const ValueId& id) { Provide(id); });
    result_.graph.nodes.push_back(node);
  }

  void TakeInputs() {
    for (size_t i = 0; i < partition_.saved.size(); ++i) {
      const ValueId id = partition_.saved[i].value;
      if (id == kNoValue || !used_[id]) continue;
      result_.saved.push_back(static_cast<int32_t>(i));
      result_.graph.inputs.push_back(id);
    }
    for (size_t i = partition_.joint.input_count; i < source_.inputs.size(); ++i) {
      if (!used_[source_.inputs[i]]) continue;
      result_.tangents.push_back(static_cast<int32_t>(i - partition_.joint.input_count));
      result_.graph.inputs.push_back(source_.inputs[i]);
    }
    for (const GraphConstant& constant : source_.constants) {
      if (used_[constant.id]) result_.graph.constants.push_back(constant);
    }
  }

  // A part of a memory, in bytes from where it begins.
  struct Part {
    ValueId id;
    int64_t begin, end;
  };
  Part PartOf(ValueId id) const {
    const TensorMeta& meta = source_.meta(id);
    const auto width = static_cast<int64_t>(c10::elementSize(meta.dtype));
    int64_t last = meta.storage_offset;
    for (size_t d = 0; d < meta.sizes.size(); ++d) last += (meta.sizes[d] - 1) * meta.strides[d];
    return {id, meta.storage_offset * width, (last + 1) * width};
  }

  // Whether two looks at one memory have no common element although one begins inside of the other: columns of a
  // matrix, real and imaginary parts. Offsets are numbers whose digits are indices, where each stride is a multiple of
  // the next one.
  bool AreApart(ValueId a, ValueId b) const {
    const TensorMeta &first = source_.meta(a), &second = source_.meta(b);
    if (first.dtype != second.dtype || first.strides != second.strides) return false;
    std::vector<std::pair<int64_t, size_t>> dims;  // stride, dimension
    for (size_t d = 0; d < first.strides.size(); ++d) dims.emplace_back(first.strides[d], d);
    std::sort(dims.rbegin(), dims.rend());
    int64_t rest_a = first.storage_offset, rest_b = second.storage_offset;
    bool apart = false;
    for (size_t i = 0; i < dims.size(); ++i) {
      const auto [stride, d] = dims[i];
      if (stride <= 0 || (i > 0 && dims[i - 1].first % stride != 0)) return false;
      const int64_t begin_a = rest_a / stride, begin_b = rest_b / stride;
      const int64_t end_a = begin_a + first.sizes[d], end_b = begin_b + second.sizes[d];
      // Within what the digit can say; the first one has no bound.
      if (i > 0 && std::max(end_a, end_b) > dims[i - 1].first / stride) return false;
      apart = apart || end_a <= begin_b || end_b <= begin_a;
      rest_a %= stride;
      rest_b %= stride;
    }
    return apart || rest_a != rest_b;
  }

  // Gradients that are parts of one tensor without a common element stay that, as in eager mode.
  void FindCopies() {
    absl::flat_hash_map<int32_t, std::vector<Part>> holders;
    for (size_t i = 0; i < result_.saved.size(); ++i) {
      holders[source_.meta(result_.graph.inputs[i]).storage] = {{kNoValue, 0, std::numeric_limits<int64_t>::max()}};
    }
    for (ValueId id : result_.graph.outputs) {
      std::vector<Part>& parts = holders[source_.meta(id).storage];
      const Part own = PartOf(id);
      result_.copied.push_back(std::any_of(parts.begin(), parts.end(), [&](const Part& other) {
        return other.id != id && own.begin < other.end && other.begin < own.end &&
               (other.id == kNoValue || !AreApart(id, other.id));
      }));
      parts.push_back(own);
    }
  }

  const Partition& partition_;
  const Graph& source_;
  const CutSection* cut_;  // or null
  const BackwardSection& section_;
  BackwardGraph result_;
  std::vector<int32_t> producer_;  // by value
  std::vector<bool> made_, used_;  // by value
  std::vector<bool> live_;         // by node
  absl::flat_hash_set<const Draws*> drawn_;
};

}  // namespace

absl::StatusOr<Partition> MakePartition(JointGraph joint) {
  Partition partition;
  partition.joint = std::move(joint);
  if (absl::Status status = Partitioner(partition).Run(); !status.ok()) return status;
  return partition;
}

BackwardGraph ExtractBackward(const Partition& partition, size_t section, const std::vector<bool>& wanted) {
  return Extractor(partition, section, wanted).Run();
}

}  // namespace framejit
