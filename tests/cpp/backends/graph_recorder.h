// Builds graphs for backend tests by running operators on real tensors: the metadata of every value is what eager says.
#ifndef FRAMEJIT_TESTS_CPP_BACKENDS_GRAPH_RECORDER_H_
#define FRAMEJIT_TESTS_CPP_BACKENDS_GRAPH_RECORDER_H_

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "backends/backend.h"
#include "graph/graph.h"

namespace framejit {

// A value of the graph under construction, or a constant operand.
struct Arg {
  Arg(c10::IValue value) : constant(std::move(value)) {}     // NOLINT: operands are written as plain literals
  Arg(double value) : constant(value) {}                     // NOLINT
  Arg(int value) : constant(static_cast<int64_t>(value)) {}  // NOLINT
  Arg(bool value) : constant(value) {}                       // NOLINT
  Arg(const char* value) : constant(std::string(value)) {}   // NOLINT
  Arg(at::ScalarType value) : constant(static_cast<int64_t>(value)) {}                  // NOLINT
  Arg(std::initializer_list<int64_t> value) : constant(std::vector<int64_t>(value)) {}  // NOLINT
  static Arg Value(ValueId id);
  static Arg List(std::vector<ValueId> ids);
  static Arg None() { return Arg(c10::IValue()); }

  bool is_value = false;
  bool is_list = false;
  std::vector<ValueId> values;
  c10::IValue constant;
};

class GraphRecorder {
 public:
  Arg Input(at::Tensor tensor);
  Arg Constant(at::Tensor tensor);
  // Runs "aten::name" or "aten::name.overload" with operands in schema order; missing ones take their defaults.
  std::vector<Arg> CallAll(const std::string& op, std::vector<Arg> operands);
  Arg Call(const std::string& op, std::vector<Arg> operands) { return CallAll(op, std::move(operands)).at(0); }
  void Return(const Arg& value) { graph.outputs.push_back(value.values.at(0)); }
  void Mutate(const Arg& input, const Arg& value) {
    graph.mutations.push_back({input.values.at(0), value.values.at(0)});
  }

  // What the operator gave while recording.
  const at::Tensor& Recorded(ValueId id) const { return tensors_.at(static_cast<size_t>(id)); }

  Graph graph;
  std::vector<at::Tensor> inputs;

 private:
  ValueId Add(const at::Tensor& tensor);
  std::vector<at::Tensor> tensors_;  // by ValueId
};

// What one backend makes of a recording: outputs, the inputs after the call, and what Describe says.
struct Outcome {
  std::vector<at::Tensor> outputs;
  std::vector<at::Tensor> inputs;
  std::string description;
};
Outcome RunOn(Backend& backend, const GraphRecorder& recorder, uint64_t seed = 7);

// Runs `cpu` and `interp` on copies of the inputs; expects equal dtypes, sizes, strides, values (NaN equals NaN; floats
// within a few units in the last place of the largest value, reduced precision exactly) and equally mutated inputs.
// Returns what `cpu` did.
Outcome ExpectCpuEqualsInterp(const GraphRecorder& recorder);

int CountKernels(const Outcome& outcome);
int CountCalls(const Outcome& outcome);

}  // namespace framejit

#endif  // FRAMEJIT_TESTS_CPP_BACKENDS_GRAPH_RECORDER_H_
