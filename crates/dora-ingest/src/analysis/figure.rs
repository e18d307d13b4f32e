//! The figure, as SVG: lightness, classes and cuts of every video along one axis of time.

use super::summary::{Frame, Video};
use std::fmt::{self, Display, Write};

/// Okabe and Ito's palette, which the colour-blind tell apart, less the yellow that white swallows.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// When the colours are used up, the same ones with another pattern.
const DASHES: [&str; 4] = ["none", "7 3", "2 3", "9 3 2 3"];

const WIDTH_PX: f64 = 960.0;
const LEFT_PX: f64 = 64.0;
const RIGHT_PX: f64 = WIDTH_PX - 24.0;
const PANEL_PX: f64 = 170.0;
/// From one panel's bottom to the next one's top: axis, its name, the next heading.
const BETWEEN_PX: f64 = 62.0;
const LANE_PX: f64 = 30.0;
const LEGEND_ROW_PX: f64 = 20.0;
/// A letter's width at 12 px, on average and rounded up: nobody here knows the reader's font.
const LETTER_PX: f64 = 7.0;
const LONGEST_NAME: usize = 40;
/// Points along the time axis: more would not show and make the file of hours large.
const BINS: f64 = 600.0;
/// Points of classes per frame, whose whole numbers jump from one frame to the next.
const CLASS_BINS: f64 = 100.0;

/// Draws videos that are compared over `length_us`, above 0, microseconds.
///
/// Panels on classes are there when any video has some. Each point of a line is the mean over a 600th of
/// the length, or over a 100th for classes per frame.
pub(super) fn svg(videos: &[Video], length_us: i64) -> String {
    let axis = TimeAxis::new(length_us);
    let length_us = length_us as f64;
    let mut page = Page::default();
    let what = match videos {
        [video] => clipped(&video.name),
        _ => format!("{} videos at equal length", videos.len()),
    };
    page.text(LEFT_PX, 32.0, "font-size='18' font-weight='bold'", &what);
    let about = match videos {
        [_] => format!("first {}", axis.length()),
        _ => format!("first {} of each", axis.length()),
    };
    page.text(LEFT_PX, 52.0, "fill='#555'", about);
    let mut y = legend(&mut page, videos, 76.0) + 44.0;

    let lightness = lines(videos, length_us / BINS, |video| {
        video.frames.iter().map(|frame| (frame.pts_us, frame.lightness)).collect()
    });
    let mut letters = 'a'..;
    let mut heading = |what: &str| format!("({}) {what}", letters.next().unwrap_or('?'));
    let scale = Scale::around(&lightness, 20.0, 100.0);
    y = panel(&mut page, y, &heading("Lightness"), "mean L* (CIELAB)", &axis, scale, &lightness);

    if videos.iter().any(|video| video.classes.is_some()) {
        let at = |frames: &[Frame], position: usize| frames[position].pts_us;
        let here = lines(videos, length_us / CLASS_BINS, |video| {
            let classes = video.classes.iter().flatten();
            classes.map(|(p, count)| (at(&video.frames, *p), count.here as f64)).collect()
        });
        let scale = Scale::from_zero(&here);
        y = panel(&mut page, y, &heading("Classes per frame"), "classes", &axis, scale, &here);
        let so_far = lines(videos, length_us / BINS, |video| {
            let classes = video.classes.iter().flatten();
            classes.map(|(p, count)| (at(&video.frames, *p), count.so_far as f64)).collect()
        });
        let scale = Scale::from_zero(&so_far);
        y = panel(&mut page, y, &heading("Classes seen so far"), "classes", &axis, scale, &so_far);
    }
    y = lanes(&mut page, y, &heading("Cuts"), &axis, videos);
    page.finish(&what, y)
}

