// The dispatcher's fallback for DispatchKey::Fake: records an operator that runs on fakes. It converts the arguments to
// shadows, computes the results' metadata on them (RunMetadata), wraps the results as fakes and appends a node.
// Operators on purely real tensors run for real.
#include <ATen/native/TypeProperties.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/Exceptions.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "graph/fake/fake_tensor_impl.h"
#include "graph/fake/known_value.h"
#include "graph/fake/number_answers.h"
#include "graph/fake/number_rules.h"
#include "graph/fake/op_info.h"
#include "graph/fake/plain_call.h"
#include "graph/fake/probed_layouts.h"
#include "graph/fake/random_state_operators.h"
#include "graph/fake/recording.h"
#include "graph/recorded_level.h"

namespace framejit {
namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using torch::jit::Stack;

// How many metadata kernels of torch are running in this thread. What they call in turn comes back to the fallback,
// which answers it from the same kernels; the dispatcher would find Python ones.
thread_local int metadata_depth = 0;
// Of the operator whose metadata are computed; what its kernel calls in turn is on the same.
thread_local c10::DeviceType metadata_device = c10::kCPU;

class MetadataScope {
 public:
  explicit MetadataScope(bool intercept) : guard_(Included(intercept), Excluded(intercept)), intercept_(intercept) {
    metadata_depth += intercept_ ? 1 : 0;
  }
  ~MetadataScope() { metadata_depth -= intercept_ ? 1 : 0; }
  MetadataScope(const MetadataScope&) = delete;
  MetadataScope& operator=(const MetadataScope&) = delete;

 private:
  static DispatchKeySet Included(bool intercept) {
    const DispatchKeySet keys(DispatchKey::BackendSelect);
    return intercept ? keys.add(DispatchKey::Fake) : keys;
  }
  static DispatchKeySet Excluded(bool intercept) {
    const DispatchKeySet keys = c10::impl::tls_local_dispatch_key_set().excluded_ | kAboveMetadata;
    return intercept ? keys.remove(DispatchKey::Fake) : keys;
  }

