//! Fewer frames than the video has: the first one in each step of a regular grid.

/// Keeps a number of frames a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thin {
    fps: f64,
    interval_us: i64,
}

impl Thin {
    /// `fps` frames a second, above 0, of a video with about `interval_us` between its frames.
    pub(crate) fn new(fps: f64, interval_us: i64) -> Self {
        Self { fps, interval_us }
    }

    /// The step of the grid that a time lies in. Stamps are rounded: a frame that comes a little too
    /// early still belongs to the step that it begins.
    pub(crate) fn step(self, pts_us: i64) -> i64 {
        let early_us = self.interval_us as f64 / 4.0;
        ((pts_us as f64 + early_us) * 1e-6 * self.fps).floor() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_video_gives_regular_frames() {
        for (video_fps, fps, every) in
            [(60.0, 30.0, 2), (60.0, 5.0, 12), (29.97, 29.97, 1), (25.0, 1.0, 25)]
        {
            let interval_us = (1e6 / video_fps) as i64;
            let thin = Thin::new(fps, interval_us);
            let mut last = None;
            let kept: Vec<usize> = (0..1000)
                .filter(|&frame| {
                    let pts_us = (frame as f64 * 1e6 / video_fps).round() as i64;
                    let is_first = Some(thin.step(pts_us)) > last;
                    last = last.max(Some(thin.step(pts_us)));
                    is_first
                })
                .collect();
            assert_eq!(kept, (0..1000).step_by(every).collect::<Vec<_>>(), "{video_fps} {fps}");
        }
    }
}
