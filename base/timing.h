// Stage timing: how long each stage of a compilation took, printed under FRAMEJIT_LOG=timing and by explain().
#ifndef FRAMEJIT_BASE_TIMING_H_
#define FRAMEJIT_BASE_TIMING_H_

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace framejit {

// One compilation's stages, in the order in which they first ended.
class Timings {
 public:
  void Add(const char* stage, double microseconds) {
    for (auto& row : rows_) {
      if (row.first == stage) {
        row.second += microseconds;
        return;
      }
    }
    rows_.emplace_back(stage, microseconds);
  }
  const std::vector<std::pair<std::string, double>>& rows() const { return rows_; }

 private:
  std::vector<std::pair<std::string, double>> rows_;
};

// Adds the time of a scope to `timings` (nothing where it is null).
class ScopedTiming {
 public:
  ScopedTiming(Timings* timings, const char* stage)
      : timings_(timings), stage_(stage), start_(std::chrono::steady_clock::now()) {}
  ~ScopedTiming() {
    if (timings_ == nullptr) return;
    std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - start_;
    timings_->Add(stage_, elapsed.count());
  }
  ScopedTiming(const ScopedTiming&) = delete;
  ScopedTiming& operator=(const ScopedTiming&) = delete;

 private:
  Timings* timings_;
  const char* stage_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace framejit

#endif  // FRAMEJIT_BASE_TIMING_H_