/// The marks of a text that is being written.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Adds a formatted piece. Writing into a string cannot fail.
    fn add(&mut self, piece: fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(piece);
        self.0.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, style: &str, text: impl Display) {
        let text = escaped(&text.to_string());
        self.add(format_args!("<text x='{x:.1}' y='{y:.1}' {style}>{text}</text>"));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), style: &str) {
        self.add(format_args!(
            "<line x1='{x1:.1}' y1='{y1:.1}' x2='{x2:.1}' y2='{y2:.1}' {style}/>"
        ));
    }

    /// The whole document, of a height.
    fn finish(self, title: &str, height_px: f64) -> String {
        let (title, marks) = (escaped(title), self.0);
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH_PX:.0}' height='{height_px:.0}' \
             viewBox='0 0 {WIDTH_PX:.0} {height_px:.0}' role='img' font-size='12' \
             font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" fill='#222'>\n\
             <title>{title}</title>\n<rect width='100%' height='100%' fill='#fff'/>\n{marks}</svg>\n"
        )
    }
}

/// Time along the figure.
struct TimeAxis {
    length_s: f64,
    unit: &'static str,
    unit_s: f64,
}

impl TimeAxis {
    fn new(length_us: i64) -> Self {
        let length_s = length_us as f64 * 1e-6;
        let (unit, unit_s) = match length_s {
            ..180.0 => ("s", 1.0),
            ..10_800.0 => ("min", 60.0),
            _ => ("h", 3600.0),
        };
        Self { length_s, unit, unit_s }
    }

    fn x(&self, time_us: f64) -> f64 {
        LEFT_PX + (RIGHT_PX - LEFT_PX) * (time_us * 1e-6 / self.length_s).clamp(0.0, 1.0)
    }

    fn length(&self) -> String {
        format!("{} {}", (self.length_s / self.unit_s * 100.0).round() / 100.0, self.unit)
    }

    /// Draws the axis at a height, with its name; `top` is where its grid begins.
    fn draw(&self, page: &mut Page, top: f64, bottom: f64) {
        let length = self.length_s / self.unit_s;
        let step = nice_step(length, 8.0);
        for tick in (0..).map(|tick| f64::from(tick) * step).take_while(|&at| at <= length) {
            let x = self.x(tick * self.unit_s * 1e6);
            page.line((x, top), (x, bottom + 4.0), "stroke='#e4e4e4'");
            page.text(x, bottom + 17.0, "text-anchor='middle'", rounded(tick, step));
        }
        page.line((LEFT_PX, bottom), (RIGHT_PX, bottom), "stroke='#222'");
        let name = format!("time ({})", self.unit);
        page.text(RIGHT_PX, bottom + 32.0, "text-anchor='end' fill='#555'", name);
    }
}

