// DataSection: what a data graph (data_graph.h) does between two reads of data, compiled for the sizes of what it is
// given, as a recording with open sizes is. Sizes that come of data are often others in each call: a section compiles
// for those that come again, and is otherwise run call by call.
#ifndef FRAMEJIT_FRAME_EVAL_DATA_SECTION_H_
#define FRAMEJIT_FRAME_EVAL_DATA_SECTION_H_

#include <Python.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "frame_eval/size_variants.h"
#include "graph/symbolic/program.h"
#include "graph/symbolic/values.h"
#include "graph/torch_graph.h"

namespace framejit {

// Calls of a torch-level graph, and the steps of the program in front of them and between them; the ends are not part.
struct Stretch {
  size_t first_call = 0, last_call = 0;
  size_t first_step = 0, last_step = 0;
};

class DataSection {
 public:
  struct Options {
    std::string name;
    std::string backend;
    GraphModes modes = {};
    const Graph* recorded;  // of the whole recording
  };
  // Null where the stretch is not worth a graph, or autograd looks at it.
  static std::unique_ptr<DataSection> Make(const SymbolicProgram& program, const TorchGraph& graph,
                                           const std::vector<std::string>& value_names, const Stretch& stretch,
                                           const Options& options);

  // Fills in the values and symbols that it makes. False: nothing happened, and it is to be run call by call. Raises
  // what the graph raises.
  bool Run(ReplayedValues& values);
  std::string Describe() const;

 private:
  DataSection() = default;
  void OpenNumbers(absl::Span<PyObject* const> fetched);
  // Null: none, or none yet.
  std::shared_ptr<const SizeVariant> Choose(absl::Span<PyObject* const> fetched, const std::vector<PyRef>& symbols);

  // Sections with that many sets of sizes that have no graph are left alone.
  static constexpr int kMaxRefusals = 4;

  SymbolicProgram program_;
  TorchGraph graph_;
  Graph recorded_;  // its inputs and results
  std::vector<std::string> value_names_;
  Options options_;
  std::vector<SymbolId> defined_;           // by its steps
  std::unique_ptr<SizeVariants> variants_;  // null: not asked yet
  bool is_first_ = false;                   // in front of all reads of data: its sizes come of the call's
  int refusals_ = 0;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_DATA_SECTION_H_
