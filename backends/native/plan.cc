// Builds plans: fuse, lower and compile kernels, then place every value and emit the steps in order.
#include "backends/native/plan.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "backends/alias.h"
#include "backends/dispatch.h"
#include "backends/loop/canonicalize.h"
#include "backends/loop/split.h"
#include "backends/native/alike.h"
#include "backends/native/arena.h"
#include "backends/native/channel_norms.h"
#include "backends/native/convolution_layouts.h"
#include "backends/native/dump.h"
#include "backends/native/kernel_lowering.h"
#include "backends/native/library_calls.h"
#include "backends/native/movements.h"
#include "backends/native/norm_gradients.h"
#include "backends/native/own_memory.h"
#include "backends/native/product_epilogues.h"
#include "backends/native/split_losses.h"
#include "backends/native/split_reductions.h"
#include "backends/native/target.h"
#include "base/log.h"
#include "graph/print.h"

namespace framejit::native {
namespace {

constexpr int32_t kForever = std::numeric_limits<int32_t>::max();

int64_t ByteCount(const TensorMeta& meta) { return meta.numel() * static_cast<int64_t>(c10::elementSize(meta.dtype)); }

// A fused kernel as it runs: whole, or cut into parts that run one after the other.
struct FusedKernel {
  struct Part {
    loop::Kernel kernel;
    std::vector<int32_t> buffers;  // into `lowered.buffers`, then into `temporaries`
    std::shared_ptr<const KernelCode> code;
  };
  LoweredKernel lowered;
  std::vector<Part> parts;
  std::vector<loop::SplitKernel::Temporary> temporaries;
  int32_t same_as = -1;  // a unit whose code it runs, over other memory
};

struct FusedGraph {
  FusionResult fusion;
  std::vector<FusedKernel> kernels;  // by unit; empty for library calls
  std::vector<bool> stored;
};

// A unit with segments: two of the same length are one part, which loads what both need once (the halves of a rotary
// embedding); else there is one part for each, over the buffers of all.
absl::StatusOr<FusedKernel> LowerSegments(const GraphFacts& facts, const FusedGraph& fused, const Unit& unit) {
  FusedKernel kernel;
  const std::vector<int64_t>& cuts = unit.cuts;
  const size_t count = cuts.size() - 1, together = count == 2 && cuts[1] - cuts[0] == cuts[2] - cuts[1] ? 2 : 1;
  for (size_t segment = 0; segment < count; segment += together) {
    auto lowered =
        LowerKernel(facts, fused.fusion, unit, fused.stored, static_cast<int>(segment), static_cast<int>(together));
    if (!lowered.ok()) return lowered.status();
    std::vector<int32_t> buffers;
    for (size_t b = 0; b < lowered->buffers.size(); ++b) {
      std::vector<ValueId>& all = kernel.lowered.buffers;
      const auto known = std::find(all.begin(), all.end(), lowered->buffers[b]);
      buffers.push_back(static_cast<int32_t>(known - all.begin()));
      if (known != all.end()) continue;
      all.push_back(lowered->buffers[b]);
      kernel.lowered.kernel.buffers.push_back(lowered->kernel.buffers[b]);
    }
    kernel.parts.push_back({std::move(lowered->kernel), std::move(buffers), nullptr});
  }
  for (ValueId id : kernel.lowered.buffers) kernel.lowered.bytes += ByteCount(facts.graph.meta(id));
  return kernel;
}

absl::StatusOr<FusedKernel> LowerUnit(const GraphFacts& facts, const FusedGraph& fused, const Unit& unit,
                                      const Target& target) {
  if (unit.segment_dim >= 0) return LowerSegments(facts, fused, unit);
  auto lowered = LowerKernel(facts, fused.fusion, unit, fused.stored);
  if (!lowered.ok()) return lowered.status();
  FusedKernel fused_kernel{*std::move(lowered), {}, {}};
  const loop::Kernel& whole = fused_kernel.lowered.kernel;
  loop::Kernel canonical = whole;
  loop::Canonicalize(canonical);
  const int64_t pieces = canonical.has_reductions() ? target.PiecesOf(canonical) : 0;
  if (pieces == 0) {
    std::vector<int32_t> buffers(whole.buffers.size());
    std::iota(buffers.begin(), buffers.end(), 0);
    fused_kernel.parts.push_back({whole, std::move(buffers), nullptr});
    return fused_kernel;
  }
  auto split = loop::Split(canonical, pieces);
  if (!split.ok()) return split.status();
  fused_kernel.temporaries = std::move(split->temporaries);
  for (loop::SplitKernel::Part& part : split->parts) {
    fused_kernel.parts.push_back({std::move(part.kernel), std::move(part.buffers), nullptr});
  }
  return fused_kernel;
}

// The kernel of an earlier unit that `unit` is like, over the values of this one; nullopt where there is none.
std::optional<FusedKernel> FindLowered(LoweredUnits& lowered, const FusedGraph& fused, size_t unit) {
  const int32_t earlier = lowered.Find(static_cast<int32_t>(unit));
  if (earlier < 0) return std::nullopt;
  FusedKernel kernel = fused.kernels[static_cast<size_t>(earlier)];
  kernel.same_as = earlier;
  for (ValueId& id : kernel.lowered.buffers) id = lowered.PartnerOf(id);
  return kernel;
}

// Compiles all parts of all units. By unit: what went wrong with the first part that could not be compiled.
std::vector<absl::Status> CompileParts(FusedGraph& fused, const Target& target, const CodeOptions& options,
                                       Timings* timings) {
  std::vector<loop::Kernel> kernels;
  for (const FusedKernel& kernel : fused.kernels) {
    for (const FusedKernel::Part& part : kernel.parts) {
      if (kernel.same_as < 0) kernels.push_back(part.kernel);
    }
  }
  std::vector<Target::CompiledCode> compiled;
  {
    ScopedTiming timing(timings, "kernels");
    compiled = target.Compile(kernels, options);
  }
  std::vector<absl::Status> failures(fused.kernels.size());
  size_t next = 0;
  for (size_t u = 0; u < fused.kernels.size(); ++u) {
    FusedKernel& kernel = fused.kernels[u];
    for (size_t i = 0; i < kernel.parts.size(); ++i) {
      FusedKernel::Part& part = kernel.parts[i];
      if (LogEnabled(LogArtifact::k_loops)) Log(LogArtifact::k_loops, loop::Print(part.kernel));
      if (kernel.same_as >= 0) {
        part.code = fused.kernels[static_cast<size_t>(kernel.same_as)].parts[i].code;
        continue;
      }
      Target::CompiledCode& code = compiled[next++];
      failures[u].Update(code.status());
      if (code.ok()) part.code = *std::move(code);
    }
    if (kernel.same_as >= 0) failures[u] = failures[static_cast<size_t>(kernel.same_as)];
  }
  return failures;
}

// Fuses and compiles; nodes whose kernel the code generator refuses are left to ATen and the rest is fused again.
FusedGraph FuseAndCompile(const GraphFacts& facts, const Target& target, const CodeOptions& options, Timings* timings) {
  std::vector<bool> library_only(facts.graph.nodes.size(), false);
  while (true) {
    FusedGraph fused;
    fused.fusion = Fuse(facts, library_only);
    fused.stored = StoredValues(facts, fused.fusion);
    fused.kernels.resize(fused.fusion.units.size());
    bool refused = false;
    const auto refuse = [&](const Unit& unit, const absl::Status& why) {
      Log(LogArtifact::k_loops, absl::StrCat("left to ATen: ", std::string(why.message())));
      for (int32_t n : unit.nodes) library_only[static_cast<size_t>(n)] = true;
      refused = true;
    };
    const std::vector<Unit>& units = fused.fusion.units;
    LoweredUnits lowered(facts, fused.fusion, fused.stored);
    for (size_t u = 0; u < units.size(); ++u) {
      if (!units[u].is_kernel) continue;
      if (auto known = refused ? std::nullopt : FindLowered(lowered, fused, u)) {
        fused.kernels[u] = *std::move(known);
        continue;
      }
      auto kernel = LowerUnit(facts, fused, units[u], target);
      if (kernel.ok())
        fused.kernels[u] = *std::move(kernel);
      else
        refuse(units[u], kernel.status());
    }
    if (refused) continue;
    const std::vector<absl::Status> failures = CompileParts(fused, target, options, timings);
    for (size_t u = 0; u < units.size(); ++u) {
      if (!failures[u].ok()) refuse(units[u], failures[u]);
    }
    if (!refused) return fused;
  }
}

// Where the memory of a value that is no metadata view lives.
struct Home {
  enum class Kind : uint8_t { kNone, kInput, kConstant, kArena, kLocal };
  Kind kind = Kind::kNone;
  int32_t index = 0;       // input, constant or local
  int64_t offset = 0;      // kArena: bytes
  int64_t bytes = 0;       // kArena
  bool owns_range = true;  // kArena: false once an in-place result took the range over
};

class Planner {
 public:
  // `dump` may be null.
  Planner(Plan& plan, const GraphFacts& facts, FusedGraph fused, const Dump* dump)
      : plan_(plan),
        dump_(dump),
        facts_(facts),
        fused_(std::move(fused)),
        homes_(facts.graph.values.size()),
        locals_(facts.graph.values.size(), -1),
        bases_(facts.graph.values.size(), -1),
        frame_tensors_(facts.graph.values.size(), -1) {}

