// RecordCall: one recording of a call as an entry makes it: of the whole function or, where that breaks, up to a place
// in front of what broke.
#ifndef FRAMEJIT_FRAME_EVAL_RECORD_CALL_H_
#define FRAMEJIT_FRAME_EVAL_RECORD_CALL_H_

#include <memory>
#include <optional>

#include "frame_eval/compile.h"
#include "frame_eval/guards/guard_program.h"
#include "graph/capture/recorder.h"

namespace framejit {

// What a recording depends on beyond the call.
struct RecordInputs {
  std::shared_ptr<ResumeTable> resumes;  // null: a break gives up the frame
  bool advance_iterators = true;         // as in RecordRequest
  VaryingItems* varying = nullptr;
  SizeHistory* sizes = nullptr;   // as in RecordRequest
  std::optional<StopPoint> stop;  // ends there, whatever comes behind
  bool checkpoints = true;        // as in RecordRequest
};

struct CallRecording {
  std::unique_ptr<Recording> recording;
  std::optional<StopPoint> stop;  // where it ended in front of a break, or was told to
};

// `timings` may be null. Never raises, and leaves no Python exception set.
CallRecording RecordCall(const CallState& state, const CompileOptions& options, const RecordInputs& inputs,
                         Timings* timings);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_RECORD_CALL_H_
