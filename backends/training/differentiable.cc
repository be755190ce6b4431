// BackwardNode's backwards that are to be differentiated (create_graph).
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "backends/training/backward_node.h"
#include "backends/training/reconnect.h"
#include "graph/autograd/record_backward.h"

namespace framejit {
namespace {

using torch::autograd::Edge;

// The default generators as they were before the forward, and as they are now afterwards.
class ReplayedGenerators {
 public:
  ReplayedGenerators(const std::vector<c10::Device>& devices, std::optional<DefaultGeneratorStates>& before) {
    if (devices.empty()) return;
    now_ = DefaultGeneratorStates::Take(devices);
    TORCH_CHECK(before.has_value() && now_.has_value(),
                "framejit: a backward is differentiated whose call drew random numbers, and one of them is captured");
    before->Restore();
  }
  ~ReplayedGenerators() {
    if (now_.has_value()) now_->Restore();
  }
  ReplayedGenerators(const ReplayedGenerators&) = delete;
  ReplayedGenerators& operator=(const ReplayedGenerators&) = delete;

 private:
  std::optional<DefaultGeneratorStates> now_;
};

}  // namespace

// A run of the function under torch's own autograd, which can differentiate what it records.
struct BackwardNode::SecondRun {
  ~SecondRun() {
    try {
      if (node != nullptr) node->LeadOn(*this);
    } catch (const c10::Error&) {  // autograd forbids to go on with what a hook has written: nobody differentiates it
    }
  }

  Variables inputs;
  std::vector<at::Tensor> outputs;
  std::vector<ResultEdges> results;
  // Where code of the program lies behind the results: whose node leads on to this run once the last backward that it
  // was made in has ended. The results that live keep it.
  BackwardNode* node = nullptr;
  Variables gradients, tangents;  // of these backwards
};

// Inputs for a second run of the forward, under autograd: looks at those that require grad, so that the gradients with
// respect to them do not go on into what made them; copies of those that the forward writes. Those that were written
// since may be anything where the backward of the outputs in `given` depends on none of their elements.
BackwardNode::Variables BackwardNode::AutogradInputs(OutputMask given) const {
  Variables inputs = inputs_;
  for (size_t i = 0; i < now_.size(); ++i) {
    TORCH_CHECK(
        now_[i].is_same(inputs_[i]),
        "framejit: a tensor that a checkpointed function reads was replaced, and the backward is differentiated");
  }
  const Partition& partition = program_->partition();
  std::vector<bool> written(inputs.size(), false);
  for (int32_t position : partition.written_inputs) {
    written[static_cast<size_t>(position)] = true;
    inputs[static_cast<size_t>(position)] = inputs[static_cast<size_t>(position)].clone();
  }
  std::vector<bool> read;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool changed = !written[i] && !inputs[i].is_inference() && inputs[i]._version() != versions_[i];
    if (!changed) continue;
    if (read.empty()) read = program_->InputsReadBy(given);
    TORCH_CHECK(!read[i],
                "one of the variables needed for gradient computation has been modified by an inplace "
                "operation: [",
                inputs[i].toString(), " ", inputs[i].sizes(), "] is at version ", inputs[i]._version(),
                "; expected version ", versions_[i],
                " instead. A backward that is itself differentiated computes the "
                "compiled function again and needs all of its inputs.");
  }
  // Once more where arrivals stand behind the results' nodes: the engine expects numbers that fall along each edge, and
  // Connect has edges lead from this run to those nodes.
  for (int32_t position : partition.joint.differentiable_inputs) {
    at::Tensor& input = inputs[static_cast<size_t>(position)];
    for (int times = arrivals_ ? 2 : 1; times > 0; --times) input = input.view_as(input);
  }
  return inputs;
}

// Null where nobody holds the result.
torch::autograd::Edge BackwardNode::EdgeOf(size_t output) {
  if (result_nodes_.empty()) return Edge(getptr(), 0);
  std::lock_guard<std::mutex> lock(result_nodes_mutex_);
  Node* node = result_nodes_[output];
  return node == nullptr ? Edge() : Edge(OwnerOf(node), result_slots_[output]);
}

