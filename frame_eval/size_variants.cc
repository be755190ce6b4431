#include "frame_eval/size_variants.h"

#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "frame_eval/compile.h"
#include "frame_eval/replay_check.h"
#include "frame_eval/written_inputs.h"
#include "graph/fake/open_number.h"
#include "graph/symbolic/open_graph.h"
#include "graph/symbolic/replay.h"
#include "graph/symbolic/values.h"

namespace framejit {

namespace {

// An int that TakeNumbers() let pass, or the bits of a float.
int64_t NumberKey(PyObject* number) {
  if (PyFloat_CheckExact(number)) return std::bit_cast<int64_t>(PyFloat_AS_DOUBLE(number));
  return PyLong_AsLongLong(number);
}

// With those for other numbers.
size_t CountWith(const SizeVariant& first) {
  size_t count = 0;
  for (const SizeVariant* variant = &first; variant != nullptr; variant = variant->otherwise.get()) ++count;
  return count;
}

}  // namespace

bool SizeVariant::Takes(const std::vector<PyRef>& symbol_values) const {
  const auto worth = [&](SymbolId symbol) {
    PyObject* object = symbol_values[static_cast<size_t>(symbol)].get();
    return PyFloat_CheckExact(object) ? PyFloat_AS_DOUBLE(object) : static_cast<double>(PyLong_AsLongLong(object));
  };
  return std::all_of(numbers.begin(), numbers.end(), [&](const NumberInput& input) {
    const double number = worth(input.symbol);
    if (std::isfinite(number) && std::abs(number) > input.largest) return false;
    return std::all_of(input.conditions.begin(), input.conditions.end(), [&](const NumberCondition& condition) {
      const double other = condition.other == kNoSymbol ? condition.constant : worth(condition.other);
      return Holds(condition.relation, number, other) == condition.answer;
    });
  });
}

absl::Status SizeVariants::TakeNumbers(absl::Span<PyObject* const> fetched, std::vector<PyRef>& symbols) const {
  if (origin_.program.numbers.empty()) return absl::OkStatus();
  return EvaluateNumbers(origin_.program, origin_.value_names, NumbersOf(fetched), symbols);
}

bool SizeVariants::HasTooManyNumbers() const {
  const size_t many = origin_.has_backward ? kManyNumbersWithBackward : kManyNumbers;
  return numbers_.size() + 1 >= many && calls_ < 2 * made_;
}

SizeVariants::Sizes SizeVariants::SizesOf(absl::Span<PyObject* const> fetched) const {
  Sizes sizes;
  for (size_t i = 0; i < origin_.program.varies.size(); ++i) {
    if (!origin_.program.varies[i]) continue;
    const at::Tensor& tensor = THPVariable_Unpack(fetched[i]);
    sizes.insert(sizes.end(), tensor.sizes().begin(), tensor.sizes().end());
    sizes.insert(sizes.end(), tensor.strides().begin(), tensor.strides().end());
  }
  const absl::Span<PyObject* const> numbers = NumbersOf(fetched);
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (origin_.program.numbers[i].in_graph) sizes.push_back(NumberKey(numbers[i]));
  }
  return sizes;
}

bool SizeVariants::HasSizes(absl::Span<PyObject* const> fetched, const Sizes& sizes) const {
  auto next = sizes.begin();
  for (size_t i = 0; i < origin_.program.varies.size(); ++i) {
    if (!origin_.program.varies[i]) continue;
    const at::Tensor& tensor = THPVariable_Unpack(fetched[i]);
    const auto rank = tensor.dim();
    if (!std::equal(next, next + rank, tensor.sizes().begin())) return false;
    if (!std::equal(next + rank, next + 2 * rank, tensor.strides().begin())) return false;
    next += 2 * rank;
  }
  const absl::Span<PyObject* const> numbers = NumbersOf(fetched);
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (origin_.program.numbers[i].in_graph && NumberKey(numbers[i]) != *next++) return false;
  }
  return true;
}

size_t SizeVariants::size() const {
  size_t count = 0;
  for (const auto& [sizes, first] : variants_) count += CountWith(*first);
  return count;
}

std::shared_ptr<const SizeVariant> SizeVariants::Find(absl::Span<PyObject* const> fetched,
                                                      const std::vector<PyRef>& symbols) {
  if (last_ == nullptr || !HasSizes(fetched, last_sizes_)) {
    Sizes sizes = SizesOf(fetched);
    auto row = variants_.find(sizes);
    if (row == variants_.end()) return nullptr;
    last_ = row->second;
    last_sizes_ = std::move(sizes);
  }
  last_->last_use = ++uses_;
  std::shared_ptr<const SizeVariant> variant = last_;
  while (variant != nullptr && variant->graph != nullptr && !variant->Takes(symbols)) variant = variant->otherwise;
  return variant;
}

bool SizeVariants::CameBefore(absl::Span<PyObject* const> fetched) {
  if (came_.size() >= kMaxRemembered) came_.clear();
  return !came_.insert(SizesOf(fetched)).second;
}

void SizeVariants::Add(Sizes sizes, std::shared_ptr<SizeVariant> variant) {
  if (variants_.size() >= kMaxVariants && !variants_.contains(sizes)) {
    auto oldest = std::min_element(variants_.begin(), variants_.end(), [](const auto& a, const auto& b) {
      return a.second->last_use < b.second->last_use;
    });
    variants_.erase(oldest);
  }
  if (last_sizes_ == sizes) last_ = nullptr;
  variant->last_use = ++uses_;
  variants_[std::move(sizes)] = std::move(variant);
}

