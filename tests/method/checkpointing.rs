//! Blocks that backward computes again: the same answers and gradients.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use dora_model::{DropPath, Network, StateDict};
use rand::{SeedableRng, rngs::ChaCha8Rng};
use tch::{Device, Kind, Tensor};
use torch_ext::{Autocast, AutocastDtype, checkpoint};

use super::{engine::CONFIG, largest_difference, uniform};

/// The encoder's answer for images and the gradients of its parameters, with so many blocks computed again.
fn gradients(blocks: usize, autocast: Option<AutocastDtype>) -> StateDict {
    let weights = Network::init(&CONFIG, &mut ChaCha8Rng::seed_from_u64(3));
    let mut network = Network::new(&CONFIG, &weights, Device::Cpu, Kind::Float, true).unwrap();
    network.backbone.set_checkpoint_blocks(blocks);
    let images = uniform(1, &[6, 3, 32, 32], Kind::Float);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let drop_path = DropPath::draw(0.5, CONFIG.vit.depth, 6, &mut rng, Device::Cpu);
    let cls = {
        let _region = autocast.map(|dtype| Autocast::enter(Device::Cpu, dtype).unwrap());
        network.backbone.cls(&images, Some(&drop_path))
    };
    let upstream = uniform(2, &cls.size(), cls.kind());
    (&cls * upstream).sum(Kind::Float).backward();
    let backbone = network.state().strip_prefix("backbone.");
    let grads = backbone.iter().map(|(name, param)| (name.to_owned(), param.grad()));
    grads.chain([("cls".to_owned(), cls.detach())]).collect()
}

#[test]
fn blocks_computed_again_give_the_same_gradients() {
    for autocast in [None, Some(AutocastDtype::BFloat16)] {
        let expected = gradients(0, autocast);
        for blocks in 1..=CONFIG.vit.depth as usize {
            let found = gradients(blocks, autocast);
            for (name, tensor) in expected.iter() {
                let off = largest_difference(tensor, &found.get(name).unwrap());
                assert_eq!(off, 0.0, "{name} with {blocks} blocks, {autocast:?}");
                assert!(tensor.abs().max().double_value(&[]) > 0.0, "{name} is all zeros");
            }
        }
    }
    let [full, low] = [None, Some(AutocastDtype::BFloat16)].map(|autocast| gradients(2, autocast));
    let name = "blocks.0.attn.qkv.weight";
    let off = largest_difference(&full.get(name).unwrap(), &low.get(name).unwrap());
    assert!(off > 0.0, "autocast changed nothing");
}

#[test]
fn a_part_is_computed_once_forward_and_once_backward() {
    let calls = Arc::new(AtomicUsize::new(0));
    let [input, weight] = [1, 2].map(|seed| uniform(seed, &[3, 3], Kind::Double));
    let [input, weight] = [input, weight].map(|tensor| tensor.set_requires_grad(true));
    let (counted, same) = (calls.clone(), weight.shallow_clone());
    let output = checkpoint(&input, &[&weight], move |input| {
        counted.fetch_add(1, Ordering::Relaxed);
        input.matmul(&same).tanh()
    });
    let loss = output.unwrap().sum(Kind::Double);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    loss.backward();
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let (grads, plain) = ([input.grad(), weight.grad()], input.matmul(&weight).tanh());
    let expected =
        Tensor::run_backward(&[plain.sum(Kind::Double)], &[&input, &weight], false, false);
    for (grad, expected) in grads.iter().zip(&expected) {
        assert_eq!(largest_difference(grad, expected), 0.0);
    }
    drop(loss);
    assert_eq!(Arc::strong_count(&calls), 1, "the part outlives its graph");
}

#[test]
fn a_part_that_fails_is_an_error_of_its_pass() {
    let input = uniform(1, &[2, 2], Kind::Double).set_requires_grad(true);
    let error = checkpoint(&input, &[], |_| panic!("no forward")).unwrap_err().to_string();
    assert!(error.contains("no forward"), "{error}");
    let calls = Cell::new(0);
    let output = checkpoint(&input, &[], move |input| {
        calls.set(calls.get() + 1);
        assert!(calls.get() == 1, "no second call");
        input * 2
    });
    let error = output.unwrap().sum(Kind::Double).f_backward().unwrap_err().to_string();
    assert!(error.contains("no second call"), "{error}");
}
