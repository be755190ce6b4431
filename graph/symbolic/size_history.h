// Which tensors of an entry have sizes that vary, and which numbers do: the policy of dynamic shapes. The first
// recording is made for the sizes and numbers it meets. A tensor that is read from the same source as in an earlier
// recording, with other sizes, varies from then on: the guards of that recording leave its sizes and strides open. So
// do they leave open the value of a number that was another one.
#ifndef FRAMEJIT_GRAPH_SYMBOLIC_SIZE_HISTORY_H_
#define FRAMEJIT_GRAPH_SYMBOLIC_SIZE_HISTORY_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/guards/source.h"

namespace framejit {

enum class DynamicMode : uint8_t {
  kAuto,    // as above
  kNever,   // dynamic=False: every set of sizes has a recording of its own
  kAlways,  // dynamic=True: all tensors but parameters vary from the first recording on
};

class SizeHistory {
 public:
  explicit SizeHistory(DynamicMode mode = DynamicMode::kAuto) : mode_(mode) {}
  // Of a part of a function that a break left (CompileOptions::data_dependent): what the state brings along may depend
  // on data. All its sizes and numbers are open from the first recording on, unless `mode` is kNever.
  static SizeHistory OfState(DynamicMode mode) {
    SizeHistory history(mode == DynamicMode::kAuto ? DynamicMode::kAlways : mode);
    history.of_state_ = mode != DynamicMode::kNever;
    return history;
  }

  // `tensor` is read from `source` by a recording. Asked again for the same call, it answers the same.
  bool Varies(const SourceTable& sources, SourceId source, const at::Tensor& tensor, bool is_parameter);
  // The program says that it varies.
  void Mark(const SourceTable& sources, SourceId source) {
    if (refusals_ < kMaxRefusals) varying_.insert(sources.ToString(source));
  }
  // `value`, an exact int or float, is read from `source`. The same rule.
  bool NumberVaries(const SourceTable& sources, SourceId source, PyObject* value);
  // Whether `value`, an item of the state, is open.
  bool OpensItem(PyObject* value) const;
  // Whether anything may ever vary.
  bool is_open() const { return mode_ != DynamicMode::kNever; }
  // Too many values came once: numbers are given ones from now on.
  void RefuseNumbers() { numbers_are_open_ = false; }
  // A Python backend is given no module whose sizes come of data: such operators are breaks.
  void RefuseData() { takes_data_ = false; }
  bool takes_data() const { return takes_data_; }
  // A recording had to be made for given sizes after all. What does that again and again is not asked any more.
  void Refuse() {
    if (++refusals_ < kMaxRefusals) return;
    mode_ = DynamicMode::kNever;
    varying_.clear();
  }

 private:
  static constexpr int kMaxRefusals = 3;

  DynamicMode mode_;
  int refusals_ = 0;
  absl::flat_hash_map<std::string, c10::DimVector> last_;
  absl::flat_hash_set<std::string> varying_;
  bool numbers_are_open_ = true;
  bool of_state_ = false;
  bool takes_data_ = true;
  absl::flat_hash_map<std::string, PyRef> last_numbers_;
  absl::flat_hash_set<std::string> varying_numbers_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_SYMBOLIC_SIZE_HISTORY_H_
