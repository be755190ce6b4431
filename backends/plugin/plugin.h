// Backends written in Python, with torch.compile's contract: backend(graph_module, example_inputs) returns a callable.
// They receive the torch-level graph and run under torch's own autograd.
#ifndef FRAMEJIT_BACKENDS_PLUGIN_PLUGIN_H_
#define FRAMEJIT_BACKENDS_PLUGIN_PLUGIN_H_

#include <Python.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backends/backend.h"
#include "frame_eval/cpython/py_ref.h"
#include "graph/symbolic/program.h"

namespace framejit {

// `name` is for messages and logs. The backend keeps `callable` alive.
std::shared_ptr<Backend> MakePythonBackend(std::string name, PyRef callable);

// Runs the graph module as it is.
std::shared_ptr<Backend> MakeEagerBackend();

// A recording with open sizes, at the sizes of one call.
struct OpenRequest {
  const Graph* graph = nullptr;
  const TorchGraph* torch_graph = nullptr;
  const SymbolicProgram* program = nullptr;  // without open numbers
  absl::Span<PyObject* const> inputs;        // of the call, in order
  absl::Span<const SymbolId> results;  // that the module gives behind its tensors; the program is one of data then
};

// What a Python backend made of it, for all sizes that the recording holds for and that `holds` says yes to.
struct OpenModule {
  std::shared_ptr<CompiledGraph> graph;
  PyRef holds;       // takes the inputs; null: no size is assumed to be anything
  std::string text;  // what is assumed
};

// Calls a Python backend, the only kind that has such modules, with a module whose sizes are SymInts (framejit/
// _fx_sizes.py). Fails where a size has no expression, and where the backend raises. Requires the GIL.
absl::StatusOr<OpenModule> CompileOpen(Backend& backend, const OpenRequest& request);
// Runs a module that gives numbers behind its tensors. Raises what it raises. Requires the GIL.
void RunModule(CompiledGraph& module, c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs,
               std::vector<PyRef>& numbers);
// Requires the GIL; runs no code of the program.
absl::StatusOr<bool> Holds(const OpenModule& module, absl::Span<PyObject* const> inputs);

// Names of the entry point group `framejit.backends`, then torch's registry (which reads `torch_dynamo_backends`).
BackendResolver MakePythonResolver();

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_PLUGIN_PLUGIN_H_
