// BackwardNode: the node of torch's autograd that stands for one call of a compiled training graph.
#ifndef FRAMEJIT_BACKENDS_TRAINING_BACKWARD_NODE_H_
#define FRAMEJIT_BACKENDS_TRAINING_BACKWARD_NODE_H_

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "backends/training/program.h"
#include "backends/training/reconnect.h"
#include "graph/autograd/make_node.h"
#include "graph/generator_state.h"

namespace framejit {

// Holds a node that may be about to die, but whose destructor has not ended: null where it does.
template <typename N>
auto OwnerOf(N* node) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, N>) {
    return c10::intrusive_ptr<N>::reclaim(static_cast<N*>(c10::raw::weak_intrusive_ptr::lock(node)));
  } else {
    return node->weak_from_this().lock();
  }
}

class BackwardNode : public torch::autograd::Node {
 public:
  // `inputs` are the call's. `generators`: as they were before a forward that draws random numbers; empty where none is
  // drawn, or where that is not known. `check` may be null.
  BackwardNode(std::shared_ptr<TrainingProgram> program, c10::ArrayRef<at::Tensor> inputs,
               std::optional<DefaultGeneratorStates> generators, StateCheck check);

  // Takes what the backward needs from the results of the forward graph, once the call's outputs have their history.
  void Save(const std::vector<at::Tensor>& results);

  std::string name() const override { return "FramejitBackward"; }
  void release_variables() override;
  // Whether what accumulates into an input, or comes in front of that, runs hooks.
  static bool LeavesHaveHooks(const TrainingProgram& program, c10::ArrayRef<at::Tensor> inputs);
  const TrainingProgram& program() const { return *program_; }
  // For calls whose results have nodes of their own (result_nodes.h), of the backward that runs: the tangent of a
  // differentiable output, perhaps none, has come in.
  void Arrive(size_t output, at::Tensor tangent);
  // What those that came in give: the gradients of the output's inputs (TrainingProgram::InputsOf), each handed out
  // once.
  torch::autograd::variable_list HandOut(size_t output);
  // The gradients of outputs that one operator gave up to their cut points, which are the same: of these. The rest is
  // handed out where the backward `goes_on` to leaves.
  torch::autograd::variable_list RunCut(const std::vector<size_t>& outputs, torch::autograd::variable_list tangents,
                                        bool goes_on);
  // The backward ends at the output: of eager's nodes its own alone runs, whose gradients nobody gets.
  void RunAlone(size_t output);
  // The results' nodes are added by differentiable output, and remove themselves when they die.
  void AddResultNode(torch::autograd::Node* node, uint32_t slot);
  void RemoveResultNode(const torch::autograd::Node* node);
  // Whether the results' nodes lead to a second run of the call, each by its first edge, and to nothing else.
  bool leads_on() const { return leads_on_; }
  // Raises where the output was written since eager's nodes saved it, or a backward has freed these.
  void PassOn(size_t output);
  // Sequence numbers for what leaves with hooks get behind the node that was made last, and in front of all made later.
  void ReserveArrivals() const;
  // Whether in eager mode a leaf's hooks see what comes from these outputs, which one operator gave, before those of
  // another result run, so that their gradients are to be handed out at once.
  bool ArrivesBeforeHooks(const std::vector<size_t>& outputs);

  // Every backward from now on raises, as after one that did not retain the graph.
  void FreeAsAfterBackward();

 protected:
  torch::autograd::variable_list apply(torch::autograd::variable_list&& tangents) override;

 private:
  using Variables = torch::autograd::variable_list;

  struct SecondRun;
  // One backward.
  struct Task {
    Variables tangents;                     // that came in, and were not computed with
    OutputMask arrived = 0;                 // came in, with a tangent or without
    OutputMask cut = 0;                     // whose gradients up to cut points are among `gradients`
    OutputMask ran = 0;                     // was computed with
    Variables gradients;                    // that were not handed out
    std::shared_ptr<SecondRun> second_run;  // where the nodes are to lead on to it
    bool any() const;
  };
  // Those that run, by the engine's number. A backward that raises ends as any other does.
  struct TaskTable {
    std::mutex mutex;
    absl::flat_hash_map<int, std::shared_ptr<Task>> tasks;
    void Erase(int id);
  };
  class TaskEnd;
  std::shared_ptr<Task> CurrentTask();