  c10::impl::ForceDispatchKeyGuard guard_;
  bool intercept_;
};

void LogSlowMeta(OpInfo& info) {
  if (info.logged) return;
  info.logged = true;
  if (LogEnabled(LogArtifact::k_metas)) {
    Log(LogArtifact::k_metas, absl::StrCat("metadata of ", NameOf(info), " comes from the dispatcher"));
  }
}

void RunMetadata(const c10::OperatorHandle& op, OpInfo& info, Stack* stack);

// An out= operator by its functional form: the results are its last arguments, which have to fit.
void RunFunctional(const c10::OperatorHandle& op, OpInfo& info, Stack* stack) {
  const size_t outs = op.schema().returns().size();
  const std::vector<IValue> given(stack->end() - static_cast<std::ptrdiff_t>(outs), stack->end());
  stack->resize(stack->size() - outs);
  const size_t base = stack->size() - info.arguments.size() + outs;
  RunMetadata(*info.functional, OpInfoOf(*info.functional), stack);
  for (size_t i = 0; i < outs; ++i) {
    const at::Tensor &made = (*stack)[base + i].toTensor(), &out = given[i].toTensor();
    if (out.numel() == 0 && made.numel() != 0 && made.is_contiguous()) {
      MetadataScope scope(/*intercept=*/false);
      out.resize_(made.sizes());
    }
    TORCH_CHECK(made.sizes() == out.sizes() && c10::canCast(made.scalar_type(), out.scalar_type()),
                "framejit: out= of ", NameOf(info), " has another shape or dtype");
    (*stack)[base + i] = out;
  }
}

// Replaces the arguments, already shadows, by results.
void RunMetadata(const c10::OperatorHandle& op, OpInfo& info, Stack* stack) {
  switch (info.source) {
    case MetadataSource::kOwn: {
      MetadataScope scope(/*intercept=*/true);
      MetaCall call(*stack, info.arguments.size(), metadata_device);
      info.own(call);
      return;
    }
    case MetadataSource::kCppKernel: {
      MetadataScope scope(/*intercept=*/true);
      info.kernel->callBoxed(op, DispatchKeySet(DispatchKey::Meta), stack);
      return;
    }
    case MetadataSource::kComposite: {
      MetadataScope scope(/*intercept=*/true);
      info.kernel->callBoxed(op, DispatchKeySet(DispatchKey::Meta), stack);
      return;
    }
    case MetadataSource::kFunctional:
      return RunFunctional(op, info, stack);
    case MetadataSource::kDispatcher:
    case MetadataSource::kOnFakes: {
      LogSlowMeta(info);
      Disarm disarm;
      MetadataScope scope(/*intercept=*/false);
      op.callBoxed(stack);
      return;
    }
  }
}

void RunForReal(const c10::OperatorHandle& op, DispatchKeySet keys, Stack* stack) {
  c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
  op.redispatchBoxed(keys & DispatchKeySet(DispatchKeySet::FULL_AFTER, DispatchKey::Fake), stack);
}

// Calls visit(const at::Tensor&) for every defined tensor argument.
template <typename Visit>
void ForEachTensor(const OpInfo& info, const Stack& stack, size_t base, Visit visit) {
  for (size_t i = 0; i < info.arguments.size(); ++i) {
    const IValue& value = stack[base + i];
    switch (info.arguments[i]) {
      case ArgumentKind::kOther:
        break;
      case ArgumentKind::kTensor:
        if (value.isTensor() && value.toTensor().defined()) visit(value.toTensor());
        break;
      case ArgumentKind::kTensorList:
      case ArgumentKind::kOptionalTensorList:
        if (!value.isList()) break;
        for (const IValue& item : value.toListRef()) {
          if (item.isTensor() && item.toTensor().defined()) visit(item.toTensor());
        }
        break;
    }
  }
}

// A call that a metadata kernel made. Scalars on the CPU may be real; they are computed with for real.
void RunNested(const c10::OperatorHandle& op, OpInfo& info, DispatchKeySet keys, Stack* stack) {
  const size_t base = stack->size() - info.arguments.size();
  bool meta = false;
  ForEachTensor(info, *stack, base, [&](const at::Tensor& tensor) { meta |= tensor.is_meta(); });
  if (!meta && info.device_argument >= 0) {
    const IValue& device = (*stack)[base + static_cast<size_t>(info.device_argument)];
    meta = device.isDevice() && device.toDevice().is_meta();
  }
  if (!meta) return RunForReal(op, keys, stack);
  RunMetadata(op, info, stack);
}

[[noreturn]] void FailAndThrow(FakeRecording& recording, BreakCode code, const std::string& detail) {
  recording.Fail(code, detail);
  TORCH_CHECK(false, "framejit: cannot be recorded: ", detail);
}

// One operator call on fakes, from arguments to node.
class RecordedCall {
 public:
  RecordedCall(const c10::OperatorHandle& op, OpInfo& info, FakeRecording& recording, Stack* stack)
      : op_(op), info_(info), recording_(recording), stack_(*stack), base_(stack->size() - info.arguments.size()) {}

  // `results`: what the operator gives in the call that is recorded, where only that says how large its results are.
  void Run(c10::Device device, bool device_known, Stack* results = nullptr) {
    device_ = device;
    Node node{op_};
    node.location = recording_.location;
    node.torch_call = recording_.torch_call;
    node.operands.resize(info_.arguments.size());
    if (const FakeTensorImpl* like = results == nullptr ? PlainOperand() : nullptr; like != nullptr)
      return RunLike(*like, std::move(node));
    for (size_t i = 0; i < info_.arguments.size(); ++i) TakeArgument(i, node.operands[i]);
    TakeDevice(device_known);
    metadata_device = device_.type();
    if (results != nullptr) {
      stack_.resize(base_);
      for (IValue& result : *results) stack_.push_back(ShadowOfResult(result.toTensor()));
    } else if (IsOfGaps()) {
      RunOnCopies();
    } else if (IsProbed()) {
      RunWithProbe();
    } else {
      RunMetadata(op_, info_, &stack_);
    }
    CheckOutSizes();
    for (size_t i = base_; i < stack_.size(); ++i) WrapResult(stack_[i], node);
    CheckNumbers(node);
    CheckOpenNumbers(recording_.graph, info_, node, numbers_, has_number_operand_);
    if (info_.recorded) recording_.graph.nodes.push_back(std::move(node));
  }

