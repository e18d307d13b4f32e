//! What was painted of each frame, as movies and on sheets.

use std::path::{Path, PathBuf};

use anyhow::Context;
use dora_eval::{
    pictures::{
        Row, beside, lay_out,
        movie::{Movie, MovieKind},
        object_colour, shrink, write_png,
    },
    visualize::scene::Painted,
};
use image::{Rgb, RgbImage};

/// The most columns of a picture on a sheet.
const SHEET_CELL_PX: u32 = 424;
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);

/// The moving pictures.
pub(super) struct Movies {
    attention: Movie,
    tracks: Movie,
    pca: Movie,
}

impl Movies {
    /// Movies of the first frame's size, a file each in `out`.
    pub(super) fn begin(
        out: &Path,
        kind: MovieKind,
        fps: f64,
        first: &Painted,
    ) -> anyhow::Result<Self> {
        let begin = |name: &str, picture: &RgbImage| {
            Movie::new(kind, &out.join(name), picture.dimensions(), fps)
        };
        Ok(Self {
            attention: begin("attention", &attention_picture(first))?,
            tracks: begin("tracks", &first.objects)?,
            pca: begin("pca", &pca_picture(first))?,
        })
    }

    pub(super) fn push(&mut self, painted: &Painted) -> anyhow::Result<()> {
        self.attention.push(&attention_picture(painted))?;
        self.tracks.push(&painted.objects)?;
        self.pca.push(&pca_picture(painted))?;
        Ok(())
    }

    pub(super) fn finish(self) -> anyhow::Result<[PathBuf; 3]> {
        Ok([self.attention.finish()?, self.tracks.finish()?, self.pca.finish()?])
    }
}

/// The frame and the attention of each head, in rows of about as many pictures.
fn attention_picture(painted: &Painted) -> RgbImage {
    let cells: Vec<RgbImage> = std::iter::once(&painted.frame)
        .chain(&painted.attention)
        .map(|cell| shrink(cell.clone(), SHEET_CELL_PX))
        .collect();
    let columns = (cells.len() as f64).sqrt().ceil() as usize;
    let rows: Vec<Row> = cells.chunks(columns).map(|cells| Row::plain(cells.to_vec())).collect();
    lay_out(&[], &rows)
}

fn pca_picture(painted: &Painted) -> RgbImage {
    let small = |image: &RgbImage| shrink(image.clone(), SHEET_CELL_PX * 3 / 2);
    beside(&small(&painted.frame), &small(&painted.pca))
}

/// Writes what was painted as sheets, a column for each frame under its heading.
pub(super) fn write_sheets(
    out: &Path,
    headings: &[String],
    painted: Vec<Painted>,
) -> anyhow::Result<Vec<PathBuf>> {
    let row = |colour, label: String, picture: &dyn Fn(&Painted) -> &RgbImage| Row {
        colour,
        label,
        cells: painted.iter().map(|p| shrink(picture(p).clone(), SHEET_CELL_PX)).collect(),
    };
    let first = painted.first().context("there is no frame")?;
    let frames = || row(Rgb([24, 24, 24]), String::new(), &|p| &p.frame);
    let mut attention = vec![frames()];
    for head in 0..first.attention.len() {
        attention.push(row(WHITE, head.to_string(), &|p| &p.attention[head]));
    }
    let mut objects = vec![frames(), row(WHITE, String::new(), &|p| &p.objects)];
    for object in 0..first.alone.len() {
        objects.push(row(object_colour(object), String::new(), &|p| &p.alone[object]));
    }
    let pca = vec![frames(), row(WHITE, String::new(), &|p| &p.pca)];
    let sheets = [("attention.png", attention), ("objects.png", objects), ("pca.png", pca)];
    let write = |(name, rows): (&str, Vec<Row>)| {
        let path = out.join(name);
        let sheet = lay_out(headings, &rows);
        write_png(&path, &sheet).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    sheets.into_iter().map(write).collect()
}