  void Run() {
    FindDirectCalls();
    FindLifetimes();
    FindValuesReadInPlace();
    FindValuesOfOwnMemory();
    PlaceInputsAndConstants();
    for (size_t u = 0; u < units().size(); ++u) {
      unit_ = static_cast<int32_t>(u);
      if (units()[u].is_kernel) {
        AddKernel(units()[u], fused_.kernels[u]);
      } else {
        const size_t n = static_cast<size_t>(units()[u].nodes[0]);
        direct_[n].code != nullptr ? AddDirectCall(graph().nodes[n], direct_[n]) : AddLibraryCall(graph().nodes[n]);
      }
      FreeDeadRanges();
    }
    PlaceResults();
    plan_.arena_bytes = arena_.size();
    ReleaseLocals();
    absl::StrAppend(&plan_.description, "arena: ", plan_.arena_bytes, " bytes\n");
    if (dump_ != nullptr) dump_->Write("plan.txt", absl::StrCat(plan_.description, "\n", memory_text_));
  }

 private:
  const Graph& graph() const { return facts_.graph; }
  const std::vector<Unit>& units() const { return fused_.fusion.units; }
  const TensorMeta& meta(ValueId id) const { return graph().meta(id); }
  ValueId root(ValueId id) const { return facts_.roots[static_cast<size_t>(id)]; }
  ValueId source(ValueId id) const { return fused_.fusion.sources[static_cast<size_t>(id)]; }
  Home& home(ValueId id) { return homes_[static_cast<size_t>(id)]; }
  static int64_t Bytes(const TensorMeta& m) { return ByteCount(m); }
  static TensorShape ShapeOf(const TensorMeta& m) {
    return {m.dtype, m.sizes, m.strides, m.strides == ContiguousStrides(m.sizes)};
  }

