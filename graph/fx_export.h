// torch.fx.GraphModules from graphs: the torch-level one (what the backends of torch.compile receive, and what runs
// under torch's own autograd) and the ATen-level one. The Python half is framejit/_fx.py. Requires the GIL; Python
// errors come back as a status, none stays set.
#ifndef FRAMEJIT_GRAPH_FX_EXPORT_H_
#define FRAMEJIT_GRAPH_FX_EXPORT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "frame_eval/cpython/py_ref.h"
#include "graph/graph.h"
#include "graph/torch_graph.h"

namespace framejit {

struct SymbolicProgram;

struct FxOptions {
  // What meta["val"] and meta["example_value"] of a tensor node are: FakeTensors, which know the device but cost 20
  // microseconds a node and, in the process's first export, seconds of imports; or else tensors on the meta device.
  // Shape, dtype and strides are in meta["tensor_meta"] in any case.
  bool fake_values = false;
  std::vector<std::string> input_names;  // "arg0", "arg1", ... where empty or shorter
  PyRef builder;                         // a framejit._fx.Builder; null: a new one
  // Of a recording with open sizes, at torch level: what calls are given of sizes is asked and computed by nodes, so
  // that the module runs for all sizes that the recording holds for. Null: sizes are what they were in the recording.
  const SymbolicProgram* program = nullptr;
  // Symbols of the program that the module gives behind its tensors. What comes of data is known when it ran.
  absl::Span<const SymbolId> results;
};

// Placeholders in the order of inputs; the output is a tuple in the order of outputs. `graph` gives the locations.
absl::StatusOr<PyRef> ExportTorchGraph(const TorchGraph& torch_graph, const Graph& graph,
                                       const FxOptions& options = {});

// call_function nodes of torch.ops overloads; mutations are trailing copy_ calls into the placeholders.
absl::StatusOr<PyRef> ExportAtenGraph(const Graph& graph, const FxOptions& options = {});

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FX_EXPORT_H_
