#include "frame_eval/internal_errors.h"

#include <atomic>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace framejit {
namespace {

std::atomic<int64_t> count{0};

}  // namespace

void ReportInternalError(const std::string& what) {
  LogWarning(absl::StrCat("internal error: ", what));
  CountInternalError();
}

void CountInternalError() { count.fetch_add(1, std::memory_order_relaxed); }
int64_t InternalErrors() { return count.load(std::memory_order_relaxed); }

}  // namespace framejit