  void FindDirectCalls() {
    direct_.resize(graph().nodes.size());
    if (graph().modes.strict) return;  // ATen's libraries add in an order of their own
    for (const Unit& unit : units()) {
      if (unit.is_kernel) continue;
      const size_t n = static_cast<size_t>(unit.nodes[0]);
      if (HasPlainForm(graph().nodes[n])) direct_[n] = plan_.target->FindDirectCall(graph(), graph().nodes[n]);
    }
  }

  // --- lifetimes ---

  // The offset that as_strided is given counts from the start of the storage, and the scatters of views begin with a
  // copy of all of it: such a value needs one of its own.
  static bool ReadsWholeStorage(std::string_view op) {
    return op.starts_with("aten::as_strided") || op.starts_with("aten::select_scatter") ||
           op.starts_with("aten::slice_scatter") || op.starts_with("aten::diagonal_scatter");
  }

  void FindLifetimes() {
    last_unit_.assign(graph().values.size(), -1);
    returned_.assign(graph().values.size(), false);
    for (size_t u = 0; u < units().size(); ++u) {
      for (int32_t n : units()[u].nodes) {
        ForEachOperandValue(graph().nodes[static_cast<size_t>(n)],
                            [&](ValueId id) { last_unit_[static_cast<size_t>(root(id))] = static_cast<int32_t>(u); });
      }
    }
    for (ValueId id : graph().outputs) {
      if (id == kNoValue) continue;
      last_unit_[static_cast<size_t>(root(id))] = kForever;
      returned_[static_cast<size_t>(root(id))] = true;
    }
    for (const Node& node : graph().nodes) {
      if (ReadsWholeStorage(node.op.schema().name()))
        returned_[static_cast<size_t>(root(node.operands[0].value))] = true;
    }
    for (const InputMutation& mutation : graph().mutations)
      last_unit_[static_cast<size_t>(root(mutation.value))] = kForever;
  }

  // Values whose recorded layout is relied on: read by kernels, or through views made from metadata.
  void FindValuesReadInPlace() {
    read_in_place_.assign(graph().values.size(), false);
    for (size_t v = 0; v < graph().values.size(); ++v) {
      ValueId id = static_cast<ValueId>(v);
      for (int32_t reader : facts_.users[v]) {
        int32_t unit = fused_.fusion.unit_of[static_cast<size_t>(reader)];
        const bool direct = direct_[static_cast<size_t>(reader)].code != nullptr;
        bool by_kernel = direct || (unit >= 0 && units()[static_cast<size_t>(unit)].is_kernel);
        if (by_kernel || source(id) != id) read_in_place_[static_cast<size_t>(source(id))] = true;
      }
      if (facts_.escapes[v] && source(id) != id) read_in_place_[static_cast<size_t>(source(id))] = true;
    }
  }

