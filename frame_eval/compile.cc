#include "frame_eval/compile.h"

#include <torch/csrc/Generator.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/training/training.h"
#include "base/log.h"
#include "base/switches.h"
#include "frame_eval/autograd_graph.h"
#include "frame_eval/data_graph.h"
#include "frame_eval/frozen_graph.h"
#include "frame_eval/record_call.h"
#include "frame_eval/replay_check.h"
#include "frame_eval/shadow_check.h"
#include "frame_eval/size_modules.h"
#include "frame_eval/size_variants.h"
#include "frame_eval/written_inputs.h"
#include "graph/autograd/partition.h"
#include "graph/error_text.h"
#include "graph/fake/fake_session.h"
#include "graph/fx_export.h"
#include "graph/passes/pipeline.h"
#include "graph/print.h"
#include "graph/symbolic/open_graph.h"
#include "graph/symbolic/replay.h"
#include "graph/verify.h"

namespace framejit {
namespace {

std::string FunctionName(PyObject* function) {
  const char* name = PyUnicode_AsUTF8(reinterpret_cast<PyFunctionObject*>(function)->func_qualname);
  if (name == nullptr) PyErr_Clear();
  return name == nullptr ? "<function>" : name;
}

// Prints lazily: graphs are large.
template <typename Text>
void LogLazily(LogArtifact artifact, Text text) {
  if (LogEnabled(artifact)) Log(artifact, text());
}

// `graph` may be null.
std::string BackendName(const CompileOptions& options, const Graph* graph) {
  if (options.backend_name != "auto") return options.backend_name;
  const bool on_gpu = graph != nullptr && std::any_of(graph->values.begin(), graph->values.end(),
                                                      [](const TensorMeta& meta) { return meta.device.is_cuda(); });
  return on_gpu ? "cuda" : "cpu";
}

PrintOptions LogPrintOptions() {
  PrintOptions options;
  options.max_constant_elements = 16;
  return options;
}

std::string TimingText(const std::string& name, const Timings& timings) {
  std::string text = absl::StrCat("compilation of ", name, ":");
  for (const auto& [stage, microseconds] : timings.rows()) {
    absl::StrAppend(&text, "\n  ", stage, " ", static_cast<int64_t>(microseconds), " us");
  }
  return text;
}

// The Python code of the FX module.
std::string TorchGraphText(const TorchGraph& torch_graph, const Graph& graph, const SymbolicProgram& program) {
  absl::StatusOr<PyRef> module =
      ExportTorchGraph(torch_graph, graph, FxOptions{.program = program.any() ? &program : nullptr});
  if (!module.ok()) return std::string(module.status().message());
  PyRef code = PyRef::Steal(PyObject_GetAttrString(module->get(), "code"));
  const char* text = code ? PyUnicode_AsUTF8(code.get()) : nullptr;
  if (text == nullptr) PyErr_Clear();
  return text == nullptr ? "<no code>" : text;
}

std::vector<at::Tensor> ExampleInputs(const GuardProgram& guards, size_t count) {
  std::vector<at::Tensor> inputs;
  for (size_t i = 0; i < count; ++i) inputs.push_back(THPVariable_Unpack(guards.Fetched()[i]));
  return inputs;
}

// The graph the native backends take: functional, then through the passes.
absl::StatusOr<Graph> Lower(const Graph& recorded, GraphModes modes, Timings* timings) {
  absl::StatusOr<Graph> functional = [&] {
    ScopedTiming timing(timings, "functionalize");
    return Functionalize(recorded);
  }();
  if (!functional.ok()) return functional.status();
  functional->modes = modes;
  if (absl::Status status = RunPipeline(*functional, timings); !status.ok()) return status;
  return functional;
}

// Positions of the inputs that the call reaches as parameters and buffers of modules.
std::vector<size_t> WeightsOf(const Recording& recording) {
  std::vector<size_t> weights;
  for (size_t i = 0; i < recording.inputs.size(); ++i) {
    const Source& item = recording.sources[recording.inputs[i]];
    if (item.kind != SourceKind::kDictItem || item.parent == kNoSource) continue;
    const Source& dict = recording.sources[item.parent];
    if (!dict.key || !PyUnicode_Check(dict.key.get())) continue;
    if (PyUnicode_CompareWithASCIIString(dict.key.get(), "_parameters") == 0 ||
        PyUnicode_CompareWithASCIIString(dict.key.get(), "_buffers") == 0)
      weights.push_back(i);
  }
  return weights;
}

// Forward and backward apart; the forward has been through the passes.
absl::StatusOr<Partition> Split(JointGraph joint, GraphModes modes, Timings* timings) {
  {
    ScopedTiming timing(timings, "functionalize");
    absl::StatusOr<Graph> functional = Functionalize(std::move(joint.graph));
    if (!functional.ok()) return functional.status();
    joint.graph = *std::move(functional);
  }
  ScopedTiming timing(timings, "partition");
  if (absl::Status status = Verify(joint.graph); !status.ok()) return status;
  absl::StatusOr<Partition> partition = MakePartition(std::move(joint));
  if (!partition.ok()) return partition.status();
  partition->forward.modes = modes;
  if (absl::Status status = RunPipeline(partition->forward, timings); !status.ok()) return status;
  if (absl::Status status = Verify(partition->forward); !status.ok()) return status;
  return partition;
}

// Of the exit plan: the sources whose generators the graph has others for.
std::vector<std::pair<SourceId, at::Generator>> LentGenerators(const ExitPlan& plan) {
  std::vector<std::pair<SourceId, at::Generator>> lent;
  for (const Recipe& recipe : plan.recipes) {
    if (recipe.kind == RecipeKind::kSource && recipe.object)
      lent.emplace_back(recipe.source, reinterpret_cast<THPGenerator*>(recipe.object.get())->cdata);
  }
  return lent;
}

// That objects of the exit plan are made of.
std::vector<SymbolId> SymbolsOf(const ExitPlan& plan) {
  std::vector<SymbolId> symbols;
  for (const Recipe& recipe : plan.recipes) {
    if (recipe.kind == RecipeKind::kSymbol) symbols.push_back(recipe.index);
  }
  std::sort(symbols.begin(), symbols.end());
  symbols.erase(std::unique(symbols.begin(), symbols.end()), symbols.end());
  return symbols;
}

class Compilation {
 public:
  Compilation(const CallState& state, const CompileOptions& options, std::vector<std::string> argument_names,
              std::shared_ptr<ResumeTable> resumes, bool advance_iterators, VaryingItems* varying, SizeHistory* sizes)
      : state_(state),
        options_(options),
        argument_names_(std::move(argument_names)),
        resumes_(std::move(resumes)),
        advance_iterators_(advance_iterators),
        varying_(varying),
        sizes_(sizes),
        name_(FunctionName(state.function)) {}

