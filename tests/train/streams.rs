//! Memory on its way to a device, and work beside the current stream.

use dora_data::arena::Arena;
use tch::{Cuda, Device, Kind, Tensor};
use torch_ext::{Event, HostBuffer, Stream, load_cuda, record_stream};

/// A buffer of counted bytes.
fn counted(bytes: usize, device: Device) -> HostBuffer {
    let mut buffer = HostBuffer::new(bytes, device).unwrap();
    assert!(buffer.iter().all(|byte| *byte == 0));
    (0..).zip(buffer.iter_mut()).for_each(|(at, byte)| *byte = (at % 251) as u8);
    buffer
}

#[test]
fn a_buffer_arrives_as_it_was_filled() {
    for bytes in [0, 1, 1000] {
        let expected = counted(bytes, Device::Cpu).to_vec();
        let uploaded = counted(bytes, Device::Cpu).upload();
        assert_eq!((uploaded.kind(), uploaded.size()), (Kind::Uint8, vec![bytes as i64]));
        assert_eq!(Vec::<u8>::try_from(uploaded).unwrap(), expected);
    }
}

#[test]
fn arrays_of_an_arena_are_found_in_its_copy() {
    let mut arena = Arena::default();
    let few = arena.push_f32(&[0.5, -1.5, 3.0]);
    let none = arena.push_f32(&[]);
    let whole = arena.push_i64(&[-1, i64::MAX]);
    let bytes = Tensor::from_slice(arena.bytes());
    assert_eq!(Vec::<f32>::try_from(few.tensor(&bytes)).unwrap(), [0.5, -1.5, 3.0]);
    assert_eq!(none.tensor(&bytes).size(), [0]);
    assert_eq!(Vec::<i64>::try_from(whole.tensor(&bytes)).unwrap(), [-1, i64::MAX]);
}

#[test]
fn a_stream_waits_for_another_by_an_event() {
    if !(load_cuda() && Cuda::is_available()) {
        let error = Stream::new(0).unwrap_err().to_string();
        assert!(error.starts_with("libtorch failed in Stream: "), "{error}");
        println!("skipped: there is no GPU, whose streams could wait for one another");
        return;
    }
    let (device, bytes) = (Device::Cuda(0), 1 << 26);
    let side = Stream::new(0).unwrap();
    let current = Stream::current(0).unwrap();
    assert_ne!(side, current);
    let expected = Tensor::from_slice(&counted(bytes, Device::Cpu)).sum(Kind::Int64);
    let (uploaded, ready) = {
        let _entered = side.enter().unwrap();
        assert_eq!(Stream::current(0).unwrap(), side);
        (counted(bytes, device).upload(), Event::record(side).unwrap())
    };
    assert_eq!(Stream::current(0).unwrap(), current);
    ready.block(current).unwrap();
    record_stream(&uploaded, current).unwrap();
    assert!(uploaded.sum(Kind::Int64).to_device(Device::Cpu).equal(&expected));
}