  void FindValuesOfOwnMemory() {
    has_own_memory_.assign(graph().values.size(), false);
    std::vector<Lifetime> lifetimes;
    std::vector<ValueId> values;
    for (size_t u = 0; u < units().size(); ++u) {
      for (int32_t n : units()[u].nodes) {
        for (ValueId id : graph().nodes[static_cast<size_t>(n)].outputs) {
          if (id == kNoValue || source(id) != id || meta(id).device != facts_.device) continue;
          if (units()[u].is_kernel && !fused_.stored[static_cast<size_t>(id)]) continue;
          const int32_t made = static_cast<int32_t>(u), last = last_unit_[static_cast<size_t>(root(id))];
          lifetimes.push_back({made, std::max(made, last), Bytes(meta(id)), IsReturned(id)});
          values.push_back(id);
        }
      }
    }
    const std::vector<bool> own = FindOwnMemory(lifetimes, static_cast<int32_t>(units().size()));
    for (size_t i = 0; i < values.size(); ++i) has_own_memory_[static_cast<size_t>(values[i])] = own[i];
  }

  void FreeDeadRanges() {
    for (auto it = live_.begin(); it != live_.end();) {
      if (last_unit_[static_cast<size_t>(root(*it))] > unit_) {
        ++it;
        continue;
      }
      if (home(*it).owns_range) arena_.Free(home(*it).offset, home(*it).bytes);
      it = live_.erase(it);
    }
  }

  // --- places ---

  int32_t NewLocal() { return plan_.local_count++; }
  int32_t NewBase() { return plan_.base_count++; }

  void PlaceInputsAndConstants() {
    for (size_t i = 0; i < graph().inputs.size(); ++i) {
      home(graph().inputs[i]) = {Home::Kind::kInput, static_cast<int32_t>(i)};
    }
    for (const GraphConstant& constant : graph().constants) {
      int32_t index = static_cast<int32_t>(plan_.constants.size());
      plan_.constants.push_back(constant.tensor);
      home(constant.id) = {Home::Kind::kConstant, index};
      if (!returned_[static_cast<size_t>(constant.id)]) continue;
      CloneStep clone{index, NewLocal(), NewBase()};
      home(constant.id) = {Home::Kind::kLocal, clone.local};
      bases_[static_cast<size_t>(constant.id)] = clone.base;
      Emit(clone);
    }
  }

  // Memory for a value that a kernel or an out-variant makes: the caller's if it is returned; its own; else the
  // arena's.
  void PlaceNewValue(ValueId id, bool zeroed = false) {
    if (IsReturned(id) || (has_own_memory_[static_cast<size_t>(id)] && plan_.written_in_place.empty())) {
      AllocateStep allocate{ShapeOf(meta(id)), NewLocal(), NewBase(), zeroed};
      home(id) = {Home::Kind::kLocal, allocate.local};
      bases_[static_cast<size_t>(id)] = allocate.base;
      Emit(std::move(allocate));
      return;
    }
    Home place{Home::Kind::kArena};
    place.bytes = Bytes(meta(id));
    place.offset = arena_.Allocate(place.bytes);
    home(id) = place;
    live_.push_back(id);
    NotePlace(id, "");
  }

  // For dumps: where the arena holds a value, and for how long.
  void NotePlace(ValueId id, const std::string& remark) {
    if (dump_ == nullptr) return;
    const Home& place = home(id);
    absl::StrAppend(&memory_text_, "%", id, " ", PrintValueType(meta(id)), ": arena [", place.offset, ", ",
                    place.offset + place.bytes, "), steps ", plan_.steps.size(), " to that of unit ",
                    last_unit_[static_cast<size_t>(root(id))], remark, "\n");
  }

  bool IsReturned(ValueId id) const { return returned_[static_cast<size_t>(root(id))]; }

  PointerRef PointerOf(ValueId id) {
    ValueId made = source(id);
    int64_t delta =
        (meta(id).storage_offset - meta(made).storage_offset) * static_cast<int64_t>(c10::elementSize(meta(id).dtype));
    const Home& place = home(made);
    if (place.kind == Home::Kind::kArena) return {0, place.offset + delta};
    int32_t& base = bases_[static_cast<size_t>(made)];
    if (base < 0) {
      base = NewBase();
      if (place.kind == Home::Kind::kInput) plan_.input_bases.emplace_back(place.index, base);
      if (place.kind == Home::Kind::kConstant) plan_.constant_bases.emplace_back(place.index, base);
    }
    if (place.kind == Home::Kind::kLocal) TouchLocal(place.index);
    return {base, delta};
  }

  TensorRef Local(int32_t local) {
    TouchLocal(local);
    return {TensorRef::Kind::kLocal, local};
  }

