#include "graph/symbolic/program.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace framejit {
namespace {

struct Infix {
  std::string_view function;
  const char* sign;
};
constexpr Infix kInfix[] = {{"add", "+"},     {"sub", "-"},  {"mul", "*"}, {"floordiv", "//"}, {"mod", "%"},
                            {"truediv", "/"}, {"pow", "**"}, {"lt", "<"},  {"le", "<="},       {"eq", "=="},
                            {"ne", "!="},     {"gt", ">"},   {"ge", ">="}};

std::string TextOf(PyObject* object, bool as_name) {
  PyRef text = PyRef::Steal(as_name ? PyObject_GetAttrString(object, "__name__") : PyObject_Repr(object));
  const char* utf8 = text && PyUnicode_Check(text.get()) ? PyUnicode_AsUTF8(text.get()) : nullptr;
  PyErr_Clear();
  return utf8 == nullptr ? Py_TYPE(object)->tp_name : utf8;
}

class Printer {
 public:
  Printer(const SymbolicProgram& program, const std::vector<std::string>& names) : program_(program), names_(names) {}

  std::string Text(const TorchArgument& argument) const {
    using Kind = TorchArgument::Kind;
    std::vector<std::string> items;
    for (const TorchArgument& item : argument.items) items.push_back(Text(item));
    switch (argument.kind) {
      case Kind::kConstant:
        if (argument.symbol != kNoSymbol) return program_.symbols[static_cast<size_t>(argument.symbol)].text;
        return argument.constant ? TextOf(argument.constant.get(), false) : "None";
      case Kind::kValue: {
        const auto id = static_cast<size_t>(argument.value);
        return id < names_.size() && !names_[id].empty() ? names_[id] : absl::StrCat("v", argument.value);
      }
      case Kind::kTuple:
        return absl::StrCat("(", absl::StrJoin(items, ", "), ")");
      case Kind::kList:
        return absl::StrCat("[", absl::StrJoin(items, ", "), "]");
      case Kind::kSlice:
        return absl::StrJoin(items, ":");
      case Kind::kDict:
        return absl::StrCat("{", absl::StrJoin(items, ", "), "}");
    }
    return "";
  }

  std::string Text(const TorchCall& call) const {
    std::vector<std::string> arguments;
    for (const TorchArgument& argument : call.args) arguments.push_back(Text(argument));
    for (const auto& [key, argument] : call.kwargs)
      arguments.push_back(absl::StrCat(TextOf(key.get(), false), "=", Text(argument)));
    if (call.kind == TorchCall::Kind::kFunction) {
      const std::string name = TextOf(call.target.get(), true);
      for (const Infix& row : kInfix) {
        if (row.function == name && arguments.size() == 2)
          return absl::StrCat("(", arguments[0], " ", row.sign, " ", arguments[1], ")");
      }
      return absl::StrCat(name, "(", absl::StrJoin(arguments, ", "), ")");
    }
    const char* target = PyUnicode_AsUTF8(call.target.get());
    const std::string attribute = absl::StrCat(arguments[0], ".", target == nullptr ? "?" : target);
    if (call.kind == TorchCall::Kind::kAttribute) return attribute;
    arguments.erase(arguments.begin());
    return absl::StrCat(attribute, "(", absl::StrJoin(arguments, ", "), ")");
  }

 private:
  const SymbolicProgram& program_;
  const std::vector<std::string>& names_;
};

bool OnlyDefines(const TorchArgument& argument) {
  if (argument.kind == TorchArgument::Kind::kConstant) return argument.symbol != kNoSymbol;
  return std::all_of(argument.items.begin(), argument.items.end(), OnlyDefines);
}

}  // namespace

bool SymbolicProgram::any() const {
  return of_data || !numbers.empty() || std::find(varies.begin(), varies.end(), true) != varies.end();
}

namespace {

// What calls do with symbols that come of numbers alone.
class NumberSorter {
 public:
  explicit NumberSorter(SymbolicProgram& program) : program_(program), origins_(program.symbols.size()) {
    for (size_t i = 0; i < program.numbers.size(); ++i)
      origins_[static_cast<size_t>(program.numbers[i].symbol)] = {static_cast<int32_t>(i)};
  }

  // Whether the step is about numbers alone, and what comes of it, too.
  bool Take(const SymbolStep& step) {
    if (step.kind == SymbolStep::Kind::kEqual) return !origins_[static_cast<size_t>(step.symbol)].empty();
    if (step.kind != SymbolStep::Kind::kAsk) return false;
    Uses uses = UsesOf(step.ask);
    if (uses.origins.empty()) return false;
    if (uses.others || step.ask.kind != TorchCall::Kind::kFunction || !ComputesInC(step.ask.target.get()))
      return Keep(uses), false;
    std::sort(uses.origins.begin(), uses.origins.end());
    uses.origins.erase(std::unique(uses.origins.begin(), uses.origins.end()), uses.origins.end());
    Define(step.ask.result, uses.origins);
    return true;
  }

  void GiveTo(const TorchCall& call) {
    is_call_ = true;
    Keep(UsesOf(call));
    is_call_ = false;
  }

  // Those that came up in calls, in that order.
  std::vector<SymbolId> given;

 private:
  struct Uses {
    std::vector<int32_t> origins;  // numbers that symbols among the arguments come of
    bool others = false;           // tensors, and symbols that come of sizes
  };

  static bool ComputesInC(PyObject* target) {
    return PyCFunction_Check(target) || target == reinterpret_cast<PyObject*>(&PyLong_Type) ||
           target == reinterpret_cast<PyObject*>(&PyFloat_Type) || target == reinterpret_cast<PyObject*>(&PyBool_Type);
  }

