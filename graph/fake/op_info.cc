// OpInfo; see the header.
#include "graph/fake/op_info.h"

#include <ATen/core/enum_tag.h>

#include <memory>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "graph/fake/kernel_access.h"

namespace framejit {
namespace {

using c10::DispatchKey;

bool IsTensorType(const c10::Type& type) {
  if (type.kind() == c10::TypeKind::TensorType) return true;
  if (type.kind() != c10::TypeKind::OptionalType) return false;
  return type.containedType(0)->kind() == c10::TypeKind::TensorType;
}

ArgumentKind KindOf(const c10::Type& type) {
  if (IsTensorType(type)) return ArgumentKind::kTensor;
  if (type.kind() == c10::TypeKind::OptionalType)
    return KindOf(*type.containedType(0)) == ArgumentKind::kTensorList ? ArgumentKind::kTensorList
                                                                       : ArgumentKind::kOther;
  if (type.kind() != c10::TypeKind::ListType) return ArgumentKind::kOther;
  const c10::Type& element = *type.containedType(0);
  if (element.kind() == c10::TypeKind::TensorType) return ArgumentKind::kTensorList;
  return IsTensorType(element) ? ArgumentKind::kOptionalTensorList : ArgumentKind::kOther;
}

bool IsNumberType(const c10::Type& type) {
  if (type.kind() == c10::TypeKind::OptionalType) return IsNumberType(*type.containedType(0));
  return type.kind() == c10::TypeKind::NumberType;
}

DataDependence DataDependenceOf(const c10::OperatorHandle& op) {
  const std::string& name = op.schema().name();
  if (name == "aten::index" || name == "aten::_unsafe_index") return DataDependence::kMaskIndex;
  if (name == "aten::_local_scalar_dense") return DataDependence::kItem;
  if (name == "aten::one_hot") return DataDependence::kNone;  // its metadata says where it does
  const bool depends = op.hasTag(at::Tag::data_dependent_output) || op.hasTag(at::Tag::dynamic_output_shape);
  return depends ? DataDependence::kAlways : DataDependence::kNone;
}

void DescribeSchema(const c10::FunctionSchema& schema, OpInfo& info) {
  const auto& arguments = schema.arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    info.arguments.push_back(KindOf(*arguments[i].type()));
    if (arguments[i].name() == "device") info.device_argument = static_cast<int>(i);
    const c10::AliasInfo* alias = arguments[i].alias_info();
    if (alias != nullptr && alias->isWrite() && i < 64) info.written_arguments |= uint64_t{1} << i;
    if (IsNumberType(*arguments[i].type()) && i < 64) info.number_arguments |= uint64_t{1} << i;
  }
  for (const c10::Argument& result : schema.returns()) {
    if (KindOf(*result.type()) != ArgumentKind::kOther) info.returns_tensors = true;
  }
  info.recorded = info.returns_tensors || info.written_arguments != 0 || schema.returns().empty();
  static const auto* replacing = new absl::flat_hash_set<std::string_view>{
      "aten::set_", "aten::resize_", "aten::resize_as_", "aten::resize_as_sparse_", "aten::set_data"};
  info.replaces_memory = replacing->contains(schema.name());
  static const auto* uniform = new absl::flat_hash_set<std::string_view>{"aten::mm",
                                                                         "aten::bmm",
                                                                         "aten::addmm",
                                                                         "aten::baddbmm",
                                                                         "aten::mv",
                                                                         "aten::dot",
                                                                         "aten::addmv",
                                                                         "aten::addr",
                                                                         "aten::convolution",
                                                                         "aten::native_layer_norm",
                                                                         "aten::vdot",
                                                                         "aten::native_batch_norm",
                                                                         "aten::native_group_norm"};
  info.one_dtype = uniform->contains(schema.name());
}

// A CompositeExplicit kernel mirrors eager only where eager runs it too, that is where the CPU has no kernel of its
// own. Those below have one kernel for data and metadata that reads memory.
const c10::KernelFunction* CompositeExplicitKernel(const c10::OperatorHandle& op) {
  static const auto* denied = new absl::flat_hash_set<std::string_view>{"aten::convolution",
                                                                        "aten::convolution_backward",
                                                                        "aten::embedding",
                                                                        "aten::native_group_norm",
                                                                        "aten::_native_batch_norm_legit_functional",
                                                                        "aten::_native_batch_norm_legit_no_training"};
  if (denied->contains(op.schema().name()) || op.hasKernelForDispatchKey(DispatchKey::CPU)) return nullptr;
  if (const auto* kernel = FindCppKernel(op, DispatchKey::CompositeExplicitAutogradNonFunctional)) return kernel;
  return FindCppKernel(op, DispatchKey::CompositeExplicitAutograd);
}

// The functional form of an operator that writes its results to keyword arguments at its end; empty where there is
// none.
std::optional<c10::OperatorHandle> FunctionalForm(const c10::FunctionSchema& schema) {
  const auto &arguments = schema.arguments(), &returns = schema.returns();
  const size_t inputs = arguments.size() - std::min(arguments.size(), returns.size());
  if (returns.empty() || inputs == 0) return std::nullopt;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const bool written = arguments[i].alias_info() != nullptr && arguments[i].alias_info()->isWrite();
    if (written != (i >= inputs) || (written && (!arguments[i].is_out() || !IsTensorType(*arguments[i].type()))))
      return std::nullopt;
  }
  c10::Dispatcher& dispatcher = c10::Dispatcher::singleton();
  // Overloads are named after the functional one: "out", "dim_values", "bins_tensor_out".
  std::string overload = schema.overload_name();
  for (;;) {
    const size_t end = overload.rfind('_');
    overload = end == std::string::npos ? "" : overload.substr(0, end);
    std::optional<c10::OperatorHandle> found = dispatcher.findSchema({schema.name(), overload});
    bool same =
        found && found->schema().arguments().size() == inputs && found->schema().returns().size() == returns.size();
    for (size_t i = 0; same && i < inputs; ++i) {
      const c10::Argument& argument = found->schema().arguments()[i];
      same = argument.name() == arguments[i].name() && *argument.type() == *arguments[i].type() &&
             argument.alias_info() == nullptr;
    }
    // Any other kernel of the functional form may call the out= operator in turn.
    if (same && FindOwnMeta(found->operator_name()) != nullptr) return found;
    if (overload.empty()) return std::nullopt;
  }
}

