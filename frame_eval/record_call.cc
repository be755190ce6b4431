#include "frame_eval/record_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace framejit {

namespace {

CallRecording RecordWith(RecordRequest request, Timings* timings) {
  CallRecording whole{Record(request, timings), request.stop};
  Recording& recording = *whole.recording;
  if (request.stop.has_value() || !recording.graph_break.has_value()) return whole;
  const BreakClass kind = BreakCodeClass(recording.graph_break->code);
  if (kind != BreakClass::unsupported && kind != BreakClass::raise) return whole;
  // Once more up to the instruction that did it, or to the last one before it at which everything alive can be rebuilt.
  for (const StopPoint& stop : recording.stops) {
    request.stop = stop;
    std::unique_ptr<Recording> part = Record(request, timings);
    if (!part->resume) continue;
    part->graph_break = std::move(recording.graph_break);
    // Where that breaks for its sizes, it ends there for these alone.
    if (part->symbolic.any() && part->why_static.empty()) part->why_static = std::move(recording.why_static);
    return {std::move(part), stop};
  }
  return whole;
}

}  // namespace

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
  // Python backends take the torch-level graph, which torch's own autograd differentiates. Its sizes may be symbolic;
  // its numbers are given ones.
  absl::StatusOr<std::shared_ptr<Backend>> backend = ResolveBackend(options);
  request.backward = backend.ok() && (*backend)->wants_functional_graph();
  request.sizes = backend.ok() ? inputs.sizes : nullptr;
  if (request.sizes != nullptr && !request.backward) request.sizes->RefuseNumbers();
  using Data = RecordRequest::Data;
  if (request.sizes != nullptr && request.sizes->takes_data())
    request.data = options.data_dependent ? Data::kAlways : Data::kWhereChecked;
  request.stop = inputs.stop;
  CallRecording made = RecordWith(request, timings);
  const Recording& recording = *made.recording;
  const bool has_graph = !recording.graph_break.has_value() || recording.resume;
  if (!recording.symbolic.any() || (has_graph && recording.why_static.empty())) return made;
  if (has_graph && !recording.fixed_mark.empty()) return made;
  // What it raises depends on the data.
  if (recording.symbolic.of_data && options.fullgraph && recording.graph_break->code == BreakCode::kRaised) return made;
  // No recording for given sizes stands for one that nothing is to depend on.
  if (recording.broke_at_unbacked && (options.fullgraph || !recording.symbolic.of_data)) return made;
  if (has_graph) {
    inputs.sizes->Refuse();
    if (LogEnabled(LogArtifact::k_symbols))
      Log(LogArtifact::k_symbols, absl::StrCat("recorded for given sizes: ", recording.why_static));
  }
  request.sizes = nullptr;
  return RecordWith(request, timings);
}

}  // namespace framejit