 private:
  // Where the operator keeps the layout and dtype of plain operands (KeepsPlainLayout), one of those that it is given:
  // plain and of one kind, beside numbers that torch wrapped. Null otherwise.
  const FakeTensorImpl* PlainOperand() const {
    if (!info_.keeps_plain_layout) return nullptr;
    const FakeTensorImpl* first = nullptr;
    for (size_t i = 0; i < info_.arguments.size(); ++i) {
      const IValue& value = stack_[base_ + i];
      if (info_.arguments[i] == ArgumentKind::kOther) {
        if (!value.isInt() && !value.isDouble() && !value.isString()) return nullptr;
        continue;
      }
      if (!value.isTensor() || !value.toTensor().defined()) return nullptr;
      const at::Tensor& tensor = value.toTensor();
      const FakeTensorImpl* fake = AsFake(tensor);
      if (fake == nullptr) {
        if (!IsPlainNumber(tensor)) return nullptr;
      } else if (first == nullptr) {
        if (fake->recording_serial() != recording_.serial() || !IsPlain(*fake)) return nullptr;
        first = fake;
      } else if (fake->recording_serial() != recording_.serial() || !IsLikePlain(*fake, *first)) {
        return nullptr;
      }
    }
    return first;
  }

  // A Python number that is no bool and not left open: it does not change what type a floating tensor has.
  bool IsPlainNumber(const at::Tensor& real) const {
    return real.dim() == 0 && real.is_cpu() && real.unsafeGetTensorImpl()->is_wrapped_number() &&
           (real.scalar_type() == at::kLong || real.scalar_type() == at::kDouble) &&
           recording_.FindNumber(real) == nullptr;
  }

  void RunLike(const FakeTensorImpl& like, Node node) {
    for (size_t i = 0; i < info_.arguments.size(); ++i) {
      const IValue& value = stack_[base_ + i];
      Operand& operand = node.operands[i];
      if (info_.arguments[i] == ArgumentKind::kOther) {
        operand.constant = value;
        continue;
      }
      operand.kind = Operand::Kind::kValue;
      const FakeTensorImpl* fake = AsFake(value.toTensor());
      operand.value = fake != nullptr ? fake->value() : recording_.NumberConstant(value.toTensor());
    }
    at::Tensor result = FakeTensorImpl::NewLike(like, recording_);
    node.outputs.push_back(recording_.NewValue(*AsFake(result)));
    CheckNumbers(node);
    stack_.resize(base_);
    stack_.emplace_back(std::move(result));
    recording_.graph.nodes.push_back(std::move(node));
  }

  // A pointwise operator of several tensors, one of which repeats its elements or leaves some out.
  bool IsOfGaps() const {
    if (!info_.is_pointwise || info_.written_arguments != 0 || !device_.is_cpu()) return false;
    int count = 0;
    bool found = false;
    ForEachTensor(info_, stack_, base_, [&](const at::Tensor& tensor) {
      count += tensor.dim() > 0 ? 1 : 0;
      found |= !tensor.is_non_overlapping_and_dense();
    });
    return found && count > 1;
  }

  // The CPU converts operands of other dtypes first (TensorIteratorBase::compute_types), and the strides of the result
  // are those of what is converted, which has no gaps; metadata are computed without that.
  void RunOnCopies() {
    Stack arguments(stack_.begin() + static_cast<std::ptrdiff_t>(base_), stack_.end());
    RunMetadata(op_, info_, &stack_);
    if (stack_.size() != base_ + 1 || !stack_[base_].isTensor()) return;
    at::native::ResultTypeState types = {};
    ForEachTensor(info_, arguments, 0,
                  [&](const at::Tensor& tensor) { types = at::native::update_result_type_state(tensor, types); });
    at::ScalarType common = at::native::result_type(types);
    const at::ScalarType result = stack_[base_].toTensor().scalar_type();
    if (at::isIntegralType(common, /*includeBool=*/true) && result != at::kBool) common = result;
    bool converted = false;
    for (size_t i = info_.name.name == "aten::where" ? 1 : 0; i < arguments.size(); ++i) {
      if (!arguments[i].isTensor() || !arguments[i].toTensor().defined()) continue;
      const at::Tensor& tensor = arguments[i].toTensor();
      if (tensor.scalar_type() == common || tensor.is_non_overlapping_and_dense()) continue;
      arguments[i] = NewLike(tensor);
      converted = true;
    }
    if (!converted) return;
    stack_.resize(base_);
    stack_.insert(stack_.end(), arguments.begin(), arguments.end());
    RunMetadata(op_, info_, &stack_);
  }

