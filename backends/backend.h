// The interface that backends implement, and the registry of backends by name.
#ifndef FRAMEJIT_BACKENDS_BACKEND_H_
#define FRAMEJIT_BACKENDS_BACKEND_H_

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/timing.h"
#include "graph/graph.h"
#include "graph/torch_graph.h"

namespace framejit {

struct CompileRequest {
  const Graph* graph = nullptr;              // functional where the backend asks for that
  const TorchGraph* torch_graph = nullptr;   // the same program at torch level
  c10::ArrayRef<at::Tensor> example_inputs;  // the real inputs of this call, in Graph::inputs order
  Timings* timings = nullptr;
};

// One step of a compiled graph, for explain().
struct StepTime {
  enum class Kind : uint8_t { kKernel, kLibraryCall, kMemory };
  Kind kind = Kind::kKernel;
  std::string name;        // of the kernel or the operator; of what is done to memory
  double nanoseconds = 0;  // the least of several runs
};

// What a backend made of a graph. Thread-safe: Run may be called from several threads at once.
class CompiledGraph {
 public:
  virtual ~CompiledGraph() = default;
  // Fills `outputs` in Graph::outputs order and then applies Graph::mutations, after the last operator that may raise.
  // Raises what torch raises (c10::Error, python_error); nothing the caller can see has then been written.
  // Torch-level graphs are called with the GIL held; others with or without it, and may release it while they run.
  virtual void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) = 0;
  // As Run, but an input's memory may be freed as soon as nothing in the graph reads it any more.
  virtual void RunReleasing(std::vector<at::Tensor> inputs, std::vector<at::Tensor>& outputs) { Run(inputs, outputs); }
  // What explain() shows: kernels, library calls, arena size, one line each.
  virtual std::string Describe() const = 0;
  // Runs the steps several times over, for about as many nanoseconds as `patience`, and says how long each takes.
  // Nothing that the caller can see is written, but random numbers are drawn. Raises as Run. Empty where the backend
  // knows no steps.
  virtual std::vector<StepTime> TimeSteps(c10::ArrayRef<at::Tensor> inputs, double patience) { return {}; }
};

class Backend {
 public:
  virtual ~Backend() = default;
  // Backends that run ATen operators functionally and without autograd; others get the torch-level graph.
  virtual bool wants_functional_graph() const = 0;
  virtual absl::StatusOr<std::unique_ptr<CompiledGraph>> Compile(const CompileRequest& request) = 0;
};

// The registry. Names are unique; registering one twice is an error. Thread-safe.
absl::Status RegisterBackend(std::string name, std::shared_ptr<Backend> backend);
// Registered names first, then the resolvers in the order they were added. NotFound lists the known names.
absl::StatusOr<std::shared_ptr<Backend>> FindBackend(std::string_view name);
// Sorted, without duplicates; the resolvers' names included (this may import Python modules).
std::vector<std::string> ListBackends();

// Finds backends by name that are not registered here (torch's registry, entry points). `find` returns NotFound for a
// name that is not its own. Both are called without the registry's lock.
struct BackendResolver {
  std::function<absl::StatusOr<std::shared_ptr<Backend>>(std::string_view)> find;
  std::function<std::vector<std::string>()> list;
};
void AddBackendResolver(BackendResolver resolver);

// Registers `interp`, `eager`, `cpu`, `cuda` and the resolver of torch's and the entry points' names. The module calls
// it once.
absl::Status RegisterBuiltinBackends();

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_BACKEND_H_
