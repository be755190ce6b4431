#include "bytecode/encode.h"

#include <gtest/gtest.h>

#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

constexpr AssemblyInstruction kLoad = {.opcode = Opcode::k_LOAD_CONST};
constexpr AssemblyInstruction kPop = {.opcode = Opcode::k_POP_TOP};
constexpr AssemblyInstruction kNop = {.opcode = Opcode::k_NOP};
constexpr AssemblyInstruction kReturn = {.opcode = Opcode::k_RETURN_VALUE};

AssemblyInstruction JumpTo(int target) { return {.opcode = Opcode::k_JUMP_FORWARD, .target = target}; }

TEST(EncodeTest, JumpsGrowAsFarAsTheyMust) {
  for (int between : {0, 255, 256, 65535, 65536}) {
    Assembly assembly;
    assembly.instructions = {JumpTo(between + 1)};
    assembly.instructions.insert(assembly.instructions.end(), between, kNop);
    assembly.instructions.insert(assembly.instructions.end(), {kLoad, kReturn});
    absl::StatusOr<EncodedCode> code = Encode(assembly, 1);
    ASSERT_TRUE(code.ok()) << code.status().message();
    absl::StatusOr<DecodedCode> decoded = DecodedCode::DecodeBytes(code->bytes, "");
    ASSERT_TRUE(decoded.ok()) << decoded.status().message();
    EXPECT_EQ((*decoded)[0].target, between + 1);
    EXPECT_EQ((*decoded)[0].offset, between > 65535 ? 2 : between > 255 ? 1 : 0);
  }
}

// The inner jump grows only because the outer one, which it contains the target of, did.
TEST(EncodeTest, RelaxationReachesAFixedPoint) {
  Assembly assembly;
  for (int i = 0; i < 200; ++i) assembly.instructions.push_back(JumpTo(i + 201));
  assembly.instructions.insert(assembly.instructions.end(), 260, kNop);
  assembly.instructions.insert(assembly.instructions.end(), {kLoad, kReturn});
  absl::StatusOr<EncodedCode> code = Encode(assembly, 1);
  ASSERT_TRUE(code.ok()) << code.status().message();
  absl::StatusOr<DecodedCode> decoded = DecodedCode::DecodeBytes(code->bytes, "");
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  for (int i = 0; i < 200; ++i) EXPECT_EQ((*decoded)[i].target, i + 201);
}

TEST(EncodeTest, KeepsPrefixesThatAreNotNeeded) {
  Assembly assembly;
  assembly.instructions = {kLoad, kReturn};
  assembly.instructions[0].prefixes = 2;
  absl::StatusOr<EncodedCode> code = Encode(assembly, 1);
  ASSERT_TRUE(code.ok());
  const char extended = static_cast<char>(Opcode::k_EXTENDED_ARG);
  EXPECT_EQ(code->bytes.substr(0, 4), std::string({extended, 0, extended, 0}));
  EXPECT_EQ(code->bytes.size(), 8u);
}

TEST(EncodeTest, FindsTheStackSizeItNeeds) {
  Assembly assembly;
  assembly.instructions = {kLoad, kLoad, kLoad, kPop, kPop, kReturn};
  absl::StatusOr<EncodedCode> code = Encode(assembly, 1);
  ASSERT_TRUE(code.ok());
  EXPECT_EQ(code->stack_size, 3);
}

TEST(EncodeTest, RejectsWhatCannotBe) {
  auto reject = [](std::vector<AssemblyInstruction> instructions, std::vector<AssemblyHandler> handlers = {}) {
    EXPECT_EQ(Encode({std::move(instructions), std::move(handlers)}, 1).status().code(),
              absl::StatusCode::kInvalidArgument);
  };
  reject({});
  reject({JumpTo(2), kReturn});
  reject({JumpTo(-1), kReturn});
  reject({kLoad, JumpTo(0)});       // backward
  reject({kPop, kLoad, kReturn});   // underflow
  reject({kLoad, kLoad, kReturn});  // values left
  reject({{.opcode = Opcode::k_EXTENDED_ARG}, kLoad, kReturn});
  reject({{.opcode = static_cast<Opcode>(255)}, kLoad, kReturn});  // no opcode of any minor
  reject({kLoad, kReturn}, {{0, 3, 0, 0, false}});
  reject({kLoad, kReturn}, {{0, 1, 2, 0, false}});
}

TEST(BuildCodeTest, NeverMakesTheStackSmaller) {
  TestCode code = ReplacedCode("def f(): return 1", "co_stacksize=9");
  absl::StatusOr<Assembly> assembly = Disassemble(code.Decode(), code.get());
  ASSERT_TRUE(assembly.ok());
  absl::StatusOr<PyRef> made = BuildCode(*assembly, code.get(), CodeHeader::Of(code.get()));
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ(reinterpret_cast<PyCodeObject*>(made->get())->co_stacksize, 9);
}

TEST(BuildCodeTest, VerifiesWhatItMakes) {
  TestCode code = FunctionCode("def f(): return 1");
  absl::StatusOr<Assembly> assembly = Disassemble(code.Decode(), code.get());
  ASSERT_TRUE(assembly.ok());
  assembly->instructions.insert(assembly->instructions.begin(),
                                {{.opcode = Opcode::k_LOAD_FAST, .oparg = 7}, {.opcode = Opcode::k_POP_TOP}});
  absl::Status status = BuildCode(*assembly, code.get(), CodeHeader::Of(code.get())).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("slot 7"), absl::string_view::npos) << status.message();
}

TEST(BuildCodeTest, ALeadingLocalShiftsTheVariables) {
  TestCode code = FunctionCode("def outer(n):\n  def f():\n    return n\n  return f\nf = outer(1)\n");
  absl::StatusOr<Assembly> assembly = Disassemble(code.Decode(), code.get());
  ASSERT_TRUE(assembly.ok());
  for (AssemblyInstruction& instruction : assembly->instructions) {
    if (instruction.opcode == Opcode::k_LOAD_DEREF) ++instruction.oparg;
  }
  CodeHeader header = CodeHeader::Of(code.get());
  header.leading_local = PyRef::Steal(PyUnicode_FromString("first"));
  absl::StatusOr<PyRef> made = BuildCode(*assembly, code.get(), header);
  ASSERT_TRUE(made.ok()) << made.status().message();
  PyCodeObject* object = reinterpret_cast<PyCodeObject*>(made->get());
  EXPECT_EQ(object->co_nlocalsplus, 2);
  EXPECT_EQ(object->co_nlocals, 1);
  EXPECT_EQ(object->co_nfreevars, 1);
}

TEST(BuildCodeTest, LeavesNoExceptionWhenCPythonRefuses) {
  TestCode code = FunctionCode("def f(): return 1");
  absl::StatusOr<Assembly> assembly = Disassemble(code.Decode(), code.get());
  ASSERT_TRUE(assembly.ok());
  CodeHeader header = CodeHeader::Of(code.get());
  header.argcount = 5;  // more than there are variables
  EXPECT_EQ(BuildCode(*assembly, code.get(), header).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(PyErr_Occurred(), nullptr);
}

}  // namespace
}  // namespace framejit
