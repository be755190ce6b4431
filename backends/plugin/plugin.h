// Backends written in Python, with torch.compile's contract: backend(graph_module, example_inputs) returns a callable.
// They receive the torch-level graph and run under torch's own autograd.
#ifndef FRAMEJIT_BACKENDS_PLUGIN_PLUGIN_H_
#define FRAMEJIT_BACKENDS_PLUGIN_PLUGIN_H_

#include <memory>
#include <string>

#include "backends/backend.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// `name` is for messages and logs. The backend keeps `callable` alive.
std::shared_ptr<Backend> MakePythonBackend(std::string name, PyRef callable);

// Runs the graph module as it is.
std::shared_ptr<Backend> MakeEagerBackend();

// Names of the entry point group `framejit.backends`, then torch's registry (which reads `torch_dynamo_backends`).
BackendResolver MakePythonResolver();

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_PLUGIN_PLUGIN_H_