// What autograd records of a second run is to lead to the call's own results in place of those of the run, as in eager
// mode: to their hooks, and to what a backward frees.
std::vector<ResultEdges> BackwardNode::ResultsOfRun(const std::vector<at::Tensor>& again) {
  const JointGraph& joint = program_->joint();
  std::vector<ResultEdges> results;
  for (size_t i = 0; i < joint.differentiable_outputs.size(); ++i) {
    const Edge own = EdgeOf(i);
    if (!own.is_valid()) continue;
    results.push_back({torch::autograd::impl::gradient_edge(OutputAmong(again, i)), own});
    for (size_t k = 0; !joint.cuts.empty() && k < joint.cuts[i].points.size(); ++k) {
      const CutPoint& point = joint.cut_points[static_cast<size_t>(joint.cuts[i].points[k])];
      if (point.output >= 0) continue;
      const at::Tensor& view = again[static_cast<size_t>(point.result)];
      results.push_back(
          {torch::autograd::impl::gradient_edge(view), own.function->next_edge(k + 1)});  // behind the leaves'
    }
  }
  return results;
}

std::shared_ptr<BackwardNode::SecondRun> BackwardNode::RunAgain(OutputMask given) {
  std::shared_ptr<SecondRun> run = second_run_.lock();
  if (run == nullptr) {
    run = std::make_shared<SecondRun>();
    run->inputs = AutogradInputs(given);
    run->outputs = RunUnderAutograd(run->inputs);
    run->results = ResultsOfRun(run->outputs);
    if (!LeadsToProgram(DifferentiableOutputs(run->outputs), EndsOf(run->inputs, {}))) return run;
    AutogradInputs(AllOutputs(program_->joint().differentiable_outputs.size()));  // raises: later ones do not ask again
    run->node = this;
    second_run_ = run;
  }
  CurrentTask()->second_run = run;
  return run;
}

// Code of the program need not be linear. What comes to it through the call's results, and past these from gradients
// that are differentiated, has to come there at once: so all of it goes through the second run from now on. Not before
// the backwards end that count on the edges as they are.
void BackwardNode::LeadOn(const SecondRun& run) {
  std::vector<torch::autograd::edge_list> dropped;  // dies behind the lock
  std::lock_guard<std::mutex> lock(mutex_);
  Variables roots = DifferentiableOutputs(run.outputs);
  roots.insert(roots.end(), run.gradients.begin(), run.gradients.end());
  Reconnect(run.results, roots, EndsOf(run.inputs, run.tangents));
  absl::flat_hash_set<Node*> own(result_nodes_.begin(), result_nodes_.end());
  own.insert(this);
  const auto leads = [&](const ResultEdges& result) { return own.contains(result.own.function.get()); };  // not views
  for (const ResultEdges& result : run.results) {
    if (!leads(result)) continue;
    torch::autograd::edge_list& edges = result.own.function->next_edges();
    dropped.emplace_back(edges.size()).swap(edges);
  }
  for (const ResultEdges& result : run.results) {
    if (!leads(result)) continue;
    torch::autograd::edge_list& edges = result.own.function->next_edges();
    edges.resize(std::max<size_t>(edges.size(), result.own.input_nr + 1));
    edges[result.own.input_nr] = result.again;
  }
  leads_on_ = true;
  FreeAllButOutputs();
}

// Of `gradients`, which a backward of `tangents` through the run gave.
void BackwardNode::Connect(SecondRun& run, const Variables& tangents, const Variables& gradients) {
  if (run.node == nullptr) return Reconnect(run.results, gradients, EndsOf(run.inputs, tangents));
  run.tangents.insert(run.tangents.end(), tangents.begin(), tangents.end());
  run.gradients.insert(run.gradients.end(), gradients.begin(), gradients.end());
}

// Of a node that leads on, whose saved results are held for this alone.
void BackwardNode::PassOn(size_t output) {
  std::lock_guard<std::mutex> lock(mutex_);
  const OutputMask given = OutputMask{1} << output;
  const std::vector<bool> all(num_outputs(), true);
  TORCH_CHECK(!RunsFreed(given, all), torch::autograd::ERR_BACKWARD_TWICE);
  for (int32_t index : program_->Consume(given, all)->checked) {
    if (program_->partition().saved[static_cast<size_t>(index)].kind == SavedValue::Kind::kOutput) CheckVersion(index);
  }
}