  bool IsProbed() const {
    if (info_.probe == Probe::kNever || !device_.is_cpu()) return false;
    bool found = info_.probe == Probe::kAlways;
    ForEachTensor(info_, stack_, base_, [&](const at::Tensor& tensor) {
      if (info_.probe == Probe::kVolumes && tensor.dim() != 5) return;
      found |= !tensor.is_contiguous() || tensor.suggest_memory_format() != at::MemoryFormat::Contiguous;
    });
    return found;
  }

  void RunWithProbe() {
    Stack arguments(stack_.begin() + static_cast<std::ptrdiff_t>(base_), stack_.end());
    RunMetadata(op_, info_, &stack_);
    std::vector<IValue*> results;
    for (size_t i = base_; i < stack_.size(); ++i) results.push_back(&stack_[i]);
    ProbeLayouts(op_, std::move(arguments), results);
  }

  // Replaces the argument by its shadow and describes it in `operand`.
  void TakeArgument(size_t i, Operand& operand) {
    IValue& value = stack_[base_ + i];
    const bool written = i < 64 && (info_.written_arguments >> i & 1) != 0;
    switch (info_.arguments[i]) {
      case ArgumentKind::kOther:
        if (std::shared_ptr<OpenNumber> open = NumberOfArgument(value)) return TakeNumber(std::move(open), i, operand);
        operand.constant = value;
        return;
      case ArgumentKind::kTensor:
        operand.kind = Operand::Kind::kValue;
        if (written && value.isTensor()) CheckOutDevice(i, value.toTensor());
        if (value.isTensor()) value = ShadowOf(value.toTensor(), written, operand.value);
        return;
      case ArgumentKind::kTensorList:
        if (!value.isList()) {
          operand.constant = value;  // an absent optional list
          return;
        }
        TakeList<at::Tensor>(value, written, operand);
        return;
      case ArgumentKind::kOptionalTensorList:
        TakeList<std::optional<at::Tensor>>(value, written, operand);
        return;
    }
  }

  // Operators raise where they are to write their results to another device.
  void CheckOutDevice(size_t i, const at::Tensor& tensor) const {
    if (tensor.defined() && tensor.device() != device_ && op_.schema().arguments()[i].is_out())
      FailAndThrow(recording_, BreakCode::kUnsupportedCallable, NameOf(info_) + " with out= on another device");
  }

  // Metadata are those of the number as it is here (TakesOpenNumbers).
  void TakeNumber(std::shared_ptr<OpenNumber> open, size_t i, Operand& operand) {
    IValue& value = stack_[base_ + i];
    value = open->hint;
    if (IsSpecialPower(info_, stack_[base_], *open, i == 0)) {
      operand.constant = value;
      return;
    }
    operand = Operand::Value(open->value);
    numbers_.push_back(std::move(open));
    has_number_operand_ = true;
  }

  template <typename Element>
  void TakeList(IValue& value, bool written, Operand& operand) {
    operand.kind = Operand::Kind::kValueList;
    c10::List<Element> shadows;
    const auto items = value.toListRef();
    shadows.reserve(items.size());
    operand.values.reserve(items.size());
    for (const IValue& item : items) {
      ValueId& id = operand.values.emplace_back(kNoValue);
      if (item.isTensor()) {
        shadows.push_back(ShadowOf(item.toTensor(), written, id));
      } else {
        shadows.push_back(Element());
      }
    }
    value = std::move(shadows);
  }

  at::Tensor ShadowOf(const at::Tensor& tensor, bool written, ValueId& id) {
    if (!tensor.defined()) return tensor;
    if (FakeTensorImpl* fake = AsFake(tensor)) {
      TORCH_CHECK(fake->recording_serial() == recording_.serial(),
                  "framejit: a tensor of another recording was used in ", NameOf(info_));
      id = fake->value();
      const at::Tensor& shadow = fake->shadow(recording_);
      fakes_.emplace_back(shadow.unsafeGetTensorImpl(), tensor);
      return shadow;
    }
    return ShadowOfReal(tensor, written, id);
  }

