// The replay check (FRAMEJIT_CHECK=replay): before a trace is replayed, its call is recorded again, and the two
// recordings are compared. Where the guards hold and the recordings differ, a guard is missing, and the replay would
// have done something else than the function: an error that says where.
#ifndef FRAMEJIT_FRAME_EVAL_REPLAY_CHECK_H_
#define FRAMEJIT_FRAME_EVAL_REPLAY_CHECK_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "frame_eval/compile.h"
#include "frame_eval/guards/guard_program.h"
#include "frame_eval/record_call.h"
#include "frame_eval/size_variants.h"

namespace framejit {

// Process-wide, for what is compiled from now on.
void SetReplayCheck(bool enabled);
bool ReplayCheckEnabled();

// What a recording said, and what it depended on besides the call and the resume table of its entry.
class RecordedText {
 public:
  // Before anything is taken out of the recording.
  RecordedText(const Recording& recording, const RecordInputs& inputs, const std::vector<std::string>& argument_names);

  // Records the call again. An error says how that differs from the recording that this is the text of. `sized`: with
  // open sizes, what was made of the recording for those of the call, in which the symbols are worth `symbols`; else
  // null.
  absl::Status CheckAgain(const std::string& name, const CallState& state, const CompileOptions& options,
                          std::shared_ptr<ResumeTable> resumes, const std::vector<std::string>& argument_names,
                          const SizeVariant* sized, const std::vector<PyRef>& symbols) const;

 private:
  struct Part {
    const char* name;
    std::string text;
  };

  // In the order in which a reader wants to see the first that differs. Of a recording that was to stop somewhere, what
  // comes behind that place is no part.
  static std::vector<Part> Parts(const Recording& recording, bool stops,
                                 const std::vector<std::string>& argument_names);

  // For each input the first that shares memory with it, and how far behind that one's it begins. Nothing where the
  // graph writes: then NoOverlap guards that.
  static std::vector<std::pair<size_t, int64_t>> SharedMemory(const Graph& graph);

  std::vector<Part> parts_;
  std::vector<std::pair<size_t, int64_t>> shared_memory_;
  bool inputs_overlap_;
  std::vector<std::string> guards_;
  bool advance_iterators_;
  std::optional<StopPoint> stop_;
  bool checkpoints_;
  VaryingItems varying_;                      // holds numbers and texts alone
  absl::flat_hash_set<std::string> avoided_;  // by the recording, of what varies
  std::optional<SizeHistory> sizes_;          // of a recording with open sizes
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_REPLAY_CHECK_H_
