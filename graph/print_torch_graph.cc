#include "graph/print_torch_graph.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "graph/print.h"

namespace framejit {
namespace {

std::string Unknown(PyObject* object) { return absl::StrCat("<", Py_TYPE(object)->tp_name, ">"); }

std::string TextOr(PyRef text, PyObject* object) {
  const char* chars = text && PyUnicode_Check(text.get()) ? PyUnicode_AsUTF8(text.get()) : nullptr;
  if (chars != nullptr) return chars;
  PyErr_Clear();  // printing must not disturb the caller
  return Unknown(object);
}

// Functions, builtins, method descriptors and classes: their names are read without running user code. A class may have
// a metaclass, so only its own tp_name is used.
std::string CallableName(PyObject* object) {
  if (object == nullptr) return "<null>";
  if (PyType_Check(object)) return reinterpret_cast<PyTypeObject*>(object)->tp_name;
  if (!PyFunction_Check(object) && !PyCFunction_Check(object) && !Py_IS_TYPE(object, &PyMethodDescr_Type) &&
      !Py_IS_TYPE(object, &PyWrapperDescr_Type)) {
    return Unknown(object);
  }
  std::string name = TextOr(PyRef::Steal(PyObject_GetAttrString(object, "__qualname__")), object);
  PyRef module = PyRef::Steal(PyObject_GetAttrString(object, "__module__"));
  PyErr_Clear();  // method descriptors have none
  if (!module || !PyUnicode_Check(module.get())) return name;
  return absl::StrCat(TextOr(module, object), ".", name);
}

bool HasSafeRepr(PyObject* object) {
  if (object == Py_None || object == Py_Ellipsis) return true;
  if (PyBool_Check(object) || PyLong_CheckExact(object) || PyFloat_CheckExact(object) || PyUnicode_CheckExact(object) ||
      PyComplex_CheckExact(object) || PyBytes_CheckExact(object)) {
    return true;
  }
  std::string type = Py_TYPE(object)->tp_name;
  return type == "torch.dtype" || type == "torch.device" || type == "torch.layout" || type == "torch.memory_format";
}

std::string PrintObject(PyObject* object) {
  if (object == nullptr) return "<null>";
  if (HasSafeRepr(object)) return TextOr(PyRef::Steal(PyObject_Repr(object)), object);
  return CallableName(object);
}

std::string PrintValue(const TorchGraph& graph, TorchValueId id, bool with_type) {
  if (id < 0 || static_cast<size_t>(id) >= graph.values.size()) return absl::StrCat("%", id, "?");
  return with_type ? absl::StrCat("%", id, ": ", PrintValueType(graph.values[id])) : absl::StrCat("%", id);
}

std::string PrintArgument(const TorchGraph& graph, const TorchArgument& argument, bool with_type);

std::string PrintItems(const TorchGraph& graph, const TorchArgument& argument, bool with_type) {
  std::vector<std::string> items;
  for (size_t i = 0; i < argument.items.size(); ++i) {
    std::string key = i < argument.keys.size() ? PrintObject(argument.keys[i].get()) + ": " : "";
    items.push_back(key + PrintArgument(graph, argument.items[i], with_type));
  }
  return absl::StrJoin(items, ", ");
}

std::string PrintArgument(const TorchGraph& graph, const TorchArgument& argument, bool with_type) {
  switch (argument.kind) {
    case TorchArgument::Kind::kConstant:
      return PrintObject(argument.constant.get());
    case TorchArgument::Kind::kValue:
      return PrintValue(graph, argument.value, with_type);
    case TorchArgument::Kind::kTuple: {
      std::string type = argument.constant ? CallableName(argument.constant.get()) : "";
      return absl::StrCat(type, "(", PrintItems(graph, argument, with_type), argument.items.size() == 1 ? ",)" : ")");
    }
    case TorchArgument::Kind::kList:
      return absl::StrCat("[", PrintItems(graph, argument, with_type), "]");
    case TorchArgument::Kind::kDict:
      return absl::StrCat("{", PrintItems(graph, argument, with_type), "}");
    case TorchArgument::Kind::kSlice:
      return absl::StrCat("slice(", PrintItems(graph, argument, with_type), ")");
  }
  return "";
}

std::string PrintCall(const TorchGraph& graph, const TorchCall& call) {
  std::vector<std::string> args;
  for (const TorchArgument& argument : call.args) args.push_back(PrintArgument(graph, argument, false));
  bool member = call.kind != TorchCall::Kind::kFunction;
  std::string target = member ? TextOr(call.target, call.target.get()) : CallableName(call.target.get());
  std::string text;
  if (member && !args.empty()) {
    text = args.front() + ".";
    args.erase(args.begin());
  }
  text += target;
  if (call.kind == TorchCall::Kind::kAttribute) return text;
  for (const auto& [name, argument] : call.kwargs) {
    args.push_back(absl::StrCat(TextOr(name, name.get()), "=", PrintArgument(graph, argument, false)));
  }
  return absl::StrCat(text, "(", absl::StrJoin(args, ", "), ")");
}

}  // namespace

std::string PrintTorchGraph(const TorchGraph& torch_graph, const Graph& graph) {
  std::string text;
  for (TorchValueId id : torch_graph.inputs) absl::StrAppend(&text, "input ", PrintValue(torch_graph, id, true), "\n");
  for (const auto& [id, tensor] : torch_graph.constants) {
    absl::StrAppend(&text, "constant ", PrintValue(torch_graph, id, true), "\n");
  }
  for (const TorchCall& call : torch_graph.calls) {
    absl::StrAppend(&text, PrintArgument(torch_graph, call.result, true), " = ", PrintCall(torch_graph, call));
    if (call.location >= 0 && static_cast<size_t>(call.location) < graph.locations.size()) {
      absl::StrAppend(&text, "  # at ", PrintLocation(graph.locations[call.location]));
    }
    text += "\n";
  }
  std::vector<std::string> outputs;
  for (TorchValueId id : torch_graph.outputs) outputs.push_back(PrintValue(torch_graph, id, false));
  absl::StrAppend(&text, "return ", absl::StrJoin(outputs, ", "), "\n");
  return text;
}

}  // namespace framejit