  // The tensor of a value, for ATen. Emits the step that makes it where none exists yet.
  TensorRef TensorOf(ValueId id) {
    if (id == kNoValue) return {};
    int32_t& local = locals_[static_cast<size_t>(id)];
    if (local >= 0) return Local(local);
    ValueId made = source(id);
    const Home place = home(made);
    if (made == id) {
      if (place.kind == Home::Kind::kInput) return {TensorRef::Kind::kInput, place.index};
      if (place.kind == Home::Kind::kConstant) return {TensorRef::Kind::kConstant, place.index};
      if (place.kind == Home::Kind::kLocal) return Local(place.index);
    }
    int64_t delta = meta(id).storage_offset - meta(made).storage_offset;
    if (place.kind == Home::Kind::kArena) return FrameTensorOf(id, place, delta);
    if (place.kind == Home::Kind::kConstant) return ConstantView(id, place.index, delta);
    AliasStep alias;
    alias.from = TensorOf(made);
    alias.shape = ShapeOf(meta(id));
    alias.offset = delta;
    alias.local = NewLocal();
    local = alias.local;
    Emit(std::move(alias));
    return Local(local);
  }

  TensorRef FrameTensorOf(ValueId id, const Home& place, int64_t delta) {
    int32_t& index = frame_tensors_[static_cast<size_t>(id)];
    if (index < 0) {
      index = static_cast<int32_t>(plan_.frame_tensors.size());
      int64_t bytes = delta * static_cast<int64_t>(c10::elementSize(meta(id).dtype));
      plan_.frame_tensors.push_back({ShapeOf(meta(id)), place.offset + bytes});
    }
    return {TensorRef::Kind::kFrame, index};
  }

  TensorRef ConstantView(ValueId id, int32_t constant, int64_t delta) {
    RecordedLevelGuard level;
    const at::Tensor& base = plan_.constants[static_cast<size_t>(constant)];
    at::Tensor view = base.as_strided(meta(id).sizes, meta(id).strides, base.storage_offset() + delta);
    int32_t index = static_cast<int32_t>(plan_.constants.size());
    plan_.constants.push_back(std::move(view));
    return {TensorRef::Kind::kConstant, index};
  }

  // --- steps ---

  template <typename Action>
  void Emit(Action action) {
    Step step;
    step.action = std::move(action);
    plan_.steps.push_back(std::move(step));
  }

  // The step being built, which comes after those emitted so far, uses the local.
  void TouchLocal(int32_t local) {
    if (last_step_.size() <= static_cast<size_t>(local)) last_step_.resize(static_cast<size_t>(local) + 1, 0);
    last_step_[static_cast<size_t>(local)] = static_cast<int32_t>(plan_.steps.size());
  }

  void ReleaseLocals() {
    for (size_t local = 0; local < last_step_.size(); ++local) {
      if (last_step_[local] < static_cast<int32_t>(plan_.steps.size())) {
        plan_.steps[static_cast<size_t>(last_step_[local])].released.push_back(static_cast<int32_t>(local));
      }
    }
  }

  void AddKernel(const Unit& unit, const FusedKernel& kernel) {
    const LoweredKernel& lowered = kernel.lowered;
    bool writes = false;
    for (const loop::Buffer& buffer : lowered.kernel.buffers) writes = writes || buffer.written;
    if (!writes) return;
    for (size_t b = 0; b < lowered.buffers.size(); ++b) {
      if (!lowered.kernel.buffers[b].written || home(lowered.buffers[b]).kind != Home::Kind::kNone) continue;
      const bool over_input = kernel.parts.size() == 1 && PlaceOverWrittenInput(lowered, b);
      if (!over_input && !PlaceOverDeadInput(lowered, b)) PlaceNewValue(lowered.buffers[b]);
    }
    std::vector<int64_t> temporaries;
    for (const auto& temporary : kernel.temporaries) {
      temporaries.push_back(arena_.Allocate(temporary.elements * loop::DTypeBytes(temporary.dtype)));
    }
    for (const FusedKernel::Part& part : kernel.parts) {
      KernelStep step;
      step.kernel = part.code;
      for (int32_t buffer : part.buffers) {
        const int64_t temporary = buffer - static_cast<int64_t>(lowered.buffers.size());
        step.buffers.push_back(temporary < 0 ? PointerOf(lowered.buffers[static_cast<size_t>(buffer)])
                                             : PointerRef{0, temporaries[static_cast<size_t>(temporary)]});
      }
      plan_.nanoseconds += part.code->nanoseconds();
      Emit(std::move(step));
      DumpPart(part);
    }
    for (size_t i = 0; i < temporaries.size(); ++i) {
      const auto& temporary = kernel.temporaries[i];
      arena_.Free(temporaries[i], temporary.elements * loop::DTypeBytes(temporary.dtype));
    }
    DescribeKernel(unit, kernel);
  }

