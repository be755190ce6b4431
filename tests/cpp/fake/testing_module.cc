// framejit_fake_testing: FakeSession and Functionalize for the tests in tests/python/fake, with a replay of graphs that
// is one boxed call per node.
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "graph/fake/call_node.h"
#include "graph/fake/fake_session.h"
#include "graph/fake/op_info.h"

namespace framejit {
namespace {

namespace py = pybind11;

const char* CodeName(BreakCode code) {
  switch (code) {
#define BREAK(name, break_class, message, hint) \
  case BreakCode::k##name:                      \
    return #name;
#include "graph/capture/breaks.def"
#undef BREAK
  }
  return "";
}

template <typename T>
T Take(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::invalid_argument(value.status().ToString());
  return *std::move(value);
}

struct MetaTuple {
  static py::tuple Of(const TensorMeta& meta) {
    py::object dtype = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(torch::getTHPDtype(meta.dtype)));
    return py::make_tuple(std::vector<int64_t>(meta.sizes.begin(), meta.sizes.end()),
                          std::vector<int64_t>(meta.strides.begin(), meta.strides.end()), meta.storage_offset, dtype,
                          meta.storage, meta.requires_grad);
  }
};

class Session {
 public:
  void Enter() { session_ = std::make_unique<FakeSession>(); }
  void Exit() {
    graph_ = std::move(session_->graph());
    failure_ = session_->failure();
    session_.reset();
  }
  FakeSession& operator*() { return *session_; }
  FakeSession* operator->() { return session_.get(); }
  Graph& graph() { return session_ ? session_->graph() : graph_; }
  py::object Failure() {
    const auto& failure = session_ ? session_->failure() : failure_;
    if (!failure) return py::none();
    return py::make_tuple(CodeName(failure->code), failure->detail);
  }

 private:
  std::unique_ptr<FakeSession> session_;
  Graph graph_;
  std::optional<FakeSession::Failure> failure_;
};

std::vector<at::Tensor> Replay(const Graph& graph, const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> values(graph.values.size());
  for (size_t i = 0; i < inputs.size(); ++i) values[static_cast<size_t>(graph.inputs[i])] = inputs[i];
  for (const GraphConstant& constant : graph.constants) values[static_cast<size_t>(constant.id)] = constant.tensor;
  for (const Node& node : graph.nodes) {
    torch::jit::Stack stack;
    PushOperands(node, [&](ValueId id) { return values[static_cast<size_t>(id)]; }, stack);
    node.op.callBoxed(&stack);
    TakeResults(node, stack,
                [&](ValueId id, at::Tensor tensor) { values[static_cast<size_t>(id)] = std::move(tensor); });
  }
  for (const InputMutation& mutation : graph.mutations) {
    values[static_cast<size_t>(mutation.input)].copy_(values[static_cast<size_t>(mutation.value)]);
  }
  std::vector<at::Tensor> outputs;
  for (ValueId output : graph.outputs) outputs.push_back(values[static_cast<size_t>(output)]);
  return outputs;
}

// Replays like Replay and describes each value that differs from what the recording said of it.
std::vector<std::string> CheckMetadata(const Graph& graph, const std::vector<at::Tensor>& inputs) {
  std::vector<std::string> wrong;
  std::vector<at::Tensor> values(graph.values.size());
  for (size_t i = 0; i < inputs.size(); ++i) values[static_cast<size_t>(graph.inputs[i])] = inputs[i];
  for (const GraphConstant& constant : graph.constants) values[static_cast<size_t>(constant.id)] = constant.tensor;
  for (const Node& node : graph.nodes) {
    torch::jit::Stack stack;
    PushOperands(node, [&](ValueId id) { return values[static_cast<size_t>(id)]; }, stack);
    node.op.callBoxed(&stack);
    TakeResults(node, stack, [&](ValueId id, at::Tensor tensor) {
      const TensorMeta& meta = graph.meta(id);
      if (!tensor.defined()) {
        wrong.push_back(absl::StrCat(OperatorName(node.op), ": eager leaves an output undefined"));
        return;
      }
      const bool same = tensor.sizes() == at::IntArrayRef(meta.sizes) &&
                        tensor.strides() == at::IntArrayRef(meta.strides) && tensor.scalar_type() == meta.dtype &&
                        tensor.storage_offset() == meta.storage_offset && tensor.device() == meta.device;
      if (!same) {
        wrong.push_back(absl::StrCat(OperatorName(node.op), ": eager ",
                                     c10::str(tensor.sizes(), tensor.strides(), tensor.scalar_type()), ", recorded ",
                                     c10::str(at::IntArrayRef(meta.sizes), at::IntArrayRef(meta.strides), meta.dtype)));
      }
      values[static_cast<size_t>(id)] = std::move(tensor);
    });
  }
  return wrong;
}

std::vector<std::string> Operators(const Graph& graph) {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes) names.push_back(OperatorName(node.op));
  return names;
}