void SizeVariants::AddForNumbers(Sizes sizes, std::shared_ptr<SizeVariant> variant) {
  const auto row = variants_.find(sizes);
  SizeVariant* last = row == variants_.end() || row->second->graph == nullptr ? nullptr : row->second.get();
  if (last == nullptr || last->Takes(variant->symbols)) {
    if (last != nullptr) variant->otherwise = last->otherwise;
    return Add(std::move(sizes), std::move(variant));
  }
  while (last->otherwise != nullptr) last = last->otherwise.get();
  last->otherwise = std::move(variant);
}

void SizeVariants::AddFirst(absl::Span<PyObject* const> fetched, std::shared_ptr<SizeVariant> variant) {
  Add(SizesOf(fetched), std::move(variant));
}

std::shared_ptr<const SizeVariant> SizeVariants::Make(absl::Span<PyObject* const> fetched,
                                                      const TorchGraph& torch_graph, const Graph& recorded) {
  Sizes sizes = SizesOf(fetched);
  const auto in_key = std::count_if(origin_.program.numbers.begin(), origin_.program.numbers.end(),
                                    [](const SymbolicNumber& number) { return number.in_graph; });
  if (in_key > 0) numbers_.insert(Sizes(sizes.end() - in_key, sizes.end()));
  auto variant = std::make_shared<SizeVariant>();
  if (const auto row = variants_.find(sizes); row != variants_.end() && CountWith(*row->second) >= kMaxForNumbers) {
    variant->why_not = "there are too many graphs for numbers of these sizes";
    return variant;
  }
  variant->is_provisional =
      ++made_ > kCompiledAtOnce && !origin_.has_backward && origin_.modules == nullptr && !variants_.contains(sizes);
  absl::Status status = Compile(fetched, torch_graph, recorded, *variant);
  if (!status.ok()) {
    variant->why_not = std::string(status.message());
    variant->is_provisional = false;
  }
  if (LogEnabled(LogArtifact::k_symbols)) {
    Log(LogArtifact::k_symbols,
        absl::StrCat(origin_.name, status.ok() ? " is made" : " does not hold", " for sizes, strides and numbers ",
                     absl::StrJoin(sizes, " "), status.ok() ? "" : ": ", status.message()));
  }
  const bool is_of_numbers = !variant->symbols.empty() && !variant->Takes(variant->symbols);
  if (variant->graph != nullptr || (!is_of_numbers && !variants_.contains(sizes)))
    AddForNumbers(std::move(sizes), variant);
  return variant;
}

absl::Status SizeVariants::Compile(absl::Span<PyObject* const> fetched, const TorchGraph& torch_graph,
                                   const Graph& recorded, SizeVariant& variant) {
  const absl::Span<PyObject* const> inputs = fetched.first(origin_.program.varies.size());
  absl::StatusOr<SizedRecording> replayed = [&] {
    ScopedTiming timing(&timings_, "replay");
    return Replay({.program = &origin_.program,
                   .torch_graph = &torch_graph,
                   .recorded = &recorded,
                   .inputs = inputs,
                   .numbers = NumbersOf(fetched),
                   .versions = origin_.versions,
                   .backward = origin_.has_backward,
                   .names = &origin_.value_names});
  }();
  if (!replayed.ok()) return replayed.status();
  variant.recorded = std::move(replayed->graph);
  variant.symbols = std::move(replayed->symbols);
  variant.numbers = std::move(replayed->numbers);
  if (replayed->joint != nullptr && ReplayCheckEnabled()) variant.joint = replayed->joint->graph;
  if (!variant.Takes(variant.symbols)) return absl::FailedPreconditionError("a number that the graph does not take");
  if (origin_.modules != nullptr) {
    absl::StatusOr<std::shared_ptr<CompiledGraph>> graph = origin_.modules->Find({.graph = &variant.recorded,
                                                                                  .torch_graph = &replayed->torch_graph,
                                                                                  .program = &origin_.program,
                                                                                  .inputs = inputs});
    if (!graph.ok()) return graph.status();
    variant.graph = *std::move(graph);
    variant.written_inputs = WrittenInputs(variant.recorded);
    return absl::OkStatus();
  }
  const bool in_order = origin_.calls_in_order || variant.is_provisional;
  std::vector<at::Tensor> examples;
  for (PyObject* input : inputs) examples.push_back(THPVariable_Unpack(input));
  for (const at::Scalar& number : NumberValues(variant.numbers, variant.symbols))
    examples.push_back(WrapNumber(number));
  absl::StatusOr<std::unique_ptr<CompiledGraph>> compiled =
      CompileSized({.recorded = &variant.recorded,
                    .backend = variant.is_provisional ? "interp" : origin_.backend,
                    .calls_in_order = in_order,
                    .modes = origin_.modes,
                    .joint = replayed->joint.get(),
                    .torch_graph = &replayed->torch_graph,
                    .name = origin_.name,
                    .random = origin_.random,
                    .example_inputs = examples,
                    .weights = origin_.weights,
                    .timings = &timings_},
                   &variant.lowered);
  if (!compiled.ok()) return compiled.status();
  variant.graph = *std::move(compiled);
  if (in_order) variant.written_inputs = WrittenInputs(variant.recorded);
  return absl::OkStatus();
}

}  // namespace framejit