  void DumpPart(const FusedKernel::Part& part) {
    if (dump_ == nullptr) return;
    const std::string stem = absl::StrCat("kernel-", kernel_count_++);
    dump_->Write(absl::StrCat(stem, ".loops"), loop::Print(part.kernel));
    const bool assembly = plan_.target->device().is_cpu();
    dump_->Write(absl::StrCat(stem, assembly ? ".asm" : ".cu"),
                 absl::StrCat(assembly ? "; " : "// ", part.code->name(), "\n", part.code->text()));
    absl::StrAppend(&memory_text_, "step ", plan_.steps.size() - 1, ": ", stem, ", ", part.code->name(), ", of unit ",
                    unit_, "\n");
  }

  // Lets an output take over the range of an input that dies here, where the kernel touches both element by element.
  bool PlaceOverDeadInput(const LoweredKernel& lowered, size_t output) {
    const loop::Kernel& kernel = lowered.kernel;
    ValueId result = lowered.buffers[output];
    if (kernel.has_reductions() || IsReturned(result)) return false;
    for (size_t b = 0; b < lowered.buffers.size(); ++b) {
      ValueId id = lowered.buffers[b];
      if (kernel.buffers[b].written || source(id) != id || home(id).kind != Home::Kind::kArena) continue;
      Home& place = home(id);
      if (!place.owns_range || root(id) != id || last_unit_[static_cast<size_t>(id)] != unit_) continue;
      if (place.bytes != Bytes(meta(result)) || meta(id).dtype != meta(result).dtype) continue;
      if (!SameAccess(kernel, b, output) || ReadTwice(lowered, b)) continue;
      place.owns_range = false;
      home(result) = place;
      home(result).owns_range = true;
      live_.push_back(result);
      NotePlace(result, absl::StrCat(", in the place of %", id));
      return true;
    }
    return false;
  }

  // Lets a kernel write a mutated input itself, where nobody reads what it held any more, not even the kernel but
  // element by element. Nothing that comes later may fail: the input would have its new value, and the call no result.
  // Inputs of other storages share no memory: the guards of a recording that writes say so.
  bool PlaceOverWrittenInput(const LoweredKernel& lowered, size_t output) {
    const ValueId result = lowered.buffers[output];
    const ValueId input = WrittenInput(result);
    if (input == kNoValue || !plan_.target->device().is_cpu() || IsReturned(result)) return false;
    for (size_t u = static_cast<size_t>(unit_); u < units().size(); ++u) {
      if (!units()[u].is_kernel || (u > static_cast<size_t>(unit_) && Reads(units()[u], input))) return false;
    }
    for (size_t b = 0; b < lowered.buffers.size(); ++b) {
      const ValueId read = lowered.buffers[b];
      if (b == output || root(read) != input) continue;
      const bool elementwise = read == input && !lowered.kernel.has_reductions() && !ReadTwice(lowered, b);
      if (!elementwise || !SameAccess(lowered.kernel, b, output)) return false;
    }
    home(result) = home(input);
    plan_.written_in_place.push_back(home(input).index);
    AllocateResultsOfLater();
    return true;
  }

  // Whatever memory the call gets it has before a kernel writes an input: there may be none.
  void AllocateResultsOfLater() {
    for (size_t u = static_cast<size_t>(unit_); u < units().size(); ++u) {
      const LoweredKernel& lowered = fused_.kernels[u].lowered;
      for (size_t b = 0; b < lowered.buffers.size(); ++b) {
        const ValueId id = lowered.buffers[b];
        const bool is_placed = home(id).kind != Home::Kind::kNone;
        if (lowered.kernel.buffers[b].written && IsReturned(id) && !is_placed) PlaceNewValue(id);
      }
    }
  }

  // The input whose new value this is, and that it would fit; else kNoValue.
  ValueId WrittenInput(ValueId value) const {
    ValueId input = kNoValue;
    for (const InputMutation& mutation : graph().mutations) {
      if (root(mutation.value) != value) continue;
      if (input != kNoValue || mutation.value != value) return kNoValue;
      input = mutation.input;
    }
    if (input == kNoValue || homes_[static_cast<size_t>(input)].kind != Home::Kind::kInput) return kNoValue;
    for (const InputMutation& mutation : graph().mutations) {
      if (root(mutation.value) == input) return kNoValue;  // what it held is written elsewhere, at the end
      if (mutation.input == input && mutation.value != value) return kNoValue;
    }
    const TensorMeta &from = meta(value), &to = meta(input);
    if (from.dtype != to.dtype || from.sizes != to.sizes || from.strides != to.strides || from.device != to.device)
      return kNoValue;
    const auto shares = [&](ValueId id) { return id != input && meta(id).storage == to.storage; };
    const auto& inputs = graph().inputs;
    return std::any_of(inputs.begin(), inputs.end(), shares) ? kNoValue : input;
  }

