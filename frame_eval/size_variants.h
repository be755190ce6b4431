// SizeVariants: the compiled graphs of a trace whose guards leave sizes or numbers open, one for each set of sizes, and
// of numbers that the graph depends on, it was called with. A call of other sizes replays the recording
// (graph/symbolic/replay.h) and compiles what comes of it; where the recording does not hold for them, that is
// remembered, and the call is one that the trace does not cover.
#ifndef FRAMEJIT_FRAME_EVAL_SIZE_VARIANTS_H_
#define FRAMEJIT_FRAME_EVAL_SIZE_VARIANTS_H_

#include <Python.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "backends/backend.h"
#include "base/timing.h"
#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/size_modules.h"
#include "graph/symbolic/program.h"
#include "graph/symbolic/replay.h"

namespace framejit {

struct SizeVariant {
  Graph recorded;
  Graph lowered;
  Graph joint;                           // with a backward, under the replay check
  std::shared_ptr<CompiledGraph> graph;  // null: the recording does not hold for these sizes
  std::string why_not;                   // where there is none
  std::vector<PyRef> symbols;
  std::vector<size_t> written_inputs;  // as in Trace
  std::vector<NumberInput> numbers;    // that the graph is given behind its tensors
  bool is_provisional = false;         // runs operator by operator, until these sizes come again
  int64_t last_use = 0;
  std::shared_ptr<SizeVariant> otherwise;  // of the same sizes, for numbers that this one does not take

  // Whether the graph is one for the numbers that the symbols are worth.
  bool Takes(const std::vector<PyRef>& symbol_values) const;
};

class SizeVariants {
 public:
  static constexpr size_t kMaxRemembered = 1024;  // CameBefore
  // For one set of sizes, where torch goes by what open numbers are worth.
  static constexpr size_t kMaxForNumbers = 16;
  // Beyond that many sets of sizes the one that was not used for longest is compiled anew when it comes back.
  static constexpr size_t kMaxVariants = 128;
  // Behind that many, what comes once is not worth kernels: it is compiled when it comes again.
  static constexpr int64_t kCompiledAtOnce = 32;
  // That many numbers are too many, where most variants were met once. Backward graphs take longer to make.
  static constexpr size_t kManyNumbers = 256, kManyNumbersWithBackward = 64;

  struct Origin {
    std::string name;
    std::string backend;  // compiles every variant
    bool calls_in_order;  // the graph as it was recorded is what that runs
    GraphModes modes;
    bool has_backward;
    std::vector<c10::Device> random;                    // as in Trace
    std::vector<std::pair<size_t, uint32_t>> versions;  // as in Trace
    SymbolicProgram program;
    std::vector<std::string> value_names;
    std::vector<size_t> weights;           // inputs that are frozen
    std::shared_ptr<SizeModules> modules;  // of a Python backend, which is called for many variants at once; else null
  };
  explicit SizeVariants(Origin origin) : origin_(std::move(origin)) { origin_.modes.open_sizes = true; }

  // `fetched`, here and below: what the trace's guards fetched, which are its inputs first and its numbers last.
  // What the symbols that come of numbers alone are worth goes to `symbols`, as in EvaluateNumbers.
  absl::Status TakeNumbers(absl::Span<PyObject* const> fetched, std::vector<PyRef>& symbols) const;
  // `symbols`: of TakeNumbers. Null: there is none yet.
  std::shared_ptr<const SizeVariant> Find(absl::Span<PyObject* const> fetched, const std::vector<PyRef>& symbols);
  // The first variant, at which the recording was made.
  void AddFirst(absl::Span<PyObject* const> fetched, std::shared_ptr<SizeVariant> variant);
  // A call comes that the guards let pass.
  void CountCall() { ++calls_; }
  // Whether variants are made for ever more numbers, most of which come once. Then no more are made.
  bool HasTooManyNumbers() const;
  // Whether a Python backend was called too often.
  bool HasTooManyModules() const { return origin_.modules != nullptr && origin_.modules->has_too_many(); }
  // Where Find() gives none, or a provisional one. Requires the GIL; may run Python code, but none of the program's.
  // `torch_graph` and `recorded` are the recording's.
  std::shared_ptr<const SizeVariant> Make(absl::Span<PyObject* const> fetched, const TorchGraph& torch_graph,
                                          const Graph& recorded);
  // Whether what Find() has none for came before, among what came lately.
  bool CameBefore(absl::Span<PyObject* const> fetched);
  const SymbolicProgram& program() const { return origin_.program; }
  const std::vector<std::string>& value_names() const { return origin_.value_names; }
  size_t size() const;
  // Of all variants that were made for sizes met later.
  const Timings& timings() const { return timings_; }
  int64_t made() const { return made_; }

 private:
  using Sizes = std::vector<int64_t>;
  bool HasSizes(absl::Span<PyObject* const> fetched, const Sizes& sizes) const;
  Sizes SizesOf(absl::Span<PyObject* const> fetched) const;
  absl::Span<PyObject* const> NumbersOf(absl::Span<PyObject* const> fetched) const {
    return fetched.last(origin_.program.numbers.size());
  }
  void Add(Sizes sizes, std::shared_ptr<SizeVariant> variant);
  // Adds it to those of these sizes, or in place of the provisional one that takes its numbers.
  void AddForNumbers(Sizes sizes, std::shared_ptr<SizeVariant> variant);
  absl::Status Compile(absl::Span<PyObject* const> fetched, const TorchGraph& torch_graph, const Graph& recorded,
                       SizeVariant& variant);

  Origin origin_;
  int64_t uses_ = 0;
  int64_t calls_ = 0;
  int64_t made_ = 0;
  Timings timings_;
  absl::flat_hash_set<Sizes> came_;     // CameBefore
  absl::flat_hash_set<Sizes> numbers_;  // that variants were made for, as they are in the keys
  absl::flat_hash_map<Sizes, std::shared_ptr<SizeVariant>> variants_;
  // The one that was found last: most calls come with its sizes.
  Sizes last_sizes_;
  std::shared_ptr<SizeVariant> last_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_SIZE_VARIANTS_H_