/// The values that a panel shows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    /// From 0 to above the highest value.
    fn from_zero(lines: &[Line]) -> Self {
        let most = values(lines).fold(1.0, f64::max);
        let step = nice_step(most, 4.0).max(1.0);
        Self { low: 0.0, high: (most / step).ceil() * step, step }
    }

    /// What the lines span, but not less than `least`; within 0 to `most`.
    fn around(lines: &[Line], least: f64, most: f64) -> Self {
        let low = values(lines).fold(most, f64::min);
        let high = values(lines).fold(0.0, f64::max).max(low);
        let short = ((least - (high - low)) / 2.0).max(0.0);
        let step = nice_step((high - low).max(least), 5.0);
        Self {
            low: (((low - short) / step).floor() * step).max(0.0),
            high: (((high + short) / step).ceil() * step).min(most),
            step,
        }
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// One video's points: time in microseconds and value.
type Line = Vec<(f64, f64)>;

fn values(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flatten().map(|(_, value)| *value)
}

/// A line for each video, thinned.
fn lines(videos: &[Video], bin_us: f64, of: impl Fn(&Video) -> Vec<(i64, f64)>) -> Vec<Line> {
    videos.iter().map(|video| binned(&of(video), bin_us)).collect()
}

/// The means of time and value over each `bin_us` that has points; these are in the order of time.
fn binned(points: &[(i64, f64)], bin_us: f64) -> Line {
    let bin = |time_us: i64| (time_us as f64 / bin_us) as usize;
    let bins = points.chunk_by(|(before, _), (after, _)| bin(*before) == bin(*after));
    bins.map(|points| {
        let count = points.len() as f64;
        let time_us = points.iter().map(|(time_us, _)| *time_us as f64).sum::<f64>() / count;
        (time_us, points.iter().map(|(_, value)| value).sum::<f64>() / count)
    })
    .collect()
}

/// Draws names and their lines' look; gives the height where it ends.
fn legend(page: &mut Page, videos: &[Video], top: f64) -> f64 {
    let (mut x, mut y) = (LEFT_PX, top);
    for (number, video) in videos.iter().enumerate() {
        let name = clipped(&video.name);
        let width = 36.0 + LETTER_PX * name.chars().count() as f64;
        if x + width > RIGHT_PX && x > LEFT_PX {
            (x, y) = (LEFT_PX, y + LEGEND_ROW_PX);
        }
        page.line((x, y), (x + 24.0, y), &format!("{} stroke-width='2.5'", look(number)));
        page.text(x + 30.0, y + 4.0, "", name);
        x += width + 12.0;
    }
    y
}

/// Draws a panel with its heading above `top`; gives the top of what comes next.
fn panel(
    page: &mut Page,
    top: f64,
    heading: &str,
    unit: &str,
    axis: &TimeAxis,
    scale: Scale,
    lines: &[Line],
) -> f64 {
    let bottom = top + PANEL_PX;
    let y = |value: f64| bottom - PANEL_PX * scale.share(value);
    page.text(LEFT_PX, top - 10.0, "font-size='13' font-weight='bold'", heading);
    axis.draw(page, top, bottom);
    for tick in 0..=((scale.high - scale.low) / scale.step + 1e-6) as usize {
        let value = scale.low + tick as f64 * scale.step;
        page.line((LEFT_PX, y(value)), (RIGHT_PX, y(value)), "stroke='#e4e4e4'");
        let label = rounded(value, scale.step);
        page.text(LEFT_PX - 8.0, y(value) + 4.0, "text-anchor='end'", label);
    }
    let middle = (top + bottom) / 2.0;
    let turned = format!("text-anchor='middle' fill='#555' transform='rotate(-90 18 {middle:.1})'");
    page.text(18.0, middle, &turned, unit);
    for (number, line) in lines.iter().enumerate() {
        // A line from a point to itself is a dot, where there is no other.
        let points = line.iter().chain(line.first().filter(|_| line.len() == 1));
        let mut marks = String::new();
        for (time_us, value) in points {
            let _ = write!(marks, "{:.1},{:.1} ", axis.x(*time_us), y(*value));
        }
        page.add(format_args!(
            "<polyline points='{}' fill='none' {} stroke-width='1.6' stroke-linejoin='round' \
             stroke-linecap='round'/>",
            marks.trim_end(),
            look(number)
        ));
    }
    bottom + BETWEEN_PX
}

/// Draws a lane for each video with a mark for each cut; gives the figure's height.
fn lanes(page: &mut Page, top: f64, heading: &str, axis: &TimeAxis, videos: &[Video]) -> f64 {
    page.text(LEFT_PX, top - 10.0, "font-size='13' font-weight='bold'", heading);
    let bottom = top + LANE_PX * videos.len() as f64 + 6.0;
    axis.draw(page, top, bottom);
    for (number, video) in videos.iter().enumerate() {
        let floor = top + LANE_PX * (number + 1) as f64;
        page.line((LEFT_PX, floor), (RIGHT_PX, floor), "stroke='#bbb'");
        for cut in &video.cuts {
            let x = axis.x(video.frames[*cut].pts_us as f64);
            let colour = format!("stroke='{}' stroke-width='1.2'", colour(number));
            page.line((x, floor), (x, floor - 12.0), &colour);
        }
        let count = match video.cuts.len() {
            1 => "1 cut".to_owned(),
            count => format!("{count} cuts"),
        };
        let words = format!("{}: {count}", clipped(&video.name));
        page.text(LEFT_PX + 4.0, floor - 17.0, "font-size='11'", words);
    }
    bottom + 44.0
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// The stroke of a video's line.
fn look(number: usize) -> String {
    let dash = DASHES[number / COLOURS.len() % DASHES.len()];
    format!("stroke='{}' stroke-dasharray='{dash}'", colour(number))
}

/// A step of 1, 2 or 5 times a power of ten that divides `range`, above 0, into at most `most` parts.
fn nice_step(range: f64, most: f64) -> f64 {
    let least = range / most;
    let power = 10f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= least * 0.999);
    factor.unwrap_or(10.0) * power
}

/// A tick's value with as many decimals as its step needs.
fn rounded(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$}")
}