  // Real tensors: what the session was told of, and numbers, which are copied unless torch itself wrapped them.
  at::Tensor ShadowOfReal(const at::Tensor& real, bool written, ValueId& id) {
    if (written) FailAndThrow(recording_, BreakCode::kUnknownTensor, NameOf(info_) + " writes a real tensor");
    if (std::shared_ptr<OpenNumber> open = recording_.FindNumber(real)) {
      id = open->value;
      numbers_.push_back(std::move(open));
      return ShadowOfNumber(real);
    }
    const bool number = real.dim() == 0 && real.is_cpu();
    id = recording_.FindConstant(real);
    if (id == kNoValue) {
      if (!number) FailAndThrow(recording_, BreakCode::kUnknownTensor, "an argument of " + NameOf(info_));
      id = real.unsafeGetTensorImpl()->is_wrapped_number() ? recording_.NumberConstant(real)
                                                           : recording_.AddConstant(real, CopyNumber(real));
    }
    if (number) return ShadowOfNumber(real);
    MetadataScope scope(/*intercept=*/false);
    return at::Tensor(at::detail::empty_strided_meta(real.sizes(), real.strides(), real.scalar_type()));
  }

  // Metadata takes numbers as they are, but for bounds, which are to be on one device with what they bound.
  at::Tensor ShadowOfNumber(const at::Tensor& real) const {
    if (!IsClamp(info_) || !real.unsafeGetTensorImpl()->is_wrapped_number()) return real;
    MetadataScope scope(/*intercept=*/false);
    at::Tensor shadow = at::detail::empty_strided_meta({}, {}, real.scalar_type());
    shadow.unsafeGetTensorImpl()->set_wrapped_number(true);
    return shadow;
  }

  static at::Tensor ShadowOfResult(const at::Tensor& real) {
    MetadataScope scope(/*intercept=*/false);
    return at::Tensor(at::detail::empty_strided_meta(real.sizes(), real.strides(), real.scalar_type()));
  }

  static at::Tensor CopyNumber(const at::Tensor& real) {
    FakeSession::Pause pause;
    c10::impl::ExcludeDispatchKeyGuard guard(kAboveMetadata);
    return real.clone();
  }

  // An out= tensor of another size is resized, and eager warns of it unless it was empty.
  void CheckOutSizes() {
    for (const auto& [shadow, fake] : fakes_) {
      const TensorMeta& before = recording_.graph.meta(AsFake(fake)->value());
      if (shadow->sizes() == at::IntArrayRef(before.sizes)) continue;
      const bool is_out = std::any_of(op_.schema().arguments().begin(), op_.schema().arguments().end(),
                                      [](const c10::Argument& argument) { return argument.is_out(); });
      if (!is_out) return;
      const bool was_empty = std::find(before.sizes.begin(), before.sizes.end(), 0) != before.sizes.end();
      const auto& inputs = recording_.graph.inputs;
      const bool is_input = std::any_of(inputs.begin(), inputs.end(), [&](ValueId input) {
        return recording_.graph.meta(input).storage == before.storage;
      });
      if (!was_empty || is_input)
        FailAndThrow(recording_, BreakCode::kTensorMetadataMutation, NameOf(info_) + " resizes its out= tensor");
    }
  }

  // Kernels raise where a number is out of the result's range, most of them; no other form of an operator is to
  // compute with it.
  void CheckNumbers(const Node& node) {
    if (info_.number_arguments == 0 || node.outputs.empty() || node.outputs[0] == kNoValue) return;
    const at::ScalarType dtype = recording_.graph.meta(node.outputs[0]).dtype;
    if (!at::isFloatingType(dtype) || dtype == at::kDouble) return;
    const double largest = LargestNumberOf(dtype);
    for (size_t i = 0; i < node.operands.size() && i < 64; ++i) {
      const IValue& constant = node.operands[i].constant;
      if ((info_.number_arguments >> i & 1) == 0 || (!constant.isDouble() && !constant.isInt())) continue;
      const double number = constant.isInt() ? static_cast<double>(constant.toInt()) : constant.toDouble();
      if (std::isfinite(number) && std::abs(number) > largest)
        FailAndThrow(recording_, BreakCode::kUnsupportedCallable, NameOf(info_) + " with a number out of range");
    }
  }

  void TakeDevice(bool device_known) {
    if (info_.device_argument < 0) return;
    IValue& value = stack_[base_ + static_cast<size_t>(info_.device_argument)];
    if (value.isDevice()) {
      device_ = value.toDevice();
      if (device_.is_cuda() && !device_.has_index()) device_ = TheOnlyGpu();
    } else if (device_known) {
      return;
    }
    value = IValue(c10::Device(c10::kMeta));
  }