  Variables Apply(Variables&& tangents, OutputMask cut, OutputMask before, bool release);
  Variables RunCutOf(size_t output, at::Tensor tangent, bool goes_on);
  OutputMask Coming() const;
  OutputMask Hooked(OutputMask coming) const;
  std::vector<size_t> TurnsOf(const std::vector<int32_t>& order) const;
  Variables RunSection(size_t section, const std::vector<bool>& wanted, Variables& tangents, bool release);
  std::vector<at::Tensor> SectionInputs(const BackwardVariant& variant, const Variables& tangents, bool by_operator,
                                        std::vector<const void*>* converted);
  std::vector<bool> WantedGradients();
  TangentStrides StridesOf(const Variables& tangents) const;
  void Free(std::shared_ptr<const Consumption> consumed);
  void FreeRun(OutputMask given, const std::vector<bool>& wanted);
  void FreeAll();
  void FreeAllButOutputs();
  bool Raises(int32_t index);
  void CheckVersion(int32_t saved);
  const torch::autograd::Edge& Leaf(size_t input) const;
  void OrderArrivals(OutputMask given, const std::vector<bool>& wanted);
  bool IsFreed(int32_t index) const;
  bool RunsFreed(OutputMask given, const std::vector<bool>& wanted) const;
  void CheckSaved(OutputMask given, const std::vector<bool>& wanted, const Variables& tangents);
  void RunFront(OutputMask given, const std::vector<bool>& wanted, const Variables& tangents);
  Variables Run(OutputMask given, const std::vector<bool>& wanted, Variables& tangents, bool release);
  Variables Differentiable(const Variables& tangents, OutputMask given);
  Variables DifferentiableCut(size_t output, const at::Tensor& tangent, bool goes_on);
  at::Tensor OutputAmong(const std::vector<at::Tensor>& results, size_t output) const;
  std::vector<at::Tensor> RunUnderAutograd(const Variables& inputs);
  Variables DifferentiableInputs(const Variables& inputs) const;
  Variables DifferentiableOutputs(const std::vector<at::Tensor>& results) const;
  torch::autograd::Edge EdgeOf(size_t output);
  std::vector<ResultEdges> ResultsOfRun(const std::vector<at::Tensor>& again);
  std::shared_ptr<SecondRun> RunAgain(OutputMask given);
  void Connect(SecondRun& run, const Variables& tangents, const Variables& gradients);
  void LeadOn(const SecondRun& run);
  absl::flat_hash_set<torch::autograd::Node*> EndsOf(const Variables& inputs, const Variables& tangents) const;
  Variables AutogradInputs(OutputMask given) const;

  const std::shared_ptr<TrainingProgram> program_;
  std::vector<torch::autograd::SavedVariable> saved_;
  Variables inputs_;  // the call's, for a backward that is differentiated
  std::vector<uint32_t> versions_;
  std::optional<DefaultGeneratorStates> generators_;
  StateCheck check_;
  Variables now_;  // the inputs as they are in the backward that runs; empty where nothing reads them anew
  // By output. A backward that comes from them keeps them alive, and reads them without the lock.
  std::vector<torch::autograd::Node*> result_nodes_;
  std::mutex result_nodes_mutex_;
  std::vector<uint32_t> result_slots_;  // by output: which input of its node it is
  std::weak_ptr<SecondRun> second_run_;
  std::atomic<bool> leads_on_ = false;
  const std::shared_ptr<TaskTable> tasks_ = std::make_shared<TaskTable>();
  bool arrivals_ = false;  // leaves have hooks: nodes in between see to their order
  // Of the backward that runs, until it releases.
  OutputMask last_given_ = 0;
  std::vector<bool> last_wanted_;
  bool releases_ = false;                        // what it needs is to be freed yet
  std::shared_ptr<const Consumption> consumed_;  // null: nothing yet
};

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_TRAINING_BACKWARD_NODE_H_
