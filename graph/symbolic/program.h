// What a recording says of numbers that vary from call to call: sizes of tensors, and what the program computes of
// them.
//
// The recorder runs the program at one set of sizes, with real numbers. Numbers that come of sizes which its guards
// leave open are *symbols*: objects of their own, so that it knows them again wherever they go. Each symbol is defined
// by a step, a question to a tensor or a computation on other symbols; and where the recording depends on what a symbol
// is worth, a step says so. Replaying the torch-level calls and the steps in order at other sizes (replay.h) gives what
// recording there would give, or the first step that says that the recording does not hold.
#ifndef FRAMEJIT_GRAPH_SYMBOLIC_PROGRAM_H_
#define FRAMEJIT_GRAPH_SYMBOLIC_PROGRAM_H_

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/guards/source.h"
#include "graph/torch_graph.h"

namespace framejit {

struct Symbol {
  PyRef hint;        // what it was while recording: an exact int or float, an object that is this symbol alone
  std::string text;  // "x.shape[0]", "(x.shape[0] * 2)"
  std::string name;  // "s0"; empty where it is computed of others, or has been told before
};

struct SymbolStep {
  enum class Kind : uint8_t {
    kInput,     // graph input number `index` is read for the first time
    kNumber,    // number `index`, which is `symbol`, is read for the first time
    kConstant,  // torch-level constant number `index` is made, and the call that clones it
    kAsk,       // `ask` is called; its result is ask.result, whose numbers with symbols are what these are worth
    kEqual,     // symbol `symbol` is worth its hint
  };
  Kind kind = Kind::kInput;
  int32_t calls = 0;  // how many calls of the torch-level graph come before
  int32_t index = -1;
  SymbolId symbol = kNoSymbol;
  TorchCall ask = {};
  bool is_check = false;  // the program raises where it does not hold (torch._check)
};

// An int or float that is read from outside and whose value the guards leave open.
struct SymbolicNumber {
  SourceId source = kNoSource;
  SymbolId symbol = kNoSymbol;
  // Calls of tensors are given it, or what comes of it, and that is not open: each value has a graph of its own.
  bool in_graph = false;
};

struct SymbolicProgram {
  std::vector<bool> varies;  // by graph input: whether the guards leave its sizes and strides open
  std::vector<SymbolicNumber> numbers;
  std::vector<Symbol> symbols;
  std::vector<SymbolStep> steps;
  std::vector<PyRef> output_forms;  // by graph output: its ViewForm(); empty where that is no matter
  // Some sizes or numbers come of the data of tensors: the torch-level calls and the steps between them are made for
  // real in each call, and there is nothing to replay.
  bool of_data = false;
  std::vector<int32_t> data_calls;  // calls of the torch-level graph whose results have sizes that come of data

  // The steps that each call takes by itself: those about numbers, and what comes of them alone.
  std::vector<int32_t> number_steps;
  // Symbols that come of numbers alone and are inputs of the graph, behind its tensors: one graph for all that they are
  // worth.
  std::vector<SymbolId> open;

  // Whether any size or number is open. The rest means nothing otherwise.
  bool any() const;
  // Once all steps are there: finds number_steps, and which numbers are in the graph, for what is open.
  void SortNumbers(const TorchGraph& graph);
  // Symbols that come of numbers alone and that calls of tensors are given.
  std::vector<SymbolId> GivenNumbers(const TorchGraph& graph);
};

// Whether the argument is a symbol, or any of its items holds one.
inline bool HasSymbol(const TorchArgument& argument) {
  return argument.symbol != kNoSymbol || std::any_of(argument.items.begin(), argument.items.end(), HasSymbol);
}
// Whether it is a tensor, or any of its items holds one.
inline bool HasValue(const TorchArgument& argument) {
  return argument.kind == TorchArgument::Kind::kValue ||
         std::any_of(argument.items.begin(), argument.items.end(), HasValue);
}
// Whether the step asks for numbers in a tensor: `item`, `tolist`, int(x).
inline bool ReadsData(const SymbolStep& step) {
  if (step.kind != SymbolStep::Kind::kAsk) return false;
  const TorchCall& ask = step.ask;
  if (ask.kind == TorchCall::Kind::kFunction)
    return PyType_Check(ask.target.get()) && !ask.args.empty() && ask.args[0].kind == TorchArgument::Kind::kValue;
  static constexpr const char* kReads[] = {"item", "tolist", "__int__", "__float__"};
  return std::any_of(std::begin(kReads), std::end(kReads),
                     [&](const char* name) { return PyUnicode_CompareWithASCIIString(ask.target.get(), name) == 0; });
}
// Names the torch-level values that the calls from `first_call` on make, "linear_4", where they have no name yet.
void NameResults(const TorchGraph& graph, size_t first_call, std::vector<std::string>& names);

// A question as an expression: "x.shape[0]", "(x.shape[0] * 2)". `names`: of the torch-level values.
std::string AskText(const TorchCall& ask, const SymbolicProgram& program, const std::vector<std::string>& names);
// What a step demands; empty where it defines symbols alone.
std::string DemandText(const SymbolStep& step, const SymbolicProgram& program, const std::vector<std::string>& names);
// Why the recording does not hold where the step does not.
std::string UnmetText(const SymbolStep& step, const SymbolicProgram& program, const std::vector<std::string>& names);
// All demands, each once, one line each.
std::string PrintDemands(const SymbolicProgram& program, const std::vector<std::string>& names);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_SYMBOLIC_PROGRAM_H_