// Composites with one kernel for data and metadata, which looks at data for checks alone and on the CPU alone.
bool IsLeafComposite(const std::string& name) {
  static const auto* leaves = new absl::flat_hash_set<std::string_view>{"aten::quantile", "aten::nanquantile"};
  return leaves->contains(name);
}

// Layers of cuDNN, which look at where their weights lie.
bool IsRecurrentLayer(const c10::OperatorName& name) {
  static const auto* layers =
      new absl::flat_hash_set<std::string_view>{"aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu"};
  return name.overload_name == "input" && layers->contains(name.name);
}

void ResolveMetadata(const c10::OperatorHandle& op, OpInfo& info) {
  const bool aten = op.schema().name().rfind("aten::", 0) == 0;
  if ((aten || op.schema().name().rfind("framejit::", 0) == 0) &&
      (info.own = FindOwnMeta(op.operator_name())) != nullptr) {
    info.source = MetadataSource::kOwn;
    return;
  }
  if (op.schema().name() == "aten::_fused_sdp_choice") {
    info.kernel = FindCppKernel(op, DispatchKey::CPU);
    info.cuda_kernel = FindCppKernel(op, DispatchKey::CUDA);
    if (info.kernel != nullptr) info.source = MetadataSource::kOnFakes;
    return;
  }
  const c10::KernelFunction* composite = FindCppKernel(op, DispatchKey::CompositeImplicitAutograd);
  if (composite != nullptr && !op.hasKernelForDispatchKey(DispatchKey::CPU)) {
    const bool leaf = IsLeafComposite(op.schema().name()) && info.written_arguments == 0;
    info.source = leaf ? MetadataSource::kCppKernel : MetadataSource::kComposite;
    info.kernel = composite;
    info.leaf_on_gpu = IsRecurrentLayer(op.operator_name());
    return;
  }
  if (!aten) return;
  info.kernel = FindCppKernel(op, DispatchKey::Meta);
  if (info.kernel == nullptr) info.functional = FunctionalForm(op.schema());
  if (info.functional) {
    info.source = MetadataSource::kFunctional;
    return;
  }
  if (info.kernel == nullptr) info.kernel = CompositeExplicitKernel(op);
  if (info.kernel != nullptr) info.source = MetadataSource::kCppKernel;
}

// Of torch's own operators alone: others may have effects.
Probe ProbeOf(const c10::OperatorHandle& op, const OpInfo& info) {
  static const auto* by_name = new absl::flat_hash_map<std::string_view, Probe>{
      {"aten::replication_pad1d", Probe::kOtherFormats},
      {"aten::replication_pad2d", Probe::kOtherFormats},
      {"aten::replication_pad3d", Probe::kOtherFormats},
      {"aten::reflection_pad1d", Probe::kOtherFormats},
      {"aten::reflection_pad3d", Probe::kOtherFormats},
      // Which kernel takes one depends on its sizes and on the number of threads.
      {"aten::convolution", Probe::kVolumes},
      {"aten::convolution_backward", Probe::kVolumes},
      // Depends on the library that torch was built with.
      {"aten::_fft_c2c", Probe::kAlways},
      {"aten::_fft_c2r", Probe::kAlways},
      {"aten::_fft_r2c", Probe::kAlways}};
  const std::string& name = op.schema().name();
  const bool is_own = name.starts_with("aten::");
  if (!is_own || info.written_arguments != 0 || op.hasTag(at::Tag::nondeterministic_seeded) ||
      info.data_dependence != DataDependence::kNone) {
    return Probe::kNever;
  }
  if (auto row = by_name->find(name); row != by_name->end()) return row->second;
  for (const c10::Argument& result : op.schema().returns()) {
    if (result.alias_info() != nullptr) return Probe::kNever;
  }
  const bool runs = info.source == MetadataSource::kDispatcher && op.hasKernelForDispatchKey(DispatchKey::CPU);
  return runs ? Probe::kOtherFormats : Probe::kNever;
}

}  // namespace

OpInfo& OpInfoOf(const c10::OperatorHandle& op) {
  thread_local absl::flat_hash_map<const void*, std::unique_ptr<OpInfo>> cache;
  const c10::FunctionSchema& schema = op.schema();
  std::unique_ptr<OpInfo>& entry = cache[&schema];
  // A library that is unloaded frees its schemas, and another operator may get the address.
  if (entry != nullptr && entry->name == schema.operator_name()) return *entry;
  entry = std::make_unique<OpInfo>();
  entry->name = schema.operator_name();
  DescribeSchema(schema, *entry);
  entry->data_dependence = DataDependenceOf(op);
  entry->is_pointwise = op.hasTag(at::Tag::pointwise);
  entry->keeps_plain_layout = KeepsPlainLayout(op.operator_name());
  ResolveMetadata(op, *entry);
  entry->probe = ProbeOf(op, *entry);
  return *entry;
}

std::string NameOf(const OpInfo& info) {
  return info.name.overload_name.empty() ? info.name.name : info.name.name + "." + info.name.overload_name;
}

}  // namespace framejit
