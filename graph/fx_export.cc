#include "graph/fx_export.h"

#include <torch/csrc/Device.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/Layout.h>
#include <torch/csrc/MemoryFormat.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/utils/tensor_layouts.h>
#include <torch/csrc/utils/tensor_memoryformats.h>

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "graph/constant.h"
#include "graph/error_text.h"
#include "graph/symbolic/program.h"

namespace framejit {
namespace {

namespace py = pybind11;

py::tuple PyInts(c10::ArrayRef<int64_t> ints) {
  py::tuple tuple(ints.size());
  for (size_t i = 0; i < ints.size(); ++i) tuple[i] = py::int_(ints[i]);
  return tuple;
}

// The arguments of framejit._fx.Builder's `meta` parameter.
py::tuple PyMeta(const TensorMeta& meta) {
  auto dtype = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(torch::getTHPDtype(meta.dtype)));
  return py::make_tuple(PyInts(meta.sizes), dtype, meta.requires_grad, PyInts(meta.strides),
                        py::reinterpret_steal<py::object>(THPDevice_New(meta.device)));
}

py::object PyLocation(const Graph& graph, int32_t location) {
  if (location < 0 || static_cast<size_t>(location) >= graph.locations.size()) return py::none();
  const SourceLocation& row = graph.locations[location];
  return py::make_tuple(row.file, row.line, row.function);
}

py::object MakeBuilder(const FxOptions& options) {
  if (options.builder) return py::reinterpret_borrow<py::object>(options.builder.get());
  return py::module_::import("framejit._fx").attr("Builder")(options.fake_values);
}

std::string InputName(const FxOptions& options, size_t index) {
  if (index < options.input_names.size() && !options.input_names[index].empty()) return options.input_names[index];
  return absl::StrCat("arg", index);
}

// Runs `body`, which returns a py::object, and turns what it throws into a status.
template <typename Body>
absl::StatusOr<PyRef> CatchPython(const char* what, Body body) {
  try {
    return PyRef::Steal(body().release().ptr());
  } catch (py::error_already_set& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", ErrorText(error)));
  }
}

// --- the torch level -------------------------------------------------------------------------------------------------

class TorchExporter {
 public:
  TorchExporter(const TorchGraph& torch_graph, const Graph& graph, const FxOptions& options)
      : torch_graph_(torch_graph),
        graph_(graph),
        program_(options.program),
        results_(options.results),
        builder_(MakeBuilder(options)),
        nodes_(torch_graph.values.size()) {
    for (size_t i = 0; i < torch_graph.inputs.size(); ++i) {
      TorchValueId id = torch_graph.inputs[i];
      nodes_.at(id) = builder_.attr("placeholder")(InputName(options, i), PyMeta(torch_graph.values.at(id)));
    }
    for (const auto& [id, tensor] : torch_graph.constants) {
      nodes_.at(id) = builder_.attr("tensor_constant")(py::cast(tensor), PyMeta(torch_graph.values.at(id)));
    }
  }

  py::object Run() {
    if (program_ != nullptr) FindUsedSymbols();
    size_t step = 0;
    for (size_t i = 0; i < torch_graph_.calls.size(); ++i) {
      for (; step < used_steps_.size() && used_steps_[step]->calls <= static_cast<int32_t>(i); ++step)
        Export(*used_steps_[step], torch_graph_.calls[i].location);
      Export(torch_graph_.calls[i]);
    }
    for (; step < used_steps_.size() && program_->of_data; ++step) Export(*used_steps_[step], -1);
    py::list outputs;
    for (TorchValueId id : torch_graph_.outputs) outputs.append(Node(id));
    if (!results_.empty()) {
      py::list numbers;
      for (const SymbolId symbol : results_) numbers.append(builder_.attr("symbol")(symbol));
      builder_.attr("give_numbers")(numbers);
    }
    return builder_.attr("finish")(outputs);
  }

 private:
  py::object Node(TorchValueId id) const {
    const py::object& node = nodes_.at(id);
    if (!node) throw std::logic_error(absl::StrCat("torch value ", id, " is used before it is made"));
    return node;
  }

  static py::object Borrow(const PyRef& ref) { return py::reinterpret_borrow<py::object>(ref.get()); }

  py::object Argument(const TorchArgument& argument) {
    switch (argument.kind) {
      case TorchArgument::Kind::kConstant:
        if (argument.symbol != kNoSymbol && known_symbols_.contains(argument.symbol))
          return builder_.attr("symbol")(argument.symbol);
        return builder_.attr("constant")(Borrow(argument.constant));
      case TorchArgument::Kind::kValue:
        return Node(argument.value);
      case TorchArgument::Kind::kTuple: {
        py::object type = argument.constant ? Borrow(argument.constant) : py::none();
        return builder_.attr("tuple")(type, Items(argument));
      }
      case TorchArgument::Kind::kList:
        return Items(argument);
      case TorchArgument::Kind::kSlice:
        return builder_.attr("slice")(Items(argument));
      case TorchArgument::Kind::kDict: {
        py::dict dict;
        for (size_t i = 0; i < argument.items.size(); ++i)
          dict[Borrow(argument.keys.at(i))] = Argument(argument.items[i]);
        return dict;
      }
    }
    throw std::logic_error("unknown kind of argument");
  }

