#include "frame_eval/record_call.h"

#include <utility>

namespace framejit {

CallRecording RecordCall(const CallState& state, const CompileOptions& options, const RecordInputs& inputs,
                         Timings* timings) {
  RecordRequest request;
  request.function = state.function;
  request.slots = state.slots;
  request.max_instructions = options.max_instructions;
  request.max_depth = options.max_depth;
  if (!options.fullgraph) request.resumes = inputs.resumes;
  request.advance_iterators = inputs.advance_iterators;
  request.varying = inputs.varying;
  request.checkpoints = inputs.checkpoints;
  // Python backends take the torch-level graph, which torch's own autograd differentiates.
  absl::StatusOr<std::shared_ptr<Backend>> backend = ResolveBackend(options);
  request.backward = backend.ok() && (*backend)->wants_functional_graph();
  request.stop = inputs.stop;
  CallRecording whole{Record(request, timings), inputs.stop};
  Recording& recording = *whole.recording;
  if (inputs.stop.has_value() || !recording.graph_break.has_value()) return whole;
  const BreakClass kind = BreakCodeClass(recording.graph_break->code);
  if (kind != BreakClass::unsupported && kind != BreakClass::raise) return whole;
  // Once more up to the instruction that did it, or to the last one before it at which everything alive can be rebuilt.
  for (const StopPoint& stop : recording.stops) {
    request.stop = stop;
    std::unique_ptr<Recording> part = Record(request, timings);
    if (!part->resume) continue;
    part->graph_break = std::move(recording.graph_break);
    return {std::move(part), stop};
  }
  return whole;
}

}  // namespace framejit
