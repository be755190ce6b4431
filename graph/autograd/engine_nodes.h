// The nodes of torch's autograd that stood behind a recording's results: which of them a backward runs, and when. What
// they saved is checked when one runs, freed afterwards, and missed when it runs again.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_ENGINE_NODES_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_ENGINE_NODES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace framejit {

// A set of differentiable outputs: bit i stands for JointGraph::differentiable_outputs[i].
using OutputMask = uint64_t;
inline constexpr size_t kMaxDifferentiableOutputs = 64;
constexpr OutputMask AllOutputs(size_t count) {
  return count == kMaxDifferentiableOutputs ? ~OutputMask{0} : (OutputMask{1} << count) - 1;
}

struct EngineNode {
  uint64_t sequence = 0;         // of two that could run, the higher one does
  std::vector<int32_t> next;     // nodes that it hands gradients to
  int32_t input = -1;            // the differentiable input whose gradient arrives here
  bool frees = false;            // raises when it runs once more after a backward that did not retain the graph
  std::vector<int32_t> inputs;   // positions of the call's inputs that it saved, or views of them
  std::vector<int32_t> outputs;  // of the call's outputs
};

struct EngineNodes {
  std::vector<EngineNode> nodes;
  std::vector<int32_t> roots;  // by differentiable output

  // The nodes that a backward of the outputs in `given` runs for the inputs in `wanted`, in the engine's order. Outputs
  // are given where the engine runs their nodes: for what they lead to, or to end there.
  std::vector<int32_t> Order(OutputMask given, const std::vector<bool>& wanted) const;
  // By node: which of `input_count` inputs it hands gradients to, perhaps through others. Input i is bit i % 64 of word
  // i / 64.
  std::vector<std::vector<uint64_t>> Purposes(size_t input_count) const;
  // By node: which outputs' gradients pass through it.
  std::vector<OutputMask> Sources() const;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_ENGINE_NODES_H_