  py::list Items(const TorchArgument& argument) {
    py::list items;
    for (const TorchArgument& item : argument.items) items.append(Argument(item));
    return items;
  }

  static const char* KindName(const TorchCall& call) {
    return call.kind == TorchCall::Kind::kFunction ? "function"
           : call.kind == TorchCall::Kind::kMethod ? "method"
                                                   : "attribute";
  }

  std::pair<py::list, py::dict> Arguments(const TorchCall& call) {
    py::list args;
    for (const TorchArgument& argument : call.args) args.append(Argument(argument));
    py::dict kwargs;
    for (const auto& [name, argument] : call.kwargs) kwargs[Borrow(name)] = Argument(argument);
    return {std::move(args), std::move(kwargs)};
  }

  void Export(const TorchCall& call) {
    const auto [args, kwargs] = Arguments(call);
    py::object location = PyLocation(graph_, call.location);
    Bind(call.result, builder_.attr(KindName(call))(Borrow(call.target), args, kwargs, location), location);
  }

  // --- sizes ---

  static void AddSymbols(const TorchArgument& argument, absl::flat_hash_set<SymbolId>& symbols) {
    if (argument.symbol != kNoSymbol) symbols.insert(argument.symbol);
    for (const TorchArgument& item : argument.items) AddSymbols(item, symbols);
  }

  static void AddArguments(const TorchCall& call, absl::flat_hash_set<SymbolId>& symbols) {
    for (const TorchArgument& argument : call.args) AddSymbols(argument, symbols);
    for (const auto& [name, argument] : call.kwargs) AddSymbols(argument, symbols);
  }

  // The steps that define what calls are given, and those that say more of it. The other demands are about what the
  // recording holds for, which whoever runs the module has to know.
  void FindUsedSymbols() {
    absl::flat_hash_set<SymbolId> used(results_.begin(), results_.end());
    for (const TorchCall& call : torch_graph_.calls) AddArguments(call, used);
    for (auto step = program_->steps.rbegin(); step != program_->steps.rend(); ++step) {
      if (step->kind == SymbolStep::Kind::kEqual) {
        used.insert(step->symbol);
        used_steps_.push_back(&*step);
      }
      if (step->kind != SymbolStep::Kind::kAsk) continue;
      absl::flat_hash_set<SymbolId> defined, given;
      AddSymbols(step->ask.result, defined);
      AddArguments(step->ask, given);
      const bool is_used = std::any_of(defined.begin(), defined.end(), [&](SymbolId id) { return used.contains(id); });
      if (!is_used && !IsDemand(*step) && !IsOfData(*step)) continue;
      used.insert(given.begin(), given.end());
      used_steps_.push_back(&*step);
    }
    std::reverse(used_steps_.begin(), used_steps_.end());
  }

  static bool IsDemand(const SymbolStep& step) {
    absl::flat_hash_set<SymbolId> given;
    AddArguments(step.ask, given);
    const TorchArgument& result = step.ask.result;
    return !given.empty() && step.ask.kind == TorchCall::Kind::kFunction &&
           result.kind == TorchArgument::Kind::kConstant && result.symbol == kNoSymbol &&
           (result.constant.get() == Py_True || result.constant.get() == Py_False);
  }

  // What is computed in each call and not replayed: numbers that are read, checks, and what else is asked of tensors.
  bool IsOfData(const SymbolStep& step) const {
    return program_->of_data && (ReadsData(step) || step.is_check || TellsKind(step));
  }

  static bool TellsKind(const SymbolStep& step) {
    const TorchCall& ask = step.ask;
    return !HasSymbol(ask.result) && std::any_of(ask.args.begin(), ask.args.end(), HasValue);
  }

  // What a result without symbols was in the recording.
  static py::object Told(const TorchArgument& result) {
    if (result.kind == TorchArgument::Kind::kConstant) return Borrow(result.constant);
    py::list items;
    for (const TorchArgument& item : result.items) items.append(Told(item));
    return result.kind == TorchArgument::Kind::kList ? py::object(items) : py::object(py::tuple(items));
  }

  // Which symbols a result's parts are: an id, None, or a list.
  py::object Pattern(const TorchArgument& result) {
    if (result.symbol != kNoSymbol) {
      known_symbols_.insert(result.symbol);
      return py::int_(result.symbol);
    }
    if (result.kind == TorchArgument::Kind::kConstant) return py::none();
    py::list items;
    for (const TorchArgument& item : result.items) items.append(Pattern(item));
    return items;
  }

