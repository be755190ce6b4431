#include "frame_eval/internal_errors.h"

#include <atomic>
#include <mutex>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace framejit {
namespace {

std::atomic<int64_t> count{0};

// A graph that fails does so in each call.
bool IsNew(const std::string& what) {
  static std::mutex mutex;
  static auto* told = new absl::flat_hash_set<std::string>();
  const std::lock_guard<std::mutex> lock(mutex);
  return told->insert(what).second;
}

}  // namespace

void ReportInternalError(const std::string& what) {
  if (IsNew(what)) LogWarning(absl::StrCat("internal error: ", what));
  CountInternalError();
}

void CountInternalError() { count.fetch_add(1, std::memory_order_relaxed); }
int64_t InternalErrors() { return count.load(std::memory_order_relaxed); }

}  // namespace framejit
