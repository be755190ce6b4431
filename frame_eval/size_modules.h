// SizeModules: what a Python backend made of a recording with open sizes. One module serves every set of sizes for
// which its own assumptions hold; the backend is called again where those of none do.
#ifndef FRAMEJIT_FRAME_EVAL_SIZE_MODULES_H_
#define FRAMEJIT_FRAME_EVAL_SIZE_MODULES_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/plugin/plugin.h"

namespace framejit {

class SizeModules {
 public:
  // A backend that needs more is one that takes each size for given.
  static constexpr size_t kMaxModules = 8;

  SizeModules(std::string name, std::shared_ptr<Backend> backend)
      : name_(std::move(name)), backend_(std::move(backend)) {}

  // The module for these inputs, for whose sizes the recording holds. ResourceExhausted: the backend was called too
  // often; other errors are its own. Requires the GIL; runs Python code, but none of the program's.
  absl::StatusOr<std::shared_ptr<CompiledGraph>> Find(const OpenRequest& request);
  // Whether calls failed because the backend was called too often.
  bool has_too_many() const { return has_too_many_; }

 private:
  const std::string name_;
  const std::shared_ptr<Backend> backend_;
  bool has_too_many_ = false;
  // Sets of sizes that have none; for other recordings, the trace remembers these.
  size_t failures_of_data_ = 0;
  std::vector<std::shared_ptr<const OpenModule>> modules_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_SIZE_MODULES_H_
