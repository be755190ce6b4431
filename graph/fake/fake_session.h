// FakeSession: records ATen operators executed on fake tensors. A fake tensor claims a real device and dtype and
// carries a meta tensor as its shadow; the dispatcher fallback for DispatchKey::Fake computes an operator's output
// metadata on the shadows and appends a node to the session's graph. Autograd, autocast and composite operators run
// above it unchanged. Knows nothing of Python frames.
#ifndef FRAMEJIT_GRAPH_FAKE_FAKE_SESSION_H_
#define FRAMEJIT_GRAPH_FAKE_FAKE_SESSION_H_

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "graph/capture/break.h"
#include "graph/fake/open_number.h"
#include "graph/graph.h"

namespace framejit {

// True where `tensor` is one of our fakes (of any session).
bool IsFake(const at::Tensor& tensor);

// A tensor without memory: for MakeInput, which asks for its metadata alone. Of any device, whether it is there or not.
at::Tensor TensorWithoutMemory(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype,
                               c10::Device device);

class FakeSession {
 public:
  // Makes the session current in this thread and turns DispatchKey::Fake on for factories; the destructor undoes both.
  FakeSession();
  ~FakeSession();
  FakeSession(const FakeSession&) = delete;
  FakeSession& operator=(const FakeSession&) = delete;

  // The session of this thread, or null.
  static FakeSession* Current();

  // A fake for a real tensor, registered as the next graph input. The caller keeps one fake per real tensor.
  // Unimplemented where tensors of this kind cannot be recorded (sparse, quantised, nested, functorch-wrapped, ...).
  absl::StatusOr<at::Tensor> MakeInput(const at::Tensor& real);
  // A fake for a real tensor that the program made itself (torch.tensor): a graph constant and a clone of it.
  absl::StatusOr<at::Tensor> MakeConstant(const at::Tensor& real);

  // A number whose value the graph leaves open (open_number.h), no input of it yet.
  std::shared_ptr<OpenNumber> NewNumber(const at::Scalar& hint);

  // The value that a fake stands for now (in-place operators give it a new one).
  ValueId ValueOf(const at::Tensor& fake) const;
  // The data of a fake that depends on constants alone, computed now by running the operators that made it; empty
  // where it depends on an input or on random numbers, is large, or took many operators. A copy.
  std::optional<at::Tensor> KnownValue(const at::Tensor& fake) const;
  // Keeps the tensors that inputs stand for, from the first one on, so that data may be read.
  void KeepInputs();
  // While on, operators whose results have sizes that depend on data are recorded, with the sizes that come of what the
  // inputs hold in this call. Returns whether any was since it was set last.
  bool ReadData(bool on);
  // What a fake is worth in the call that is recorded: the operators that made it are run on the inputs, without
  // writing to them. Empty where that cannot be known: random numbers, devices, no KeepInputs(). Not to be written.
  std::optional<at::Tensor> RealValue(const at::Tensor& fake) const;
  // Current metadata of a fake.
  static TensorMeta MetaOf(const at::Tensor& fake);

  Graph& graph();

  // The first thing that makes the recording unusable: an operator whose result depends on data, a real tensor of one
  // or more dimensions that nobody lifted, an operator without metadata. The operator raised c10::Error at that point,
  // but the program may have swallowed it, so the recorder asks after every call.
  struct Failure {
    BreakCode code;
    std::string detail;
  };
  const std::optional<Failure>& failure() const;

  // Called for the location and torch-level call of the next nodes.
  void SetPosition(int32_t location, int32_t torch_call);

  // While alive, operators run for real in this thread (imports, torch.tensor, library code that must not be recorded).
  class Pause {
   public:
    Pause();
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    FakeSession* session_;
    bool included_;
  };

  // Called around metadata kernels that may run Python (so that the recorder does not record their frames): returns the
  // previous state; the recorder installs it.
  using ArmFunction = bool (*)(bool armed);
  static void SetArmFunction(ArmFunction arm);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Rewrites a recorded graph that mutates tensors into a functional one: in-place operators and writes through views
// become new values, mutations of inputs become trailing Graph::mutations. Outputs and their aliasing are kept. A graph
// without mutation is returned as it is. Unimplemented names the operator that has no functional form; the graph is
// then unchanged.
absl::StatusOr<Graph> Functionalize(Graph graph);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_FAKE_SESSION_H_
