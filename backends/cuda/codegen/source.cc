// See source.h. The kernel's nodes become statements in the order of its schedule: row values once per row, element
// values in a loop over the elements of a vector, inside one over the vectors of a thread for each pass.
#include "backends/cuda/codegen/source.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "backends/cuda/codegen/operator_text.h"
#include "backends/cuda/codegen/prelude.h"
#include "backends/loop/schedule.h"

namespace framejit::cuda {
namespace {

using loop::Access;
using loop::DType;
using loop::DTypeClass;
using loop::Kernel;
using loop::Node;
using loop::Op;
using loop::ValueId;

// Which the same text always has: FNV-1a.
uint64_t Fingerprint(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

// Nothing but bfloat16 or float16 leaves the kernel: rounding to these hides errors of a few units in the last place of
// a float.
bool StoresNarrowFloats(const Kernel& kernel) {
  bool stores = false;
  for (const Node& node : kernel.nodes) {
    if (node.op != Op::kStore) continue;
    if (loop::ClassOf(node.dtype) != DTypeClass::kNarrowFloat) return false;
    stores = true;
  }
  return stores;
}

class Generator {
 public:
  Generator(const Kernel& kernel, const LaunchPlan& plan)
      : kernel_(kernel),
        plan_(plan),
        is_open_(loop::ParameterCount(kernel) > 0),
        schedule_(loop::MakeSchedule(kernel, plan.kept_bytes * plan.lanes)),
        loaded_(kernel.nodes.size()),
        approximate_(StoresNarrowFloats(kernel)) {}

  KernelSource Run() {
    const std::string ir = loop::Print(kernel_);
    const char* spread = plan_.spread == Spread::kElements ? "elements"
                         : plan_.spread == Spread::kTiles  ? "tiles"
                         : plan_.spread == Spread::kRows   ? "rows"
                                                           : "columns";
    const std::string entry =
        absl::StrFormat("framejit_%s_v%d_%016x", spread, plan_.vector, Fingerprint(ir + PrintClass(plan_)));
    Comment(ir);
    absl::StrAppend(&out_, "// ", is_open_ ? PrintClass(plan_) : Print(plan_), "\n", kTypesPrelude, kPrelude,
                    "typedef ", plan_.wide_index ? "i64" : "int", " Offset;\n\n");
    if (plan_.spread == Spread::kElements)
      Elements(entry);
    else if (plan_.spread == Spread::kTiles)
      Tiles(entry);
    else
      Rows(entry);
    return {entry, std::move(out_)};
  }

 private:
  // Of a softmax: the largest value of a row in one pass, the sum of exponentials of what is left of it in the next.
  struct Exponentials {
    ValueId most = loop::kNoValue, total = loop::kNoValue, values = loop::kNoValue;
  };

  // --- text ---

  void Comment(const std::string& text) {
    size_t begin = 0;
    while (begin < text.size()) {
      const size_t end = text.find('\n', begin);
      absl::StrAppend(&out_, "// ", text.substr(begin, end - begin), "\n");
      begin = end + 1;
    }
  }

  template <typename... Parts>
  void Line(const Parts&... parts) {
    out_.append(static_cast<size_t>(depth_) * 2, ' ');
    absl::StrAppend(&out_, parts..., "\n");
  }
  template <typename... Parts>
  void Open(const Parts&... parts) {
    Line(parts..., " {");
    ++depth_;
  }
  void Close() {
    --depth_;
    Line("}");
  }

  std::string Parameters() const {
    std::vector<std::string> parameters;
    for (size_t b = 0; b < kernel_.buffers.size(); ++b) {
      const loop::Buffer& buffer = kernel_.buffers[b];
      parameters.push_back(
          absl::StrCat(buffer.written ? "" : "const ", TypeText(buffer.dtype, true), "* __restrict__ b", b));
    }
    for (int64_t p = 0; p < loop::ParameterCount(kernel_); ++p) parameters.push_back(absl::StrCat("Offset p", p));
    return absl::StrJoin(parameters, ", ");
  }

  std::string Arguments() const {
    std::vector<std::string> arguments;
    for (size_t b = 0; b < kernel_.buffers.size(); ++b) arguments.push_back(absl::StrCat("b", b));
    for (int64_t p = 0; p < loop::ParameterCount(kernel_); ++p) arguments.push_back(absl::StrCat("p", p));
    return absl::StrJoin(arguments, ", ");
  }

  static std::string V(ValueId id) { return absl::StrCat("v", id); }
  const Node& node(ValueId id) const { return kernel_.nodes[static_cast<size_t>(id)]; }
  const Access& access(const Node& n) const { return kernel_.accesses[static_cast<size_t>(n.attr)]; }
  size_t inner() const { return kernel_.dims.size() - 1; }

  // `number`: not negative, or open.
  std::string OffsetText(int64_t number) const {
    return absl::StrCat(loop::NumberText(number), plan_.wide_index && !loop::IsOpen(number) ? "ll" : "");
  }

  // The size of the first `dims` dimensions together.
  std::string SizeText(size_t dims) const {
    int64_t closed = 1;
    std::string text;
    for (size_t d = 0; d < dims; ++d) {
      if (loop::IsOpen(kernel_.dims[d].size))
        absl::StrAppend(&text, text.empty() ? "" : " * ", loop::NumberText(kernel_.dims[d].size));
      else
        closed *= kernel_.dims[d].size;
    }
    if (text.empty()) return absl::StrCat(closed);
    return closed == 1 ? absl::StrCat("(", text, ")") : absl::StrCat("(", text, " * ", OffsetText(closed), ")");
  }

  // Pointer to the element of the access at the row, and at position `i` of the inner dimension unless that is no
  // matter.
  std::string AddressText(const Access& a, bool with_inner) const {
    std::string text = absl::StrCat("b", a.buffer);
    const auto is_negative = [](int64_t number) { return number < 0 && !loop::IsOpen(number); };
    const auto without_sign = [&](int64_t number) { return is_negative(number) ? -number : number; };
    if (a.offset != 0)
      absl::StrAppend(&text, is_negative(a.offset) ? " - " : " + ", OffsetText(without_sign(a.offset)));
    for (size_t d = 0; d < kernel_.dims.size(); ++d) {
      if (a.strides[d] == 0 || kernel_.dims[d].size == 1 || (d == inner() && !with_inner)) continue;
      const int64_t stride = a.strides[d];
      const std::string times = without_sign(stride) == 1 ? "" : absl::StrCat(" * ", OffsetText(without_sign(stride)));
      absl::StrAppend(&text, is_negative(stride) ? " - " : " + ", d == inner() ? "i" : absl::StrCat("i", d), times);
    }
    return text;
  }

  // --- statements ---

  // `position`: that of the inner dimension, for Index.
  std::string ValueText(ValueId id, const std::string& position) const {
    const Node& n = node(id);
    if (n.op == Op::kIndex) {
      return absl::StrCat("(i64)", static_cast<size_t>(n.attr) == inner() ? position : absl::StrCat("i", n.attr));
    }
    std::string operands[3];
    for (int i = 0; i < OperandCount(n.op); ++i) operands[i] = V(n.operands[static_cast<size_t>(i)]);
    const DType from = OperandCount(n.op) > 0 ? node(n.operands[0]).dtype : n.dtype;
    if (approximate_ && from == DType::kFloat32) {
      if (std::string text = ApproximateText(n.op, operands[0], operands[1]); !text.empty()) return text;
    }
    return OperatorText(n, from, operands[0], operands[1], operands[2]);
  }

  static std::string FromMemory(DType dtype, const std::string& element) {
    return dtype == DType::kBool ? absl::StrCat(element, " != 0") : element;
  }

  void RowNode(ValueId id, const std::string& store_condition) {
    const Node& n = node(id);
    if (n.op == Op::kStore) {
      Line(store_condition, "*(", AddressText(access(n), false), ") = ", V(n.operands[0]), ";");
    } else if (n.op == Op::kLoad) {
      Line("const ", TypeText(n.dtype), " ", V(id), " = ",
           FromMemory(n.dtype, absl::StrCat("*(", AddressText(access(n), false), ")")), ";");
    } else {
      Line("const ", TypeText(n.dtype), " ", V(id), " = ", ValueText(id, "0"), ";");
    }
  }

  std::string VecType(DType dtype, const std::string& width) const {
    return absl::StrCat("Vec<", TypeText(dtype, true), ", ", width, ">");
  }

  // The vector of a load at position i.
  std::string LoadText(const Node& n, const std::string& width) const {
    const Access& a = access(n);
    if (plan_.vectorised[static_cast<size_t>(n.attr)]) {
      return absl::StrCat("Load<", width, ">(", AddressText(a, true), ")");
    }
    return absl::StrCat("Gather<", width, ">(", AddressText(a, true), ", ", loop::NumberText(a.strides.back()), ")");
  }

  void StoreVector(ValueId id, const std::string& width, const std::string& condition) {
    const Node& n = node(id);
    const Access& a = access(n);
    if (plan_.vectorised[static_cast<size_t>(n.attr)]) {
      Line(condition, "Store<", width, ">(", AddressText(a, true), ", s", id, ");");
    } else {
      Line(condition, "Scatter<", width, ">(", AddressText(a, true), ", ", loop::NumberText(a.strides.back()), ", s",
           id, ");");
    }
  }

  // The element nodes of a pass at positions i, i + 1, ... `loaded`: how an element of a load's vector is named.
  template <typename Loaded>
  void VectorOfPass(const loop::Pass& pass, const std::string& width, const std::string& condition,
                    const Exponentials& sum, Loaded loaded) {
    const std::vector<ValueId>& elements = pass.elements;
    for (const ValueId id : elements) {
      if (node(id).op == Op::kStore) Line(VecType(node(id).dtype, width), " s", id, ";");
    }
    Line("#pragma unroll");
    Open("for (int w = 0; w < ", width, "; ++w)");
    for (const ValueId id : pass.reloaded) {
      const DType dtype = node(id).dtype;
      Line("const ", TypeText(dtype), " ", V(id), " = ", FromMemory(dtype, absl::StrCat("k", id, "[k].at[w]")), ";");
    }
    for (const ValueId id : elements) {
      const Node& n = node(id);
      if (n.op == Op::kStore) {
        Line("s", id, ".at[w] = ", V(n.operands[0]), ";");
      } else if (id == sum.most) {
        Line("x", sum.values, "[w] = ", V(sum.values), ";");
      } else if (IsReduction(n.op)) {
        Line("a", id, " = ", ReductionName(n.op), "::Of(a", id, ", ", V(n.operands[0]), ");");
      } else if (n.op == Op::kLoad) {
        Line("const ", TypeText(n.dtype), " ", V(id), " = ", FromMemory(n.dtype, loaded(id) + ".at[w]"), ";");
      } else {
        Line("const ", TypeText(n.dtype), " ", V(id), " = ", ValueText(id, "(i + w)"), ";");
      }
    }
    for (const ValueId id : pass.kept) Line("k", id, "[k].at[w] = ", V(id), ";");
    Close();
    for (const ValueId id : elements) {
      if (node(id).op == Op::kStore) StoreVector(id, width, condition);
    }
  }

  // --- without reductions ---

  void Elements(const std::string& entry) {
    const std::string vector = absl::StrCat(plan_.vector), last = SizeText(kernel_.dims.size());
    Line("template <int W> FJ void Compute(Offset at, ", Parameters(), ") {");
    ++depth_;
    Coordinates("at", 0);
    const loop::Pass pass = schedule_.passes.empty() ? loop::Pass() : schedule_.passes[0];  // none: it stores nothing
    for (const ValueId id : pass.row_nodes) RowNode(id, "");
    for (const ValueId id : pass.elements) {
      if (node(id).op == Op::kLoad) Line(VecType(node(id).dtype, "W"), " l", id, " = ", LoadText(node(id), "W"), ";");
    }
    VectorOfPass(pass, "W", "", {}, [](ValueId id) { return absl::StrCat("l", id); });
    Close();
    Line();
    Line("extern \"C\" __global__ void __launch_bounds__(", plan_.threads, ") ", entry, "(", Parameters(), ") {");
    ++depth_;
    const int64_t block = int64_t{plan_.threads} * plan_.steps * plan_.vector;
    if (plan_.steps > 1) {
      LongBlock(block, last);
    } else {
      Line("const Offset at = (Offset)blockIdx.x * ", block, " + threadIdx.x * ", vector, ";");
      PartialVector(last);
    }
    Close();
  }

  // One vector of a thread, where there is all or a part of it.
  void PartialVector(const std::string& last) {
    const std::string vector = Width();
    // Of several dimensions, vectors take the inner one up.
    const bool open = loop::IsOpen(kernel_.inner_size());
    if (kernel_.dims.size() > 1 || plan_.vector == 1 || (!open && kernel_.inner_size() % plan_.vector == 0)) {
      Line("if (at < ", last, ") Compute<", vector, ">(at, ", Arguments(), ");");
    } else {
      Open("if (at + ", vector, " <= ", last, ")");
      Line("Compute<", vector, ">(at, ", Arguments(), ");");
      --depth_;
      Line("} else {");
      ++depth_;
      Line("for (Offset e = at; e < ", last, "; ++e) Compute<1>(e, ", Arguments(), ");");
      Close();
    }
  }

  // Several vectors of a thread with nothing to ask in between, so that the loads of all of them may go first. What is
  // left for the last of very many blocks goes by single elements: it is of the text, and the time to compile it, what
  // one more element of a vector would be.
  void LongBlock(int64_t block, const std::string& last) {
    const bool even = !is_open_ && kernel_.row_count() * kernel_.inner_size() % block == 0;
    Line("const Offset begin = (Offset)blockIdx.x * ", block, ", first = begin + threadIdx.x * ", Width(), ";");
    if (!even) Open("if (begin + ", block, " <= ", last, ")");
    for (int step = 0; step < plan_.steps; ++step) ComputeStep(step);
    if (even) return;
    --depth_;
    Line("} else {");
    ++depth_;
    Line("#pragma unroll 1");
    Line("for (Offset e = begin + threadIdx.x; e < ", last, "; e += ", plan_.threads, ") Compute<1>(e, ", Arguments(),
         ");");
    Close();
  }

  void ComputeStep(int step) {
    Line("Compute<", plan_.vector, ">(first + ", int64_t{step} * plan_.threads * plan_.vector, ", ", Arguments(), ");");
  }

  // Positions in the square: `across` the inner dimension, `down` the other one; opens a scope for those that exist.
  void OpenTile(const char* across, const char* down) {
    const std::string other = absl::StrCat("i", plan_.along);
    Line("#pragma unroll");
    Open("for (int k = 0; k < ", plan_.tile, "; k += ", plan_.rows_per_block, ")");
    Line("#pragma unroll");
    Open("for (int j = 0; j < ", plan_.tile, "; j += ", plan_.threads / plan_.rows_per_block, ")");
    Line("const Offset i = column + ", across, ", ", other, " = line + ", down, ";");
    const int64_t columns = kernel_.inner_size(), lines = kernel_.dims[plan_.along].size;
    partial_ = columns % plan_.tile != 0 || lines % plan_.tile != 0;
    if (partial_) Open("if (i < ", columns, " && ", other, " < ", lines, ")");
  }

  void CloseTile() {
    CloseVectors();
    Close();
  }

  DType MemoryType(const Access& a) const { return kernel_.buffers[static_cast<size_t>(a.buffer)].dtype; }

  // Transposed loads go along their memory into shared memory.
  void Tiles(const std::string& entry) {
    const auto tiles_of = [&](size_t d) { return (kernel_.dims[d].size + plan_.tile - 1) / plan_.tile; };
    Line("extern \"C\" __global__ void __launch_bounds__(", plan_.threads, ") ", entry, "(", Parameters(), ") {");
    ++depth_;
    Line("const int x = threadIdx.x, y = threadIdx.y;");
    Line("Offset rest = blockIdx.x;");
    Line("const Offset column = rest % ", tiles_of(inner()), " * ", plan_.tile, ";");
    Line("rest /= ", tiles_of(inner()), ";");
    Line("const Offset line = rest % ", tiles_of(plan_.along), " * ", plan_.tile, ";");
    Line("rest /= ", tiles_of(plan_.along), ";");
    for (size_t d = inner(); d-- > 0;) {
      if (d == plan_.along) continue;
      Line("const Offset i", d, " = rest % ", kernel_.dims[d].size, ";");
      Line("rest /= ", kernel_.dims[d].size, ";");
    }
    for (size_t a = 0; a < kernel_.accesses.size(); ++a) {
      const DType dtype = MemoryType(kernel_.accesses[a]);
      const int places = plan_.tile * TilePitch(plan_.tile, dtype);
      if (plan_.staged[a]) Line("__shared__ ", TypeText(dtype, true), " t", a, "[", places, "];");
    }
    OpenTile("k + y", "j + x");
    for (size_t a = 0; a < kernel_.accesses.size(); ++a) {
      if (!plan_.staged[a]) continue;
      const int pitch = TilePitch(plan_.tile, MemoryType(kernel_.accesses[a]));
      Line("t", a, "[(k + y) * ", pitch, " + j + x] = *(", AddressText(kernel_.accesses[a], true), ");");
    }
    CloseTile();
    Line("__syncthreads();");
    OpenTile("j + x", "k + y");
    const loop::Pass pass = schedule_.passes.empty() ? loop::Pass() : schedule_.passes[0];
    for (const ValueId id : pass.row_nodes) RowNode(id, "");
    for (const ValueId id : pass.elements) TileNode(id);
    CloseTile();
    Close();
  }

  void TileNode(ValueId id) {
    const Node& n = node(id);
    if (n.op == Op::kStore) return Line("*(", AddressText(access(n), true), ") = ", V(n.operands[0]), ";");
    std::string value = n.op == Op::kLoad ? absl::StrCat("*(", AddressText(access(n), true), ")") : ValueText(id, "i");
    if (n.op == Op::kLoad && plan_.staged[static_cast<size_t>(n.attr)])
      value = absl::StrCat("t", n.attr, "[(j + x) * ", TilePitch(plan_.tile, MemoryType(access(n))), " + k + y]");
    Line("const ", TypeText(n.dtype), " ", V(id), " = ", n.op == Op::kLoad ? FromMemory(n.dtype, value) : value, ";");
  }

  // Of the position `linear` in the dimensions but the last `skipped`, outermost first; that of the inner one is i.
  void Coordinates(const std::string& linear, size_t skipped) {
    std::string rest = linear;
    for (size_t d = kernel_.dims.size() - skipped; d-- > 0;) {
      const std::string name = d == inner() ? "i" : absl::StrCat("i", d);
      if (d == 0) {
        Line("const Offset ", name, " = ", rest, ";");
        break;
      }
      const std::string size = kernel_.dims[d].size == 0 ? "1" : loop::NumberText(kernel_.dims[d].size);
      Line("const Offset ", name, " = ", rest, " % ", size, ", q", d, " = ", rest, " / ", size, ";");
      rest = absl::StrCat("q", d);
    }
  }

  // --- with reductions ---

  void Rows(const std::string& entry) {
    Line("extern \"C\" __global__ void __launch_bounds__(", plan_.threads, ") ", entry, "(", Parameters(), ") {");
    ++depth_;
    const std::string rows = SizeText(kernel_.dims.size() - 1);
    const bool columns = plan_.spread == Spread::kColumns;
    if (columns) {
      Line("const Offset own = (Offset)blockIdx.x * ", plan_.rows_per_block, " + threadIdx.x;");
      Line("const bool live = own < ", rows, ";  // the others compute the last row again, for the barriers");
      Line("const Offset row = live ? own : ", rows, " - 1;");
      Line("const int lane = threadIdx.y;");
    } else {
      Line("const Offset row = (Offset)blockIdx.x * ", plan_.rows_per_block, " + threadIdx.y;");
      const bool fills_blocks = is_open_ ? plan_.rows_per_block == 1 : kernel_.row_count() % plan_.rows_per_block == 0;
      if (!fills_blocks) Line("if (row >= ", rows, ") return;");
      Line("const int lane = threadIdx.x;");
    }
    if (kernel_.dims.size() > 1) Coordinates("row", 1);
    for (size_t p = 0; p < schedule_.passes.size(); ++p) {
      const Exponentials sum = SumOfExponentials(p);
      RowPass(schedule_.passes[p], columns, sum);
      if (sum.total == loop::kNoValue) continue;
      ++p;  // its elements are done
      for (const ValueId id : schedule_.passes[p].row_nodes) RowNode(id, StoreCondition(columns));
    }
    Close();
  }

  // Where a row is too long to stay in registers, both are found in one pass over memory: a sum so far is scaled when a
  // larger value comes.
  Exponentials SumOfExponentials(size_t p) const {
    if (plan_.resident || p + 1 >= schedule_.passes.size()) return {};
    ValueId total = loop::kNoValue;
    for (const ValueId id : schedule_.passes[p + 1].elements) {
      if (node(id).op == Op::kStore) return {};
      if (!IsReduction(node(id).op)) continue;
      if (total != loop::kNoValue) return {};
      total = id;
    }
    if (total == loop::kNoValue || node(total).op != Op::kReduceSum) return {};
    const Node& power = node(node(total).operands[0]);
    if (power.op != Op::kExp && power.op != Op::kExpNonPositive) return {};
    const Node& rest = node(power.operands[0]);
    if (rest.op != Op::kSub || node(rest.operands[1]).op != Op::kReduceMax) return {};
    const ValueId most = rest.operands[1], values = rest.operands[0];
    if (node(most).operands[0] != values || schedule_.first_pass[static_cast<size_t>(most)] != static_cast<int>(p))
      return {};
    return {most, total, values};
  }

  static const char* StoreCondition(bool columns) { return columns ? "if (live && lane == 0) " : "if (lane == 0) "; }

  void RowPass(const loop::Pass& pass, bool columns, const Exponentials& sum) {
    for (const ValueId id : pass.row_nodes) RowNode(id, StoreCondition(columns));
    if (pass.elements.empty()) return;
    for (const ValueId id : pass.elements) {
      const Node& n = node(id);
      if (IsReduction(n.op)) Line(TypeText(n.dtype), " a", id, " = ", IdentityText(n), ";");
    }
    if (sum.total != loop::kNoValue) Line(TypeText(node(sum.total).dtype), " a", sum.total, " = 0;");
    if (plan_.resident) LoadResident(pass);
    for (const ValueId id : pass.kept) Line(VecType(node(id).dtype, Width()), " k", id, "[", plan_.steps, "];");
    OpenVectors();
    for (const ValueId id : pass.elements) {
      if (plan_.resident || node(id).op != Op::kLoad) continue;
      Line("const ", VecType(node(id).dtype, Width()), " l", id, " = ", LoadText(node(id), Width()), ";");
    }
    if (sum.total != loop::kNoValue) Line(TypeText(node(sum.values).dtype), " x", sum.values, "[", Width(), "];");
    VectorOfPass(pass, Width(), columns ? "if (live) " : "", sum,
                 [&](ValueId id) { return plan_.resident ? absl::StrCat("l", id, "[k]") : absl::StrCat("l", id); });
    if (sum.total != loop::kNoValue) AddExponentials(sum);
    CloseVectors();
    for (const ValueId id : pass.elements) {
      if (IsReduction(node(id).op)) FinishReduction(id, columns);
    }
    if (sum.total == loop::kNoValue) return;
    Line("a", sum.total, " *= ExpNonPositive(a", sum.most, " - ", V(sum.most), ");");
    FinishReduction(sum.total, columns);
  }

  // Of the values of a vector. What all values so far leave minus infinity is subtracted from none of them.
  void AddExponentials(const Exponentials& sum) {
    const std::string most = absl::StrCat("a", sum.most), total = absl::StrCat("a", sum.total);
    const char* type = TypeText(node(sum.values).dtype);
    Line(type, " most = ", most, ";");
    Line("#pragma unroll");
    Line("for (int w = 0; w < ", Width(), "; ++w) most = MaxOf::Of(most, x", sum.values, "[w]);");
    Line("const ", type, " base = Finite(most);");
    Line(total, " *= ExpNonPositive(", most, " - base);");
    Line("#pragma unroll");
    Line("for (int w = 0; w < ", Width(), "; ++w) ", total, " += ExpNonPositive(x", sum.values, "[w] - base);");
    Line(most, " = most;");
  }

  std::string Width() const { return absl::StrCat(plan_.vector); }

  // What this pass is the first to load, all of it before anything is computed.
  void LoadResident(const loop::Pass& pass) {
    std::vector<ValueId> loads;
    for (const ValueId id : pass.elements) {
      if (node(id).op != Op::kLoad || loaded_[static_cast<size_t>(id)]) continue;
      loaded_[static_cast<size_t>(id)] = true;
      loads.push_back(id);
      Line(VecType(node(id).dtype, Width()), " l", id, "[", plan_.steps, "];");
    }
    if (loads.empty()) return;
    OpenVectors();
    for (const ValueId id : loads) Line("l", id, "[k] = ", LoadText(node(id), Width()), ";");
    CloseVectors();
  }

  // A loop over the vectors of this lane: i is the position of the first element.
  void OpenVectors() {
    const bool open = loop::IsOpen(kernel_.inner_size());
    const std::string size = loop::NumberText(kernel_.inner_size());
    const int64_t stride = int64_t{plan_.lanes} * plan_.vector;
    if (plan_.resident) {
      Line("#pragma unroll");
      Open("for (int k = 0; k < ", plan_.steps, "; ++k)");
      Line("const Offset i = (k * ", plan_.lanes, " + lane) * ", plan_.vector, ";");
      partial_ = open || kernel_.inner_size() % stride != 0;
      if (partial_) Open("if (i < ", size, ")");
    } else {
      // Single elements need more of them on their way.
      Line("#pragma unroll ", plan_.vector == 1 ? 8 : 4);
      Open("for (Offset i = lane * ", plan_.vector, "; i < ", size, "; i += ", stride, ")");
      partial_ = false;
    }
  }

  void CloseVectors() {
    if (partial_) Close();
    Close();
  }

  void FinishReduction(ValueId id, bool columns) {
    const Node& n = node(id);
    const char* type = TypeText(n.dtype);
    const int64_t places = columns ? plan_.threads : plan_.lanes > 32 ? plan_.lanes / 32 : 0;
    if (places > 0) Line("__shared__ ", type, " shared", id, "[", places, "];");
    Line("const ", type, " ", V(id), " = ", columns ? "ReduceColumn<" : "ReduceRow<", ReductionName(n.op), ", ",
         plan_.lanes, ">(a", id, ", ", places > 0 ? absl::StrCat("shared", id) : absl::StrCat("(", type, "*)0"), ");");
  }

  const Kernel& kernel_;
  const LaunchPlan& plan_;
  const bool is_open_;
  const loop::Schedule schedule_;
  std::vector<bool> loaded_;  // by ValueId: what is in registers
  const bool approximate_;    // functions may be off by some units in the last place
  std::string out_;
  int depth_ = 0;
  bool partial_ = false;  // the loop that is open skips what lies behind the end of the row
};

}  // namespace

KernelSource GenerateSource(const Kernel& kernel, const LaunchPlan& plan) { return Generator(kernel, plan).Run(); }

}  // namespace framejit::cuda