  absl::StatusOr<std::shared_ptr<Trace>> Run() {
    ImportEarly();
    for (;;) {
      trace_ = std::make_shared<Trace>();
      in_order_ = false;
      weights_.clear();
      modules_ = nullptr;
      auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(state_.function));
      trace_->report.function = name_;
      trace_->report.is_inner = options_.is_inner;
      trace_->report.is_segment = resumes_->Find(code) != nullptr;
      RecordIt();
      const bool open = recording_->symbolic.any() && HasGraph();
      if (open && !recording_->fixed_mark.empty()) return absl::OutOfRangeError(recording_->fixed_mark);
      if (absl::Status status = BuildGuards(); !status.ok()) return status;
      trace_->report.stats = recording_->stats;
      trace_->at_position = recording_->at_position;
      trace_->report.raises_by_data =
          recording_->symbolic.of_data && !HasGraph() && recording_->graph_break->code == BreakCode::kRaised;
      if (recording_->graph_break.has_value()) {
        trace_->report.graph_break = recording_->graph_break;
        LogLazily(LogArtifact::k_breaks, [&] { return trace_->report.graph_break->ToString(); });
      }
      absl::Status status = absl::OkStatus();
      if (!HasGraph()) {
        LogLazily(LogArtifact::k_breaks, [&] { return name_ + " runs in the interpreter"; });
      } else {
        if (recording_->symbolic.of_data) {
          status = MakeDataGraph();
        } else {
          if (open) status = ReplayOwnSizes();
          if (status.ok()) status = CompileGraph();
        }
      }
      if (open && recording_->symbolic.of_data && !status.ok() && !absl::IsAborted(status)) {
        LogLazily(LogArtifact::k_symbols,
                  [&] { return absl::StrCat(name_, " is recorded without what comes of data: ", status.message()); });
        sizes_->RefuseData();
        continue;
      }
      if (open && !status.ok()) {
        // What has no graph for each set of sizes is recorded for those of this call.
        LogLazily(LogArtifact::k_symbols,
                  [&] { return absl::StrCat(name_, " is recorded for given sizes: ", status.message()); });
        sizes_->Refuse();
        sizes_ = nullptr;
        continue;
      }
      if (!status.ok()) FallBack(status);
      LogLazily(LogArtifact::k_timing, [&] { return TimingText(name_, trace_->report.timings); });
      return CheckAgain();
    }
  }

