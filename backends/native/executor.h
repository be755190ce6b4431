// Runs plans. Safe to call from several threads at once: everything a call writes is its own.
#ifndef FRAMEJIT_BACKENDS_NATIVE_EXECUTOR_H_
#define FRAMEJIT_BACKENDS_NATIVE_EXECUTOR_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/native/library_calls.h"
#include "backends/native/plan.h"

namespace framejit::native {

class NativeGraph : public CompiledGraph {
 public:
  explicit NativeGraph(std::unique_ptr<const Plan> plan);
  ~NativeGraph() override { delete idle_frame_.load(); }

  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override;
  void RunReleasing(std::vector<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override;
  std::vector<StepTime> TimeSteps(c10::ArrayRef<at::Tensor> inputs, double patience) override;
  std::string Describe() const override { return plan_->description; }

  const Plan& plan() const { return *plan_; }
  // As Run, but inputs are left as they are: `written` gets what Plan::mutations would write, in that order.
  void RunWithoutWrites(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs,
                        std::vector<at::Tensor>& written);

 private:
  // `owned`: the inputs, to be let go of; may be null.
  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>* owned, std::vector<at::Tensor>& outputs);
  // Calls use(call), which is ready for the steps.
  template <typename Use>
  void WithCall(c10::ArrayRef<at::Tensor> inputs, Use use);
  void RunSteps(CallState& call, std::vector<at::Tensor>* owned) const;
  void TakeOutputs(const CallState& call, std::vector<at::Tensor>& outputs) const;
  void Write(const CallState& call) const;
  std::unique_ptr<Frame> TakeFrame();
  void ReturnFrame(std::unique_ptr<Frame> frame);

  const std::unique_ptr<const Plan> plan_;
  std::vector<std::vector<int32_t>> last_read_;  // by step: inputs that nothing reads after it
  // The frame the last call left for the next; calls that find none make their own.
  std::atomic<Frame*> idle_frame_{nullptr};
};

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_EXECUTOR_H_
