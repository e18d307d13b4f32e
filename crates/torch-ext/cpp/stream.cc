// Work beside the step's: streams and events of a GPU, and host memory that it copies from by itself.
// All through libtorch's device-neutral interfaces, which need no header of NVIDIA's.

#include "guarded.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace {

c10::Device cuda(int index) {
  return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)};
}

c10::impl::VirtualGuardImpl guard() { return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA); }

c10::Stream stream(int index, int64_t id) {
  return c10::Stream(c10::Stream::UNSAFE, cuda(index), id);
}

} // namespace

extern "C" {

char *te_host_buffer(size_t bytes, int pinned, Tensor **out, uint8_t **data) {
  return guarded([&] {
    auto options = at::TensorOptions().dtype(at::kByte).pinned_memory(pinned != 0);
    auto tensor = at::empty({static_cast<int64_t>(bytes)}, options);
    *data = tensor.data_ptr<uint8_t>();
    *out = new Tensor(tensor);
  });
}

char *te_stream_new(int index, int64_t *id) {
  return guarded([&] { *id = guard().getNewStream(cuda(index)).id(); });
}

char *te_stream_current(int index, int64_t *id) {
  return guarded([&] { *id = guard().getStream(cuda(index)).id(); });
}

char *te_stream_set(int index, int64_t id) {
  return guarded([&] { guard().exchangeStream(stream(index, id)); });
}

char *te_event_record(int index, int64_t id, c10::Event **out) {
  return guarded([&] {
    auto event = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
    event->record(stream(index, id));
    *out = event.release();
  });
}

char *te_event_block(c10::Event *event, int index, int64_t id) {
  return guarded([&] { event->block(stream(index, id)); });
}

char *te_event_synchronize(c10::Event *event) {
  return guarded([&] { event->synchronize(); });
}

void te_event_free(c10::Event *event) { delete event; }

char *te_record_stream(Tensor *tensor, int index, int64_t id) {
  return guarded([&] { tensor->record_stream(stream(index, id)); });
}
}
