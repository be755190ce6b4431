// framejit_graph_testing: the graph component for Python tests. Graphs come as text; torch-level graphs as Python data,
// in which Value(i) stands for a tensor. Not part of the product.
#include <torch/csrc/utils/pybind.h>

#include "graph/capture/break.h"
#include "graph/fx_export.h"
#include "graph/parse.h"
#include "graph/passes/pipeline.h"
#include "graph/print.h"
#include "graph/print_torch_graph.h"
#include "graph/verify.h"

namespace framejit {
namespace {

namespace py = pybind11;

struct Value {
  TorchValueId id;
};

Graph ParseOrRaise(const std::string& text) {
  absl::StatusOr<Graph> graph = ParseGraph(text);
  if (!graph.ok()) throw py::value_error(std::string(graph.status().message()));
  return *std::move(graph);
}

py::object ObjectOrRaise(absl::StatusOr<PyRef> result) {
  if (!result.ok()) throw std::runtime_error(std::string(result.status().message()));
  return py::reinterpret_steal<py::object>(result->release());
}

TensorMeta MetaOf(const at::Tensor& tensor) {
  TensorMeta meta;
  meta.dtype = tensor.scalar_type();
  meta.device = tensor.device();
  meta.sizes = c10::DimVector(tensor.sizes());
  meta.strides = c10::DimVector(tensor.strides());
  meta.requires_grad = tensor.requires_grad();
  return meta;
}

TorchArgument ToArgument(const py::handle& object) {
  TorchArgument argument;
  auto add_items = [&argument](const py::handle& items) {
    for (py::handle item : items) argument.items.push_back(ToArgument(item));
  };
  if (py::isinstance<Value>(object)) {
    argument.kind = TorchArgument::Kind::kValue;
    argument.value = object.cast<Value>().id;
  } else if (py::isinstance<py::tuple>(object)) {
    argument.kind = TorchArgument::Kind::kTuple;
    if (!PyTuple_CheckExact(object.ptr())) argument.constant = PyRef::Borrow(py::type::of(object).ptr());
    add_items(object);
  } else if (py::isinstance<py::list>(object)) {
    argument.kind = TorchArgument::Kind::kList;
    add_items(object);
  } else if (py::isinstance<py::dict>(object)) {
    argument.kind = TorchArgument::Kind::kDict;
    for (auto [key, value] : object.cast<py::dict>()) {
      argument.keys.push_back(PyRef::Borrow(key.ptr()));
      argument.items.push_back(ToArgument(value));
    }
  } else if (py::isinstance<py::slice>(object)) {
    argument.kind = TorchArgument::Kind::kSlice;
    add_items(py::make_tuple(object.attr("start"), object.attr("stop"), object.attr("step")));
  } else {
    argument.constant = PyRef::Borrow(object.ptr());
  }
  return argument;
}

// (kind, target, args, kwargs, result, location or None)
TorchCall ToCall(const py::tuple& row, Graph& graph) {
  TorchCall call;
  std::string kind = row[0].cast<std::string>();
  call.kind = kind == "function" ? TorchCall::Kind::kFunction
              : kind == "method" ? TorchCall::Kind::kMethod
                                 : TorchCall::Kind::kAttribute;
  call.target = PyRef::Borrow(py::object(row[1]).ptr());
  for (py::handle item : row[2]) call.args.push_back(ToArgument(item));
  for (auto [name, value] : row[3].cast<py::dict>())
    call.kwargs.emplace_back(PyRef::Borrow(name.ptr()), ToArgument(value));
  call.result = ToArgument(row[4]);
  if (!row[5].is_none()) {
    py::tuple where = row[5];
    call.location = static_cast<int32_t>(graph.locations.size());
    graph.locations.push_back({where[0].cast<std::string>(), where[1].cast<int>(), where[2].cast<std::string>()});
  }
  return call;
}

struct TorchProgram {
  TorchGraph torch_graph;
  Graph graph;
};

TorchProgram MakeTorchProgram(const std::vector<at::Tensor>& values, std::vector<TorchValueId> inputs,
                              std::vector<std::pair<TorchValueId, at::Tensor>> constants, const py::list& calls,
                              std::vector<TorchValueId> outputs) {
  TorchProgram program;
  for (const at::Tensor& tensor : values) program.torch_graph.values.push_back(MetaOf(tensor));
  program.torch_graph.inputs = std::move(inputs);
  program.torch_graph.constants = std::move(constants);
  for (py::handle call : calls) program.torch_graph.calls.push_back(ToCall(call.cast<py::tuple>(), program.graph));
  program.torch_graph.outputs = std::move(outputs);
  return program;
}

std::string RunPasses(const std::string& text, const std::vector<std::string>& names) {
  Graph graph = ParseOrRaise(text);
  for (const std::string& name : names) {
    const Pass* pass = FindPass(name);
    if (pass == nullptr) throw py::value_error("no such pass: " + name);
    pass->run(graph);
    absl::Status status = Verify(graph);
    if (!status.ok()) throw std::runtime_error("after " + name + ": " + std::string(status.message()));
  }
  return PrintGraph(graph);
}

std::vector<std::string> PassNames() {
  std::vector<std::string> names;
  for (const Pass& pass : Passes()) names.push_back(pass.name);
  return names;
}

}  // namespace

PYBIND11_MODULE(framejit_graph_testing, module) {
  py::class_<Value>(module, "Value").def(py::init<TorchValueId>());
  py::class_<TorchProgram>(module, "TorchProgram")
      .def(py::init(&MakeTorchProgram))
      .def("print", [](const TorchProgram& program) { return PrintTorchGraph(program.torch_graph, program.graph); })
      .def(
          "export",
          [](const TorchProgram& program, bool values, std::vector<std::string> names) {
            return ObjectOrRaise(
                ExportTorchGraph(program.torch_graph, program.graph, FxOptions{values, std::move(names)}));
          },
          py::arg("values") = false, py::arg("names") = std::vector<std::string>());
  module.def("parse_print", [](const std::string& text) { return PrintGraph(ParseOrRaise(text)); });
  module.def("verify", [](const std::string& text) { return std::string(Verify(ParseOrRaise(text)).message()); });
  module.def("data_dependent_break", [](const std::string& detail) {
    return Break{BreakCode::kDataDependent, detail, {{"main.py", 3, "main"}, {"model.py", 12, "forward"}}}.ToString();
  });
  module.def("pass_names", &PassNames);
  module.def("run_passes", &RunPasses);
  module.def(
      "export_aten",
      [](const std::string& text, bool values) {
        return ObjectOrRaise(ExportAtenGraph(ParseOrRaise(text), FxOptions{values, {}}));
      },
      py::arg("text"), py::arg("values") = false);
}

}  // namespace framejit
