#include "graph/symbolic/program.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
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

bool HoldsSymbol(const TorchArgument& argument) {
  return argument.symbol != kNoSymbol || std::any_of(argument.items.begin(), argument.items.end(), HoldsSymbol);
}

bool OnlyDefines(const TorchArgument& argument) {
  if (argument.kind == TorchArgument::Kind::kConstant) return argument.symbol != kNoSymbol;
  return std::all_of(argument.items.begin(), argument.items.end(), OnlyDefines);
}

}  // namespace

bool SymbolicProgram::any() const { return std::find(varies.begin(), varies.end(), true) != varies.end(); }

namespace {

void NameResult(const TorchArgument& result, const std::string& target, std::vector<std::string>& names) {
  for (const TorchArgument& item : result.items) NameResult(item, target, names);
  if (result.kind != TorchArgument::Kind::kValue) return;
  std::string& name = names[static_cast<size_t>(result.value)];
  if (name.empty()) name = absl::StrCat(target, "_", result.value);
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

std::string PrintDemands(const SymbolicProgram& program, const std::vector<std::string>& names) {
  absl::flat_hash_set<std::string> seen;
  std::string text;
  for (const SymbolStep& step : program.steps) {
    // What is asked of tensors besides is what kind of tensor they are.
    const bool is_size =
        step.kind == SymbolStep::Kind::kEqual || std::any_of(step.ask.args.begin(), step.ask.args.end(), HoldsSymbol);
    std::string demand = is_size ? DemandText(step, program, names) : "";
    if (!demand.empty() && seen.insert(demand).second) absl::StrAppend(&text, demand, "\n");
  }
  return text;
}

}  // namespace framejit
