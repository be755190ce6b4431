// The least time of several runs of the same thing, less what the clock itself takes.
#ifndef FRAMEJIT_BASE_LEAST_TIME_H_
#define FRAMEJIT_BASE_LEAST_TIME_H_

#include <algorithm>
#include <chrono>
#include <limits>

namespace framejit {

class LeastTime {
 public:
  using Clock = std::chrono::steady_clock;

  static double NanosecondsSince(Clock::time_point start) {
    return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
  }

  void Add(double nanoseconds) { least_ = std::min(least_, nanoseconds); }
  // Zero where nothing was timed.
  double nanoseconds() const { return least_ == kNone ? 0 : std::max(0.0, least_ - ClockTime()); }

  // Times a scope.
  class Scope {
   public:
    explicit Scope(LeastTime& least) : least_(least), start_(Clock::now()) {}
    ~Scope() { least_.Add(NanosecondsSince(start_)); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    LeastTime& least_;
    const Clock::time_point start_;
  };

 private:
  static constexpr double kNone = std::numeric_limits<double>::infinity();

  // Between two readings.
  static double ClockTime() {
    static const double time = [] {
      double least = kNone;
      for (int i = 0; i < 100; ++i) least = std::min(least, NanosecondsSince(Clock::now()));
      return least;
    }();
    return time;
  }

  double least_ = kNone;
};

}  // namespace framejit

#endif  // FRAMEJIT_BASE_LEAST_TIME_H_