fn clipped(name: &str) -> String {
    if name.chars().count() <= LONGEST_NAME {
        return name.to_owned();
    }
    // The end of a path tells more than its beginning.
    let skipped = name.chars().count() + 1 - LONGEST_NAME;
    std::iter::once('…').chain(name.chars().skip(skipped)).collect()
}

/// Text for XML, which knows no control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&quot;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}');
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (range, most, expected) in
            [(10.5, 8.0, 2.0), (1.0, 8.0, 0.2), (60.0, 8.0, 10.0), (3.2, 8.0, 0.5), (4.0, 4.0, 1.0)]
        {
            let step = nice_step(range, most);
            assert!((step - expected).abs() < 1e-9, "{range} / {most}: {step}");
        }
        assert_eq!([rounded(0.6, 0.2), rounded(40.0, 10.0)], ["0.6", "40"]);
    }

    #[test]
    fn scales_hold_their_lines() {
        for (low, high) in [(0.0, 0.0), (100.0, 100.0), (3.0, 98.0), (42.0, 43.0), (50.0, 71.0)] {
            let scale = Scale::around(&[vec![(0.0, low), (1.0, high)]], 20.0, 100.0);
            assert!(scale.low <= low && scale.high >= high, "{scale:?}");
            assert!(scale.low >= 0.0 && scale.high <= 100.0, "{scale:?}");
            let steps = (scale.high - scale.low) / scale.step;
            assert!((steps - steps.round()).abs() < 1e-9 && steps >= 2.0, "{scale:?}");
        }
        assert_eq!(Scale::from_zero(&[vec![]]), Scale { low: 0.0, high: 1.0, step: 1.0 });
        let seven = Scale::from_zero(&[vec![(0.0, 7.0)]]);
        assert_eq!((seven.high, seven.step), (8.0, 2.0));
    }

    #[test]
    fn bins_are_means_and_hours_stay_small() {
        let points: Vec<(i64, f64)> = (0..400_000).map(|at| (at, at as f64)).collect();
        let line = binned(&points, 400_000.0 / BINS);
        assert!((599..=601).contains(&line.len()), "{}", line.len());
        assert!(line.iter().all(|(time_us, value)| (time_us - value).abs() < 1e-6));
        assert_eq!(binned(&[(0, 1.0), (1, 3.0), (9, 5.0)], 4.0), [(0.5, 2.0), (9.0, 5.0)]);
    }

    #[test]
    fn videos_look_different_and_names_are_safe() {
        let looks: std::collections::BTreeSet<String> = (0..28).map(look).collect();
        assert_eq!(looks.len(), 28);
        assert_eq!(escaped("a<b>&'\"\u{7}"), "a&lt;b&gt;&amp;&#39;&quot;\u{fffd}");
        let long = format!("{}end.mp4", "ü".repeat(50));
        assert_eq!(clipped(&long).chars().count(), LONGEST_NAME);
        assert!(clipped(&long).starts_with('…') && clipped(&long).ends_with("end.mp4"));
    }
}
