// framejit_cuda_testing: training calls on GPU tensors that are not there, from recording to compiled kernels, for
// tests/python/training_graphs. Stands in for the driver: devices have streams that nothing runs on.
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>
#include <c10/util/strides.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/utils/pybind.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backends/cuda/codegen/toolchain.h"
#include "backends/cuda/cuda_target.h"
#include "backends/native/plan.h"
#include "graph/autograd/partition.h"
#include "graph/autograd/record_backward.h"
#include "graph/fake/fake_session.h"
#include "graph/passes/pipeline.h"
#include "graph/print.h"
#include "graph/verify.h"

namespace framejit {
namespace {

namespace py = pybind11;

void Check(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

template <typename T>
T Take(absl::StatusOr<T> value) {
  Check(value.status());
  return *std::move(value);
}

const native::Target& TargetFor(int architecture) {
  static auto* targets = new std::map<int, std::unique_ptr<const native::Target>>;
  auto& target = (*targets)[architecture];
  if (target == nullptr) {
    cuda::SetToolchainOptions({{FRAMEJIT_TEST_NVRTC}, ""});
    target = cuda::MakeCompileOnlyTarget(c10::Device(c10::kCUDA, 0), cuda::Architecture{architecture});
  }
  return *target;
}

struct Compiled {
  std::string graph, plan;
};

// Through the passes and the code generator.
Compiled Compile(Graph graph, int architecture) {
  Check(RunPipeline(graph, nullptr));
  Check(Verify(graph));
  std::string text = PrintGraph(graph);
  return {std::move(text), Take(native::MakePlan(graph, TargetFor(architecture)))->description};
}

// The engine asks for the streams of devices that torch says there are.
struct Hooks : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs /*arguments*/) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex /*device*/) const override { return true; }
};

// In front of the GPUs there are, too: tensors without memory are not for these.
void PretendDevices() {
  static const c10::impl::FakeGuardImpl<c10::DeviceType::CUDA> devices;
  static const c10::impl::DeviceGuardImplRegistrar registrar(c10::kCUDA, &devices);
  at::CUDAHooksRegistry()->Register(
      "CUDAHooks",
      [](at::CUDAHooksArgs arguments) -> std::unique_ptr<at::CUDAHooksInterface> {
        return std::make_unique<Hooks>(arguments);
      },
      "", c10::REGISTRY_PREFERRED);
  TORCH_CHECK(dynamic_cast<const Hooks*>(&at::detail::getCUDAHooks()) != nullptr,
              "torch was imported before this module, and has asked for its GPUs");
}

// One call: its tensors, then its forward, then its backward.
class Call {
 public:
  void Enter() { session_ = std::make_unique<FakeSession>(); }
  void Exit() {
    inputs_.clear();
    session_.reset();
  }

  at::Tensor Input(const std::vector<int64_t>& sizes, const py::object& dtype, bool requires_grad,
                   const std::string& device) {
    const at::ScalarType type = reinterpret_cast<THPDtype*>(dtype.ptr())->scalar_type;
    at::Tensor real = TensorWithoutMemory(sizes, c10::contiguous_strides(sizes), type, c10::Device(device));
    if (requires_grad) real.set_requires_grad(true);
    kept_.push_back(real);
    at::Tensor fake = Take(session_->MakeInput(real));
    if (requires_grad) inputs_.push_back({session_->graph().inputs.size() - 1, fake});
    return fake;
  }

  // What was recorded so far.
  std::vector<std::string> Operators() {
    std::vector<std::string> names;
    for (const Node& node : session_->graph().nodes) names.push_back(OperatorName(node.op));
    return names;
  }

  // The forward, and the backward for all gradients, as compiled for each architecture.
  py::list Compile(const std::vector<at::Tensor>& outputs, const std::vector<int>& architectures) {
    Graph& graph = session_->graph();
    for (const at::Tensor& output : outputs) graph.outputs.push_back(session_->ValueOf(output));
    const std::unique_ptr<JointGraph> joint = Take(RecordBackward(*session_, inputs_, outputs, nullptr));
    joint->graph = Take(Functionalize(std::move(joint->graph)));
    Check(Verify(joint->graph));
    const Partition partition = Take(MakePartition(std::move(*joint)));
    const std::vector<bool> all(partition.joint.differentiable_inputs.size(), true);
    const BackwardGraph backward = ExtractBackward(partition, 0, all);
    py::list compiled;
    for (int architecture : architectures) {
      compiled.append(py::make_tuple(framejit::Compile(partition.forward, architecture),
                                     framejit::Compile(backward.graph, architecture)));
    }
    return compiled;
  }

 private:
  std::unique_ptr<FakeSession> session_;
  std::vector<LiftedInput> inputs_;  // that require grad
  std::vector<at::Tensor> kept_;     // alive, so that no two have one address
};

}  // namespace

PYBIND11_MODULE(framejit_cuda_testing, module) {
  PretendDevices();
  py::class_<Compiled>(module, "Compiled")
      .def_readonly("graph", &Compiled::graph)
      .def_readonly("plan", &Compiled::plan);
  py::class_<Call>(module, "Call")
      .def(py::init<>())
      .def(
          "__enter__", [](Call& call) -> Call& { return call.Enter(), call; }, py::return_value_policy::reference)
      .def("__exit__", [](Call& call, const py::args&) { call.Exit(); })
      .def("input", &Call::Input, py::arg("sizes"), py::arg("dtype"), py::arg("requires_grad"), py::arg("device"))
      .def("operators", &Call::Operators)
      .def("compile", &Call::Compile, py::arg("outputs"), py::arg("architectures"));
}

}  // namespace framejit
