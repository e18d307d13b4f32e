//! Training of a head, and of the encoder under it where that learns.
//!
//! Steps on images are all threads' together, since batch norms see whole batches: how they round depends on
//! the number of threads. Steps on patches are small enough for one.

use dora_data::rng::stream;
use dora_model::{DropPath, StateDict, StateError, Vit, VitConfig};
use tch::{Device, Kind, Reduction, Tensor};
use torch_ext::TorchError;

use super::{
    batches::Batch,
    features::block_maps,
    heads::{Head, Mode},
    optim::Optimiser,
    patches::Patches,
    recipe::{BackboneMode, Recipe},
    test::Segmenter,
};
use crate::{encoder::Encoder, images::masks::VOID};

/// A head in training.
#[derive(Debug)]
pub struct Trainer {
    /// Steps that have been taken.
    pub iteration: u64,
    recipe: Recipe,
    head: Head,
    vit: Vit,
    config: VitConfig,
    /// The encoder's parameters.
    encoder: StateDict,
    /// Those of them that learn: all or none.
    backbone: StateDict,
    optimiser: Optimiser,
    device: Device,
}

/// Why a head cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The encoder is not deep enough.
    #[error(
        "the encoder has {depth} blocks, but `head.blocks` takes block {block}, counted from 0"
    )]
    Depth {
        /// The encoder's blocks.
        depth: i64,
        /// The recipe's last one.
        block: usize,
    },
    /// The training has gone wrong.
    #[error("the loss is {loss} at iteration {iteration}: a lower `train.lr` may help")]
    Diverged {
        /// NaN or infinite.
        loss: f64,
        /// The step.
        iteration: u64,
    },
    /// libtorch has failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// Saved tensors do not fit.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Trainer {
    /// A fresh head on an encoder, which is left as it is: one that learns is a copy.
    ///
    /// # Errors
    /// If the encoder has not the blocks that the recipe names.
    pub fn new(encoder: &Encoder, recipe: &Recipe, classes: usize) -> Result<Self, TrainError> {
        let Encoder { config, device, .. } = *encoder;
        let block = recipe.head.blocks[3];
        if block as i64 >= config.depth {
            return Err(TrainError::Depth { depth: config.depth, block });
        }
        let learns = recipe.train.backbone == BackboneMode::FineTuned;
        let state = encoder.state.copy_to(device, Kind::Float, learns);
        let vit = Vit::from_state(&config, &state)?;
        let backbone = if learns { state.with_prefix("") } else { StateDict::default() };
        let seed = recipe.train.seed;
        let head = Head::init(&recipe.head, config.width, classes as i64, seed, device);
        let optimiser =
            Optimiser::new(head.params(), &backbone, config.depth, recipe.train.layer_decay);
        let recipe = recipe.clone();
        Ok(Self {
            iteration: 0,
            recipe,
            head,
            vit,
            config,
            encoder: state,
            backbone,
            optimiser,
            device,
        })
    }

    /// What makes classes of images by what was learnt up to now, for any thread: it shares the tensors.
    pub fn segmenter(&self) -> Segmenter {
        Segmenter {
            vit: Vit::from_state(&self.config, &self.encoder).expect("the network of this state"),
            config: self.config,
            head: self.head.share(),
            recipe: self.recipe.clone(),
            device: self.device,
        }
    }

    /// One step on images; gives the head's loss.
    ///
    /// # Errors
    /// If the loss is no number.
    pub fn step_on_images(&mut self, batch: &Batch) -> Result<f64, TrainError> {
        let Recipe { head: section, train, .. } = &self.recipe;
        let images_NCHW = batch.images_NCHW.to_device(self.device);
        let labels_NHW = batch.labels_NHW.to_device(self.device);
        let maps = if self.backbone.numel() == 0 {
            tch::no_grad(|| self.maps(&images_NCHW, None))
        } else {
            let mut rng = stream(train.seed, "semantic drop path", &[self.iteration]);
            let images = images_NCHW.size()[0];
            let drop_path =
                DropPath::draw(train.drop_path, self.config.depth, images, &mut rng, self.device);
            self.maps(&images_NCHW, (train.drop_path > 0.0).then_some(&drop_path))
        };
        let mut rng = stream(train.seed, "semantic dropout", &[self.iteration]);
        let logits = self.head.forward(&maps, &mut Mode::Train(&mut rng));
        let loss = pixel_loss(&logits.main, &labels_NHW);
        let total = match &logits.auxiliary {
            Some(auxiliary) => {
                &loss + section.auxiliary_weight * pixel_loss(auxiliary, &labels_NHW)
            }
            None => loss.shallow_clone(),
        };
        self.learn(&loss, &total)
    }

    /// One step of the linear head on single patches; gives the loss, the mean over what is labelled of
    /// them.
    ///
    /// # Errors
    /// If the loss is no number.
    pub fn step_on_patches(&mut self, patches: &Patches) -> Result<f64, TrainError> {
        let logits_BC = self.head.forward_patches(&patches.features_BX);
        let of_patches = &patches.shares_BC * logits_BC.log_softmax(1, Kind::Float);
        let labelled = patches.shares_BC.sum(Kind::Float).clamp_min(1e-6);
        let loss = -of_patches.sum(Kind::Float) / labelled;
        self.learn(&loss, &loss)
    }

    /// What must be saved to go on, each under the name of its file.
    pub fn state(&self) -> [(&'static str, StateDict); 3] {
        [
            ("head", self.head.state()),
            ("backbone", self.backbone.with_prefix("")),
            ("optimizer", self.optimiser.state()),
        ]
    }

    /// Goes on from saved tensors after `iteration` steps.
    ///
    /// # Errors
    /// If names or shapes are others.
    pub fn load(&mut self, iteration: u64, saved: [StateDict; 3]) -> Result<(), TrainError> {
        for ((_, ours), theirs) in self.state().iter().zip(&saved) {
            ours.assign(theirs)?;
        }
        self.iteration = iteration;
        Ok(())
    }

    fn maps(&self, images_NCHW: &Tensor, drop_path: Option<&DropPath>) -> [Tensor; 4] {
        let blocks = self.recipe.head.blocks;
        block_maps(&self.vit, &self.config, images_NCHW, blocks, drop_path)
    }

    fn learn(&mut self, loss: &Tensor, total: &Tensor) -> Result<f64, TrainError> {
        let value = loss.double_value(&[]);
        if !value.is_finite() {
            return Err(TrainError::Diverged { loss: value, iteration: self.iteration });
        }
        total.backward();
        let train = &self.recipe.train;
        self.optimiser.step(train.lr_at(self.iteration), train.weight_decay)?;
        self.iteration += 1;
        Ok(value)
    }
}

/// Cross-entropy at labels `[N, H, W]`, to whose size the logits are resized: 0 where they are void, and
/// the mean over all pixels, void and padding too, as is mmsegmentation's default. A crop with little in it teaches
/// little.
fn pixel_loss(logits_NChw: &Tensor, labels_NHW: &Tensor) -> Tensor {
    let size = &labels_NHW.size()[1..];
    let logits_NCHW = logits_NChw.upsample_bilinear2d(size, false, None::<f64>, None::<f64>);
    let void = i64::from(VOID);
    let sum = logits_NCHW.cross_entropy_loss(labels_NHW, None::<Tensor>, Reduction::Sum, void, 0.0);
    sum / labels_NHW.numel() as f64
}
