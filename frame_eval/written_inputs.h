// Which inputs a graph writes when its calls run in the recorded order, as torch-level graphs do.
#ifndef FRAMEJIT_FRAME_EVAL_WRITTEN_INPUTS_H_
#define FRAMEJIT_FRAME_EVAL_WRITTEN_INPUTS_H_

#include <utility>
#include <vector>

#include "graph/graph.h"

namespace framejit {

// Positions in Graph::inputs, ascending, without duplicates. `recorded` is not functional.
std::vector<size_t> WrittenInputs(const Graph& recorded);

// The contents and layouts of inputs before a run, to put back where the run raises halfway.
class SavedInputs {
 public:
  SavedInputs(c10::ArrayRef<at::Tensor> inputs, const std::vector<size_t>& written);
  void Restore();

 private:
  struct Saved {
    at::Tensor input;
    at::Tensor copy;
    c10::DimVector sizes;
    c10::DimVector strides;
    int64_t offset;
  };
  std::vector<Saved> saved_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_WRITTEN_INPUTS_H_
