// MeasureBudget: where the time of a warm call goes, for explain(). Measured beside the calls, never in them: the
// guards are checked, the compiled graph's steps are run and the results are built several times over, and nothing of
// it reaches the program.
#ifndef FRAMEJIT_FRAME_EVAL_BUDGET_H_
#define FRAMEJIT_FRAME_EVAL_BUDGET_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "frame_eval/guards/guard_program.h"
#include "frame_eval/trace.h"

namespace framejit {

// Nanoseconds; of each part the least of all rounds.
struct Budget {
  double guards = 0;
  std::vector<StepTime> steps;    // empty where the backend does not tell them apart
  std::optional<double> graph;    // the whole graph; none where running it again would write something
  std::optional<double> results;  // building what the call returns; none where that has effects, or without `graph`
  size_t result_count = 0;        // of the graph
};

// None where the trace does not hold for the call (any more) or has no graph. Requires the GIL, leaves no exception
// set.
std::optional<Budget> MeasureBudget(Trace& trace, const CallState& state);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_BUDGET_H_
