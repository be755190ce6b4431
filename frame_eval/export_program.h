// ExportProgram: one call recorded as a torch.fx.GraphModule of the whole program, for framejit.trace. Nothing is
// compiled, and nothing that the program would do is done.
#ifndef FRAMEJIT_FRAME_EVAL_EXPORT_PROGRAM_H_
#define FRAMEJIT_FRAME_EVAL_EXPORT_PROGRAM_H_

#include "absl/status/statusor.h"
#include "frame_eval/guards/guard_program.h"
#include "graph/capture/recorder.h"

namespace framejit {

// The GraphModule; FailedPrecondition says what keeps the program from being one graph. `make_builder(inputs, sources,
// recipes, result, effects)`, plain Python data that framejit/_trace.py describes, returns the framejit._fx.Builder
// that is driven, or a str that says what cannot be in a graph. `leaves` are told as one call each. Requires the GIL;
// no Python exception stays set.
absl::StatusOr<PyRef> ExportProgram(const CallState& state, const LeafCallables& leaves, PyObject* make_builder);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_EXPORT_PROGRAM_H_
