#include "base/log.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace framejit {
namespace {

struct ArtifactRow {
  std::string_view name;
  std::string_view description;
};

constexpr std::array<ArtifactRow, static_cast<size_t>(LogArtifact::kCount)> kArtifacts = {{
#define LOG_ARTIFACT(name, description) {#name, description},
#include "base/log_artifacts.def"
#undef LOG_ARTIFACT
}};
static_assert(kArtifacts.size() <= 32, "the enabled set is one 32-bit word");

void WriteToStderr(std::string_view channel, std::string_view message) {
  std::fprintf(stderr, "framejit.%.*s: %.*s\n", static_cast<int>(channel.size()), channel.data(),
               static_cast<int>(message.size()), message.data());
}

std::atomic<uint32_t> enabled_artifacts{0};
std::atomic<LogSink> log_sink{&WriteToStderr};

std::atomic<bool> traces_symbols{false};
std::mutex traced_symbols_mutex;
std::vector<std::string> traced_symbols;

}  // namespace

std::string_view LogArtifactName(LogArtifact artifact) { return kArtifacts[static_cast<size_t>(artifact)].name; }

std::string_view LogArtifactDescription(LogArtifact artifact) {
  return kArtifacts[static_cast<size_t>(artifact)].description;
}

absl::Status SetLogArtifacts(std::string_view spec) {
  uint32_t enabled = 0;
  for (absl::string_view part : absl::StrSplit(absl::string_view(spec.data(), spec.size()), ',')) {
    absl::string_view name = absl::StripAsciiWhitespace(part);
    if (name.empty()) continue;
    bool known = false;
    for (size_t i = 0; i < kArtifacts.size(); ++i) {
      if (std::string_view(name.data(), name.size()) != kArtifacts[i].name) continue;
      enabled |= 1u << i;
      known = true;
    }
    if (known) continue;
    std::string message = absl::StrCat("FRAMEJIT_LOG: unknown log artifact '", name, "'; known artifacts:");
    for (const ArtifactRow& row : kArtifacts) {
      absl::StrAppend(&message, " ", absl::string_view(row.name.data(), row.name.size()));
    }
    return absl::InvalidArgumentError(message);
  }
  enabled_artifacts.store(enabled, std::memory_order_relaxed);
  return absl::OkStatus();
}

bool LogEnabled(LogArtifact artifact) {
  return (enabled_artifacts.load(std::memory_order_relaxed) >> static_cast<unsigned>(artifact)) & 1u;
}

void Log(LogArtifact artifact, std::string_view message) {
  if (LogEnabled(artifact)) log_sink.load(std::memory_order_acquire)(LogArtifactName(artifact), message);
}

void SetTracedSymbols(std::string_view spec) {
  std::vector<std::string> names;
  for (absl::string_view part : absl::StrSplit(absl::string_view(spec.data(), spec.size()), ',')) {
    const absl::string_view name = absl::StripAsciiWhitespace(part);
    if (!name.empty()) names.emplace_back(name);
  }
  const bool any = !names.empty();
  {
    std::lock_guard<std::mutex> lock(traced_symbols_mutex);
    traced_symbols = std::move(names);
  }
  traces_symbols.store(any, std::memory_order_release);
}

bool IsTracedSymbol(std::string_view name) {
  if (!traces_symbols.load(std::memory_order_acquire)) return false;
  std::lock_guard<std::mutex> lock(traced_symbols_mutex);
  return std::find(traced_symbols.begin(), traced_symbols.end(), name) != traced_symbols.end();
}

void LogTracedSymbol(std::string_view message) {
  log_sink.load(std::memory_order_acquire)(LogArtifactName(LogArtifact::k_symbols), message);
}

void LogWarning(std::string_view message) { log_sink.load(std::memory_order_acquire)("warning", message); }

void SetLogSink(LogSink sink) { log_sink.store(sink, std::memory_order_release); }

}  // namespace framejit
