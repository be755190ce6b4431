// The pipeline: what happens to a recorded graph before a backend sees it. One pass a file; each returns how many
// rewrites it made and leaves a graph that verifies.
#ifndef FRAMEJIT_GRAPH_PASSES_PIPELINE_H_
#define FRAMEJIT_GRAPH_PASSES_PIPELINE_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/timing.h"
#include "graph/graph.h"

namespace framejit {

// One form for what can be written in several: dimensions count from the front, numbers are scalar operands instead of
// wrapped tensors, constants stand on the right.
int Canonicalise(Graph& graph);
// Computes small values that depend on constants alone, where the caller does not get them.
int FoldConstants(Graph& graph);
// Composite pointwise operators and inference batch norm in terms of operators that fuse.
int Decompose(Graph& graph);
// Removes what computes something that is already there: x * 1, casts and copies to the same, views of the same memory.
int Simplify(Graph& graph);
// One computation for equal ones.
int EliminateCommonSubexpressions(Graph& graph);
// Drops nodes and constants that nothing needs.
int EliminateDeadCode(Graph& graph);

struct Pass {
  const char* name;
  int (*run)(Graph& graph);
};

// In the order in which they run.
absl::Span<const Pass> Passes();
// Null where there is none of that name.
const Pass* FindPass(std::string_view name);

// Runs every pass. An error (from the verifier, in debug builds) is ours. `timings` may be null. The recording must be
// over: constants are computed for real.
absl::Status RunPipeline(Graph& graph, Timings* timings);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_PIPELINE_H_