  void Export(const SymbolStep& step, int32_t call_location) {
    if (step.kind == SymbolStep::Kind::kEqual) {
      const Symbol& symbol = program_->symbols[static_cast<size_t>(step.symbol)];
      if (known_symbols_.contains(step.symbol)) builder_.attr("equal")(step.symbol, Borrow(symbol.hint));
      return;
    }
    const auto [args, kwargs] = Arguments(step.ask);
    const py::object location = PyLocation(graph_, call_location);
    if (ReadsData(step)) {
      builder_.attr("read")(Borrow(step.ask.target), args, Pattern(step.ask.result), location);
    } else if (step.is_check) {
      builder_.attr("check")(Borrow(step.ask.target), args, kwargs, Told(step.ask.result), location);
    } else if (IsOfData(step)) {
      builder_.attr("same")(KindName(step.ask), Borrow(step.ask.target), args, kwargs, Told(step.ask.result));
    } else if (IsDemand(step)) {
      builder_.attr("demand")(Borrow(step.ask.target), args, Borrow(step.ask.result.constant));
    } else {
      builder_.attr("ask")(KindName(step.ask), Borrow(step.ask.target), args, kwargs, Pattern(step.ask.result),
                           location);
    }
  }

  // Names the tensors inside a result. A result that is an argument (x.add_(y) returns x) is the new node from here on,
  // so that what follows depends on the call.
  void Bind(const TorchArgument& result, const py::object& node, const py::object& location) {
    if (result.kind == TorchArgument::Kind::kValue) {
      nodes_.at(result.value) = node;
      builder_.attr("set_meta")(node, PyMeta(torch_graph_.values.at(result.value)));
      return;
    }
    const bool is_sequence = result.kind == TorchArgument::Kind::kTuple || result.kind == TorchArgument::Kind::kList;
    if (is_sequence && program_ != nullptr && program_->of_data)
      builder_.attr("same_length")(node, result.items.size());
    for (size_t i = 0; i < result.items.size(); ++i) {
      if (!HasValue(result.items[i])) continue;
      py::object key = result.kind == TorchArgument::Kind::kDict ? Borrow(result.keys.at(i)) : py::int_(i);
      Bind(result.items[i], builder_.attr("item")(node, key, location), location);
    }
  }

  const TorchGraph& torch_graph_;
  const Graph& graph_;
  const SymbolicProgram* const program_;  // may be null
  const absl::Span<const SymbolId> results_;
  py::object builder_;
  std::vector<py::object> nodes_;              // by TorchValueId
  std::vector<const SymbolStep*> used_steps_;  // in order
  absl::flat_hash_set<SymbolId> known_symbols_;
};

// --- the ATen level --------------------------------------------------------------------------------------------------

py::object PyScalarConstant(const c10::IValue& value, ArgumentKind kind) {
  if (value.isNone()) return py::none();
  if (value.isBool()) return py::bool_(value.toBool());
  if (value.isInt()) {
    int64_t number = value.toInt();
    PyObject* borrowed = nullptr;
    if (kind == ArgumentKind::kScalarType) {
      borrowed = reinterpret_cast<PyObject*>(torch::getTHPDtype(static_cast<at::ScalarType>(number)));
    } else if (kind == ArgumentKind::kLayout) {
      borrowed = reinterpret_cast<PyObject*>(torch::getTHPLayout(static_cast<at::Layout>(number)));
    } else if (kind == ArgumentKind::kMemoryFormat) {
      borrowed = torch::utils::getTHPMemoryFormat(static_cast<at::MemoryFormat>(number));
    }
    return borrowed != nullptr ? py::reinterpret_borrow<py::object>(borrowed) : py::int_(number);
  }
  if (value.isDouble()) return py::float_(value.toDouble());
  if (value.isComplexDouble()) {
    c10::complex<double> number = value.toComplexDouble();
    return py::cast(std::complex<double>(number.real(), number.imag()));
  }
  if (value.isString()) return py::str(value.toStringRef());
  if (value.isDevice()) return py::reinterpret_steal<py::object>(THPDevice_New(value.toDevice()));
  if (value.isGenerator()) return py::reinterpret_steal<py::object>(THPGenerator_Wrap(value.toGenerator()));
  throw std::logic_error(absl::StrCat("no Python form of a constant of kind ", std::string(value.tagKind())));
}

py::object PyConstant(const c10::IValue& value, const ArgumentType& type) {
  if (!value.isList()) return PyScalarConstant(value, type.kind);
  py::list list;
  for (const c10::IValue& item : value.toListRef()) list.append(PyScalarConstant(item, type.element));
  return list;
}

class AtenExporter {
 public:
  AtenExporter(const Graph& graph, const FxOptions& options)
      : graph_(graph), builder_(MakeBuilder(options)), nodes_(graph.values.size()) {
    for (size_t i = 0; i < graph.inputs.size(); ++i) {
      ValueId id = graph.inputs[i];
      nodes_.at(id) = builder_.attr("placeholder")(InputName(options, i), PyMeta(graph.meta(id)));
    }
    for (const GraphConstant& constant : graph.constants) {
      nodes_.at(constant.id) =
          builder_.attr("tensor_constant")(py::cast(constant.tensor), PyMeta(graph.meta(constant.id)));
    }
  }

