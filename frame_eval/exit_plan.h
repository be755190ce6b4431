// ExitProgram: what happens after a graph ran. Builds the objects that leave the call from its recipes, applies the
// recorded effects to the user's objects, and returns the result. Knows nothing of guards or graphs.
#ifndef FRAMEJIT_FRAME_EVAL_EXIT_PLAN_H_
#define FRAMEJIT_FRAME_EVAL_EXIT_PLAN_H_

#include <ATen/core/Tensor.h>
#include <Python.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "frame_eval/cpython/py_ref.h"
#include "graph/capture/recipe.h"

namespace framejit {

class ExitProgram {
 public:
  // Checks the plan's references, so that running it needs no checks.
  static absl::StatusOr<std::unique_ptr<ExitProgram>> Make(ExitPlan plan, size_t graph_outputs);

  // The sources that Run expects, in order.
  const std::vector<SourceId>& sources() const { return sources_; }

  // Consumes `outputs`. Returns a new reference, or null with a Python exception set. The caller keeps `sources` alive.
  // `symbols`: what each is worth in this call; empty where the recording has none.
  PyObject* Run(absl::Span<PyObject* const> sources, std::vector<at::Tensor>& outputs,
                absl::Span<const PyRef> symbols = {}) const;

  // Whether running it changes more than what it returns.
  bool has_effects() const { return !plan_.effects.empty(); }

  int Traverse(visitproc visit, void* arg) const;

 private:
  class Builder;
  enum class Shape : uint8_t { kGeneral, kOneTensor, kTensorTuple };

  explicit ExitProgram(ExitPlan plan) : plan_(std::move(plan)) {}
  absl::Status CheckReferences(size_t graph_outputs);
  void ChooseShape();
  bool ApplyEffect(const Effect& effect, Builder& builder) const;

  ExitPlan plan_;
  std::vector<SourceId> sources_;
  std::vector<int32_t> source_position_;  // by recipe: position in sources_, or -1
  Shape shape_ = Shape::kGeneral;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_EXIT_PLAN_H_
