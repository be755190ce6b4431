// The registry of backends by name. It knows no backend; builtin.cc registers those that come with framejit.
#include <algorithm>
#include <map>
#include <mutex>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backends/backend.h"

namespace framejit {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Backend>, std::less<>> backends;
  std::vector<BackendResolver> resolvers;
};

// Never destroyed: a compiled graph may outlive static destruction.
Registry& TheRegistry() {
  static auto* registry = new Registry;
  return *registry;
}

std::vector<BackendResolver> Resolvers() {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  return registry.resolvers;
}

}  // namespace

absl::Status RegisterBackend(std::string name, std::shared_ptr<Backend> backend) {
  if (name.empty()) return absl::InvalidArgumentError("a backend needs a name");
  if (backend == nullptr) return absl::InvalidArgumentError(absl::StrCat("backend '", name, "' is null"));
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  auto [it, inserted] = registry.backends.emplace(std::move(name), std::move(backend));
  if (!inserted)
    return absl::AlreadyExistsError(absl::StrCat("a backend named '", it->first, "' is already registered"));
  return absl::OkStatus();
}

void AddBackendResolver(BackendResolver resolver) {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  registry.resolvers.push_back(std::move(resolver));
}

absl::StatusOr<std::shared_ptr<Backend>> FindBackend(std::string_view name) {
  {
    Registry& registry = TheRegistry();
    std::lock_guard<std::mutex> lock(registry.mutex);
    auto it = registry.backends.find(name);
    if (it != registry.backends.end()) return it->second;
  }
  for (const BackendResolver& resolver : Resolvers()) {
    auto found = resolver.find(name);
    if (found.ok() || !absl::IsNotFound(found.status())) return found;
  }
  return absl::NotFoundError(absl::StrCat("no backend named '", std::string(name),
                                          "'; known backends: ", absl::StrJoin(ListBackends(), ", ")));
}

std::vector<std::string> ListBackends() {
  std::vector<std::string> names;
  {
    Registry& registry = TheRegistry();
    std::lock_guard<std::mutex> lock(registry.mutex);
    for (const auto& entry : registry.backends) names.push_back(entry.first);
  }
  for (const BackendResolver& resolver : Resolvers()) {
    for (std::string& name : resolver.list()) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

}  // namespace framejit
