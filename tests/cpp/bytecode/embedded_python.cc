#include "tests/cpp/bytecode/embedded_python.h"

#include <gtest/gtest.h>

namespace framejit {
namespace {

class EmbeddedPython : public ::testing::Environment {
 public:
  void SetUp() override {
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    PyStatus status = PyConfig_SetBytesString(&config, &config.home, FRAMEJIT_PYTHON_HOME);
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    ASSERT_FALSE(PyStatus_Exception(status)) << (status.err_msg != nullptr ? status.err_msg : "");
  }
  void TearDown() override { EXPECT_EQ(Py_FinalizeEx(), 0); }
};

const auto* const kEnvironment = ::testing::AddGlobalTestEnvironment(new EmbeddedPython);

}  // namespace

TestCode::TestCode(const std::string& source) {
  PyRef globals = PyRef::Steal(PyDict_New());
  PyRef done = PyRef::Steal(PyRun_String(source.c_str(), Py_file_input, globals.get(), globals.get()));
  if (!done) PyErr_Print();
  object_ = PyRef::Borrow(PyDict_GetItemString(globals.get(), "code"));
  EXPECT_TRUE(object_ && PyCode_Check(object_.get())) << source;
}

DecodedCode TestCode::Decode() const {
  absl::StatusOr<DecodedCode> code = DecodedCode::Decode(get());
  EXPECT_TRUE(code.ok()) << code.status().message();
  return *std::move(code);
}

TestCode FunctionCode(const std::string& source) { return TestCode(source + "\ncode = f.__code__\n"); }

TestCode ReplacedCode(const std::string& source, const std::string& fields) {
  return TestCode("import dis\n" + source + "\ncode = f.__code__\nop = dis.opmap\ncode = code.replace(" + fields +
                  ")\n");
}

int Find(const DecodedCode& code, std::string_view name, int from) {
  for (int i = from; i < code.size(); ++i) {
    if (code[i].info().name == name) return i;
  }
  return -1;
}

}  // namespace framejit
