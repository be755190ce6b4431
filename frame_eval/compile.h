// CompileCall: records one call and makes a trace of it: record, guard program, functional graph, passes, backend.
#ifndef FRAMEJIT_FRAME_EVAL_COMPILE_H_
#define FRAMEJIT_FRAME_EVAL_COMPILE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/backend.h"
#include "frame_eval/guards/guard_program.h"
#include "frame_eval/trace.h"
#include "graph/symbolic/size_history.h"

namespace framejit {

struct CompileOptions {
  std::string backend_name = "auto";
  std::shared_ptr<Backend> backend;  // null: looked up by name at the first compilation
  bool fullgraph = false;
  bool is_inner = false;  // of a function that nobody decorated (armed.h)
  int recompile_limit = 8;
  int64_t max_instructions = 20'000'000;
  int max_depth = 400;
  DynamicMode dynamic = DynamicMode::kAuto;
  GraphModes modes;
  bool data_dependent = false;  // what goes on behind a break is recorded for open sizes and numbers at once
  bool freeze = false;          // parameters and buffers are constants of graphs without gradients
};

// "auto" is the native backend: that of the CPU unless `graph` has values on a GPU.
absl::StatusOr<std::shared_ptr<Backend>> ResolveBackend(const CompileOptions& options, const Graph* graph = nullptr);

// A recorded graph for the backend of that name, for sizes that a trace met later.
struct SizedGraph {
  const Graph* recorded;
  std::string backend;
  bool calls_in_order;  // the backend runs the graph as it was recorded
  GraphModes modes = {};
  // With a backward:
  JointGraph* joint = nullptr;  // taken apart
  const TorchGraph* torch_graph = nullptr;
  std::string name = {};
  std::vector<c10::Device> random = {};  // as in Trace
  c10::ArrayRef<at::Tensor> example_inputs;
  std::vector<size_t> weights = {};  // positions of inputs that are frozen; without a backward
  Timings* timings = nullptr;
};
// `lowered` is what the backend takes where it is not the recorded graph; both outlive what is returned.
absl::StatusOr<std::unique_ptr<CompiledGraph>> CompileSized(const SizedGraph& request, Graph* lowered);

// The trace of this call; it may be one that runs the frame in the interpreter. OutOfRange: a size that the program
// says varies had to be fixed. Another error is internal: its guards could not be built, or no longer hold. Requires
// the GIL; leaves no Python exception set. `resumes` takes the functions that go on behind a break; null: a break gives
// up the frame. `advance_iterators`, `varying` and `sizes` are as in RecordRequest.
absl::StatusOr<std::shared_ptr<Trace>> CompileCall(const CallState& state, const CompileOptions& options,
                                                   std::vector<std::string> argument_names,
                                                   std::shared_ptr<ResumeTable> resumes, bool advance_iterators,
                                                   VaryingItems* varying, SizeHistory* sizes);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_COMPILE_H_