absl::flat_hash_set<torch::autograd::Node*> BackwardNode::EndsOf(const Variables& inputs,
                                                                 const Variables& tangents) const {
  absl::flat_hash_set<Node*> ends;
  for (const at::Tensor& input : DifferentiableInputs(inputs)) ends.insert(input.grad_fn().get());
  for (const at::Tensor& tangent : tangents) {
    if (tangent.defined()) ends.insert(tangent.grad_fn().get());
  }
  return ends;
}

// Differentiable output number `output` among the results of a call under torch's own autograd.
at::Tensor BackwardNode::OutputAmong(const std::vector<at::Tensor>& results, size_t output) const {
  const JointGraph& joint = program_->joint();
  const OutputViews::Place& place = joint.views.places[static_cast<size_t>(joint.differentiable_outputs[output])];
  return place.is_base ? at::Tensor(results[place.result]._base()) : results[place.result];
}

std::vector<at::Tensor> BackwardNode::RunUnderAutograd(const Variables& inputs) {
  std::vector<at::Tensor> outputs;
  pybind11::gil_scoped_acquire gil;
  const ReplayedGenerators generators(program_->random(), generators_);
  program_->AutogradGraph().Run(inputs, outputs);
  return outputs;
}

BackwardNode::Variables BackwardNode::DifferentiableOutputs(const std::vector<at::Tensor>& results) const {
  Variables outputs;
  for (size_t i = 0; i < program_->joint().differentiable_outputs.size(); ++i)
    outputs.push_back(OutputAmong(results, i));
  return outputs;
}

BackwardNode::Variables BackwardNode::DifferentiableInputs(const Variables& inputs) const {
  Variables targets;
  for (int32_t position : program_->joint().differentiable_inputs)
    targets.push_back(inputs[static_cast<size_t>(position)]);
  return targets;
}

// create_graph: the function runs again under torch's own autograd, which can differentiate what it records.
BackwardNode::Variables BackwardNode::Differentiable(const Variables& tangents, OutputMask given) {
  for (size_t i = 0; i < saved_.size(); ++i) {
    if (program_->partition().saved[i].used_by & given) saved_[i].unpack(getptr());
  }
  const std::shared_ptr<SecondRun> run = RunAgain(given);
  Variables results, gradients;
  for (size_t i = 0; i < tangents.size(); ++i) {
    if ((given >> i & 1) == 0) continue;
    results.push_back(OutputAmong(run->outputs, i));
    gradients.push_back(tangents[i]);
  }
  Variables found = torch::autograd::grad(results, DifferentiableInputs(run->inputs), gradients, /*retain_graph=*/true,
                                          /*create_graph=*/true, /*allow_unused=*/true);
  Connect(*run, tangents, found);
  return found;
}

// As Differentiable, for RunCut: of the inputs, then of the points.
BackwardNode::Variables BackwardNode::DifferentiableCut(size_t output, const at::Tensor& tangent, bool goes_on) {
  const JointGraph& joint = program_->joint();
  const std::vector<bool> wanted(num_outputs(), goes_on);
  for (int32_t index : program_->Backward(joint.sections.size() + output, wanted, true, {}).plan.saved)
    saved_[static_cast<size_t>(index)].unpack(getptr());
  const std::shared_ptr<SecondRun> run = RunAgain(OutputMask{1} << output);
  Variables targets, points;
  for (int32_t index : joint.cuts[output].points) {
    const CutPoint& point = joint.cut_points[static_cast<size_t>(index)];
    points.push_back(point.output >= 0 ? OutputAmong(run->outputs, static_cast<size_t>(point.output))
                                       : run->outputs[static_cast<size_t>(point.result)]);
  }
  targets = DifferentiableInputs(run->inputs);
  targets.insert(targets.end(), points.begin(), points.end());
  Variables found;
  {
    const StoppedGradients stopped(points);
    found = torch::autograd::grad({OutputAmong(run->outputs, output)}, targets, {tangent}, /*retain_graph=*/true,
                                  /*create_graph=*/true, /*allow_unused=*/true);
  }
  Connect(*run, {tangent}, found);
  return found;
}

}  // namespace framejit