 private:
  // Whether the recording ended with something to run: at the end of the function, or in front of what broke.
  bool HasGraph() const { return !recording_->graph_break.has_value() || recording_->resume; }

  // Python backends take open sizes by modules of torch that take long to import, and register classes: a recording
  // that guards what abstract base classes say does not hold any more where that happens behind it.
  void ImportEarly() const {
    const bool first = advance_iterators_;
    const bool may_be_open = !first || options_.dynamic == DynamicMode::kAlways || options_.data_dependent;
    if (options_.backend == nullptr || options_.backend->wants_functional_graph() || options_.backend_name == "eager" ||
        !may_be_open || options_.dynamic == DynamicMode::kNever)
      return;
    if (PyRef module = PyRef::Steal(PyImport_ImportModule("framejit._fx_sizes")); !module) PyErr_Clear();
  }

  void RecordIt() {
    RecordInputs inputs{
        .resumes = resumes_, .advance_iterators = advance_iterators_, .varying = varying_, .sizes = sizes_, .stop = {}};
    CallRecording made = RecordCall(state_, options_, inputs, timings());
    recording_ = std::move(made.recording);
    if (!KeepsCheckpoints()) {
      inputs.checkpoints = false;
      made = RecordCall(state_, options_, inputs, timings());
      recording_ = std::move(made.recording);
    }
    inputs.stop = std::move(made.stop);
    // Another call's data are other sizes in the graph.
    if (ReplayCheckEnabled() && !recording_->symbolic.of_data)
      trace_->recorded_text = std::make_shared<const RecordedText>(*recording_, inputs, argument_names_);
    if (ShadowCheckEvery() != 0 && HasGraph()) {
      trace_->shadow =
          std::make_shared<const ShadowPlan>(MakeShadowPlan(*recording_, trace_->report.is_segment, argument_names_));
    }
  }

  // A checkpoint computes its inside again where our own backward does; any other would keep it.
  bool KeepsCheckpoints() {
    if (!recording_->checkpoints) return true;
    if (recording_->joint == nullptr || !recording_->torch_level.empty()) return false;
    partition_ = Split(*recording_->joint, Modes(), timings());
    return !absl::IsUnimplemented(partition_->status());
  }

  GraphModes Modes() const {
    GraphModes modes = options_.modes;
    modes.open_sizes = recording_->symbolic.any();
    return modes;
  }

  Timings* timings() { return &trace_->report.timings; }

  std::vector<std::string> ValueNames() const {
    const TorchGraph& graph = recording_->torch_graph;
    std::vector<std::string> names(graph.values.size());
    for (size_t i = 0; i < recording_->inputs.size(); ++i) {
      names[static_cast<size_t>(graph.inputs[i])] =
          recording_->sources.ToString(recording_->inputs[i], argument_names_);
    }
    NameResults(graph, 0, names);
    return names;
  }

  // Where some numbers are no inputs of the graph, the others may be.
  static constexpr int kOpenRounds = 4;

  // Since the recording: a guard does not hold any more.
  absl::Status StateChanged() const {
    return absl::AbortedError(absl::StrCat("the program's state changed: ", trace_->guards->ExplainFailure(state_)));
  }

  // What the guards fetch in this call; `owned` keeps it. Empty where they do not hold any more.
  std::vector<PyObject*> Fetch(std::vector<PyRef>& owned) const {
    if (trace_->guards->Check(state_) != GuardResult::kPass) return {};
    std::vector<PyObject*> fetched(trace_->guards->Fetched().begin(), trace_->guards->Fetched().end());
    for (PyObject* object : fetched) owned.push_back(PyRef::Borrow(object));
    trace_->guards->Release();
    return fetched;
  }