  bool Reads(const Unit& unit, ValueId memory) const {
    bool reads = false;
    for (int32_t n : unit.nodes) {
      ForEachOperandValue(graph().nodes[static_cast<size_t>(n)], [&](ValueId id) { reads |= root(id) == memory; });
    }
    return reads;
  }

  static bool SameAccess(const loop::Kernel& kernel, size_t input, size_t output) {
    const loop::Access* write = nullptr;
    for (const loop::Access& access : kernel.accesses) {
      if (access.buffer == static_cast<int32_t>(output)) write = &access;
    }
    for (const loop::Access& access : kernel.accesses) {
      if (access.buffer != static_cast<int32_t>(input)) continue;
      if (write == nullptr || access.offset != write->offset || access.strides != write->strides) return false;
    }
    return write != nullptr;
  }

  bool ReadTwice(const LoweredKernel& lowered, size_t input) const {
    for (size_t b = 0; b < lowered.buffers.size(); ++b) {
      if (b != input && root(lowered.buffers[b]) == root(lowered.buffers[input])) return true;
    }
    return false;
  }

  void AddLibraryCall(const Node& node) {
    LibraryStep step;
    step.node = &node;
    const OutCall out = OutCallFor(node);
    step.function = out.function;
    if (out.function != nullptr) {
      const bool zeroed = out.into_zeros != nullptr && IsReturned(node.outputs[0]);
      if (zeroed) step.function = out.into_zeros;
      PlaceNewValue(node.outputs[0], zeroed);
    }
    for (const Operand& operand : node.operands) {
      absl::InlinedVector<TensorRef, 1> refs;
      if (operand.kind == Operand::Kind::kValue) refs.push_back(TensorOf(operand.value));
      for (ValueId id : operand.values) refs.push_back(TensorOf(id));
      step.operands.push_back(std::move(refs));
    }
    if (step.function != nullptr) {
      step.out = TensorOf(node.outputs[0]);
    } else {
      step.function = CallBoxed;
      for (ValueId id : node.outputs) step.results.push_back(PlaceResult(id));
    }
    // Making a later operand may have emitted a step; only now is this call's place known.
    for (const auto& refs : step.operands) {
      for (TensorRef ref : refs) KeepLocal(ref);
    }
    KeepLocal(step.out);
    for (const LibraryResult& result : step.results) {
      if (result.local >= 0) TouchLocal(result.local);
    }
    plan_.calls_library = true;
    plan_.nanoseconds += EstimateLibraryCall(graph(), node);
    absl::StrAppend(&plan_.description, step.function == CallBoxed ? "call " : "call into place ",
                    OperatorName(node.op), "\n");
    Emit(std::move(step));
  }

  void AddDirectCall(const Node& node, const DirectCall& call) {
    PlaceNewValue(node.outputs[0]);
    KernelStep step;
    step.kernel = call.code;
    for (ValueId id : call.operands) step.buffers.push_back(PointerOf(id));
    step.buffers.push_back(PointerOf(node.outputs[0]));
    plan_.nanoseconds += call.code->nanoseconds();
    absl::StrAppend(&plan_.description, "call own ", OperatorName(node.op), ": ", call.code->text(), "\n");
    Emit(std::move(step));
  }

  // One contiguous result, and operands on the target's device.
  bool HasPlainForm(const Node& node) const {
    if (node.outputs.size() != 1 || node.outputs[0] == kNoValue) return false;
    const TensorMeta& out = meta(node.outputs[0]);
    bool plain =
        out.is_contiguous() && out.storage_offset == 0 && out.numel() > 0 && facts_.IsLoopValue(node.outputs[0]);
    ForEachOperandValue(node, [&](ValueId id) { plain = plain && facts_.IsLoopValue(id); });
    return plain;
  }

  OutCall OutCallFor(const Node& node) const {
    return HasPlainForm(node) ? plan_.target->FindOutCall(graph(), node) : OutCall();
  }

  // Results are read by kernels through their source, so views made by ATen need no base of their own.
  LibraryResult PlaceResult(ValueId id) {
    LibraryResult result;
    if (id == kNoValue) return result;
    result.local = NewLocal();
    locals_[static_cast<size_t>(id)] = result.local;
    if (source(id) != id) return result;
    home(id) = {Home::Kind::kLocal, result.local};
    result.meta = &meta(id);
    if (read_in_place_[static_cast<size_t>(id)]) {
      result.base = NewBase();
      bases_[static_cast<size_t>(id)] = result.base;
    }
    return result;
  }