  // A device without an index is the thread's current one. Nothing guards which of several that is.
  c10::Device TheOnlyGpu() {
    const bool several =
        c10::impl::hasDeviceGuardImpl(c10::kCUDA) && c10::impl::getDeviceGuardImpl(c10::kCUDA)->deviceCount() > 1;
    if (several) FailAndThrow(recording_, BreakCode::kUnsupportedCallable, NameOf(info_) + " on one of several GPUs");
    return {c10::kCUDA, 0};
  }

  void WrapResult(IValue& value, Node& node) {
    if (value.isTensor()) {
      value = WrapTensor(std::move(value).toTensor(), node);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> fakes;
      for (at::Tensor& tensor : value.toTensorVector()) fakes.push_back(WrapTensor(std::move(tensor), node));
      node.list_lengths.push_back(static_cast<int32_t>(fakes.size()));
      value = std::move(fakes);
    }
  }

  // A shadow that was an argument means its fake (in-place and out= operators), which gets a new value.
  at::Tensor WrapTensor(at::Tensor shadow, Node& node) {
    if (!shadow.defined()) {
      node.outputs.push_back(kNoValue);
      return shadow;
    }
    TORCH_CHECK(shadow.is_meta(), "framejit: metadata of ", NameOf(info_), " is on ", shadow.device());
    at::Tensor result;
    for (const auto& [argument, fake] : fakes_) {
      if (argument != shadow.unsafeGetTensorImpl()) continue;
      AsFake(fake)->Refresh(recording_);
      result = fake;
      break;
    }
    if (!result.defined()) result = FakeTensorImpl::Wrap(std::move(shadow), device_, recording_);
    node.outputs.push_back(recording_.NewValue(*AsFake(result)));
    return result;
  }