std::string SourceOf(const std::string& name, const std::string& overload) {
  auto op = c10::Dispatcher::singleton().findSchema({name, overload});
  if (!op) return "missing";
  switch (OpInfoOf(*op).source) {
    case MetadataSource::kOwn:
      return "own";
    case MetadataSource::kCppKernel:
      return "cpp";
    case MetadataSource::kFunctional:
      return "functional";
    case MetadataSource::kDispatcher:
      return "dispatcher";
    case MetadataSource::kComposite:
      return "composite";
    case MetadataSource::kOnFakes:
      return "on_fakes";
  }
  return "";
}

double TimeAdd(const at::Tensor& a, const at::Tensor& b, int count) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) at::Tensor c = a.add(b);
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / count;
}

}  // namespace

PYBIND11_MODULE(framejit_fake_testing, module) {
  py::class_<Graph>(module, "Graph")
      .def(py::init([](const Graph& graph) { return graph; }))
      .def_property_readonly("ops", &Operators)
      .def_property_readonly("values",
                             [](const Graph& graph) {
                               py::list result;
                               for (const TensorMeta& meta : graph.values) result.append(MetaTuple::Of(meta));
                               return result;
                             })
      .def_readwrite("outputs", &Graph::outputs)
      .def_readonly("inputs", &Graph::inputs)
      .def_property_readonly("constants", [](const Graph& graph) { return graph.constants.size(); })
      .def_property_readonly("mutations",
                             [](const Graph& graph) {
                               std::vector<std::pair<ValueId, ValueId>> result;
                               for (const InputMutation& mutation : graph.mutations)
                                 result.emplace_back(mutation.input, mutation.value);
                               return result;
                             })
      .def_property_readonly("positions",
                             [](const Graph& graph) {
                               std::vector<std::pair<int, int>> result;
                               for (const Node& node : graph.nodes) result.emplace_back(node.location, node.torch_call);
                               return result;
                             })
      .def_property_readonly("mutates",
                             [](const Graph& graph) {
                               for (const Node& node : graph.nodes) {
                                 if (MutatesArguments(node.op)) return true;
                               }
                               return false;
                             })
      .def("replay", &Replay)
      .def("check_metadata", &CheckMetadata)
      .def("functionalize", [](const Graph& graph) { return Take(Functionalize(graph)); });
  py::class_<Session>(module, "Session")
      .def(py::init<>())
      .def(
          "__enter__",
          [](Session& session) -> Session& {
            session.Enter();
            return session;
          },
          py::return_value_policy::reference)
      .def("__exit__", [](Session& session, const py::args&) { session.Exit(); })
      .def("input", [](Session& session, const at::Tensor& real) { return Take(session->MakeInput(real)); })
      .def("constant", [](Session& session, const at::Tensor& real) { return Take(session->MakeConstant(real)); })
      .def("value_of", [](Session& session, const at::Tensor& fake) { return session->ValueOf(fake); })
      .def("position", [](Session& session, int location, int call) { session->SetPosition(location, call); })
      .def_property_readonly("failure", &Session::Failure)
      .def_property_readonly("graph", [](Session& session) -> Graph { return session.graph(); });
  py::class_<FakeSession::Pause, std::unique_ptr<FakeSession::Pause>>(module, "PauseHandle");
  module.def("pause", [] { return std::make_unique<FakeSession::Pause>(); });
  module.def("is_fake", &IsFake);
  module.def("meta_of", [](const at::Tensor& fake) { return MetaTuple::Of(FakeSession::MetaOf(fake)); });
  module.def("metadata_source", &SourceOf);
  module.def("own_metas", [] {
    std::vector<std::string> names;
    for (const auto* family : {&FactoryMetas(), &PointwiseMetas(), &ReductionMetas(), &ShapeMetas(), &NeuralMetas()}) {
      for (const OwnMetaRow& row : *family) names.push_back(row.op);
    }
    return names;
  });
  module.def("time_add", &TimeAdd);
}

}  // namespace framejit
