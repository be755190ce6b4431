// Trace: one recording of an entry function, ready to run: guards, compiled graph and exit program; or, after a break,
// the guards under which the frame is known to run in the interpreter.
#ifndef FRAMEJIT_FRAME_EVAL_TRACE_H_
#define FRAMEJIT_FRAME_EVAL_TRACE_H_

#include <Python.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "base/timing.h"
#include "frame_eval/checkpoint_reads.h"
#include "frame_eval/data_graph.h"
#include "frame_eval/exit_plan.h"
#include "frame_eval/guards/guard_program.h"
#include "frame_eval/size_variants.h"
#include "graph/capture/break.h"
#include "graph/capture/recorder.h"

namespace framejit {

class RecordedText;
struct ShadowPlan;

// What explain() shows; the graphs also stay alive for the backend that was compiled from them.
struct TraceReport {
  std::string function;
  bool is_inner = false;  // nobody decorated it
  std::optional<Break> graph_break;
  bool is_segment = false;      // goes on in the middle of frames that another trace left
  bool raises_by_data = false;  // nothing was captured, since the program raises for this call's data
  std::string fallback_reason;  // why a graph that was captured is not run; empty otherwise
  std::string backend;
  bool has_backward = false;  // the graph is differentiated by a compiled backward, and not by torch's autograd
  Graph recorded;             // as recorded
  Graph lowered;              // functional and optimised; empty where the torch-level graph runs
  TorchGraph torch_graph;
  RecordStats stats;
  Timings timings;
};

class Trace {
 public:
  enum class Outcome : uint8_t {
    kDone,       // `result` is the call's result, or null with an exception that the caller gets to see
    kDiscarded,  // the graph raised; nothing has happened, and the function must run natively
    kUncovered,  // the recording turned out not to hold for this call; nothing has happened
  };

  std::unique_ptr<GuardProgram> guards;
  std::shared_ptr<CompiledGraph> graph;  // null: the frame runs in the interpreter
  // Set: the guards leave sizes or numbers open, and each set of them has a graph of its own. `graph` is that of the
  // first.
  std::unique_ptr<SizeVariants> variants;
  // Set: sizes or numbers come of data. It is `graph`, and needs no variants.
  std::shared_ptr<DataGraph> data;
  std::unique_ptr<ExitProgram> exit;
  // Of GuardProgram::Fetched(): inputs first, then ExitProgram::sources(), then SymbolicProgram::numbers.
  size_t input_count = 0;
  std::vector<c10::Device> random;  // draws from the default generators of these
  // What the graph adds to the versions of the inputs that it writes, by position.
  std::vector<std::pair<size_t, uint32_t>> versions;
  std::vector<std::pair<size_t, uint32_t>> output_versions;  // Recording::output_versions
  bool own_generators = false;  // the graph holds generators of its own: it runs once at a time
  // What it holds in place of a generator from outside, whose state it is lent. Positions in Fetched().
  std::vector<std::pair<size_t, at::Generator>> lent_generators;
  bool running = false;
  // Inputs that the graph writes before its last operator that may raise: put back where it raises. Positions.
  std::vector<size_t> written_inputs;
  // Set: the trace ends in the middle of its frames. What Run gives is a state, with which this function goes on.
  PyRef resume;
  bool at_position = false;  // of an iterator in the state: holds for one turn of a loop
  int64_t hits = 0;
  // Under the replay check (replay_check.h), else null.
  std::shared_ptr<const RecordedText> recorded_text;
  // Under the shadow check (shadow_check.h), else null.
  std::shared_ptr<const ShadowPlan> shadow;
  std::shared_ptr<CheckpointReads> checkpoint_reads;  // null where nothing is checkpointed
  TraceReport report;

  // What a call of a trace with variants runs, and what the symbols are worth in it.
  struct Choice {
    std::shared_ptr<const SizeVariant> variant;
    std::shared_ptr<CompiledGraph> module;  // DataGraph::FindModule
    std::vector<PyRef> symbols;
  };
  // After guards->Check() passed: whether the recording holds for the sizes and numbers of this call, too. May have run
  // Python code; the guards are checked again then. Requires the GIL.
  bool CoversSizes(const CallState& state, Choice& choice);
  // Why the trace does not cover a call: one line.
  std::string ExplainMiss(const CallState& state) const;
  // After guards->Check() passed and CoversSizes() made the choice, before any Python code ran. Requires the GIL.
  Outcome Run(const CallState& state, const Choice& choice, PyObject** result);
  int Traverse(visitproc visit, void* arg) const;

 private:
  bool FindModule(const CallState& state, Choice& choice);
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_TRACE_H_