  const c10::OperatorHandle& op_;
  OpInfo& info_;
  FakeRecording& recording_;
  Stack& stack_;
  size_t base_;
  c10::Device device_{c10::kCPU};
  absl::InlinedVector<std::pair<const c10::TensorImpl*, at::Tensor>, 4> fakes_;  // shadow -> fake
  absl::InlinedVector<std::shared_ptr<OpenNumber>, 1> numbers_;
  bool has_number_operand_ = false;  // in the place of a number, not of a tensor
};

bool HasMask(const Stack& stack, size_t base) {
  for (const IValue& index : stack[base + 1].toListRef()) {
    if (!index.isTensor() || !index.toTensor().defined()) continue;
    const at::ScalarType dtype = index.toTensor().scalar_type();
    if (dtype == at::kBool || dtype == at::kByte) return true;
  }
  return false;
}

// Normalisations take inputs of reduced precision with parameters and statistics of full precision: all of them, those
// with running statistics on every device.
bool MixesDtypes(const OpInfo& info, c10::Device device, const Stack& stack, size_t base) {
  std::optional<at::ScalarType> first;
  bool mixed = false, full = true;
  ForEachTensor(info, stack, base, [&](const at::Tensor& tensor) {
    if (!first.has_value()) {
      first = tensor.scalar_type();
      return;
    }
    mixed |= tensor.scalar_type() != *first;
    full &= tensor.scalar_type() == at::kFloat;
  });
  const bool norm = info.name.name.rfind(device.is_cpu() ? "aten::native_" : "aten::native_batch_norm", 0) == 0;
  return mixed && !(norm && full && at::isReducedFloatingType(*first));
}

void CheckRecordable(const OpInfo& info, c10::Device device, FakeRecording& recording, const Stack& stack,
                     size_t base) {
  switch (info.data_dependence) {
    case DataDependence::kNone:
      break;
    case DataDependence::kAlways:
      FailAndThrow(recording, BreakCode::kDataDependent, NameOf(info));
    case DataDependence::kItem:
      FailAndThrow(recording, BreakCode::kTensorData, NameOf(info));
    case DataDependence::kMaskIndex:
      if (HasMask(stack, base)) FailAndThrow(recording, BreakCode::kDataDependent, NameOf(info) + " with a mask");
      break;
  }
  if (info.one_dtype && MixesDtypes(info, device, stack, base))
    FailAndThrow(recording, BreakCode::kUnsupportedCallable, NameOf(info) + " of tensors of several dtypes");
  if (info.replaces_memory) FailAndThrow(recording, BreakCode::kTensorMetadataMutation, NameOf(info));
}

// resize_ and resize_as_ to the sizes that the tensor has: they leave it as it is, and return it.
bool KeepsSizes(const OpInfo& info, const Stack& stack, size_t base) {
  const bool as_other = info.name.name == "aten::resize_as_";
  if ((!as_other && info.name.name != "aten::resize_") || info.arguments.size() != 3 || !stack[base + 2].isNone())
    return false;
  const at::Tensor& self = stack[base].toTensor();
  if (as_other) return self.sizes() == stack[base + 1].toTensor().sizes();
  return stack[base + 1].isIntList() && self.sizes() == at::IntArrayRef(stack[base + 1].toDimVector());
}

// What an operator says of data that is known: made of constants alone. False where it is not.
bool AnswerFromKnown(const c10::OperatorHandle& op, const OpInfo& info, FakeRecording& recording, Stack* stack,
                     size_t base) {
  if (info.data_dependence == DataDependence::kNone || info.returns_tensors || info.written_arguments != 0)
    return false;
  Stack known(stack->begin() + static_cast<std::ptrdiff_t>(base), stack->end());
  for (size_t i = 0; i < info.arguments.size(); ++i) {
    if (info.arguments[i] == ArgumentKind::kOther || known[i].isNone()) continue;
    if (!known[i].isTensor()) return false;
    const FakeTensorImpl* fake = AsFake(known[i].toTensor());
    if (fake == nullptr) continue;
    std::optional<at::Tensor> value = KnownValue(recording, fake->value());
    if (!value) return false;
    known[i] = *std::move(value);
  }
  FakeSession::Pause pause;
  op.callBoxed(known);
  stack->resize(base);
  for (IValue& result : known) stack->push_back(std::move(result));
  return true;
}

bool DependsOnData(const OpInfo& info, const Stack& stack, size_t base) {
  if (info.data_dependence == DataDependence::kMaskIndex) return HasMask(stack, base);
  return info.data_dependence != DataDependence::kNone;
}

// What an operator of torch gives in the call that is recorded, where it makes tensors whose sizes depend on data.
// Empty where that is not to be known; what it raises, it raises.
std::optional<Stack> ResultsOfData(const c10::OperatorHandle& op, const OpInfo& info, const FakeRecording& recording,
                                   const Stack& stack, size_t base) {
  if (!recording.reads_data || info.written_arguments != 0 || !info.name.name.starts_with("aten::") || IsRandom(op) ||
      !DependsOnData(info, stack, base))
    return std::nullopt;
  for (const c10::Argument& result : op.schema().returns()) {
    if (result.type()->kind() != c10::TypeKind::TensorType) return std::nullopt;
  }
  bool known = true;
  const auto real_of = [&](const at::Tensor& tensor) {
    const FakeTensorImpl* fake = AsFake(tensor);
    if (!tensor.defined() || fake == nullptr) return tensor;
    std::optional<at::Tensor> real = RealValue(recording, fake->value());
    known &= real.has_value();
    return real.value_or(at::Tensor());
  };
  Stack real(stack.begin() + static_cast<std::ptrdiff_t>(base), stack.end());
  for (IValue& value : real) {
    if (value.isTensor()) {
      value = real_of(value.toTensor());
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> items;
      for (const std::optional<at::Tensor>& item : value.toOptionalTensorVector())
        items.push_back(item.has_value() ? std::optional<at::Tensor>(real_of(*item)) : std::nullopt);
      value = std::move(items);
    } else if (value.isTensorList()) {
      return std::nullopt;
    }
  }
  if (!known) return std::nullopt;
  FakeSession::Pause pause;
  c10::InferenceMode normal(false);
  c10::impl::ExcludeDispatchKeyGuard below(kAboveRecordedViews);
  op.callBoxed(real);
  return real;
}

// What the tensor arguments of a call are, and the device of its result: that of the first tensor with dimensions, else
// of the first that is not on the CPU, since numbers on the CPU go with tensors of any device.
struct Arguments {
  bool any_tensor = false;
  bool any_fake = false;
  c10::Device device{c10::kCPU};
  bool device_final = false;
};

Arguments Inspect(const OpInfo& info, const Stack& stack, size_t base) {
  Arguments result;
  ForEachTensor(info, stack, base, [&](const at::Tensor& tensor) {
    result.any_tensor = true;
    const FakeTensorImpl* fake = AsFake(tensor);
    if (fake == nullptr) return;
    if (!result.any_fake || (!result.device_final && (fake->dim() > 0 || result.device.is_cpu()))) {
      result.device = fake->device();
      result.device_final = fake->dim() > 0;
    }
    result.any_fake = true;
  });
  return result;
}

void Record(const c10::OperatorHandle& op, OpInfo& info, DispatchKeySet keys, Stack* stack) {
  const size_t base = stack->size() - info.arguments.size();
  const Arguments arguments = Inspect(info, *stack, base);
  FakeRecording* recording = FakeRecording::Current();
  // A call without results or tensors that sets a generator's state is recorded as well.
  const bool is_state = recording != nullptr && info.recorded && !info.returns_tensors && IsRandom(op);
  if (!arguments.any_fake && (arguments.any_tensor || !info.returns_tensors) && !is_state) {
    // Functionalization checks shapes by running operators on meta tensors of its own.
    if (recording != nullptr && recording->functionalizing && info.source != MetadataSource::kOnFakes) {
      return RunNested(op, info, keys, stack);
    }
    return RunForReal(op, keys, stack);
  }
  TORCH_CHECK(
      recording != nullptr, "framejit: ", NameOf(info),
      " was called on a tensor of a recording outside of that recording (it ended, is paused, or runs in another "
      "thread)");
  if (AnswerFromKnown(op, info, *recording, stack, base)) return;
  if (info.replaces_memory && KeepsSizes(info, *stack, base)) return stack->resize(base + 1);
  std::optional<Stack> results = ResultsOfData(op, info, *recording, *stack, base);
  recording->has_read_data |= results.has_value();
  if (!results) CheckRecordable(info, arguments.device, *recording, *stack, base);
  const bool leaf = info.leaf_on_gpu && arguments.device.is_cuda();
  if (!results && info.source == MetadataSource::kComposite && !leaf) return info.kernel->callBoxed(op, keys, stack);
  if (!results && info.source == MetadataSource::kOnFakes) {
    const bool on_gpu = arguments.device.is_cuda() && info.cuda_kernel != nullptr;
    return (on_gpu ? info.cuda_kernel : info.kernel)->callBoxed(op, keys, stack);
  }
  try {
    RecordedCall(op, info, *recording, stack)
        .Run(arguments.device, arguments.any_tensor, results ? &*results : nullptr);
  } catch (const c10::NotImplementedError&) {
    recording->Fail(BreakCode::kUnsupportedCallable, NameOf(info) + " has no metadata kernel");
    throw;
  } catch (const python_error& error) {
    pybind11::gil_scoped_acquire gil;
    if (error.type != nullptr && PyErr_GivenExceptionMatches(error.type, PyExc_NotImplementedError) != 0) {
      recording->Fail(BreakCode::kUnsupportedCallable, NameOf(info) + " has no metadata kernel");
    }
    throw;
  }
}

bool HoldsSymbolic(const Stack& stack, size_t base) {
  return std::any_of(stack.begin() + static_cast<std::ptrdiff_t>(base), stack.end(), [](const IValue& value) {
    return value.isSymFloat() || value.isSymInt() || (value.isSymIntList() && !value.isIntList());
  });
}

void CallFake(const c10::OperatorHandle& op, OpInfo& info, DispatchKeySet keys, Stack* stack) {
  if (metadata_depth > 0) return RunNested(op, info, keys, stack);
  Record(op, info, keys, stack);
}

void FakeFallback(const c10::OperatorHandle& op, DispatchKeySet keys, Stack* stack) {
  OpInfo& info = OpInfoOf(op);
  if (const size_t base = stack->size() - info.arguments.size(); HoldsSymbolic(*stack, base)) {
    std::optional<c10::OperatorHandle> form = op;
    TakeNumbers(form, *stack, base);
    return CallFake(*form, OpInfoOf(*form), keys, stack);
  }
  CallFake(op, info, keys, stack);
}

}  // namespace

void RegisterFallback() {
  RegisterRandomStateOperators();
  // Never destroyed: tensors may outlive static destruction, and the dispatcher then has no use for a deregistration.
  static torch::Library* library = [] {
    auto* made = new torch::Library(torch::Library::IMPL, "_", DispatchKey::Fake, __FILE__, __LINE__);
    made->fallback(torch::CppFunction::makeFromBoxedFunction<&FakeFallback>());
    return made;
  }();
  (void)library;
}

}  // namespace framejit
