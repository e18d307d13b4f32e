//! Values that are impossible, or do not go with one another.

use dora_core::tracker::MOST_ITERATIONS;
use dora_model::VitConfig;

use super::{LossName, MethodName, Recipe};

impl Recipe {
    /// Every value that is impossible, or does not go with another.
    pub(super) fn problems(&self) -> Vec<String> {
        let Self { method, tracker, model, data, clip, crop, views, train, output, monitor } = self;
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        let heads = model.arch.heads();
        require(
            (1..=heads).contains(&method.objects),
            format!(
                "`method.objects` is {}, but must lie between 1 and {heads}, the heads of the encoder",
                method.objects
            ),
        );
        for (key, value) in [
            ("method.student_temp", method.student_temp),
            ("method.teacher_temp", method.teacher_temp),
            ("method.warmup_teacher_temp", method.warmup_teacher_temp),
            ("tracker.eps", tracker.eps),
            ("train.clip_grad", train.clip_grad),
        ] {
            let is_positive = value > 0.0 && value.is_finite();
            require(is_positive, format!("`{key}` is {value}, but must be above 0"));
        }
        for (key, value) in [
            ("train.lr", train.lr),
            ("train.lr_end", train.lr_end),
            ("train.weight_decay", train.weight_decay),
            ("train.weight_decay_end", train.weight_decay_end),
        ] {
            let is_possible = value >= 0.0 && value.is_finite();
            require(is_possible, format!("`{key}` is {value}, but must not be below 0"));
        }
        for (key, value) in [
            ("method.center_momentum", method.center_momentum),
            ("train.momentum", train.momentum),
            ("train.momentum_end", train.momentum_end),
        ] {
            let is_share = (0.0..=1.0).contains(&value);
            require(is_share, format!("`{key}` is {value}, but must lie between 0 and 1"));
        }
        let depth = VitConfig::standard(heads, model.patch_px).depth as usize;
        require(
            train.checkpoint_blocks <= depth,
            format!(
                "`train.checkpoint_blocks` is {}, but must lie between 0 and {depth}, the blocks of the encoder",
                train.checkpoint_blocks
            ),
        );
        let drop_path = model.drop_path;
        require(
            (0.0..1.0).contains(&drop_path),
            format!("`model.drop_path` is {drop_path}, but must lie between 0 and 1, 1 excluded"),
        );
        for (key, value, most) in [
            ("tracker.iterations", tracker.iterations as i64, MOST_ITERATIONS as i64),
            ("model.patch_px", model.patch_px, 64),
            ("model.image_px", model.image_px, 4096),
            ("model.out_dim", model.out_dim, 1 << 20),
            ("model.hidden_dim", model.hidden_dim, 1 << 16),
            ("model.bottleneck_dim", model.bottleneck_dim, 1 << 16),
            ("train.clips", train.clips as i64, 4096),
            ("train.gradient_accumulation_steps", train.gradient_accumulation_steps as i64, 4096),
            ("data.short_side_px", i64::from(data.short_side_px), 8192),
            ("data.jpeg_quality", i64::from(data.jpeg_quality), 100),
            ("data.threads", (data.threads as i64).max(1), 1024),
            ("data.prefetch_batches", data.prefetch_batches as i64, 64),
            ("monitor.knn_k", monitor.knn_k, 100_000),
            ("monitor.davis_short_side_px", monitor.davis_short_side_px, 8192),
            ("monitor.image_px", if monitor.image_px == 0 { 1 } else { monitor.image_px }, 4096),
        ] {
            let fits = (1..=most).contains(&value);
            require(fits, format!("`{key}` is {value}, but must lie between 1 and {most}"));
        }
        let patch = model.patch_px.max(1);
        for (key, px) in [
            ("model.image_px", model.image_px),
            ("views.global_px", i64::from(views.global_px)),
            ("views.local_px", i64::from(views.local_px)),
            ("monitor.image_px", monitor.image_px),
        ] {
            require(
                px % patch == 0,
                format!("`{key}` is {px}, but must be a multiple of `model.patch_px`, {patch}"),
            );
        }
        let needed_crops = match (method.name, method.loss) {
            (MethodName::Dora, LossName::Released) => 2,
            _ => 1,
        };
        require(
            views.local_crops >= needed_crops,
            format!(
                "`views.local_crops` is {}, but this loss needs at least {needed_crops}",
                views.local_crops
            ),
        );
        let views_fit = match (method.name, method.loss) {
            (MethodName::Dino, _) => views.views == 2,
            (MethodName::Dora, LossName::Released) => views.views == 1,
            (MethodName::Dora, LossName::Mean) => true,
        };
        require(
            views_fit,
            format!(
                "`views.views` is {}, but `method.name = \"dino\"` needs 2 and `method.loss = \
                 \"released\"` needs 1",
                views.views
            ),
        );
        require(train.length.is_positive(), "`train.length` must be above 0".to_owned());
        for (key, span) in [
            ("output.checkpoint_every", output.checkpoint_every),
            ("output.keep_every", output.keep_every),
            ("output.tracks_every", output.tracks_every),
            ("monitor.every", monitor.every),
        ] {
            require(span.is_positive(), format!("`{key}` must be above 0"));
        }
        let of_section = |section: &str, found: Vec<String>| {
            let section = section.to_owned();
            found.into_iter().map(move |problem| format!("in [{section}]: {problem}"))
        };
        problems.extend(of_section("clip", clip.validate()));
        problems.extend(of_section("crop", crop.validate()));
        problems.extend(of_section("views", views.validate()));
        problems
    }
}
