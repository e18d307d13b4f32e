// Counts what passes between host and device.

#include "guarded.h"

#include <ATen/record_function.h>

#include <atomic>

namespace {

std::atomic<int64_t> uploads, read_backs, waits;

// Operations of libtorch that cross devices all end in copy_; those that give the host a number, and so
// wait for the device, in the other two.
std::unique_ptr<at::ObserverContext> count(const at::RecordFunction &op) {
  std::string_view name = op.name();
  if (name == "aten::_local_scalar_dense" || name == "aten::nonzero") {
    waits++;
  } else if (name == "aten::copy_") {
    auto inputs = op.inputs();
    if (inputs.size() < 3 || !inputs[0].isTensor() || !inputs[1].isTensor()) return nullptr;
    bool to_host = inputs[0].toTensor().is_cpu(), from_host = inputs[1].toTensor().is_cpu();
    if (to_host == from_host) return nullptr;
    (to_host ? read_backs : uploads)++;
    if (!inputs[2].toBool()) waits++;
  }
  return nullptr;
}

} // namespace

extern "C" {

uint64_t te_count_transfers() {
  uploads = read_backs = waits = 0;
  return at::addThreadLocalCallback(at::RecordFunctionCallback(count)
                                   .needsInputs(true)
                                   .scopes({at::RecordScope::FUNCTION}));
}

void te_end_count(uint64_t handle, int64_t *counts) {
  at::removeCallback(handle);
  counts[0] = uploads, counts[1] = read_backs, counts[2] = waits;
}
}
