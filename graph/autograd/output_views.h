// Results that are looks at memory which an input, another result or nobody else holds. Autograd sees them as views: a
// write to one is a write to all of them and rewrites their history. So the forward graph makes what they look at, and
// each call makes the views themselves under torch's own autograd. Data, and how it is found in a recording.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_OUTPUT_VIEWS_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_OUTPUT_VIEWS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "graph/graph.h"

namespace framejit {

// Every result is another look at the memory of the first operand.
bool IsView(const Graph& graph, const Node& node);

// An input of a recording that the program has not replaced by another tensor.
struct LiftedInput {
  size_t position;  // in Graph::inputs
  at::Tensor fake;
};

struct OutputViews {
  // What views are made of. Values are numbered among `value_count`, apart from those of any graph.
  struct Root {
    ValueId value;
    bool is_input;    // of the call's inputs, else of the forward graph's outputs
    size_t position;  // there
  };
  struct Call {
    Node node;
    bool gradients;         // whether they are recorded while it runs
    bool of_input;          // leads to an input, through other views
    uint64_t sequence = 0;  // of the node that autograd recorded; 0: of none
  };
  // Where a result of the call is: an output of the forward graph, or a view.
  struct Result {
    int32_t output = -1;
    ValueId view = kNoValue;
  };
  // Where a call that runs under torch's own autograd has an output of the forward graph: as this result, or as what it
  // is a view of.
  struct Place {
    size_t result;
    bool is_base;
  };
  // When the program looked at inputs, as against what autograd recorded for the forward graph's outputs. Of what is
  // mixed, kMixedBehind is behind all that saved tensors and may raise in a backward.
  enum class Order : uint8_t { kBefore, kBehind, kMixed, kMixedBehind };

  std::vector<Root> roots;
  std::vector<Call> calls;      // in the program's order; empty where the results are the forward graph's outputs
  std::vector<Result> results;  // one per result of the call
  std::vector<Place> places;    // by output of the forward graph
  size_t value_count = 0;
  Order inputs = Order::kBehind;
};

// The outputs of a forward graph: values of the recording, and the fakes that autograd knows them as.
struct ForwardOutputs {
  std::vector<ValueId> values;
  std::vector<at::Tensor> fakes;
  OutputViews views;
  std::vector<uint64_t> looks_at_inputs;  // the sequence numbers of autograd's nodes for views of inputs
};

// `graph` has recorded a call with results `outputs`, the fakes of Graph::outputs. Unimplemented says why torch's own
// autograd has to differentiate the call.
absl::StatusOr<ForwardOutputs> FindForwardOutputs(const Graph& graph, const std::vector<LiftedInput>& inputs,
                                                  const std::vector<at::Tensor>& outputs);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_OUTPUT_VIEWS_H_
