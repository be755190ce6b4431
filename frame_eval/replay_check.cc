#include "frame_eval/replay_check.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "frame_eval/print_exit_plan.h"
#include "graph/print.h"
#include "graph/print_torch_graph.h"
#include "graph/symbolic/open_graph.h"

namespace framejit {
namespace {

std::atomic<bool> replay_check{false};

// Where none could be recorded, that may be for the thread's state (anomaly detection), which a call asks for by
// itself.
constexpr const char* kBackward = "backward";
constexpr const char* kGraph = "graph";
constexpr const char* kTorchLevel = "torch-level graph";

// Where inputs begin in their memory is none of what a recording says, unless it is guarded
// (graph/capture/tensor_layout.cc): offsets count from there. Nor is it, where a recording was made of inputs that
// share memory, which of them do (Recording::inputs_overlap), and how far from each other they begin.
void CountFromInputs(const std::vector<int32_t>& inputs, bool inputs_overlap, std::vector<TensorMeta>& values) {
  absl::flat_hash_map<int32_t, int64_t> begin;
  for (int32_t id : inputs) {
    const TensorMeta& meta = values[static_cast<size_t>(id)];
    begin.try_emplace(meta.storage, meta.storage_offset);
  }
  for (TensorMeta& meta : values) {
    if (auto found = begin.find(meta.storage); found != begin.end() && meta.storage >= 0)
      meta.storage_offset = inputs_overlap ? 0 : meta.storage_offset - found->second;
    if (inputs_overlap) meta.storage = 0;
  }
}

template <typename AnyGraph>
AnyGraph FromInputs(AnyGraph graph, bool inputs_overlap) {
  CountFromInputs(graph.inputs, inputs_overlap, graph.values);
  return graph;
}

// Numbers and strings that are guarded to be equal are one value: which of the places that hold it a recording takes it
// from, or whether it has it by itself, says nothing of what the call does, and two recordings may differ in it.
ExitPlan WithConstants(ExitPlan plan, const GuardList& guards) {
  absl::flat_hash_map<SourceId, PyRef> constants;
  for (const Guard& guard : guards.guards()) {
    if (guard.kind == GuardKind::kConstantIs) constants.try_emplace(guard.source, guard.payload);
  }
  for (Recipe& recipe : plan.recipes) {
    if (recipe.kind != RecipeKind::kSource || recipe.object) continue;
    if (auto found = constants.find(recipe.source); found != constants.end())
      recipe = {.kind = RecipeKind::kConstant, .object = found->second};
  }
  return plan;
}

std::string GraphText(const Graph& graph) {
  PrintOptions options;
  options.max_constant_elements = 1024;
  return PrintGraph(graph, options);
}

// The first line that differs, as it was and as it is.
std::string FirstDifference(const std::string& before, const std::string& now) {
  std::vector<std::string> a = absl::StrSplit(before, '\n'), b = absl::StrSplit(now, '\n');
  auto [in_a, in_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return absl::StrCat("\n    replayed:     ", in_a == a.end() ? "(nothing)" : *in_a,
                      "\n    recorded now: ", in_b == b.end() ? "(nothing)" : *in_b);
}

std::vector<std::string> Missing(const std::vector<std::string>& from, const std::vector<std::string>& among) {
  std::vector<std::string> missing;
  for (const std::string& text : from) {
    if (std::find(among.begin(), among.end(), text) == among.end()) missing.push_back(text);
  }
  return missing;
}

// The same object in two places, where there were two objects before: what is only read need not be guarded against
// that (what is written is, by NotSameObject and NoOverlap), but recordings of the two cases do not compare.
bool SeesOneObjectForTwo(const std::vector<std::string>& before, const std::vector<std::string>& now) {
  const std::vector<std::string> added = Missing(now, before);
  return std::any_of(added.begin(), added.end(), [](const std::string& guard) {
    return std::string_view(guard).starts_with(GuardKindName(GuardKind::kSameObject));
  });
}

// An argument that is the default's object, passed or not: recordings take it for the default, and guard that.
bool SeesADefault(const std::vector<std::string>& before, const std::vector<std::string>& now) {
  const std::vector<std::string> added = Missing(now, before);
  return !added.empty() && Missing(before, now).empty() &&
         std::all_of(added.begin(), added.end(), [](std::string_view guard) {
           return guard.starts_with(GuardKindName(GuardKind::kConstantIs)) &&
                  (guard.find(".__kwdefaults__[") != guard.npos || guard.find(".__defaults__[") != guard.npos);
         });
}

std::string GuardDifference(const std::vector<std::string>& before, const std::vector<std::string>& now) {
  const std::vector<std::string> added = Missing(now, before), gone = Missing(before, now);
  if (added.empty() && gone.empty()) {
    return "\n  Both recordings have the same guards: what differs was read without any. The graph's line says where.";
  }
  std::string text = "\n  The missing guard is on one of these sources, or on what decided that they were read:";
  for (const std::string& guard : added) absl::StrAppend(&text, "\n    recorded now: ", guard);
  for (const std::string& guard : gone) absl::StrAppend(&text, "\n    only before:  ", guard);
  return text;
}

}  // namespace

void SetReplayCheck(bool enabled) { replay_check.store(enabled, std::memory_order_relaxed); }
bool ReplayCheckEnabled() { return replay_check.load(std::memory_order_relaxed); }

RecordedText::RecordedText(const Recording& recording, const RecordInputs& inputs,
                           const std::vector<std::string>& argument_names)
    : parts_(Parts(recording, inputs.stop.has_value(), argument_names)),
      shared_memory_(SharedMemory(recording.graph)),
      inputs_overlap_(recording.inputs_overlap),
      guards_(PrintGuards(recording.guards, recording.sources, argument_names)),
      advance_iterators_(inputs.advance_iterators),
      stop_(inputs.stop),
      checkpoints_(inputs.checkpoints),
      varying_(inputs.varying == nullptr ? VaryingItems() : *inputs.varying),
      avoided_(varying_.TakeAvoided()) {
  if (recording.symbolic.any()) sizes_ = *inputs.sizes;
}

std::vector<std::pair<size_t, int64_t>> RecordedText::SharedMemory(const Graph& graph) {
  if (std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const Node& node) { return MutatesArguments(node.op); }))
    return {};
  std::vector<std::pair<size_t, int64_t>> first;
  for (ValueId input : graph.inputs) {
    const TensorMeta& meta = graph.meta(input);
    const auto shares = [&](ValueId other) { return graph.meta(other).storage == meta.storage; };
    const auto found = std::find_if(graph.inputs.begin(), graph.inputs.end(), shares);
    first.emplace_back(found - graph.inputs.begin(), meta.storage_offset - graph.meta(*found).storage_offset);
  }
  return first;
}