  // A recording for many sizes is one whose replay at its own sizes gives the same graphs.
  absl::Status ReplayOwnSizes() {
    ScopedTiming timing(timings(), "replay");
    std::vector<PyRef> owned;
    const std::vector<PyObject*> fetched = Fetch(owned);
    if (fetched.empty()) return StateChanged();
    const auto inputs = absl::MakeConstSpan(fetched).first(trace_->input_count);
    value_names_ = ValueNames();
    recording_->symbolic.SortNumbers(recording_->torch_graph);
    absl::StatusOr<SizedRecording> replayed =
        Replay({.program = &recording_->symbolic,
                .torch_graph = &recording_->torch_graph,
                .recorded = &recording_->graph,
                .inputs = inputs,
                .numbers = absl::MakeConstSpan(fetched).last(recording_->symbolic.numbers.size()),
                .versions = trace_->versions,
                .backward = recording_->joint != nullptr,
                .names = &value_names_});
    if (!replayed.ok()) return replayed.status();
    const auto text = [](const Graph& graph) { return PrintGraph(graph, LogPrintOptions()); };
    if (text(replayed->graph) != text(recording_->graph)) return absl::AbortedError("its replay has another graph");
    if (recording_->joint != nullptr && text(replayed->joint->graph) != text(recording_->joint->graph))
      return absl::AbortedError("its replay has another backward");
    LogLazily(LogArtifact::k_symbols, [&] {
      return absl::StrCat(name_, " holds for other sizes, too:\n", PrintDemands(recording_->symbolic, value_names_));
    });
    own_symbols_ = std::move(replayed->symbols);
    if (replayed->joint != nullptr && ReplayCheckEnabled()) own_joint_ = std::move(replayed->joint->graph);
    OpenNumbers(fetched);
    return absl::OkStatus();
  }

  // Finds the numbers that may be inputs of the graph: nothing but operators that are given them asks what they are
  // worth.
  void OpenNumbers(absl::Span<PyObject* const> fetched) {
    SymbolicProgram& program = recording_->symbolic;
    program.open = program.GivenNumbers(recording_->torch_graph);
    for (int round = 0; round < kOpenRounds && !program.open.empty(); ++round) {
      std::vector<SymbolId> looked;
      absl::StatusOr<SizedRecording> replayed = Replay({.program = &program,
                                                        .torch_graph = &recording_->torch_graph,
                                                        .recorded = &recording_->graph,
                                                        .inputs = fetched.first(trace_->input_count),
                                                        .numbers = fetched.last(program.numbers.size()),
                                                        .versions = trace_->versions,
                                                        .backward = recording_->joint != nullptr,
                                                        .looked = &looked,
                                                        .names = &value_names_});
      if (replayed.ok() && IsOpenForm(*replayed)) return program.SortNumbers(recording_->torch_graph);
      LogLazily(LogArtifact::k_symbols, [&] {
        return absl::StrCat(
            name_, ": ", looked.empty() ? "no number" : "not each number",
            " is an input of the graph: ", replayed.ok() ? "it is another one then" : replayed.status().message());
      });
      if (looked.empty()) break;
      std::erase_if(program.open,
                    [&](SymbolId symbol) { return std::find(looked.begin(), looked.end(), symbol) != looked.end(); });
    }
    CloseNumbers();
  }

  void CloseNumbers() {
    recording_->symbolic.open.clear();
    recording_->symbolic.SortNumbers(recording_->torch_graph);
  }

  bool IsOpenForm(const SizedRecording& open) const {
    const std::vector<at::Scalar> numbers = NumberValues(open.numbers, own_symbols_);
    return IsOpenFormOf(open.graph, numbers, recording_->graph) &&
           (recording_->joint == nullptr || IsOpenFormOf(open.joint->graph, numbers, recording_->joint->graph));
  }

  // The trace has its graph: it becomes that of the recording's own sizes.
  absl::Status MakeVariants() {
    if (!recording_->symbolic.any()) return absl::OkStatus();
    const TraceReport& report = trace_->report;
    if (recording_->needs_autograd && !report.has_backward && modules_ == nullptr)
      return absl::UnimplementedError("torch's own autograd differentiates it");
    std::vector<PyRef> owned;
    const std::vector<PyObject*> fetched = Fetch(owned);
    if (fetched.empty()) return StateChanged();
    if (!recording_->symbolic.open.empty()) {
      trace_->variants = NewVariants();
      if (trace_->variants->Make(fetched, report.torch_graph, report.recorded)->graph != nullptr)
        return absl::OkStatus();
      recording_->torch_graph = report.torch_graph;
      CloseNumbers();
    }
    trace_->variants = NewVariants();
    auto first = std::make_shared<SizeVariant>();
    first->recorded = report.recorded;
    first->joint = std::move(own_joint_);
    first->graph = trace_->graph;
    first->symbols = std::move(own_symbols_);
    first->written_inputs = trace_->written_inputs;
    trace_->variants->AddFirst(fetched, std::move(first));
    return absl::OkStatus();
  }

  std::unique_ptr<SizeVariants> NewVariants() const {
    const TraceReport& report = trace_->report;
    return std::make_unique<SizeVariants>(SizeVariants::Origin{.name = name_,
                                                               .backend = report.backend,
                                                               .calls_in_order = in_order_,
                                                               .modes = options_.modes,
                                                               .has_backward = report.has_backward,
                                                               .random = trace_->random,
                                                               .versions = trace_->versions,
                                                               .program = recording_->symbolic,
                                                               .value_names = value_names_,
                                                               .weights = weights_,
                                                               .modules = modules_});
  }

