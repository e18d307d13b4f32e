// torch.utils.checkpoint: a part of the forward pass that keeps its input alone; backward computes it again.

#include "guarded.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <stdexcept>

namespace autocast = at::autocast;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

extern "C" {
// Gives a new tensor, or null and why in `error`, which holds `error_size` bytes.
using Call = Tensor *(*)(const void *data, const Tensor *input, char *error, size_t error_size);
using Drop = void (*)(void *data);
}

namespace {

// What autocast is set to in this thread.
struct AutocastMode {
  c10::DeviceType device;
  bool is_enabled = autocast::is_autocast_enabled(device);
  at::ScalarType dtype = autocast::get_autocast_dtype(device);
  bool caches = autocast::is_autocast_cache_enabled();

  void set() const {
    autocast::set_autocast_enabled(device, is_enabled);
    autocast::set_autocast_dtype(device, dtype);
    autocast::set_autocast_cache_enabled(caches);
  }
};

// Sets a mode until it goes out of scope.
struct AutocastGuard {
  AutocastMode before;
  explicit AutocastGuard(const AutocastMode &mode) : before{mode.device} { mode.set(); }
  ~AutocastGuard() { before.set(); }
};

// The part, called from whichever thread computes it, one at a time.
struct Part : torch::CustomClassHolder {
  Call call;
  Drop drop;
  void *data;
  AutocastMode mode;

  Part(Call call, Drop drop, void *data, c10::DeviceType device)
      : call(call), drop(drop), data(data), mode{device} {
    // A weight that is cast without gradients must not stay for those who need them, nor one with the graph
    // of this part for the next.
    mode.caches = false;
  }
  ~Part() override { drop(data); }

  Tensor operator()(const Tensor &input) const {
    AutocastGuard guard(mode);
    char error[512] = "";
    std::unique_ptr<Tensor> output(call(data, &input, error, sizeof error));
    if (!output) throw std::runtime_error(error);
    return *output;
  }
};

struct Checkpoint : torch::autograd::Function<Checkpoint> {
  static Tensor forward(AutogradContext *context, const c10::intrusive_ptr<Part> &part,
                        const Tensor &input, at::TensorList params) {
    context->saved_data["part"] = c10::IValue::make_capsule(part);
    variable_list saved{input};
    saved.insert(saved.end(), params.begin(), params.end());
    context->save_for_backward(std::move(saved));
    return (*part)(input);
  }

  static variable_list backward(AutogradContext *context, const variable_list &output_grads) {
    auto part = c10::static_intrusive_pointer_cast<Part>(context->saved_data["part"].toCapsule());
    auto inputs = context->get_saved_variables();
    inputs[0] = inputs[0].detach().requires_grad_();
    at::AutoGradMode grad_mode(true);
    auto output = (*part)(inputs[0]);
    // Not `backward`: the parameters' gradients go on through the outer graph, so that what is hooked onto
    // them, such as DDP's reducer, sees each once.
    auto grads = torch::autograd::grad({output}, inputs, output_grads);
    grads.insert(grads.begin(), Tensor());
    return grads;
  }
};

} // namespace

extern "C" {

char *te_checkpoint(Call call, Drop drop, void *data, Tensor *input, List params, size_t n,
                    Tensor **out) {
  return guarded([&] {
    auto part = c10::make_intrusive<Part>(call, drop, data, input->device().type());
    auto list = collect(params, n);
    *out = new Tensor(Checkpoint::apply(part, *input, at::TensorList(list)));
  });
}
}