  py::object Run() {
    for (const Node& node : graph_.nodes) Export(node);
    for (const InputMutation& mutation : graph_.mutations) {
      builder_.attr("aten")("aten::copy_", "", py::make_tuple(Value(mutation.input), Value(mutation.value)), py::dict(),
                            py::none());
    }
    py::list outputs;
    for (ValueId id : graph_.outputs) outputs.append(Value(id));
    return builder_.attr("finish")(outputs);
  }

 private:
  py::object Value(ValueId id) const {
    if (id == kNoValue) return py::none();
    const py::object& node = nodes_.at(id);
    if (!node) throw std::logic_error(absl::StrCat("%", id, " is used before it is made"));
    return node;
  }

  py::object PyOperand(const Operand& operand, const ArgumentType& type) {
    switch (operand.kind) {
      case Operand::Kind::kConstant:
        return PyConstant(operand.constant, type);
      case Operand::Kind::kValue:
        return Value(operand.value);
      case Operand::Kind::kValueList: {
        py::list list;
        for (ValueId id : operand.values) list.append(Value(id));
        return list;
      }
    }
    throw std::logic_error("unknown kind of operand");
  }

  // Operands that equal their defaults are left out, as torch's own exporters do: all keyword-only ones, and positional
  // ones at the end.
  void Export(const Node& node) {
    const auto& arguments = node.op.schema().arguments();
    size_t positional = 0;
    for (size_t i = 0; i < node.operands.size(); ++i) {
      if (!arguments.at(i).kwarg_only() && !EqualsDefault(node.operands[i], arguments[i])) positional = i + 1;
    }
    py::list args;
    py::dict kwargs;
    for (size_t i = 0; i < node.operands.size(); ++i) {
      const c10::Argument& argument = arguments[i];
      if (i < positional && !argument.kwarg_only()) {
        args.append(PyOperand(node.operands[i], TypeOf(argument)));
      } else if (argument.kwarg_only() && !EqualsDefault(node.operands[i], argument)) {
        kwargs[py::str(argument.name())] = PyOperand(node.operands[i], TypeOf(argument));
      }
    }
    py::object location = PyLocation(graph_, node.location);
    const c10::OperatorName& name = node.op.operator_name();
    Bind(node, builder_.attr("aten")(name.name, name.overload_name, args, kwargs, location), location);
  }

  void Define(ValueId id, const py::object& node) {
    nodes_.at(id) = node;
    builder_.attr("set_meta")(node, PyMeta(graph_.meta(id)));
  }

  void Bind(const Node& node, const py::object& result, const py::object& location) {
    const auto& returns = node.op.schema().returns();
    size_t next = 0;
    size_t next_list = 0;
    for (size_t r = 0; r < returns.size(); ++r) {
      ArgumentKind kind = TypeOf(returns[r]).kind;
      bool list = kind == ArgumentKind::kTensorList;
      if (!list && kind != ArgumentKind::kTensor) continue;
      size_t count = list ? node.list_lengths.at(next_list++) : 1;
      bool used = false;
      for (size_t i = 0; i < count; ++i) used |= node.outputs.at(next + i) != kNoValue;
      py::object part = result;
      if (used && returns.size() > 1) part = builder_.attr("item")(result, r, location);
      for (size_t i = 0; i < count; ++i, ++next) {
        ValueId id = node.outputs.at(next);
        if (id != kNoValue) Define(id, list ? builder_.attr("item")(part, i, location) : part);
      }
    }
  }

  const Graph& graph_;
  py::object builder_;
  std::vector<py::object> nodes_;  // by ValueId
};

}  // namespace

absl::StatusOr<PyRef> ExportTorchGraph(const TorchGraph& torch_graph, const Graph& graph, const FxOptions& options) {
  return CatchPython("torch-level export", [&] { return TorchExporter(torch_graph, graph, options).Run(); });
}

absl::StatusOr<PyRef> ExportAtenGraph(const Graph& graph, const FxOptions& options) {
  return CatchPython("ATen-level export", [&] { return AtenExporter(graph, options).Run(); });
}

}  // namespace framejit