  void Look(const TorchArgument& argument, Uses& uses) {
    uses.others |= argument.kind == TorchArgument::Kind::kValue;
    for (const TorchArgument& item : argument.items) Look(item, uses);
    if (argument.symbol == kNoSymbol) return;
    const std::vector<int32_t>& origins = origins_[static_cast<size_t>(argument.symbol)];
    uses.others |= origins.empty();
    if (is_call_ && !origins.empty()) {
      if (std::find(given.begin(), given.end(), argument.symbol) == given.end()) given.push_back(argument.symbol);
      if (std::find(program_.open.begin(), program_.open.end(), argument.symbol) != program_.open.end()) return;
    }
    uses.origins.insert(uses.origins.end(), origins.begin(), origins.end());
  }

  Uses UsesOf(const TorchCall& call) {
    Uses uses;
    for (const TorchArgument& argument : call.args) Look(argument, uses);
    for (const auto& [key, argument] : call.kwargs) Look(argument, uses);
    return uses;
  }

  void Define(const TorchArgument& result, const std::vector<int32_t>& origins) {
    if (result.symbol != kNoSymbol) origins_[static_cast<size_t>(result.symbol)] = origins;
    for (const TorchArgument& item : result.items) Define(item, origins);
  }

  void Keep(const Uses& uses) {
    for (const int32_t number : uses.origins) program_.numbers[static_cast<size_t>(number)].in_graph = true;
  }

  SymbolicProgram& program_;
  bool is_call_ = false;
  std::vector<std::vector<int32_t>> origins_;  // by symbol; empty: it comes of sizes
};

}  // namespace

void SymbolicProgram::SortNumbers(const TorchGraph& graph) { GivenNumbers(graph); }

std::vector<SymbolId> SymbolicProgram::GivenNumbers(const TorchGraph& graph) {
  number_steps.clear();
  for (SymbolicNumber& number : numbers) number.in_graph = false;
  NumberSorter sorter(*this);
  for (size_t i = 0; i < steps.size(); ++i) {
    if (sorter.Take(steps[i])) number_steps.push_back(static_cast<int32_t>(i));
  }
  for (const TorchCall& call : graph.calls) sorter.GiveTo(call);
  return std::move(sorter.given);
}

namespace {

void NameResult(const TorchArgument& result, const std::string& target, std::vector<std::string>& names) {
  for (const TorchArgument& item : result.items) NameResult(item, target, names);
  if (result.kind != TorchArgument::Kind::kValue) return;
  std::string& name = names[static_cast<size_t>(result.value)];
  if (name.empty()) name = absl::StrCat(target, "_", result.value);
}

// (17 > 1), which no size changes.
bool SaysNumbersAlone(const SymbolStep& step, const SymbolicProgram& program) {
  const std::string text = step.kind == SymbolStep::Kind::kEqual
                               ? program.symbols[static_cast<size_t>(step.symbol)].text
                               : AskText(step.ask, program, {});
  return std::none_of(text.begin(), text.end(), absl::ascii_isalpha);
}

}  // namespace

void NameResults(const TorchGraph& graph, size_t first_call, std::vector<std::string>& names) {
  names.resize(graph.values.size());
  for (size_t i = first_call; i < graph.calls.size(); ++i) {
    const TorchCall& call = graph.calls[i];
    const char* text = PyUnicode_Check(call.target.get()) ? PyUnicode_AsUTF8(call.target.get()) : nullptr;
    NameResult(call.result, text != nullptr ? text : TextOf(call.target.get(), true), names);
  }
  PyErr_Clear();
}

std::string AskText(const TorchCall& ask, const SymbolicProgram& program, const std::vector<std::string>& names) {
  return Printer(program, names).Text(ask);
}

std::string DemandText(const SymbolStep& step, const SymbolicProgram& program, const std::vector<std::string>& names) {
  const Printer printer(program, names);
  if (step.kind == SymbolStep::Kind::kEqual) {
    const Symbol& symbol = program.symbols[static_cast<size_t>(step.symbol)];
    return absl::StrCat(symbol.text, " == ", TextOf(symbol.hint.get(), false));
  }
  if (step.kind != SymbolStep::Kind::kAsk || OnlyDefines(step.ask.result)) return "";
  const std::string text = printer.Text(step.ask);
  const TorchArgument& result = step.ask.result;
  if (result.constant.get() == Py_True) return text;
  if (result.constant.get() == Py_False) return absl::StrCat("not ", text);
  return absl::StrCat(text, " is ", printer.Text(result));
}

std::string UnmetText(const SymbolStep& step, const SymbolicProgram& program, const std::vector<std::string>& names) {
  const std::string demand = DemandText(step, program, names);
  return demand.empty() ? absl::StrCat(AskText(step.ask, program, names), " is of another type")
                        : absl::StrCat("it demands ", demand);
}

std::string PrintDemands(const SymbolicProgram& program, const std::vector<std::string>& names) {
  absl::flat_hash_set<std::string> seen;
  std::string text;
  for (const SymbolStep& step : program.steps) {
    // What is asked of tensors besides is what kind of tensor they are.
    const bool is_size =
        step.kind == SymbolStep::Kind::kEqual || std::any_of(step.ask.args.begin(), step.ask.args.end(), HasSymbol);
    if (!is_size || SaysNumbersAlone(step, program)) continue;
    std::string demand = DemandText(step, program, names);
    if (!demand.empty() && seen.insert(demand).second) absl::StrAppend(&text, demand, "\n");
  }
  return text;
}

}  // namespace framejit
