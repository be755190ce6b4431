// Functionalize: replays a recorded graph over torch's FunctionalTensorWrapper around fakes in a new recording. Views
// are reapplied as views, so aliasing is kept; in-place operators become new values, mutated inputs trailing mutations.
#include <ATen/FunctionalTensorWrapper.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/slice.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/node_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/switches.h"
#include "graph/error_text.h"
#include "graph/fake/call_node.h"
#include "graph/fake/fake_session.h"
#include "graph/fake/fake_tensor_impl.h"
#include "graph/fake/mutation.h"
#include "graph/fake/number_answers.h"
#include "graph/fake/recording.h"
#include "graph/number_operand.h"
#include "graph/recorded_level.h"

namespace framejit {

// native_batch_norm does not say it in its schema.
bool WritesRunningStatistics(const Node& node) {
  const std::string& name = node.op.schema().name();
  return name == "aten::native_batch_norm" && node.operands[kBatchNormTraining].constant.toBool() &&
         node.operands[kBatchNormMean].value != kNoValue;
}

namespace {

using c10::DispatchKey;
namespace functional = at::functionalization::impl;

// The functional form of bernoulli_ fills a contiguous tensor: another layout would get its numbers in another order.
bool ReordersRandomNumbers(const Graph& graph, const Node& node) {
  if (node.op.schema().name() != "aten::bernoulli_") return false;
  return !graph.meta(node.operands[0].value).is_contiguous();
}

// The views through which torch's functionalization writes exactly. The inverse of others adds and subtracts (`expand`,
// `unfold`), asks for the strides of the written tensor (`_reshape_alias`), or does not exist. See also as_strided.
bool IsWrittenExactly(const std::string& view) {
  static const auto* names = new absl::flat_hash_set<std::string>{"aten::alias",
                                                                  "aten::detach",
                                                                  "aten::diagonal",
                                                                  "aten::lift_fresh",
                                                                  "aten::permute",
                                                                  "aten::select.int",
                                                                  "aten::slice.Tensor",
                                                                  "aten::split.Tensor",
                                                                  "aten::split_with_sizes",
                                                                  "aten::squeeze",
                                                                  "aten::squeeze.dim",
                                                                  "aten::squeeze.dims",
                                                                  "aten::t",
                                                                  "aten::transpose.int",
                                                                  "aten::unbind.int",
                                                                  "aten::unsqueeze",
                                                                  "aten::view",
                                                                  "aten::view_as_complex",
                                                                  "aten::view_as_real"};
  return names->contains(view);
}

// Conservative: what interleaves does not count.
bool HasDistinctElements(const TensorMeta& meta) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (size_t d = 0; d < meta.sizes.size(); ++d) {
    if (meta.sizes[d] > 1) dims.emplace_back(meta.strides[d], meta.sizes[d]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t reach = 0;
  for (const auto& [stride, size] : dims) {
    if (stride <= reach) return false;
    reach += stride * (size - 1);
  }
  return true;
}

bool Mutates(const Graph& graph) {
  for (const Node& node : graph.nodes) {
    if (MutatesArguments(node.op) || WritesRunningStatistics(node)) return true;
  }
  return false;
}

int64_t BytesSpanned(const TensorMeta& meta) {
  int64_t last = meta.storage_offset;
  for (size_t i = 0; i < meta.sizes.size(); ++i) {
    if (meta.sizes[i] == 0) return 0;
    last += (meta.sizes[i] - 1) * meta.strides[i];
  }
  return (last + 1) * static_cast<int64_t>(c10::elementSize(meta.dtype));
}

// Whether indices exist, each differing by less than its dimension's size, whose elements lie `distance` apart. The
// strides fall; `reach` is how far the dimensions from `d` on reach.
bool Meet(const std::vector<std::pair<int64_t, int64_t>>& dims, size_t d, int64_t reach, int64_t distance) {
  if (std::abs(distance) > reach) return false;
  if (d == dims.size()) return distance == 0;
  const auto [stride, size] = dims[d];
  const int64_t rest = reach - stride * (size - 1);
  const int64_t first = std::max(-(size - 1), (distance - rest) / stride - 1);
  const int64_t last = std::min(size - 1, (distance + rest) / stride + 1);
  for (int64_t i = first; i <= last; ++i) {
    if (Meet(dims, d + 1, rest, distance - i * stride)) return true;
  }
  return false;
}

// Whether two tensors of the same sizes and strides, in the same memory, have no element in common: parts of a split.
bool AreApart(const TensorMeta& a, const TensorMeta& b) {
  std::vector<std::pair<int64_t, int64_t>> dims;
  int64_t reach = 0;
  for (size_t d = 0; d < a.sizes.size(); ++d) {
    if (a.sizes[d] == 0) return true;
    if (a.sizes[d] == 1) continue;
    if (a.strides[d] <= 0) return false;
    dims.emplace_back(a.strides[d], a.sizes[d]);
    reach += a.strides[d] * (a.sizes[d] - 1);
  }
  std::sort(dims.rbegin(), dims.rend());
  return !Meet(dims, 0, reach, b.storage_offset - a.storage_offset);
}

// The dispatch state of the replay: functionalization on, autograd and autocast off, whatever the caller's modes are.
class FunctionalizeScope {
 public:
  FunctionalizeScope()
      : reapply_(functional::getFunctionalizationReapplyViewsTLS()), include_(DispatchKey::Functionalize) {
    functional::setFunctionalizationReapplyViewsTLS(true);
  }
  ~FunctionalizeScope() { functional::setFunctionalizationReapplyViewsTLS(reapply_); }
  FunctionalizeScope(const FunctionalizeScope&) = delete;
  FunctionalizeScope& operator=(const FunctionalizeScope&) = delete;

 private:
  bool reapply_;
  c10::impl::IncludeDispatchKeyGuard include_;
};

class Functionalizer {
 public:
  Functionalizer(const Graph& source, FakeRecording& target) : source_(source), target_(target) {
    target_.functionalizing = true;
    target_.graph.locations = source.locations;
    tensors_.resize(source.values.size());
    read_only_.resize(source.values.size());
    FindLastUses();
  }

  absl::Status Run() {
    for (ValueId input : source_.inputs) AddInput(input);
    for (const GraphConstant& constant : source_.constants) AddConstant(constant);
    {
      FunctionalizeScope scope;
      for (const Node& node : source_.nodes) {
        if (absl::Status status = Replay(node); !status.ok()) return status;
      }
    }
    if (absl::Status status = CheckNumbers(); !status.ok()) return status;
    if (absl::Status status = FindMutations(); !status.ok()) return status;
    for (ValueId output : source_.outputs) {
      if (MutatedBase(output) == nullptr && !(KeepsLayout(output, false) && KeepsStrides(output)))
        return absl::UnimplementedError("a written result has another layout");
      if (absl::Status status = AddOutput(output); !status.ok()) return status;
    }
    return CheckAliasing();
  }

 private:
  void FindLastUses() {
    last_use_.resize(source_.values.size());
    const auto end = source_.nodes.data() + source_.nodes.size();
    for (const Node& node : source_.nodes) {
      ForEachOperandValue(node, [&](ValueId id) { last_use_[static_cast<size_t>(id)] = &node; });
    }
    for (ValueId id : source_.outputs) last_use_[static_cast<size_t>(id)] = end;
    for (ValueId id : source_.inputs) last_use_[static_cast<size_t>(id)] = end;
    for (const GraphConstant& constant : source_.constants) last_use_[static_cast<size_t>(constant.id)] = end;
  }

  struct Input {
    ValueId source;
    ValueId target;
    at::Tensor fake;
    at::Tensor wrapper;
    bool mutated = false;
  };

  at::Tensor FakeOf(const TensorMeta& meta, c10::Storage memory) {
    at::Tensor shadow = at::detail::make_tensor<c10::TensorImpl>(
        std::move(memory), c10::DispatchKeySet(DispatchKey::Meta), c10::scalarTypeToTypeMeta(meta.dtype));
    shadow.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes, meta.strides, meta.storage_offset);
    if (meta.is_conj) shadow.unsafeGetTensorImpl()->_set_conj(true);
    if (meta.is_neg) shadow.unsafeGetTensorImpl()->_set_neg(true);
    return FakeTensorImpl::Wrap(std::move(shadow), meta.device, target_);
  }

  // One shadow storage per storage of the source graph; inputs that share memory keep sharing it.
  c10::Storage MemoryOf(const TensorMeta& meta) {
    c10::Storage& memory = memory_[meta.storage];
    if (!memory) memory = MakeMetaStorage(0);
    const int64_t bytes = BytesSpanned(meta);
    if (memory.nbytes() < static_cast<size_t>(bytes)) memory.set_nbytes(static_cast<size_t>(bytes));
    return memory;
  }

  void AddInput(ValueId id) {
    const TensorMeta& meta = source_.meta(id);
    if (meta.is_number) return AddNumber(id);
    Input input{id, kNoValue, FakeOf(meta, MemoryOf(meta))};
    input.target = target_.NewValue(*AsFake(input.fake));
    target_.graph.values[static_cast<size_t>(input.target)].requires_grad = meta.requires_grad;
    target_.graph.inputs.push_back(input.target);
    input.wrapper = functional::to_functional_tensor(input.fake);
    tensors_[static_cast<size_t>(id)] = input.wrapper;
    inputs_.push_back(std::move(input));
  }

  void AddNumber(ValueId id) {
    const bool is_float = source_.meta(id).dtype == at::kDouble;
    const std::shared_ptr<OpenNumber> number = target_.NewNumber(is_float ? at::Scalar(0.375) : at::Scalar(int64_t{5}));
    target_.graph.inputs.push_back(number->value);
    tensors_[static_cast<size_t>(id)] = target_.TensorOfNumber(number);
    numbers_[id] = number;
  }

  // Nothing may ask what the numbers are worth, which is not known here.
  absl::Status CheckNumbers() const {
    for (const auto& [id, number] : numbers_) {
      if (number->looked || !target_.number_answers.empty())
        return absl::UnimplementedError("an open number is looked at");
    }
    return absl::OkStatus();
  }

  void OpenNumberOperands(const Node& node, torch::jit::Stack& stack) const {
    for (size_t i = 0; i < node.operands.size(); ++i) {
      if (IsNumberOperand(node, i)) stack[i] = ArgumentOfNumber(numbers_.at(node.operands[i].value));
    }
  }

  // Numbers stay real tensors, so that kernels that look at them may (see OperandOf).
  void AddConstant(const GraphConstant& constant) {
    const ValueId id = target_.AddConstant(constant.tensor, constant.tensor);
    at::Tensor& tensor = tensors_[static_cast<size_t>(constant.id)];
    if (constant.tensor.dim() == 0 && constant.tensor.is_cpu()) {
      tensor = constant.tensor;
      return;
    }
    tensor = FakeConstant(constant, id);
  }

  at::Tensor FakeConstant(const GraphConstant& constant, ValueId id) {
    at::Tensor fake = FakeOf(source_.meta(constant.id), MakeMetaStorage(constant.tensor.storage().nbytes()));
    AsFake(fake)->set_value(id);
    at::Tensor wrapper = functional::to_functional_tensor(fake);
    if (constant.tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      fake.unsafeGetTensorImpl()->set_wrapped_number(true);
      wrapper.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    return wrapper;
  }

  // What a node that has no operands but numbers computes is a tensor of each call, not of the compilation.
  bool HasOnlyNumbers(const Node& node) const {
    bool found = false, only = true;
    for (size_t i = 0; i < node.operands.size(); ++i) {
      if (IsNumberOperand(node, i)) continue;
      VisitTensors(node.operands[i], [&](ValueId id) {
        found = true;
        only &= !functional::isFunctionalTensor(tensors_[static_cast<size_t>(id)]);
      });
    }
    return found && only;
  }

  bool ReadsOpenNumber(const Node& node) const {
    bool found = false;
    ForEachOperandValue(node, [&](ValueId id) { found |= source_.meta(id).is_number; });
    return found;
  }

  // The tensor that stands for `id`; as a fake also where it is a number.
  const at::Tensor& OperandOf(ValueId id, bool as_fake) {
    const at::Tensor& tensor = tensors_[static_cast<size_t>(id)];
    if (!as_fake || !tensor.defined() || functional::isFunctionalTensor(tensor)) return tensor;
    at::Tensor& fake = fake_numbers_[id];
    for (const GraphConstant& constant : source_.constants) {
      if (constant.id != id || fake.defined()) continue;
      fake = FakeConstant(constant, target_.FindConstant(tensor));
    }
    return fake;
  }

  absl::Status Replay(const Node& node) {
    target_.location = node.location;
    target_.torch_call = node.torch_call;
    if (ReordersRandomNumbers(source_, node)) {
      return absl::UnimplementedError(absl::StrCat(OperatorName(node.op), " on a tensor that is not contiguous"));
    }
    if (absl::Status status = CheckWrites(node); !status.ok()) return status;
    if (absl::Status status = CheckLayouts(node); !status.ok()) return status;
    try {
      if (WritesRunningStatistics(node)) {
        ReplayBatchNorm(node);
      } else {
        torch::jit::Stack stack;
        const bool as_fakes = HasOnlyNumbers(node);
        if (as_fakes && ReadsOpenNumber(node)) return absl::UnimplementedError("a tensor of an open number alone");
        PushOperands(node, [&](ValueId id) -> const at::Tensor& { return OperandOf(id, as_fakes); }, stack);
        OpenNumberOperands(node, stack);
        if (IsPlainView(node)) {
          const at::Tensor view = stack[0].toTensor().view(source_.meta(node.outputs[0]).sizes);
          stack.assign(1, view);
        } else {
          node.op.callBoxed(&stack);
        }
        TakeResults(node, stack,
                    [&](ValueId id, at::Tensor tensor) { tensors_[static_cast<size_t>(id)] = std::move(tensor); });
      }
    } catch (const std::exception& error) {
      return absl::UnimplementedError(
          absl::StrCat(OperatorName(node.op), " has no functional form: ", ErrorText(error)));
    }
    NoteViews(node);
    return CheckResults(node);
  }

  // Turn this: _reshape_alias(x, [2, 3], [6, 1]); expand(x, [1, 4]) of an x of four elements
  // Into this: view(x, [2, 3]);                   view(x, [1, 4])
  bool IsPlainView(const Node& node) const {
    if (node.op.schema().name() == "aten::_reshape_alias") return true;
    return node.op.schema().name() == "aten::expand" &&
           source_.meta(node.outputs[0]).numel() == source_.meta(node.operands[0].value).numel();
  }

  // as_strided, which counts from the start of the storage, of a tensor that is all of its own, as autograd does it.
  bool IsPartOfAWhole(const Node& node) const {
    if (node.op.schema().name() != "aten::as_strided") return false;
    const TensorMeta &whole = source_.meta(node.operands[0].value), &part = source_.meta(node.outputs[0]);
    const auto size = static_cast<int64_t>(c10::elementSize(whole.dtype));
    return whole.storage_offset == 0 && tensors_[static_cast<size_t>(node.operands[0].value)].defined() &&
           tensors_[static_cast<size_t>(node.operands[0].value)].is_non_overlapping_and_dense() &&
           BytesSpanned(part) <= whole.numel() * size && HasDistinctElements(part);
  }

  // `_unsafe_view`, `unsafe_split`: views that functionalization takes for new tensors, as they are where nothing else
  // is read of that memory from now on.
  bool TakesMemoryOver(const Node& node) const {
    const std::string& name = node.op.schema().name();
    if (!name.starts_with("aten::unsafe_") && name != "aten::_unsafe_view") return false;
    const int32_t storage = source_.meta(node.operands[0].value).storage;
    for (size_t id = 0; id < last_use_.size(); ++id) {
      const bool is_older = tensors_[id].defined() && !absl::c_linear_search(node.outputs, static_cast<ValueId>(id));
      if (is_older && source_.values[id].storage == storage && last_use_[id] > &node) return false;
    }
    return true;
  }

  // What lies in the memory of what it was made of, by a view that cannot be written through.
  void NoteViews(const Node& node) {
    const bool is_exact = IsPlainView(node) || MutatesArguments(node.op) || IsWrittenExactly(OperatorName(node.op)) ||
                          IsPartOfAWhole(node) || TakesMemoryOver(node);
    for (const Operand& operand : node.operands) {
      VisitTensors(operand, [&](ValueId id) {
        for (ValueId output : node.outputs) {
          if (output == kNoValue || source_.meta(output).storage != source_.meta(id).storage) continue;
          const Node* view = is_exact ? read_only_[static_cast<size_t>(id)] : &node;
          if (view != nullptr) read_only_[static_cast<size_t>(output)] = view;
        }
      });
    }
  }

  template <typename Visit>
  static void VisitTensors(const Operand& operand, Visit visit) {
    if (operand.kind == Operand::Kind::kValue && operand.value != kNoValue) visit(operand.value);
    if (operand.kind != Operand::Kind::kValueList) return;
    for (ValueId id : operand.values) {
      if (id != kNoValue) visit(id);
    }
  }

  // Where an operator writes memory that it also reads in another layout, or writes one element twice, the order of its
  // writes shows, or eager raises: the functional form would do neither.
  absl::Status CheckWrites(const Node& node) const {
    if (IsSwitchedOff("alias", "Operands")) return absl::OkStatus();
    const auto& arguments = node.op.schema().arguments();
    absl::Status status;
    for (size_t i = 0; i < node.operands.size(); ++i) {
      const c10::AliasInfo* alias = arguments[i].alias_info();
      if (alias == nullptr || !alias->isWrite()) continue;
      VisitTensors(node.operands[i], [&](ValueId written) {
        const TensorMeta& target = source_.meta(written);
        if (const Node* view = read_only_[static_cast<size_t>(written)]) {
          status = absl::UnimplementedError(
              absl::StrCat("no exact functional form of a write through ", OperatorName(view->op)));
        }
        for (size_t d = 0; d < target.sizes.size(); ++d) {
          if (target.sizes[d] > 1 && target.strides[d] == 0) {
            status = absl::UnimplementedError("a tensor whose elements share memory is written");
          }
        }
        for (const Operand& operand : node.operands) {
          VisitTensors(operand, [&](ValueId read) {
            const TensorMeta& other = source_.meta(read);
            if (read == written || target.storage < 0 || other.storage != target.storage) return;
            const bool alike = other.sizes == target.sizes && other.strides == target.strides;
            if (alike && (other.storage_offset == target.storage_offset || AreApart(other, target))) return;
            status = absl::UnimplementedError("an operator writes memory that it reads in another layout");
          });
        }
      });
    }
    return status;
  }

  // Functional operators choose the strides of their results; what follows was recorded for those of the written
  // tensor. To a view they matter, and to the order of random numbers; to other operators as far as their own results
  // have other strides.
  absl::Status CheckLayouts(const Node& node) {
    const auto& arguments = node.op.schema().arguments();
    const bool is_view = std::any_of(arguments.begin(), arguments.end(), [](const c10::Argument& argument) {
      return argument.alias_info() != nullptr && !argument.alias_info()->isWrite();
    });
    if (!is_view && !node.op.hasTag(at::Tag::nondeterministic_seeded)) return absl::OkStatus();
    absl::Status status;
    const bool absolute = node.op.schema().name() == "aten::as_strided";
    for (const Operand& operand : node.operands) {
      VisitTensors(operand, [&](ValueId id) {
        if (!KeepsLayout(id, absolute)) status = absl::UnimplementedError("a written tensor has another layout");
      });
    }
    return status;
  }

  absl::Status CheckResults(const Node& node) {
    const auto& returns = node.op.schema().returns();
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const bool is_written = returns.size() == node.outputs.size() && returns[i].alias_info() != nullptr;
      if (is_written || node.outputs[i] == kNoValue || KeepsLayout(node.outputs[i], false)) continue;
      return absl::UnimplementedError("what is made of a written tensor has another layout");
    }
    return absl::OkStatus();
  }

  bool KeepsLayout(ValueId id, bool with_offset) {
    const at::Tensor& tensor = tensors_[static_cast<size_t>(id)];
    if (!tensor.defined() || !functional::isFunctionalTensor(tensor)) return true;
    const at::Tensor fake = Synced(tensor);
    const TensorMeta& meta = source_.meta(id);
    if (with_offset && fake.storage_offset() != meta.storage_offset) return false;
    if (fake.sizes() != at::IntArrayRef(meta.sizes)) return false;
    for (size_t d = 0; d < meta.sizes.size(); ++d) {
      if (meta.sizes[d] == 0) return true;
      if (meta.sizes[d] > 1 && fake.strides()[d] != meta.strides[d]) return false;
    }
    return true;
  }

  // With those of sizes that are 1, which no operator reads but programs may.
  bool KeepsStrides(ValueId id) {
    const at::Tensor& tensor = tensors_[static_cast<size_t>(id)];
    if (!tensor.defined() || !functional::isFunctionalTensor(tensor)) return true;
    return source_.meta(id).numel() == 0 || Synced(tensor).strides() == at::IntArrayRef(source_.meta(id).strides);
  }

  // Turn this: out, mean, rstd = native_batch_norm(x, w, b, running_mean, running_var, true, momentum, eps)
  // Into this: out, mean, rstd, new_mean, new_var = _native_batch_norm_legit_functional(the same);
  //            running_mean.copy_(new_mean); running_var.copy_(new_var)
  void ReplayBatchNorm(const Node& node) {
    static const c10::OperatorHandle legit =
        c10::Dispatcher::singleton().findSchemaOrThrow("aten::_native_batch_norm_legit_functional", "");
    torch::jit::Stack stack;
    PushOperands(node, [&](ValueId id) -> const at::Tensor& { return tensors_[static_cast<size_t>(id)]; }, stack);
    at::Tensor mean = stack[kBatchNormMean].toTensor(), var = stack[kBatchNormVariance].toTensor();
    legit.callBoxed(&stack);
    mean.copy_(stack[3].toTensor());
    var.copy_(stack[4].toTensor());
    stack.resize(3);
    TakeResults(node, stack,
                [&](ValueId id, at::Tensor tensor) { tensors_[static_cast<size_t>(id)] = std::move(tensor); });
  }

  // The fake behind a wrapper, up to date with all writes to its memory.
  at::Tensor Synced(const at::Tensor& tensor) {
    if (!functional::isFunctionalTensor(tensor)) return tensor;
    FunctionalizeScope scope;
    functional::sync(tensor);
    return functional::from_functional_tensor(tensor);
  }

  absl::Status FindMutations() {
    for (Input& input : inputs_) {
      auto* wrapper = functional::unsafeGetFunctionalWrapper(input.wrapper);
      input.mutated = wrapper->has_data_mutation();
      if (!input.mutated || IsSwitchedOff("alias", "WrittenInputs")) continue;
      if (wrapper->has_metadata_mutation() && !KeepsOwnLayout(input)) {
        return absl::UnimplementedError("an input is written and its metadata are changed in place");
      }
      for (const Input& other : inputs_) {
        if (&other != &input && source_.meta(other.source).storage == source_.meta(input.source).storage) {
          return absl::UnimplementedError("an input that shares memory with another input is written");
        }
      }
      target_.graph.mutations.push_back(InputMutation{input.target, AsFake(Synced(input.wrapper))->value()});
    }
    return absl::OkStatus();
  }

  // Whether the last result that is the input itself is laid out as the input.
  bool KeepsOwnLayout(const Input& input) const {
    const TensorMeta& before = source_.meta(input.source);
    for (size_t i = source_.nodes.size(); i-- > 0;) {
      for (ValueId id : source_.nodes[i].outputs) {
        if (id == kNoValue || !tensors_[static_cast<size_t>(id)].is_same(input.wrapper)) continue;
        const TensorMeta& after = source_.meta(id);
        return after.sizes == before.sizes && after.strides == before.strides &&
               after.storage_offset == before.storage_offset;
      }
    }
    return true;
  }

  // The mutated input whose memory `id` shares, if any.
  const Input* MutatedBase(ValueId id) const {
    for (const Input& input : inputs_) {
      if (input.mutated && source_.meta(input.source).storage == source_.meta(id).storage) return &input;
    }
    return nullptr;
  }

  // An output in a mutated input's memory must be that memory, which is written after the last node, and no copy of it.
  absl::Status AddOutput(ValueId id) {
    const at::Tensor& tensor = tensors_[static_cast<size_t>(id)];
    ValueId target;
    if (const Input* base = MutatedBase(id)) {
      target = tensor.is_same(base->wrapper) ? base->target : ViewOf(*base, source_.meta(id));
      if (target == kNoValue) return absl::UnimplementedError("a result is no part of a written input");
    } else if (const at::Tensor fake = Synced(tensor); IsFake(fake)) {
      target = AsFake(fake)->value();
    } else {
      target = target_.FindConstant(fake);
    }
    if (target == kNoValue) return absl::InternalError("a result is not computed by the graph");
    target_.graph.values[static_cast<size_t>(target)].requires_grad = source_.meta(id).requires_grad;
    target_.graph.outputs.push_back(target);
    return absl::OkStatus();
  }

  // From where the input begins: no guard says where that is in its memory.
  ValueId ViewOf(const Input& base, const TensorMeta& meta) {
    at::Tensor view = base.fake;
    const TensorMeta& whole = source_.meta(base.source);
    if (meta.dtype != whole.dtype || meta.is_conj != whole.is_conj || meta.is_neg != whole.is_neg) return kNoValue;
    int64_t distance = meta.storage_offset - view.storage_offset();
    std::vector<std::pair<int64_t, int64_t>> dims;  // stride, dimension
    for (int64_t d = 0; d < view.dim(); ++d) dims.emplace_back(view.stride(d), d);
    std::sort(dims.rbegin(), dims.rend());
    for (const auto& [stride, d] : dims) {
      if (stride <= 0 || distance < stride) continue;
      const int64_t steps = std::min(distance / stride, view.size(d) - 1);
      view = at::slice(view, d, steps);
      distance -= steps * stride;
    }
    return distance == 0 ? AsFake(at::as_strided(view, meta.sizes, meta.strides))->value() : kNoValue;
  }

  // Outputs share memory with inputs and each other exactly as in the source graph.
  absl::Status CheckAliasing() const {
    std::vector<std::pair<ValueId, ValueId>> ends;
    for (const Input& input : inputs_) ends.emplace_back(input.source, input.target);
    for (size_t i = 0; i < source_.outputs.size(); ++i) ends.emplace_back(source_.outputs[i], target_.graph.outputs[i]);
    for (size_t i = inputs_.size(); i < ends.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        const bool before = source_.meta(ends[i].first).storage == source_.meta(ends[j].first).storage;
        const bool after = target_.graph.meta(ends[i].second).storage == target_.graph.meta(ends[j].second).storage;
        if (before != after) return absl::UnimplementedError("the aliasing of the outputs cannot be kept");
      }
    }
    return absl::OkStatus();
  }

  const Graph& source_;
  FakeRecording& target_;
  std::vector<at::Tensor> tensors_;     // by ValueId of the source graph
  std::vector<const Node*> read_only_;  // likewise: the view because of which it cannot be written through
  std::vector<const Node*> last_use_;   // likewise: the last node that reads it; behind the last for what outlives them
  absl::node_hash_map<ValueId, at::Tensor> fake_numbers_;
  absl::flat_hash_map<ValueId, std::shared_ptr<OpenNumber>> numbers_;
  std::vector<Input> inputs_;
  absl::flat_hash_map<int32_t, c10::Storage> memory_;
};

}  // namespace

absl::StatusOr<Graph> Functionalize(Graph graph) {
  if (!Mutates(graph)) return graph;
  c10::InferenceMode normal(false);
  FakeSession session;
  c10::impl::ExcludeDispatchKeyGuard below(kAboveRecordedViews);
  FakeRecording& recording = *FakeRecording::Current();
  try {
    if (absl::Status status = Functionalizer(graph, recording).Run(); !status.ok()) return status;
  } catch (const std::exception& error) {
    return absl::UnimplementedError(ErrorText(error));
  }
  return std::move(recording.graph);
}

}  // namespace framejit
