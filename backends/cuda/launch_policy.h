// When a graph is launched as one CUDA graph, and which of its inputs that reads where the caller has them. Pure
// decisions from addresses and times; graph_launches.h carries them out.
#ifndef FRAMEJIT_BACKENDS_CUDA_LAUNCH_POLICY_H_
#define FRAMEJIT_BACKENDS_CUDA_LAUNCH_POLICY_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "base/least_time.h"

namespace framejit::cuda {

// What a call took, in nanoseconds: the calling thread, and the device from the first kernel's turn to the last's end.
struct CallTime {
  double host = 0;
  double device = 0;
};

// The calls of one graph on one stream. Not thread-safe.
class LaunchPolicy {
 public:
  enum class Action : uint8_t {
    kPlain,       // kernel by kernel
    kTimePlain,   // the same, and say how long it took
    kCapture,     // into a CUDA graph, which is then launched
    kLaunch,      // the captured graph
    kTimeLaunch,  // the same, and say how long it took
  };

  // Calls before a capture: libraries set themselves up, and it shows which addresses stay.
  static constexpr int kFirstCalls = 2;
  static constexpr int kTimedCalls = 3;
  // How often other addresses may lead to another capture.
  static constexpr int kMostCaptures = 4;
  // Of one input that is copied to where the graph reads it, unless graphs are wanted anyway.
  static constexpr int64_t kLargestCopy = int64_t{4} << 20;

  // `always`: the program asked for CUDA graphs; else they must prove faster. `input_bytes`: by input.
  LaunchPolicy(bool always, std::vector<int64_t> input_bytes);

  // What to do in this call, whose inputs lie there.
  Action Next(absl::Span<const void* const> addresses);
  // By input: it is copied to memory of the graph; the others are read where they lie. Holds for the next capture.
  bool IsCopied(size_t input) const { return moves_[input] && (always_ || input_bytes_[input] <= kLargestCopy); }
  void Captured() { is_captured_ = true; }
  void AddTime(bool launched, CallTime time);
  void GiveUp(std::string why);
  // Why every call is plain from now on; empty while that is not so.
  const std::string& why_plain() const { return why_plain_; }

 private:
  struct Times {
    int count = 0;
    LeastTime host, device;

    // Calls that follow one another wait for whichever is slower.
    double cost() const { return std::max(host.nanoseconds(), device.nanoseconds()); }
  };

  const bool always_;
  const std::vector<int64_t> input_bytes_;
  std::vector<const void*> addresses_;  // of the last call, by input
  std::vector<bool> moves_;             // by input: its address was another one before
  int calls_ = 0;
  int captures_ = 0;
  bool is_captured_ = false;
  Times plain_, launched_;
  std::string why_plain_;
};

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_LAUNCH_POLICY_H_