  absl::Status BuildGuards() {
    ScopedTiming timing(timings(), "guards");
    std::vector<SourceId> fetch = recording_->inputs;
    trace_->input_count = fetch.size();
    trace_->random = RandomDevices(recording_->graph);
    trace_->own_generators = recording_->own_generators;
    trace_->versions = recording_->versions;
    trace_->output_versions = recording_->output_versions;
    if (HasGraph()) {
      trace_->resume = recording_->resume;
      const auto lent = LentGenerators(recording_->exit_plan);
      exit_symbols_ = SymbolsOf(recording_->exit_plan);
      absl::StatusOr<std::unique_ptr<ExitProgram>> exit =
          ExitProgram::Make(std::move(recording_->exit_plan), recording_->graph.outputs.size());
      if (!exit.ok()) return exit.status();
      trace_->exit = *std::move(exit);
      const std::vector<SourceId>& sources = trace_->exit->sources();
      for (const auto& [source, own] : lent) {
        const auto found = std::find(sources.begin(), sources.end(), source);
        trace_->lent_generators.emplace_back(trace_->input_count + static_cast<size_t>(found - sources.begin()), own);
      }
      fetch.insert(fetch.end(), trace_->exit->sources().begin(), trace_->exit->sources().end());
    }
    for (const SymbolicNumber& number : recording_->symbolic.numbers) fetch.push_back(number.source);
    absl::StatusOr<std::unique_ptr<GuardProgram>> guards =
        GuardProgram::Build(recording_->sources, recording_->guards, fetch, state_, argument_names_);
    if (!guards.ok()) return guards.status();
    trace_->guards = *std::move(guards);
    LogLazily(LogArtifact::k_guards,
              [&] { return absl::StrCat("guards of ", name_, ":\n", trace_->guards->ToString()); });
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<Backend>> ChooseBackend() {
    const TraceReport& report = trace_->report;
    if (recording_->graph.nodes.empty() && (recording_->resume || report.is_segment || report.is_inner)) {
      trace_->report.backend = "interp";  // no operator runs in it
      return FindBackend("interp");
    }
    absl::StatusOr<std::shared_ptr<Backend>> chosen = ResolveBackend(options_, &recording_->graph);
    if (!chosen.ok()) return chosen.status();
    trace_->report.backend = BackendName(options_, &recording_->graph);
    if (!(*chosen)->wants_functional_graph()) {
      if (recording_->symbolic.any()) modules_ = std::make_shared<SizeModules>(name_, *chosen);
      return chosen;
    }
    if (!recording_->torch_level.empty()) return TorchLevel(recording_->torch_level);
    if (!recording_->needs_autograd)
      return recording_->inputs_overlap && !IsSwitchedOff("alias", "WrittenInputs")
                 ? CallsInOrder("inputs that share memory are written")
                 : chosen;
    if (recording_->joint == nullptr) return TorchAutograd(recording_->no_joint);
    return chosen;
  }

  // For a graph whose backward is not compiled.
  absl::StatusOr<std::shared_ptr<Backend>> TorchAutograd(const std::string& reason) {
    return TorchLevel(absl::StrCat("a result requires grad, and torch's autograd differentiates: ", reason));
  }

  absl::StatusOr<std::shared_ptr<Backend>> TorchLevel(const std::string& reason) {
    LogLazily(LogArtifact::k_graph, [&] { return absl::StrCat(name_, ": the torch-level graph runs: ", reason); });
    trace_->report.backend = "eager";
    recording_->joint = nullptr;
    return FindBackend("eager");
  }

  // True where the trace has its graph now; false where torch's autograd has to differentiate the call.
  absl::StatusOr<bool> CompileWithBackward(std::shared_ptr<Backend>& backend) {
    absl::StatusOr<Partition> partition =
        partition_.has_value() ? *std::move(partition_) : Split(std::move(*recording_->joint), Modes(), timings());
    if (absl::IsUnimplemented(partition.status())) {
      absl::StatusOr<std::shared_ptr<Backend>> eager = TorchAutograd(std::string(partition.status().message()));
      if (!eager.ok()) return eager.status();
      backend = *std::move(eager);
      return false;
    }
    if (!partition.ok()) return partition.status();
    TraceReport& report = trace_->report;
    report.lowered = partition->forward;
    LogLazily(LogArtifact::k_aten, [&] {
      return absl::StrCat("ATen graph of the forward of ", name_, " after the passes:\n",
                          PrintGraph(report.lowered, LogPrintOptions()));
    });
    if (trace_->guards->Check(state_) != GuardResult::kPass) return StateChanged();
    std::function<StateCheck()> check_of_this_call;
    if (recording_->checkpoints) {
      std::vector<size_t> saved;
      for (const SavedValue& value : partition->saved) {
        if (value.kind == SavedValue::Kind::kInput && !value.read_anew)
          saved.push_back(static_cast<size_t>(value.index));
      }
      absl::StatusOr<std::shared_ptr<CheckpointReads>> reads =
          CheckpointReads::Make(recording_->sources, recording_->checkpoint_reads, recording_->inputs, std::move(saved),
                                state_, argument_names_);
      if (!reads.ok()) return reads.status();
      trace_->checkpoint_reads = *reads;
      // The trace owns what owns this.
      check_of_this_call = [reads = std::weak_ptr(*reads)] { return CheckpointReads::CheckOfThisCall(reads.lock()); };
    }
    ScopedTiming timing(timings(), "backend");
    absl::StatusOr<std::unique_ptr<CompiledGraph>> graph =
        CompileTraining({.name = name_,
                         .partition = *std::move(partition),
                         .backend = backend,
                         .random = trace_->random,
                         .make_autograd_graph = MakeAutogradGraphLater(report.recorded, report.torch_graph),
                         .check_of_this_call = std::move(check_of_this_call)});
    if (!graph.ok()) return graph.status();
    trace_->graph = *std::move(graph);
    report.has_backward = true;
    return true;
  }

  // For a graph that has no functional form: its calls run as they were recorded.
  absl::StatusOr<std::shared_ptr<Backend>> CallsInOrder(std::string reason) {
    LogLazily(LogArtifact::k_graph,
              [&] { return absl::StrCat(name_, ": ", reason, ", so the recorded calls run one by one"); });
    trace_->report.backend = "interp";
    in_order_ = true;
    return FindBackend("interp");
  }

  void TakeRecordedGraphs() {
    TraceReport& report = trace_->report;
    report.recorded = std::move(recording_->graph);
    report.torch_graph = std::move(recording_->torch_graph);
    LogLazily(LogArtifact::k_graph, [&] {
      return absl::StrCat("torch-level graph of ", name_, ":\n",
                          TorchGraphText(report.torch_graph, report.recorded, recording_->symbolic));
    });
  }

  absl::Status CompileGraph() {
    absl::StatusOr<std::shared_ptr<Backend>> backend = ChooseBackend();
    if (!backend.ok()) return backend.status();
    TraceReport& report = trace_->report;
    if (options_.freeze && recording_->joint == nullptr) weights_ = WeightsOf(*recording_);
    TakeRecordedGraphs();
    LogLazily(LogArtifact::k_aten, [&] {
      return absl::StrCat("ATen graph of ", name_, ":\n", PrintGraph(report.recorded, LogPrintOptions()));
    });
    if ((*backend)->wants_functional_graph() && recording_->joint != nullptr) {
      absl::StatusOr<bool> done = CompileWithBackward(*backend);
      if (!done.ok()) return done.status();
      if (*done) return MakeVariants();
    }
    CompileRequest request;
    request.graph = &report.recorded;
    request.torch_graph = &report.torch_graph;
    request.timings = timings();
    if ((*backend)->wants_functional_graph() && !in_order_ && !weights_.empty()) {
      absl::StatusOr<bool> done = CompileFrozen(*backend);
      if (!done.ok()) return done.status();
      if (*done) return MakeVariants();
    }
    if ((*backend)->wants_functional_graph() && !in_order_) {
      absl::StatusOr<Graph> lowered = Lower(report.recorded, Modes(), timings());
      if (absl::IsUnimplemented(lowered.status())) {
        backend = CallsInOrder(std::string(lowered.status().message()));
        if (!backend.ok()) return backend.status();
      } else if (!lowered.ok()) {
        return lowered.status();
      } else {
        report.lowered = *std::move(lowered);
        request.graph = &report.lowered;
        LogLazily(LogArtifact::k_aten, [&] {
          return absl::StrCat("ATen graph of ", name_, " after the passes:\n",
                              PrintGraph(report.lowered, LogPrintOptions()));
        });
      }
    }
    if (request.graph == &report.recorded) trace_->written_inputs = WrittenInputs(report.recorded);
    if (modules_ != nullptr) return CompileModule();
    if (trace_->guards->Check(state_) != GuardResult::kPass) return StateChanged();
    std::vector<at::Tensor> examples = ExampleInputs(*trace_->guards, trace_->input_count);
    request.example_inputs = examples;
    ScopedTiming timing(timings(), "backend");
    absl::StatusOr<std::unique_ptr<CompiledGraph>> graph = (*backend)->Compile(request);
    if (!graph.ok()) return graph.status();
    trace_->graph = *std::move(graph);
    return MakeVariants();
  }

  // What the program does between operators whose results have sizes that come of data is known when they ran.
  absl::Status MakeDataGraph() {
    TraceReport& report = trace_->report;
    report.backend = BackendName(options_, &recording_->graph);
    value_names_ = ValueNames();
    TakeRecordedGraphs();
    LogLazily(LogArtifact::k_aten, [&] {
      return absl::StrCat("ATen graph of ", name_, ", for the sizes of this call:\n",
                          PrintGraph(report.recorded, LogPrintOptions()));
    });
    LogLazily(LogArtifact::k_symbols, [&] {
      return absl::StrCat(name_, " holds for other sizes, too:\n", PrintDemands(recording_->symbolic, value_names_));
    });
    trace_->written_inputs = WrittenInputs(report.recorded);
    const bool compiles = report.backend == "cpu" || report.backend == "cuda";
    const DataSection::Options sections{.name = name_,
                                        .backend = compiles ? report.backend : "",
                                        .modes = options_.modes,
                                        .recorded = &report.recorded};
    absl::StatusOr<std::shared_ptr<Backend>> backend = ResolveBackend(options_, &recording_->graph);
    if (!backend.ok()) return backend.status();
    // `eager` makes nothing of a module but its calls.
    const bool takes_modules = !(*backend)->wants_functional_graph() && report.backend != "eager";
    DataGraph::Modules modules;
    if (takes_modules && !report.torch_graph.calls.empty())
      modules = {std::make_shared<SizeModules>(name_, *std::move(backend)), report.recorded, exit_symbols_};
    trace_->data = std::make_shared<DataGraph>(recording_->symbolic, report.torch_graph, value_names_, sections,
                                               std::move(modules));
    trace_->graph = trace_->data;
    if (!trace_->data->has_modules()) return absl::OkStatus();
    std::vector<PyRef> owned;
    const std::vector<PyObject*> fetched = Fetch(owned);
    if (fetched.empty()) return StateChanged();
    ScopedTiming timing(timings(), "backend");
    return trace_->data->FindModule(absl::MakeConstSpan(fetched).first(trace_->input_count)).status();
  }

  // True where the trace has its graph now, with weights as constants; false where there is no functional form.
  absl::StatusOr<bool> CompileFrozen(const std::shared_ptr<Backend>& backend) {
    absl::StatusOr<Graph> functional = Functionalize(trace_->report.recorded);
    if (absl::IsUnimplemented(functional.status())) return false;
    if (!functional.ok()) return functional.status();
    functional->modes.open_sizes = Modes().open_sizes;
    if (trace_->guards->Check(state_) != GuardResult::kPass) return absl::AbortedError("the program's state changed");
    const std::vector<at::Tensor> examples = ExampleInputs(*trace_->guards, trace_->input_count);
    ScopedTiming timing(timings(), "backend");
    absl::StatusOr<std::unique_ptr<CompiledGraph>> graph =
        FrozenGraph::Make(*std::move(functional), backend, weights_, examples, &trace_->report.lowered, timings());
    if (!graph.ok()) return graph.status();
    trace_->graph = *std::move(graph);
    return true;
  }

  // By a Python backend, for all sizes that the recording and the backend's own assumptions hold for.
  absl::Status CompileModule() {
    std::vector<PyRef> owned;
    const std::vector<PyObject*> fetched = Fetch(owned);
    if (fetched.empty()) return StateChanged();
    ScopedTiming timing(timings(), "backend");
    absl::StatusOr<std::shared_ptr<CompiledGraph>> graph =
        modules_->Find({.graph = &trace_->report.recorded,
                        .torch_graph = &trace_->report.torch_graph,
                        .program = &recording_->symbolic,
                        .inputs = absl::MakeConstSpan(fetched).first(trace_->input_count)});
    if (!graph.ok()) return graph.status();
    trace_->graph = *std::move(graph);
    return MakeVariants();
  }

  // A graph that cannot be compiled is our limit, not the user's error: the interpreter runs the frame.
  void FallBack(const absl::Status& status) {
    trace_->report.fallback_reason = std::string(status.message());
    trace_->graph = nullptr;
    trace_->exit = nullptr;
    trace_->resume = {};
    LogWarning(absl::StrCat(name_, " runs in the interpreter: backend '", trace_->report.backend,
                            "' cannot compile it: ", status.message()));
  }

  // Compiling may have run Python code (metadata kernels, Python backends): a trace is published only if it still
  // holds.
  absl::StatusOr<std::shared_ptr<Trace>> CheckAgain() {
    GuardResult result = trace_->guards->Check(state_);
    if (PyErr_Occurred() != nullptr) PyErr_Clear();
    if (result == GuardResult::kPass) return std::move(trace_);
    return absl::AbortedError(
        absl::StrCat("the program's state changed during compilation: ", trace_->guards->ExplainFailure(state_)));
  }

  const CallState& state_;
  const CompileOptions& options_;
  std::vector<std::string> argument_names_;
  std::shared_ptr<ResumeTable> resumes_;
  bool advance_iterators_;
  VaryingItems* varying_;
  SizeHistory* sizes_;
  std::string name_;
  std::vector<PyRef> own_symbols_;        // what the symbols are worth in this call
  Graph own_joint_;                       // under the replay check
  std::vector<SymbolId> exit_symbols_;    // that what leaves the call is made of
  std::vector<std::string> value_names_;  // of the torch-level values
  std::vector<size_t> weights_;           // inputs that are frozen
  bool in_order_ = false;
  std::shared_ptr<SizeModules> modules_;  // of a Python backend, where sizes are open
  std::shared_ptr<Trace> trace_;
  std::unique_ptr<Recording> recording_;
  std::optional<absl::StatusOr<Partition>> partition_;  // where it was needed before
};

}  // namespace

absl::StatusOr<std::shared_ptr<Backend>> ResolveBackend(const CompileOptions& options, const Graph* graph) {
  if (options.backend != nullptr) return options.backend;
  return FindBackend(BackendName(options, graph));
}

absl::StatusOr<std::unique_ptr<CompiledGraph>> CompileSized(const SizedGraph& request, Graph* lowered) {
  absl::StatusOr<std::shared_ptr<Backend>> backend = FindBackend(request.backend);
  if (!backend.ok()) return backend.status();
  try {
    if (request.joint != nullptr) {
      absl::StatusOr<Partition> partition = Split(std::move(*request.joint), request.modes, request.timings);
      if (!partition.ok()) return partition.status();
      *lowered = partition->forward;
      ScopedTiming timing(request.timings, "backend");
      return CompileTraining({.name = request.name,
                              .partition = *std::move(partition),
                              .backend = *std::move(backend),
                              .random = request.random,
                              .make_autograd_graph = MakeAutogradGraphLater(*request.recorded, *request.torch_graph)});
    }
    CompileRequest compile;
    compile.graph = request.recorded;
    compile.example_inputs = request.example_inputs;
    compile.timings = request.timings;
    if (!request.calls_in_order && !request.weights.empty()) {
      absl::StatusOr<Graph> graph = Functionalize(*request.recorded);
      if (!graph.ok()) return graph.status();
      graph->modes.open_sizes = request.modes.open_sizes;
      return FrozenGraph::Make(*std::move(graph), *std::move(backend), request.weights, request.example_inputs, lowered,
                               request.timings);
    }
    if (!request.calls_in_order) {
      absl::StatusOr<Graph> graph = Lower(*request.recorded, request.modes, request.timings);
      if (!graph.ok()) return graph.status();
      *lowered = *std::move(graph);
      compile.graph = lowered;
    }
    ScopedTiming timing(request.timings, "backend");
    return (*backend)->Compile(compile);
  } catch (const std::exception& error) {
    return absl::InternalError(ErrorText(error));
  }
}

absl::StatusOr<std::shared_ptr<Trace>> CompileCall(const CallState& state, const CompileOptions& options,
                                                   std::vector<std::string> argument_names,
                                                   std::shared_ptr<ResumeTable> resumes, bool advance_iterators,
                                                   VaryingItems* varying, SizeHistory* sizes) {
  absl::StatusOr<std::shared_ptr<Trace>> trace = absl::InternalError("");
  try {
    trace =
        Compilation(state, options, std::move(argument_names), std::move(resumes), advance_iterators, varying, sizes)
            .Run();
  } catch (const std::exception& error) {
    std::string what = ErrorText(error);
    if (what.empty()) what = "a Python exception was raised while it was compiled";
    trace = absl::InternalError(what);
  }
  if (PyErr_Occurred() != nullptr) PyErr_Clear();
  return trace;
}

}  // namespace framejit
