//! NCCL and what goes with GPUs, as far as the machine has any.

use std::time::Duration;

use tch::{Cuda, Device, Kind, Tensor};
use torch_ext::{
    ProcessGroup, ReduceOp, Reducer, TcpStore, cuda_peak_memory_bytes, cuda_reset_peak_memory,
    cuda_set_device, cuda_uuid, has_expandable_segments, load_cuda,
};

use super::free_port;

const TIMEOUT: Duration = Duration::from_secs(60);

fn alone() -> (TcpStore, ProcessGroup) {
    let store = TcpStore::new("127.0.0.1", free_port(), true, "nccl-test", TIMEOUT).unwrap();
    let group = ProcessGroup::new(&store, "127.0.0.1", 0, 1, TIMEOUT).unwrap();
    (store, group)
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    load_cuda();
    let message = cuda_set_device(100).unwrap_err().to_string();
    assert!(message.contains("there is no GPU 100: libtorch sees"), "{message}");
    assert_eq!(cuda_peak_memory_bytes(100), None);
    cuda_reset_peak_memory(100);
    let message = cuda_uuid(100).unwrap_err().to_string();
    assert!(message.contains("there is no GPU 100"), "{message}");

    let (store, mut group) = alone();
    let message = group.add_nccl(&store, 100, TIMEOUT).unwrap_err().to_string();
    let named = ["there is no GPU 100", "built without the feature `cuda`"];
    assert!(named.iter().any(|text| message.contains(text)), "{message}");
    // What failed leaves the group as it was.
    group.barrier().unwrap();
    let tensor = Tensor::from_slice(&[1.5]);
    group.all_reduce(&tensor, ReduceOp::Sum).unwrap();
    assert_eq!(tensor.double_value(&[0]), 1.5);
}

#[test]
fn segments_on_gpus_may_grow() {
    let is_users = |name| std::env::var_os(name).is_some();
    if is_users("PYTORCH_ALLOC_CONF") || is_users("PYTORCH_CUDA_ALLOC_CONF") {
        eprintln!("skipped: the allocator is set by a variable");
        return;
    }
    load_cuda();
    assert!(has_expandable_segments());
}

#[test]
fn one_process_reduces_over_nccl() {
    load_cuda();
    if !Cuda::is_available() {
        eprintln!("skipped: this machine has no GPU");
        return;
    }
    let (store, mut group) = alone();
    cuda_set_device(0).unwrap();
    if let Err(error) = group.add_nccl(&store, 0, TIMEOUT) {
        assert!(error.to_string().contains("built without"), "{error}");
        eprintln!("skipped: {error}");
        return;
    }
    assert_eq!(cuda_uuid(0).unwrap(), cuda_uuid(0).unwrap());
    assert_ne!(cuda_uuid(0).unwrap(), [0; 16]);
    let device = Device::Cuda(0);
    let tensor = Tensor::from_slice(&[1.5, 2.0]).to_device(device);
    group.all_reduce(&tensor, ReduceOp::Sum).unwrap();
    group.broadcast(&tensor, 0).unwrap();
    assert!(group.all_gather(&tensor).unwrap()[0].equal(&tensor));
    assert_eq!(Vec::<f64>::try_from(&tensor).unwrap(), [1.5, 2.0]);
    let on_cpu = Tensor::from_slice(&[3.0]);
    group.all_reduce(&on_cpu, ReduceOp::Max).unwrap();
    group.barrier().unwrap();

    let weight = Tensor::ones([1 << 20], (Kind::Float, device)).set_requires_grad(true);
    let reducer = Reducer::new(&group, &[&weight], 25 << 20).unwrap();
    for _ in 0..3 {
        reducer.prepare_for_backward().unwrap();
        let mut grad = weight.grad();
        if grad.defined() {
            let _ = grad.zero_();
        }
        (&weight * 2.0).sum(Kind::Float).backward();
        assert_eq!(weight.grad().min().double_value(&[]), 2.0);
    }

    cuda_reset_peak_memory(0);
    let before = cuda_peak_memory_bytes(0).unwrap();
    drop(Tensor::zeros([1 << 20], (Kind::Float, device)));
    assert!(cuda_peak_memory_bytes(0).unwrap() >= before + (4 << 20));
}
