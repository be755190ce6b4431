#include "backends/cuda/launch_policy.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace framejit::cuda {
namespace {

// A device that is fed as fast as it works takes hardly longer than who feeds it.
constexpr double kLaunchBound = 1.25;
// What a CUDA graph must at least save: its memory is never anybody else's.
constexpr double kWorthwhile = 0.95;

std::string Microseconds(double nanoseconds) { return absl::StrCat(static_cast<int64_t>(nanoseconds / 1e3), " us"); }

}  // namespace

LaunchPolicy::LaunchPolicy(bool always, std::vector<int64_t> input_bytes)
    : always_(always), input_bytes_(std::move(input_bytes)), moves_(input_bytes_.size(), false) {}

LaunchPolicy::Action LaunchPolicy::Next(absl::Span<const void* const> addresses) {
  if (!why_plain_.empty()) return Action::kPlain;
  bool has_moved = false;
  for (size_t i = 0; calls_ > 0 && i < addresses.size(); ++i) {
    if (addresses[i] == addresses_[i]) continue;
    has_moved |= !(is_captured_ && IsCopied(i));
    moves_[i] = true;
  }
  addresses_.assign(addresses.begin(), addresses.end());
  ++calls_;
  if (is_captured_ && !has_moved) {
    return always_ || launched_.count >= kTimedCalls ? Action::kLaunch : Action::kTimeLaunch;
  }
  is_captured_ = false;
  if (calls_ <= kFirstCalls) return Action::kPlain;
  if (!always_ && plain_.count < kTimedCalls) return Action::kTimePlain;
  if (!always_ && plain_.device.nanoseconds() > kLaunchBound * plain_.host.nanoseconds()) {
    GiveUp(absl::StrCat("the device works ", Microseconds(plain_.device.nanoseconds()), ", its launches take ",
                        Microseconds(plain_.host.nanoseconds())));
    return Action::kPlain;
  }
  if (captures_ == kMostCaptures) {
    GiveUp("inputs are at other addresses again and again");
    return Action::kPlain;
  }
  ++captures_;
  return Action::kCapture;
}

void LaunchPolicy::AddTime(bool launched, CallTime time) {
  Times& times = launched ? launched_ : plain_;
  ++times.count;
  times.host.Add(time.host);
  times.device.Add(time.device);
  if (launched && times.count == kTimedCalls && launched_.cost() > kWorthwhile * plain_.cost()) {
    GiveUp(absl::StrCat("a CUDA graph takes ", Microseconds(launched_.cost()), ", launches one by one ",
                        Microseconds(plain_.cost())));
  }
}

void LaunchPolicy::GiveUp(std::string why) { why_plain_ = std::move(why); }

}  // namespace framejit::cuda
