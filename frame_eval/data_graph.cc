#include "frame_eval/data_graph.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "frame_eval/guards/program_torch_state.h"

namespace framejit {
namespace {

using Kind = TorchArgument::Kind;

// Sets torch's state as it was unless the graph ran to its end: what it leaves changed then is the program's.
class StateScope {
 public:
  StateScope() : state_(ProgramTorchState::Current()) {}
  ~StateScope() {
    if (!keep_ && !(ProgramTorchState::Current() == state_)) state_.Set();
  }
  StateScope(const StateScope&) = delete;
  StateScope& operator=(const StateScope&) = delete;
  void Keep() { keep_ = true; }

 private:
  ProgramTorchState state_;
  bool keep_ = false;
};

}  // namespace

DataGraph::DataGraph(SymbolicProgram program, TorchGraph torch_graph, std::vector<std::string> value_names,
                     const DataSection::Options& sections, Modules modules)
    : program_(std::move(program)),
      torch_graph_(std::move(torch_graph)),
      value_names_(std::move(value_names)),
      modules_(std::move(modules)) {
  FindEntrySteps();
  FindSections(sections);
}

// Cut at what reads data, and at what sets torch's state.
void DataGraph::FindSections(const DataSection::Options& options) {
  Stretch open;
  const auto close = [&](size_t calls, size_t steps) {
    open.last_call = calls;
    open.last_step = steps;
    Piece piece{open, nullptr};
    if (!options.backend.empty())
      piece.section = DataSection::Make(program_, torch_graph_, value_names_, open, options);
    if (open.last_call > open.first_call || open.last_step > open.first_step) pieces_.push_back(std::move(piece));
    open = {.first_call = calls, .last_call = calls, .first_step = steps, .last_step = steps};
  };
  const auto add_alone = [&](size_t calls, size_t steps) {
    pieces_.push_back({{open.first_call, calls, open.first_step, steps}, nullptr});
    open = {.first_call = calls, .last_call = calls, .first_step = steps, .last_step = steps};
  };
  size_t step = 0;
  for (size_t index = 0; index <= torch_graph_.calls.size(); ++index) {
    for (; step < program_.steps.size() && program_.steps[step].calls == static_cast<int32_t>(index); ++step) {
      if (!ReadsData(program_.steps[step])) continue;
      close(index, step);
      add_alone(index, step + 1);
    }
    if (index == torch_graph_.calls.size()) break;
    const bool of_data = std::find(program_.data_calls.begin(), program_.data_calls.end(),
                                   static_cast<int32_t>(index)) != program_.data_calls.end();
    if (!of_data && HasValue(torch_graph_.calls[index].result)) continue;
    close(index, step);
    add_alone(index + 1, step);
  }
  close(torch_graph_.calls.size(), step);
}

void DataGraph::FindEntrySteps() {
  std::vector<bool> known_symbols(program_.symbols.size()), inputs(torch_graph_.values.size());
  for (const TorchValueId input : torch_graph_.inputs) inputs[static_cast<size_t>(input)] = true;
  const auto is_known = [&](const auto& self, const TorchArgument& argument) -> bool {
    if (argument.kind == Kind::kValue) return inputs[static_cast<size_t>(argument.value)];
    if (argument.symbol != kNoSymbol) return known_symbols[static_cast<size_t>(argument.symbol)];
    return std::all_of(argument.items.begin(), argument.items.end(),
                       [&](const auto& item) { return self(self, item); });
  };
  const auto define = [&](const auto& self, const TorchArgument& result) -> void {
    if (result.symbol != kNoSymbol) known_symbols[static_cast<size_t>(result.symbol)] = true;
    for (const TorchArgument& item : result.items) self(self, item);
  };
  for (size_t i = 0; i < program_.steps.size(); ++i) {
    const SymbolStep& step = program_.steps[i];
    const auto known = [&](const TorchArgument& argument) { return is_known(is_known, argument); };
    bool is_entry = step.kind == SymbolStep::Kind::kNumber;
    if (is_entry) known_symbols[static_cast<size_t>(step.symbol)] = true;
    if (step.kind == SymbolStep::Kind::kEqual) is_entry = known_symbols[static_cast<size_t>(step.symbol)];
    if (step.kind == SymbolStep::Kind::kAsk && !ReadsData(step)) {
      is_entry = std::all_of(step.ask.args.begin(), step.ask.args.end(), known) &&
                 std::all_of(step.ask.kwargs.begin(), step.ask.kwargs.end(),
                             [&](const auto& row) { return known(row.second); });
      if (is_entry) define(define, step.ask.result);
    }
    if (!is_entry) continue;
    entry_steps_.push_back(i);
    demands_at_entry_ |= step.kind != SymbolStep::Kind::kNumber && !DemandText(step, program_, value_names_).empty();
  }
  std::erase_if(modules_.needed, [&](SymbolId symbol) { return known_symbols[static_cast<size_t>(symbol)]; });
}

bool DataGraph::Take(const SymbolStep& step, ReplayedValues& values, absl::Span<const PyRef> numbers) const {
  switch (step.kind) {
    case SymbolStep::Kind::kInput:
    case SymbolStep::Kind::kConstant:
      return true;
    case SymbolStep::Kind::kNumber:
      values.symbols[static_cast<size_t>(step.symbol)] = numbers[static_cast<size_t>(step.index)];
      return true;
    case SymbolStep::Kind::kEqual: {
      const auto symbol = static_cast<size_t>(step.symbol);
      return SameConstant(program_.symbols[symbol].hint.get(), values.symbols[symbol].get());
    }
    case SymbolStep::Kind::kAsk: {
      PyRef result = values.Call(step.ask);
      return result && values.Match(step.ask.result, result.get());
    }
  }
  return false;
}

DataGraph::Call DataGraph::NewCall(absl::Span<PyObject* const> fetched, size_t input_count) const {
  Call call{.values = ReplayedValues(torch_graph_.values.size(), program_.symbols.size()), .numbers = {}};
  call.values.real = true;
  for (size_t i = 0; i < input_count; ++i)
    call.values.objects[static_cast<size_t>(torch_graph_.inputs[i])] = PyRef::Borrow(fetched[i]);
  for (PyObject* number : fetched.last(program_.numbers.size())) call.numbers.push_back(PyRef::Borrow(number));
  return call;
}

absl::Status DataGraph::Covers(absl::Span<PyObject* const> fetched, size_t input_count) const {
  if (!demands_at_entry_) return absl::OkStatus();
  Call call = NewCall(fetched, input_count);
  for (const size_t index : entry_steps_) {
    const SymbolStep& step = program_.steps[index];
    if (step.is_check || Take(step, call.values, call.numbers)) continue;
    PyErr_Clear();
    return absl::FailedPreconditionError(
        absl::StrCat("it does not hold for these sizes and numbers: ", UnmetText(step, program_, value_names_)));
  }
  return absl::OkStatus();
}

// What Python raises, and what a check says, is the program's; that something is another number than it was, is not.
void DataGraph::Fail(Call& call, const std::string& why, bool is_check) {
  if (PyErr_Occurred() != nullptr) {
    python_error error;
    error.persist();
    throw error;
  }
  call.is_uncovered = !is_check;
  if (!is_check) why_uncovered_ = why;
  throw std::runtime_error(why);
}

void DataGraph::RunCalls(Call& call, const Stretch& stretch) {
  ReplayedValues& values = call.values;
  size_t step = stretch.first_step;
  for (size_t index = stretch.first_call; index <= stretch.last_call; ++index) {
    for (; step < stretch.last_step && program_.steps[step].calls == static_cast<int32_t>(index); ++step) {
      if (!Take(program_.steps[step], values, call.numbers))
        Fail(call, UnmetText(program_.steps[step], program_, value_names_), program_.steps[step].is_check);
    }
    if (index == stretch.last_call) break;
    const TorchCall& torch_call = torch_graph_.calls[index];
    PyRef result = values.Call(torch_call);
    if (!result || !values.Match(torch_call.result, result.get()))
      Fail(call, "a call returns something else than it did");
  }
}

absl::StatusOr<std::shared_ptr<CompiledGraph>> DataGraph::FindModule(absl::Span<PyObject* const> inputs) {
  return modules_.made->Find({.graph = &modules_.recorded,
                              .torch_graph = &torch_graph_,
                              .program = &program_,
                              .inputs = inputs,
                              .results = modules_.needed});
}

void DataGraph::RunWhole(Call& call, std::vector<at::Tensor>& outputs, CompiledGraph& module) {
  for (const size_t index : entry_steps_) {
    if (!Take(program_.steps[index], call.values, call.numbers))
      Fail(call, UnmetText(program_.steps[index], program_, value_names_), program_.steps[index].is_check);
  }
  std::vector<at::Tensor> inputs;
  for (const TorchValueId id : torch_graph_.inputs)
    inputs.push_back(THPVariable_Unpack(call.values.objects[static_cast<size_t>(id)].get()));
  if (modules_.needed.empty()) return module.Run(inputs, outputs);
  std::vector<PyRef> numbers;
  RunModule(module, inputs, outputs, numbers);
  for (size_t i = 0; i < modules_.needed.size(); ++i) {
    const auto symbol = static_cast<size_t>(modules_.needed[i]);
    const bool fits = i < numbers.size() && Py_TYPE(numbers[i].get()) == Py_TYPE(program_.symbols[symbol].hint.get());
    if (!fits) Fail(call, "a module gives other numbers than it did");
    call.values.symbols[symbol] = numbers[i];
  }
}

void DataGraph::Run(Call& call, std::vector<at::Tensor>& outputs, CompiledGraph* module) {
  if (module != nullptr) return RunWhole(call, outputs, *module);
  StateScope state;
  ReplayedValues& values = call.values;
  for (const auto& [id, tensor] : torch_graph_.constants) {
    values.objects[static_cast<size_t>(id)] = PyRef::Steal(THPVariable_Wrap(tensor));
    if (!values.objects[static_cast<size_t>(id)]) throw python_error();
  }
  for (Piece& piece : pieces_) {
    if (piece.section == nullptr || !piece.section->Run(values)) RunCalls(call, piece.stretch);
  }
  for (const TorchValueId id : torch_graph_.outputs)
    outputs.push_back(THPVariable_Unpack(values.objects[static_cast<size_t>(id)].get()));
  state.Keep();
}

void DataGraph::Run(c10::ArrayRef<at::Tensor>, std::vector<at::Tensor>&) {
  throw std::logic_error("a graph whose sizes come of data is run by its trace");
}

std::string DataGraph::Describe() const {
  std::string text = absl::StrCat(has_modules() ? "module of a Python backend" : "torch-level calls",
                                  ", with sizes that come of data: ", torch_graph_.calls.size(), " calls\n");
  for (const Piece& piece : pieces_) {
    if (piece.section != nullptr) absl::StrAppend(&text, piece.section->Describe(), "\n");
  }
  return text;
}

}  // namespace framejit
