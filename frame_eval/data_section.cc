#include "frame_eval/data_section.h"

#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "graph/fake/open_number.h"
#include "graph/symbolic/open_graph.h"
#include "graph/symbolic/replay.h"

namespace framejit {
namespace {

using Kind = TorchArgument::Kind;
constexpr size_t kFewestCalls = 2;
constexpr int kOpenRounds = 4;

// What calls and steps use and make.
struct Uses {
  absl::flat_hash_set<TorchValueId> values, made;
  absl::flat_hash_set<SymbolId> symbols, defined;

  void Read(const TorchArgument& argument) {
    if (argument.kind == Kind::kValue && !made.contains(argument.value)) values.insert(argument.value);
    if (argument.symbol != kNoSymbol && !defined.contains(argument.symbol)) symbols.insert(argument.symbol);
    for (const TorchArgument& item : argument.items) Read(item);
  }
  void Make(const TorchArgument& result) {
    if (result.kind == Kind::kValue && !values.contains(result.value)) made.insert(result.value);
    if (result.symbol != kNoSymbol && !symbols.contains(result.symbol)) defined.insert(result.symbol);
    for (const TorchArgument& item : result.items) Make(item);
  }
  void Add(const TorchCall& call) {
    for (const TorchArgument& argument : call.args) Read(argument);
    for (const auto& [key, argument] : call.kwargs) Read(argument);
    Make(call.result);
  }
  void Add(const SymbolStep& step) {
    if (step.kind == SymbolStep::Kind::kAsk) Add(step.ask);
    if (step.kind == SymbolStep::Kind::kEqual && !defined.contains(step.symbol)) symbols.insert(step.symbol);
  }
};

template <typename Id>
std::vector<Id> Sorted(const absl::flat_hash_set<Id>& ids) {
  std::vector<Id> sorted(ids.begin(), ids.end());
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

Uses UsesOf(const SymbolicProgram& program, const TorchGraph& graph, const Stretch& stretch) {
  Uses uses;
  size_t step = stretch.first_step;
  for (size_t call = stretch.first_call; call <= stretch.last_call; ++call) {
    for (; step < stretch.last_step && program.steps[step].calls == static_cast<int32_t>(call); ++step)
      uses.Add(program.steps[step]);
    if (call < stretch.last_call) uses.Add(graph.calls[call]);
  }
  return uses;
}

}  // namespace

std::unique_ptr<DataSection> DataSection::Make(const SymbolicProgram& program, const TorchGraph& graph,
                                               const std::vector<std::string>& value_names, const Stretch& stretch,
                                               const Options& options) {
  if (stretch.last_call - stretch.first_call < kFewestCalls) return nullptr;
  Uses uses = UsesOf(program, graph, stretch);
  Uses later = UsesOf(program, graph, {stretch.last_call, graph.calls.size(), stretch.last_step, program.steps.size()});
  later.values.insert(graph.outputs.begin(), graph.outputs.end());
  for (const auto& [id, tensor] : graph.constants) uses.values.erase(id);
  for (const TorchValueId id : uses.made) {
    if (graph.values[static_cast<size_t>(id)].requires_grad) return nullptr;
  }

  auto section = std::unique_ptr<DataSection>(new DataSection());
  section->options_ = options;
  section->value_names_ = value_names;
  section->is_first_ = stretch.first_call == 0;
  section->defined_ = Sorted(uses.defined);
  section->graph_ = {.values = graph.values, .inputs = Sorted(uses.values), .constants = graph.constants};
  section->graph_.calls.assign(graph.calls.begin() + static_cast<std::ptrdiff_t>(stretch.first_call),
                               graph.calls.begin() + static_cast<std::ptrdiff_t>(stretch.last_call));
  for (const TorchValueId id : Sorted(uses.made)) {
    if (later.values.contains(id)) section->graph_.outputs.push_back(id);
  }
  SymbolicProgram& own = section->program_;
  own.symbols = program.symbols;
  own.varies.assign(section->graph_.inputs.size(), true);
  for (size_t i = 0; i < section->graph_.inputs.size(); ++i)
    own.steps.push_back({.kind = SymbolStep::Kind::kInput, .calls = 0, .index = static_cast<int32_t>(i)});
  for (const SymbolId symbol : Sorted(uses.symbols)) {
    const auto index = static_cast<int32_t>(own.numbers.size());
    own.steps.push_back({.kind = SymbolStep::Kind::kNumber, .calls = 0, .index = index, .symbol = symbol});
    own.numbers.push_back({.source = kNoSource, .symbol = symbol});
  }
  for (size_t i = stretch.first_step; i < stretch.last_step; ++i) {
    const SymbolStep::Kind kind = program.steps[i].kind;
    if (kind == SymbolStep::Kind::kInput) continue;
    if (kind == SymbolStep::Kind::kNumber) return nullptr;  // read in the middle: nothing that is worth the trouble
    own.steps.push_back(program.steps[i]);
    own.steps.back().calls -= static_cast<int32_t>(stretch.first_call);
  }
  section->recorded_.values = graph.values;
  section->recorded_.inputs.assign(section->graph_.inputs.begin(), section->graph_.inputs.end());
  section->recorded_.outputs.assign(section->graph_.outputs.begin(), section->graph_.outputs.end());
  section->recorded_.locations = options.recorded->locations;
  section->options_.recorded = nullptr;
  return section;
}

// As for a whole recording: numbers that nothing asks the worth of are inputs of the graph.
void DataSection::OpenNumbers(absl::Span<PyObject* const> fetched) {
  program_.SortNumbers(graph_);
  ReplayRequest request{.program = &program_,
                        .torch_graph = &graph_,
                        .recorded = &recorded_,
                        .inputs = fetched.first(graph_.inputs.size()),
                        .numbers = fetched.last(program_.numbers.size()),
                        .names = &value_names_};
  absl::StatusOr<SizedRecording> base = Replay(request);
  program_.open = program_.GivenNumbers(graph_);
  std::vector<SymbolId> looked;
  request.looked = &looked;
  for (int round = 0; base.ok() && round < kOpenRounds && !program_.open.empty(); ++round) {
    looked.clear();
    absl::StatusOr<SizedRecording> open = Replay(request);
    if (open.ok() && IsOpenFormOf(open->graph, NumberValues(open->numbers, base->symbols), base->graph))
      return program_.SortNumbers(graph_);
    if (looked.empty()) break;
    std::erase_if(program_.open,
                  [&](SymbolId symbol) { return std::find(looked.begin(), looked.end(), symbol) != looked.end(); });
  }
  program_.open.clear();
  program_.SortNumbers(graph_);
}

std::shared_ptr<const SizeVariant> DataSection::Choose(absl::Span<PyObject* const> fetched,
                                                       const std::vector<PyRef>& symbols) {
  std::shared_ptr<const SizeVariant> chosen = variants_->Find(fetched, symbols);
  if (chosen == nullptr && !is_first_ && !variants_->CameBefore(fetched)) return nullptr;
  if (chosen == nullptr || chosen->is_provisional) {
    chosen = variants_->Make(fetched, graph_, recorded_);
    PyErr_Clear();
    refusals_ += chosen->graph == nullptr ? 1 : 0;
  }
  return chosen->graph != nullptr && chosen->written_inputs.empty() ? chosen : nullptr;
}

bool DataSection::Run(ReplayedValues& values) {
  if (refusals_ >= kMaxRefusals) return false;
  std::vector<PyObject*> fetched;
  for (const TorchValueId id : graph_.inputs) fetched.push_back(values.objects[static_cast<size_t>(id)].get());
  for (const SymbolicNumber& number : program_.numbers)
    fetched.push_back(values.symbols[static_cast<size_t>(number.symbol)].get());
  if (std::any_of(fetched.begin(), fetched.end(), [](PyObject* object) { return object == nullptr; })) return false;
  if (variants_ == nullptr) {
    OpenNumbers(fetched);
    variants_ = std::make_unique<SizeVariants>(SizeVariants::Origin{.name = options_.name,
                                                                    .backend = options_.backend,
                                                                    .calls_in_order = false,
                                                                    .modes = options_.modes,
                                                                    .has_backward = false,
                                                                    .random = {},
                                                                    .versions = {},
                                                                    .program = program_,
                                                                    .value_names = value_names_,
                                                                    .modules = nullptr});
  }
  std::vector<PyRef> symbols(program_.symbols.size());
  if (!variants_->TakeNumbers(fetched, symbols).ok()) return false;
  const std::shared_ptr<const SizeVariant> variant = Choose(fetched, symbols);
  if (variant == nullptr) return false;
  for (size_t i = 0; i < symbols.size(); ++i) {
    if (!symbols[i]) symbols[i] = variant->symbols[i];
  }
  if (!variant->Takes(symbols)) return false;
  std::vector<at::Tensor> inputs, outputs;
  for (size_t i = 0; i < graph_.inputs.size(); ++i) inputs.push_back(THPVariable_Unpack(fetched[i]));
  for (const at::Scalar& number : NumberValues(variant->numbers, symbols)) inputs.push_back(WrapNumber(number));
  variant->graph->Run(inputs, outputs);
  for (size_t i = 0; i < outputs.size(); ++i)
    values.objects[static_cast<size_t>(graph_.outputs[i])] = PyRef::Steal(THPVariable_Wrap(std::move(outputs[i])));
  for (const SymbolId symbol : defined_)
    values.symbols[static_cast<size_t>(symbol)] = symbols[static_cast<size_t>(symbol)];
  return true;
}

std::string DataSection::Describe() const {
  return absl::StrCat("section of ", graph_.calls.size(), " calls: compiled for ",
                      variants_ == nullptr ? 0 : variants_->size(), " sets of sizes");
}

}  // namespace framejit