  void PlaceResults() {
    for (ValueId id : graph().outputs) plan_.outputs.push_back(TensorOf(id));
    for (const InputMutation& mutation : graph().mutations) {
      plan_.mutations.push_back({TensorOf(mutation.input), TensorOf(mutation.value)});
      plan_.nanoseconds += static_cast<double>(meta(mutation.input).numel());
    }
    // Steps emitted for later results must not release what earlier ones named.
    for (const TensorRef& ref : plan_.outputs) KeepLocal(ref);
    for (const PlannedMutation& mutation : plan_.mutations) {
      KeepLocal(mutation.value);
      KeepLocal(mutation.input);
    }
  }

  void KeepLocal(TensorRef ref) {
    if (ref.kind == TensorRef::Kind::kLocal) TouchLocal(ref.index);
  }

  void DescribeKernel(const Unit& unit, const FusedKernel& kernel) {
    std::string& text = plan_.description;
    text.append("kernel");
    for (int32_t n : unit.nodes) {
      const c10::FunctionSchema& schema = graph().nodes[static_cast<size_t>(n)].op.schema();
      text.append(" ").append(schema.name(), schema.name().find("::") + 2);
      if (!schema.overload_name().empty()) text.append(".").append(schema.overload_name());
    }
    absl::StrAppend(&text, ": ", kernel.lowered.bytes, " bytes");
    if (kernel.parts.size() > 1) absl::StrAppend(&text, ", in ", kernel.parts.size(), " parts");
    text.append("\n");
  }

  Plan& plan_;
  const Dump* const dump_;
  const GraphFacts& facts_;
  FusedGraph fused_;
  std::vector<Home> homes_;             // by ValueId, for sources
  std::vector<DirectCall> direct_;      // by node
  std::vector<int32_t> locals_;         // by ValueId: the local with its tensor; -1
  std::vector<int32_t> bases_;          // by ValueId
  std::vector<int32_t> frame_tensors_;  // by ValueId
  std::vector<int32_t> last_unit_;      // by ValueId, for roots: the last unit that reads it or an alias
  std::vector<bool> returned_;          // by ValueId, for roots: memory the caller receives, or of its own
  std::vector<bool> read_in_place_;     // by ValueId, for sources
  std::vector<bool> has_own_memory_;    // by ValueId, for sources
  std::vector<int32_t> last_step_;      // by local
  std::vector<ValueId> live_;           // values with a range of the arena
  ArenaPlanner arena_;
  std::string memory_text_;  // for dumps
  int32_t kernel_count_ = 0;
  int32_t unit_ = 0;
};

// Null where losses were split and a gather ended up outside a kernel: ATen's would check the indices itself.
std::unique_ptr<const Plan> PlanWithRewrites(const Graph& graph, const Target& target, bool split_losses,
                                             const Dump* dump, Timings* timings) {
  auto plan = std::make_unique<Plan>();
  plan->target = &target;
  plan->graph = graph;
  if (target.device().is_cpu()) SplitMovements(plan->graph);
  if (!graph.modes.strict) {
    SplitNormGradients(plan->graph);
    if (target.device().is_cuda()) FuseProductEpilogues(plan->graph);
    if (target.device().is_cpu()) {
      LayOutConvolutions(plan->graph);
      SplitChannelNorms(plan->graph);
      SplitReductions(plan->graph);
    }
  }
  if (split_losses) SplitLosses(plan->graph);
  GraphFacts facts(plan->graph, target.device());
  const CodeOptions options{
      .keep_text = dump != nullptr, .open_sizes = graph.modes.open_sizes, .autotune = graph.modes.autotune};
  FusedGraph fused = FuseAndCompile(facts, target, options, timings);
  for (size_t n = 0; split_losses && n < plan->graph.nodes.size(); ++n) {
    const Node& node = plan->graph.nodes[n];
    const int32_t unit = fused.fusion.unit_of[n];
    const bool in_kernel = unit >= 0 && fused.fusion.units[static_cast<size_t>(unit)].is_kernel;
    if (!in_kernel && OperatorName(node.op) == "aten::gather" && IsCheckedGather(facts, node)) return nullptr;
  }
  Planner(*plan, facts, std::move(fused), dump).Run();
  return plan;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Plan>> MakePlan(const Graph& graph, const Target& target, Timings* timings) {
  for (const Node& node : graph.nodes) {
    if (MutatesArguments(node.op)) {
      return absl::UnimplementedError(absl::StrCat(OperatorName(node.op), " writes its arguments"));
    }
  }
  const std::unique_ptr<Dump> dump = Dump::Begin();
  if (dump != nullptr) dump->Write("graph.txt", PrintGraph(graph, {.max_constant_elements = 64}));
  auto plan = PlanWithRewrites(graph, target, /*split_losses=*/!graph.modes.strict, dump.get(), timings);
  return plan != nullptr ? std::move(plan)
                         : PlanWithRewrites(graph, target, /*split_losses=*/false, dump.get(), timings);
}

}  // namespace framejit::native
