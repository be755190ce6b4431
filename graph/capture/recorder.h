// The recorder's interface: executes one call of a Python function on fake tensors, over CPython's own frames, and
// returns what it saw. Nothing it does reaches an object that existed before; see docs/design.md.
#ifndef FRAMEJIT_GRAPH_CAPTURE_RECORDER_H_
#define FRAMEJIT_GRAPH_CAPTURE_RECORDER_H_

#include <Python.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/timing.h"
#include "frame_eval/guards/guard.h"
#include "frame_eval/guards/source.h"
#include "graph/autograd/joint_graph.h"
#include "graph/capture/break.h"
#include "graph/capture/recipe.h"
#include "graph/capture/resume.h"
#include "graph/graph.h"
#include "graph/symbolic/program.h"
#include "graph/symbolic/size_history.h"
#include "graph/torch_graph.h"

namespace framejit {

// An instruction of one recording, counted from its start. Recording the same call again comes there again.
struct StopPoint {
  int64_t instruction = 0;
  PyRef code;      // of the frame that executes it
  int offset = 0;  // code units
  // What runs there asks what is alive: variables that are not read any more are carried, too.
  bool carries_dead = false;
};

// Callables that are one call of the torch-level graph each, whatever they call: modules, functions, and methods of
// torch.Tensor with their names (a str; null for the others). Borrowed.
using LeafCallables = absl::flat_hash_map<PyObject*, PyObject*>;

struct RecordRequest {
  PyObject* function = nullptr;       // a Python function (the entry frame's)
  absl::Span<PyObject* const> slots;  // its parameter slots after binding; null where a default applies;
                                      // *args is a fresh tuple and **kwargs a fresh dict
  int64_t max_instructions = 20'000'000;
  int max_depth = 400;
  // Whether `function` may be one of this table's, and the recording may end in the middle of its frames. Null: no.
  std::shared_ptr<ResumeTable> resumes;
  // Whether iterators that only a state holds may be taken apart, so that loops over them are recorded. The recording
  // then holds for that position in the loop alone.
  bool advance_iterators = true;
  // What must not be guarded by value: the recording ends before the instruction that would. May be null.
  VaryingItems* varying = nullptr;
  // Whether the backward is recorded as well where a result requires grad.
  bool backward = true;
  // Whether checkpoints are recorded; else they break where gradients are.
  bool checkpoints = true;
  // Ends the recording before this instruction.
  std::optional<StopPoint> stop;
  // The torch-level graph alone knows leaves: torch_call of the nodes in `graph` means nothing then. Null: none.
  const LeafCallables* leaves = nullptr;
  // Which inputs have sizes that the guards leave open. Null: none.
  SizeHistory* sizes = nullptr;
  // Where `sizes` are open: whether numbers and sizes that come of data are part of the recording, in any function, or
  // in those that say what they expect of them (torch._check).
  enum class Data : uint8_t { kNever, kWhereChecked, kAlways };
  Data data = Data::kNever;
};

struct RecordStats {
  int64_t instructions = 0;
  int64_t frames = 0;
  int64_t calls = 0;
  int64_t guards_before_deduplication = 0;
  int64_t nodes = 0;
};

// Guards hold in every outcome: after a break they say when the same break would be met again.
struct Recording {
  SourceTable sources;
  GuardList guards;
  std::vector<SourceId> inputs;  // one per Graph::inputs: real tensors
  Graph graph;                   // ATen level, as recorded (in-place operators included)
  TorchGraph torch_graph;
  ExitPlan exit_plan;
  bool needs_autograd = false;  // a result of the graph requires grad, or an input is written under autograd
  // Inputs share memory and some are written: only the recorded order of the calls is right, for these inputs and for
  // others.
  bool inputs_overlap = false;
  // By position: how far the program's calls move the versions of inputs that they write, which those through `.data`
  // do not.
  std::vector<std::pair<size_t, uint32_t>> versions;
  // By position in Graph::outputs: the versions of results that the program has written, counted from their making.
  std::vector<std::pair<size_t, uint32_t>> output_versions;
  std::optional<Break> graph_break;  // set: graph and exit plan are empty
  // After a break: where the recording could end instead, best first.
  std::vector<StopPoint> stops;
  // An iterator of the state was taken apart: the recording holds for one position in a loop.
  bool at_position = false;
  // Set where the recording ended at a StopPoint: the result of the exit plan is a state, with which this function goes
  // on.
  PyRef resume;
  RecordStats stats;
  // With needs_autograd: the graph with its backward. Null where that cannot be recorded, for the reason given: the
  // torch-level graph then runs under autograd.
  std::unique_ptr<JointGraph> joint;
  std::string no_joint;
  // It has checkpoints; `checkpoint_reads` say what their functions read, which eager reads again in the backward.
  bool checkpoints = false;
  GuardList checkpoint_reads;
  // Set: why only the torch-level graph computes what eager does.
  std::string torch_level;
  // The graph holds generators that the program made inside: it runs once at a time.
  bool own_generators = false;
  // With open sizes: what holds for all of them, and how the graph is made for others.
  SymbolicProgram symbolic;
  // Set: a size that the program says varies (framejit.mark_dynamic) is fixed, where and by what.
  std::string fixed_mark;
  // It broke where a size or number that is not to be fixed is asked for.
  bool broke_at_unbacked = false;
  // Set: why this has to be recorded once more, for the sizes of this call alone.
  std::string why_static;
};

// Requires the GIL. Installs the evaluation hook for this thread while it runs. Never leaves a Python exception set and
// never raises; the user's function has not run in any way that can be observed. `timings` may be null.
std::unique_ptr<Recording> Record(const RecordRequest& request, Timings* timings);

// True in a thread that is recording now.
bool IsRecording();

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_RECORDER_H_
