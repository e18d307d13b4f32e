//! Values that are impossible, or do not go with one another.

use super::{BackboneMode, HeadKind, Recipe};
use crate::semantic::classes::Classes;

impl Recipe {
    /// Every value that is impossible, or does not go with another, one sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let Self { data, head, augment, train, test } = self;
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        let void = u8::try_from(data.void).ok();
        require(
            void.is_some() || data.void == -1,
            format!(
                "`data.void` is {}, but must lie between 0 and 255, or be -1 for none",
                data.void
            ),
        );
        if !data.classes.is_empty() {
            let lines: Vec<&str> = data.classes.iter().map(String::as_str).collect();
            if let Err(error) = Classes::parse(&lines, void) {
                require(false, format!("`data.classes` is no list of classes: {error}"));
            }
        }
        require(
            (data.long_px == 0) == (data.short_px == 0),
            "`data.long_px` and `data.short_px` must be both 0 or both above 0".to_owned(),
        );
        require(
            data.long_px >= data.short_px,
            format!("`data.long_px` is {}, but must not be below `data.short_px`", data.long_px),
        );
        require(
            head.blocks.windows(2).all(|pair| pair[0] < pair[1]),
            format!("`head.blocks` is {:?}, but must rise", head.blocks),
        );
        require(
            head.auxiliary_weight == 0.0 || head.blocks.contains(&head.auxiliary_block),
            format!(
                "`head.auxiliary_block` is {}, but must be one of `head.blocks`, {:?}",
                head.auxiliary_block, head.blocks
            ),
        );
        require(
            !head.pool_sides.is_empty()
                && head.pool_sides.iter().all(|side| (1..=64).contains(side)),
            format!(
                "`head.pool_sides` is {:?}, but must hold numbers from 1 to 64",
                head.pool_sides
            ),
        );
        for (key, value, least, most) in [
            ("data.long_px", data.long_px, 0, 1 << 14),
            ("data.short_px", data.short_px, 0, 1 << 14),
            ("head.channels", head.channels, 1, 1 << 12),
            ("head.auxiliary_channels", head.auxiliary_channels, 1, 1 << 12),
            ("augment.crop_px", augment.crop_px, 16, 4096),
            ("train.iterations", train.iterations as i64, 1, 100_000_000),
            ("train.batch", train.batch as i64, 1, 4096),
            ("train.patches", train.patches as i64, 0, 1 << 20),
            ("train.warmup_iterations", train.warmup_iterations as i64, 0, 100_000_000),
            ("train.checkpoint_every", train.checkpoint_every as i64, 1, 100_000_000),
            ("test.window_px", test.window_px, 0, 1 << 14),
            ("test.stride_px", test.stride_px, 1, 1 << 14),
        ] {
            let fits = (least..=most).contains(&value);
            require(fits, format!("`{key}` is {value}, but must lie between {least} and {most}"));
        }
        require(
            test.window_px == 0 || test.stride_px <= test.window_px,
            format!(
                "`test.stride_px` is {}, but must not be above `test.window_px`, {}",
                test.stride_px, test.window_px
            ),
        );
        let is_positive = |value: f64| value > 0.0 && value.is_finite();
        for (key, value) in [
            ("augment.scale_min", augment.scale_min),
            ("augment.cat_max_ratio", augment.cat_max_ratio),
            ("train.lr", train.lr),
            ("train.poly_power", train.poly_power),
        ] {
            require(is_positive(value), format!("`{key}` is {value}, but must be above 0"));
        }
        require(
            augment.scale_max >= augment.scale_min && augment.scale_max <= 16.0,
            format!(
                "`augment.scale_max` is {}, but must lie between `augment.scale_min` and 16",
                augment.scale_max
            ),
        );
        for (key, value) in [
            ("head.auxiliary_weight", head.auxiliary_weight),
            ("train.lr_end", train.lr_end),
            ("train.weight_decay", train.weight_decay),
        ] {
            let is_possible = value >= 0.0 && value.is_finite();
            require(is_possible, format!("`{key}` is {value}, but must not be below 0"));
        }
        for (key, value) in [("head.dropout", head.dropout), ("train.drop_path", train.drop_path)] {
            require(
                (0.0..1.0).contains(&value),
                format!("`{key}` is {value}, but must lie between 0 and 1, 1 excluded"),
            );
        }
        require(
            train.layer_decay > 0.0 && train.layer_decay <= 1.0,
            format!("`train.layer_decay` is {}, but must lie between 0 and 1", train.layer_decay),
        );
        let is_frozen = train.backbone == BackboneMode::Frozen;
        require(
            is_frozen || head.kind == HeadKind::Upernet,
            "`train.backbone` is \"fine_tuned\", but the linear head is defined on a frozen encoder"
                .to_owned(),
        );
        require(
            train.patches == 0 || (head.kind == HeadKind::Linear && head.dropout == 0.0),
            "`train.patches` is above 0, but only the linear head without `head.dropout` learns from \
             single patches"
                .to_owned(),
        );
        require(
            head.kind == HeadKind::Linear || train.batch >= 2,
            "`train.batch` is 1, but UperNet's batch norm needs at least 2 images".to_owned(),
        );
        problems
    }
}
