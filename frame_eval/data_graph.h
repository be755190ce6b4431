// DataGraph: the graph of a recording in which sizes or numbers come of the data of tensors (SymbolicProgram::of_data).
// What such an operator gives is known when it ran. So the torch-level calls are made in order, and the steps of the
// program between them are taken, as in a replay, but on the tensors of the call. What lies between two of these
// operators is a section (data_section.h), which has compiled graphs for sizes that come again. A Python backend is
// given all of it as one module (size_modules.h), in which such sizes are unbacked SymInts.
#ifndef FRAMEJIT_FRAME_EVAL_DATA_GRAPH_H_
#define FRAMEJIT_FRAME_EVAL_DATA_GRAPH_H_

#include <Python.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "backends/backend.h"
#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/data_section.h"
#include "frame_eval/size_modules.h"
#include "graph/symbolic/program.h"
#include "graph/symbolic/values.h"
#include "graph/torch_graph.h"

namespace framejit {

class DataGraph : public CompiledGraph {
 public:
  // Of a Python backend: one module is the whole graph.
  struct Modules {
    std::shared_ptr<SizeModules> made;  // null: none are
    Graph recorded;                     // tells places
    std::vector<SymbolId> needed;       // by what follows the graph
  };
  // `sections`: how they are compiled; without a backend, nothing is.
  DataGraph(SymbolicProgram program, TorchGraph torch_graph, std::vector<std::string> value_names,
            const DataSection::Options& sections, Modules modules);

  // One call of it; holds its tensors.
  struct Call {
    ReplayedValues values{0, 0};
    std::vector<PyRef> numbers;
    bool is_uncovered = false;  // the recording turned out not to hold for these tensors
    absl::Span<const PyRef> symbols() const { return values.symbols; }
  };

  // `fetched`, here and below: what the trace's guards fetched, `input_count` inputs first and the numbers last.
  // FailedPrecondition: the recording does not hold for the sizes of the inputs, or for these numbers.
  absl::Status Covers(absl::Span<PyObject* const> fetched, size_t input_count) const;
  Call NewCall(absl::Span<PyObject* const> fetched, size_t input_count) const;
  bool has_modules() const { return modules_.made != nullptr; }
  // The module for these inputs, for whose sizes the recording holds. Runs Python code, but none of the program's.
  // Where that fails, calls are made one by one.
  absl::StatusOr<std::shared_ptr<CompiledGraph>> FindModule(absl::Span<PyObject* const> inputs);
  // Under the program's own autograd modes. Raises what torch raises; torch's state is then what it was. `module`: of
  // FindModule; may be null.
  void Run(Call& call, std::vector<at::Tensor>& outputs, CompiledGraph* module);
  // Calls have numbers and symbols, which this has no place for.
  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override;
  std::string Describe() const override;
  // Of the last call that it did not hold for.
  const std::string& why_uncovered() const { return why_uncovered_; }

 private:
  bool Take(const SymbolStep& step, ReplayedValues& values, absl::Span<const PyRef> numbers) const;
  void FindEntrySteps();
  void FindSections(const DataSection::Options& options);
  void RunCalls(Call& call, const Stretch& stretch);
  void RunWhole(Call& call, std::vector<at::Tensor>& outputs, CompiledGraph& module);
  [[noreturn]] void Fail(Call& call, const std::string& why, bool is_check = false);

  struct Piece {
    Stretch stretch;
    std::unique_ptr<DataSection> section;  // null: call by call
  };
  const SymbolicProgram program_;
  const TorchGraph torch_graph_;
  const std::vector<std::string> value_names_;
  std::vector<size_t> entry_steps_;  // about sizes of inputs, about numbers, and what comes of these alone
  bool demands_at_entry_ = false;
  std::vector<Piece> pieces_;  // without modules
  Modules modules_;
  std::string why_uncovered_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_DATA_GRAPH_H_
