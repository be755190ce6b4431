// Logging artifacts selected by FRAMEJIT_LOG. This file owns the set of enabled artifacts and the sink; it knows
// nothing of Python. The extension module installs a sink that forwards to Python's `logging`.
#ifndef FRAMEJIT_BASE_LOG_H_
#define FRAMEJIT_BASE_LOG_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace framejit {

enum class LogArtifact {
#define LOG_ARTIFACT(name, description) k_##name,
#include "base/log_artifacts.def"
#undef LOG_ARTIFACT
  kCount
};

std::string_view LogArtifactName(LogArtifact artifact);
std::string_view LogArtifactDescription(LogArtifact artifact);

// Replaces the enabled set by the comma-separated names in `spec`. An unknown name leaves the set as it was and returns
// InvalidArgument with the list of known names.
absl::Status SetLogArtifacts(std::string_view spec);

// Cheap enough for warm paths: one relaxed load.
bool LogEnabled(LogArtifact artifact);

// Delivers one message (it may hold several lines) to the sink if the artifact is enabled.
void Log(LogArtifact artifact, std::string_view message);
// Warnings and internal errors always reach the sink.
void LogWarning(std::string_view message);

// Symbols whose making is shown with all stacks, comma-separated ("s0,u5"); delivered to the sink whatever is enabled.
void SetTracedSymbols(std::string_view spec);
bool IsTracedSymbol(std::string_view name);
void LogTracedSymbol(std::string_view message);

// The sink receives the logger's name below "framejit" ("breaks", "warning", ...) and the message.
using LogSink = void (*)(std::string_view channel, std::string_view message);
void SetLogSink(LogSink sink);

}  // namespace framejit

#endif  // FRAMEJIT_BASE_LOG_H_
