// Replays the torch-level calls of a recording on fakes of other sizes. Whatever torch decides by sizes, it decides
// again; what the program decided is checked by the steps of the SymbolicProgram. No Python code of the program runs.
#ifndef FRAMEJIT_GRAPH_SYMBOLIC_REPLAY_H_
#define FRAMEJIT_GRAPH_SYMBOLIC_REPLAY_H_

#include <Python.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "graph/autograd/joint_graph.h"
#include "graph/fake/number_answers.h"
#include "graph/graph.h"
#include "graph/symbolic/program.h"

namespace framejit {

struct ReplayRequest {
  const SymbolicProgram* program = nullptr;
  const TorchGraph* torch_graph = nullptr;
  const Graph* recorded = nullptr;  // of the same recording: its results must be of the same kind
  absl::Span<PyObject* const> inputs;
  absl::Span<PyObject* const> numbers;                     // of the program, in order
  absl::Span<const std::pair<size_t, uint32_t>> versions;  // Recording::versions
  bool backward = false;                                   // the recording has one
  // Gets the open symbols (SymbolicProgram::open) that something asked the value of: a recording with these open is
  // none.
  std::vector<SymbolId>* looked = nullptr;
  // Of the torch-level values, for what is said where the recording does not hold.
  const std::vector<std::string>* names = nullptr;
};

// What the graph holds for: `relation` to another number, or to `constant`, is true or it is not.
struct NumberCondition {
  NumberRelation relation;
  SymbolId other = kNoSymbol;
  double constant = 0;
  bool answer = false;
};

// A number that is an input of a graph.
struct NumberInput {
  SymbolId symbol = kNoSymbol;
  double largest = 0;  // the graph is none for finite numbers beyond that
  std::vector<NumberCondition> conditions;
};

// The recording at the sizes of some inputs. Of its graph's inputs, those for open numbers come last.
struct SizedRecording {
  Graph graph;
  TorchGraph torch_graph;
  std::unique_ptr<JointGraph> joint;  // with a backward
  std::vector<PyRef> symbols;         // by SymbolId: what each is worth
  std::vector<NumberInput> numbers;   // one per input for a number
};

// FailedPrecondition says why the recording does not hold at these sizes. Requires the GIL; leaves no Python exception
// set, and torch's state as it was.
absl::StatusOr<SizedRecording> Replay(const ReplayRequest& request);

// The explicit storage offset of the as_strided family, which counts from where the memory begins.
bool HasAbsoluteOffset(const Node& node);

// What autograd knows of a view that is a result, beyond what the graph makes (RecipeKind::kGraphOutput); null:
// nothing.
PyRef ViewForm(const at::Tensor& tensor);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_SYMBOLIC_REPLAY_H_
