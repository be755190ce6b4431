// An interpreter inside a C++ test, with torch imported, and helpers to run Python in it.
#ifndef FRAMEJIT_TESTS_CPP_SUPPORT_EMBEDDED_PYTHON_H_
#define FRAMEJIT_TESTS_CPP_SUPPORT_EMBEDDED_PYTHON_H_

#include <Python.h>
#include <gtest/gtest.h>

#include <string>

#include "frame_eval/cpython/py_ref.h"

namespace framejit::testing {

// Starts the interpreter once per process; the environment's own Python decides where packages are.
inline bool StartPython() {
  if (Py_IsInitialized()) return true;
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  PyConfig_SetBytesString(&config, &config.executable, FRAMEJIT_TEST_PYTHON);
  PyConfig_SetBytesString(&config, &config.program_name, FRAMEJIT_TEST_PYTHON);
  PyStatus status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  return !PyStatus_Exception(status) && PyRun_SimpleString("import torch") == 0;
}

// A namespace in which statements run and whose names can be read.
class Namespace {
 public:
  Namespace() {
    dict_ = PyRef::Steal(PyDict_New());
    PyDict_SetItemString(dict_.get(), "__builtins__", PyEval_GetBuiltins());
    Run("import torch");
  }
  void Run(const std::string& statements) {
    PyRef result = PyRef::Steal(PyRun_String(statements.c_str(), Py_file_input, dict_.get(), dict_.get()));
    if (!result) PyErr_Print();
    ASSERT_TRUE(result) << statements;
  }
  // Borrowed.
  PyObject* operator[](const char* name) const { return PyDict_GetItemString(dict_.get(), name); }
  PyObject* dict() const { return dict_.get(); }
  PyRef Eval(const std::string& expression) const {
    PyRef result = PyRef::Steal(PyRun_String(expression.c_str(), Py_eval_input, dict_.get(), dict_.get()));
    if (!result) PyErr_Print();
    return result;
  }

 private:
  PyRef dict_;
};

}  // namespace framejit::testing

#endif  // FRAMEJIT_TESTS_CPP_SUPPORT_EMBEDDED_PYTHON_H_
