// Golden tests of the textual form: each file under tests/filetests/bytecode for this minor is parsed, printed back,
// put through its command and compared with its expectation. FRAMEJIT_BLESS=1 writes the expectation instead.
//
// A file:  # minor: 12          the only minor it is for
//          # run: COMMAND       print | refusals | reentries INDEX... | enter-at KEY=VALUE...
//          <code>
//          ====
//          <expectation>
// enter-at: target=, locals= (slots, comma-separated), stack= (v: value, 0: NULL, bottom first), call=, drop=1.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bytecode/parse.h"
#include "bytecode/print.h"
#include "bytecode/reentry.h"
#include "bytecode/rewrite.h"
#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

constexpr const char* kDivider = "====\n";

struct FileTest {
  std::string comments, code, expected;
  std::vector<std::string> command;  // words
  int minor = 0;
};

FileTest ReadFileTest(const std::filesystem::path& path) {
  FileTest test;
  std::ifstream file(path);
  std::string* part = &test.code;
  for (std::string line; std::getline(file, line);) {
    line += '\n';
    if (line == kDivider) {
      part = &test.expected;
    } else if (part == &test.code && line[0] == '#') {
      test.comments += line;
      if (absl::StartsWith(line, "# minor: ")) test.minor = std::stoi(line.substr(9));
      if (absl::StartsWith(line, "# run: ")) {
        test.command = absl::StrSplit(line.substr(7, line.size() - 8), ' ');
      }
    } else {
      *part += line;
    }
  }
  return test;
}

std::string Print(const PyRef& code) {
  PyCodeObject* object = reinterpret_cast<PyCodeObject*>(code.get());
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(object);
  return decoded.ok() ? PrintCode(*decoded, object) : std::string(decoded.status().message());
}

std::string Show(const absl::StatusOr<PyRef>& code) {
  return code.ok() ? Print(*code) : absl::StrCat("error: ", std::string(code.status().message()), "\n");
}

std::string Refusals(PyCodeObject* code) {
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  absl::StatusOr<Reentries> reentries = Reentries::Analyze(*decoded);
  if (!reentries.ok()) return absl::StrCat("error: ", std::string(reentries.status().message()), "\n");
  std::string out;
  for (int i = 0; i < decoded->size(); ++i) {
    const std::string refusal(ReentryRefusalName(reentries->Refusal(i)));
    absl::StrAppend(&out, i, " ", std::string((*decoded)[i].info().name), ": depth ", reentries->DepthAt(i));
    if (!reentries->IsLegal(i)) absl::StrAppend(&out, ", ", refusal);
    if (reentries->CanEnter(i)) {
      for (int position : reentries->SavedAt(i)) absl::StrAppend(&out, ", saved ", position);
    }
    absl::StrAppend(&out, ", next");
    for (int next : Successors(*decoded, i)) absl::StrAppend(&out, " ", next);
    out += '\n';
  }
  return out;
}

std::vector<ReentryPoint> Points(const std::vector<std::string>& command) {
  std::vector<ReentryPoint> points;
  for (size_t i = 1; i < command.size(); ++i) points.push_back({std::stoi(command[i]), PyRef::Borrow(Py_None)});
  return points;
}

EnterAt Enter(const std::vector<std::string>& command) {
  std::map<std::string, std::string> values;
  for (size_t i = 1; i < command.size(); ++i) {
    const std::vector<std::string> pair = absl::StrSplit(command[i], '=');
    values[pair[0]] = pair.size() > 1 ? pair[1] : "";
  }
  EnterAt enter;
  enter.target = std::stoi(values["target"]);
  const std::vector<std::string> slots = absl::StrSplit(values["locals"], ',', absl::SkipEmpty());
  for (const std::string& slot : slots) enter.locals.push_back(std::stoi(slot));
  for (char value : values["stack"]) enter.stack.push_back(value == 'v');
  enter.inner_call = values.contains("call");
  if (enter.inner_call) enter.call = std::stoi(values["call"]);
  enter.drop_result = values.contains("drop");
  enter.marker = PyRef::Borrow(Py_Ellipsis);
  return enter;
}

std::string Run(const FileTest& test, const PyRef& code) {
  PyCodeObject* object = reinterpret_cast<PyCodeObject*>(code.get());
  const std::string& command = test.command[0];
  if (command == "print") return Print(code);
  if (command == "refusals") return Refusals(object);
  if (command == "reentries") return Show(MakeWithReentries(object, Points(test.command)));
  if (command == "enter-at") return Show(MakeEnterAt(object, Enter(test.command)));
  return "no such command\n";
}

void RunFile(const std::filesystem::path& path, const FileTest& test) {
  SCOPED_TRACE(path.string());
  ASSERT_FALSE(test.command.empty());
  absl::StatusOr<PyRef> code = ParseCode(test.code);
  ASSERT_TRUE(code.ok()) << code.status().message();
  EXPECT_EQ(Print(*code), test.code);
  const std::string result = Run(test, *code);
  const char* bless = std::getenv("FRAMEJIT_BLESS");
  if (bless != nullptr && std::string(bless) == "1") {
    std::ofstream(path) << test.comments << test.code << kDivider << result;
  } else {
    EXPECT_EQ(result, test.expected);
  }
}

TEST(FileTest, Bytecode) {
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(FRAMEJIT_FILETESTS)) {
    const FileTest test = ReadFileTest(entry.path());
    if (test.minor != PY_MINOR_VERSION) continue;
    ++found;
    RunFile(entry.path(), test);
  }
  EXPECT_GE(found, 8);
}

TEST(ParseTest, NamesTheLineThatIsWrong) {
  const std::string header = "code f, <text>:1: 0 slots, stack 1\n";
  for (const char* line : {"  0 NO_SUCH_OPCODE\n", "  x NOP\n", "handler 0..2 L1 depth 0\n", "  0 LOAD_CONST x\n",
                           "  0 JUMP_FORWARD 3\n", "  line x\n"}) {
    absl::StatusOr<PyRef> code = ParseCode(header + line);
    ASSERT_FALSE(code.ok()) << line;
    EXPECT_TRUE(absl::StartsWith(code.status().message(), "line 2: ")) << code.status().message();
  }
}

TEST(ParseTest, RejectsWhatDoesNotFitTogether) {
  for (const char* text :
       {"code f, <text>:1: 1 slots, stack 1\n  0 LOAD_CONST 0 (None)\n  2 RETURN_VALUE\n",
        "code f, <text>:1: 0 slots, stack 1\n  0 JUMP_FORWARD -> L1\n", "code f, <text>:1: 0 slots, stack 1\n",
        "code f, <text>:1: 0 slots, stack 1\n  0 LOAD_CONST 0 (1 +)\n  2 RETURN_VALUE\n",
        "code f, <text>:1: 0 slots, stack 1\n  0 POP_TOP\n  2 LOAD_CONST 0 (1)\n  4 RETURN_VALUE\n",
        "code f, <text>:1: 0 slots, stack 1\n  0 LOAD_CONST 0 (1)\n  2 RETURN_VALUE\nhandler 0..6 -> L1 depth 0\n"}) {
    EXPECT_EQ(ParseCode(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(PyErr_Occurred(), nullptr);
  }
}

}  // namespace
}  // namespace framejit
