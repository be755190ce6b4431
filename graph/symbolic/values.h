// The values of a recording's tensors and symbols while it is replayed, and what calls make of them.
#ifndef FRAMEJIT_GRAPH_SYMBOLIC_VALUES_H_
#define FRAMEJIT_GRAPH_SYMBOLIC_VALUES_H_

#include <Python.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "frame_eval/cpython/py_ref.h"
#include "graph/symbolic/program.h"
#include "graph/torch_graph.h"

namespace framejit {

// Of the same type and value; floats bit by bit, but for NaN, which is no other NaN.
bool SameConstant(PyObject* expected, PyObject* actual);

class ReplayedValues {
 public:
  ReplayedValues(size_t values, size_t symbol_count) : objects(values), symbols(symbol_count) {}

  // What the call returns; null: a Python exception is set, or `why` says what is wrong.
  PyRef Call(const TorchCall& call, bool with_open = false);
  // Whether the result is what the pattern says; takes over the tensors and the symbols in it.
  bool Match(const TorchArgument& pattern, PyObject* result);

  std::vector<PyRef> objects;  // by TorchValueId
  std::vector<PyRef> symbols;  // by SymbolId
  std::vector<PyRef> open;     // by SymbolId: what calls are given in its place; may be shorter
  bool real = false;           // the tensors are real ones instead of fakes
  std::string why;

 private:
  PyRef Build(const TorchArgument& argument);

  bool with_open_ = false;
};

// What a call with these numbers (SymbolicProgram::numbers, in order) makes of the symbols that come of numbers alone;
// the others keep what they are in `symbols`, which may be empty. FailedPrecondition: the recording does not hold for
// these numbers. Runs no Python code.
absl::Status EvaluateNumbers(const SymbolicProgram& program, const std::vector<std::string>& names,
                             absl::Span<PyObject* const> numbers, std::vector<PyRef>& symbols);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_SYMBOLIC_VALUES_H_