std::vector<RecordedText::Part> RecordedText::Parts(const Recording& recording, bool stops,
                                                    const std::vector<std::string>& argument_names) {
  std::vector<std::string> inputs;
  for (SourceId source : recording.inputs) inputs.push_back(recording.sources.ToString(source, argument_names));
  const Graph graph = FromInputs(recording.graph, recording.inputs_overlap);
  return {
      {"break", recording.graph_break.has_value() && !stops ? recording.graph_break->ToString() : "none"},
      {kGraph, GraphText(graph)},
      {kTorchLevel, PrintTorchGraph(FromInputs(recording.torch_graph, recording.inputs_overlap), graph)},
      {"list of inputs", absl::StrJoin(inputs, "\n")},
      {"exit plan",
       PrintExitPlan(WithConstants(recording.exit_plan, recording.guards), recording.sources, argument_names)},
      {"way it goes on behind a break",
       recording.resume ? absl::StrCat("0x", absl::Hex(reinterpret_cast<uintptr_t>(recording.resume.get()))) : "none"},
      {kBackward,
       recording.joint == nullptr ? "" : GraphText(FromInputs(recording.joint->graph, recording.inputs_overlap))},
  };
}

absl::Status RecordedText::CheckAgain(const std::string& name, const CallState& state, const CompileOptions& options,
                                      std::shared_ptr<ResumeTable> resumes,
                                      const std::vector<std::string>& argument_names, const SizeVariant* sized,
                                      const std::vector<PyRef>& symbols) const {
  VaryingItems varying = varying_;  // recording notes there what it reads
  std::optional<SizeHistory> sizes = sizes_;
  RecordInputs inputs{.resumes = std::move(resumes),
                      .advance_iterators = advance_iterators_,
                      .varying = &varying,
                      .sizes = sizes.has_value() ? &*sizes : nullptr,
                      .stop = stop_,
                      .checkpoints = checkpoints_};
  std::unique_ptr<Recording> recording = RecordCall(state, options, inputs, nullptr).recording;
  // Made for inputs that may share memory, which these do not.
  if (inputs_overlap_ && !recording->inputs_overlap) return absl::OkStatus();
  // Where numbers varied too much to be guarded, there may be something else: the recording never looks at it.
  if (varying.TakeAvoided() != avoided_) return absl::OkStatus();
  // How much of the C stack is left is no part of the call.
  if (recording->graph_break.has_value() && recording->graph_break->code == BreakCode::kTooDeep)
    return absl::OkStatus();
  const std::vector<Part> now = Parts(*recording, stop_.has_value(), argument_names);
  const std::vector<std::string> guards = PrintGuards(recording->guards, recording->sources, argument_names);
  if (SeesOneObjectForTwo(guards_, guards)) return absl::OkStatus();
  // Nor need inputs that are only read be guarded against sharing memory; the numbers of the graph's memory differ
  // then.
  const std::vector<std::pair<size_t, int64_t>> shared_memory = SharedMemory(recording->graph);
  if (shared_memory.size() == shared_memory_.size() && shared_memory != shared_memory_) return absl::OkStatus();
  std::string where;
  for (size_t i = 0; where.empty() && i < parts_.size(); ++i) {
    if (parts_[i].text == now[i].text) continue;
    if (sized != nullptr && parts_[i].name == kTorchLevel) continue;  // has the sizes of the first recording
    const bool is_forward = parts_[i].name == kGraph, is_backward = parts_[i].name == kBackward;
    if (sized != nullptr && (is_forward || is_backward)) {
      const Graph& graph = is_forward ? sized->recorded : sized->joint;
      if (!sized->numbers.empty() && !graph.values.empty() && (is_forward || recording->joint != nullptr)) {
        const Graph now_graph = FromInputs(is_forward ? recording->graph : recording->joint->graph, false);
        if (IsOpenFormOf(FromInputs(graph, false), NumberValues(sized->numbers, symbols), now_graph)) continue;
      }
      if (graph.values.empty() || GraphText(FromInputs(graph, false)) == now[i].text) continue;
    }
    if (is_backward && (parts_[i].text.empty() || now[i].text.empty())) continue;
    where = absl::StrCat("\n  First difference, in the ", parts_[i].name, ":",
                         FirstDifference(parts_[i].text, now[i].text));
  }
  if (where.empty() && Missing(guards, guards_).empty() && Missing(guards_, guards).empty()) return absl::OkStatus();
  if (where.empty() && SeesADefault(guards_, guards)) return absl::OkStatus();
  if (where.empty()) where = "\n  The recordings do the same, but looked at other things.";
  return absl::InternalError(
      absl::StrCat("FRAMEJIT_CHECK=replay: internal error: all guards of a recording of ", name,
                   " hold, but recording the call again gives something else: a guard is missing.", where,
                   GuardDifference(guards_, guards)));
}

}  // namespace framejit
