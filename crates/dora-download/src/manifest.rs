//! `data/walking_tours.toml`: which tours there are and where their copies lie.

use crate::error::DownloadError;
use crate::text::key;
use serde::Deserialize;
use std::fmt;
use std::path::Path;

/// The whole manifest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The data set's name.
    pub title: String,
    /// Who published it.
    pub authors: String,
    /// The paper to cite.
    pub paper: String,
    /// Address of the published list of links.
    pub list: String,
    /// SPDX identifier of the licence.
    pub licence: String,
    /// Address of the licence.
    pub licence_url: String,
    /// Number of the item on figshare.
    pub figshare_article: u64,
    /// Width of the videos as published.
    pub width_px: u32,
    /// Height of the videos as published.
    pub height_px: u32,
    /// The videos.
    #[serde(rename = "tour")]
    pub tours: Vec<Tour>,
}

/// One video.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tour {
    /// As people write it: `Kuala Lumpur`.
    pub name: String,
    /// As published, `h:mm:ss`.
    pub duration: Option<String>,
    /// As published, rounded.
    pub fps: f64,
    /// The deposited copy.
    pub figshare: FigshareCopy,
    /// The original.
    pub youtube: YoutubeCopy,
}

/// A file of the figshare item.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FigshareCopy {
    /// Its name there; ours as well.
    pub file: String,
    /// Where to begin, `h:mm:ss`.
    pub start: Option<String>,
    /// Where to end, `h:mm:ss`.
    pub end: Option<String>,
    /// What is wrong with it: "runs ... and is blank after ...".
    pub defect: Option<String>,
}

/// A video on YouTube.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct YoutubeCopy {
    /// Its 11 letters.
    pub id: String,
    /// Where to begin, `h:mm:ss`.
    pub start: Option<String>,
    /// Where to end, `h:mm:ss`.
    pub end: Option<String>,
    /// What is wrong with it.
    pub defect: Option<String>,
}

/// Where a copy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The deposited files: the same bytes for everybody, with checksums
    Figshare,
    /// The originals, through `yt-dlp`
    Youtube,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Figshare => "figshare",
            Self::Youtube => "youtube",
        })
    }
}

impl Manifest {
    /// Reads and checks the manifest.
    ///
    /// # Errors
    /// It cannot be read, is no such TOML, or names something that is no plain name; says which.
    pub fn read(path: &Path) -> Result<Self, DownloadError> {
        let text = std::fs::read_to_string(path).map_err(DownloadError::io("read", path))?;
        let wrong = |what: String| {
            DownloadError::Wrong(format!("the manifest `{}` {what}", path.display()))
        };
        let manifest: Self =
            toml::from_str(&text).map_err(|error| wrong(format!("is not right: {error}")))?;
        manifest.check().map_err(wrong)?;
        Ok(manifest)
    }

    /// The tours that `words` name, in the manifest's order: names in any spelling, or `all`.
    ///
    /// # Errors
    /// A word names none; the nearest is suggested.
    pub fn select(&self, words: &[String]) -> Result<Vec<&Tour>, DownloadError> {
        for word in words {
            let known = |tour: &Tour| key(&tour.name) == key(word);
            if key(word) != "all" && !self.tours.iter().any(known) {
                return Err(self.unknown(word));
            }
        }
        let wanted = |tour: &&Tour| {
            words.iter().any(|word| key(word) == "all" || key(word) == key(&tour.name))
        };
        Ok(self.tours.iter().filter(wanted).collect())
    }

    fn unknown(&self, word: &str) -> DownloadError {
        let known: Vec<String> = self.tours.iter().map(Tour::word).collect();
        let distance = |tour: &&String| strsim::damerau_levenshtein(&key(tour), &key(word));
        let nearest = known.iter().min_by_key(distance);
        let hint = match nearest.filter(|tour| distance(tour) <= 1 + tour.len() / 3) {
            Some(tour) => format!("did you mean `{tour}`?"),
            None => format!("name some of {}, or all", known.join(", ")),
        };
        DownloadError::Wrong(format!("there is no tour `{word}`; {hint}"))
    }

    fn check(&self) -> Result<(), String> {
        if self.tours.is_empty() {
            return Err("lists no tour".to_owned());
        }
        let mut seen = Vec::new();
        for tour in &self.tours {
            let name = &tour.name;
            let plain = |text: &str| {
                !text.is_empty()
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
            };
            if key(name).is_empty() || key(name) == "all" {
                return Err(format!("has a tour of the name `{name}`, which cannot be asked for"));
            }
            if !tour.figshare.file.strip_suffix(".mp4").is_some_and(plain) {
                return Err(format!(
                    "gives {name} the file `{}`; write letters, digits, `_`, `-` and the ending .mp4",
                    tour.figshare.file
                ));
            }
            if tour.youtube.id.len() != 11 || !plain(&tour.youtube.id) {
                return Err(format!("gives {name} `{}`, no id of YouTube", tour.youtube.id));
            }
            for own in [key(name), key(&tour.figshare.file)] {
                if seen.contains(&own) {
                    return Err(format!("has {name} or its file twice"));
                }
                seen.push(own);
            }
            let times = [&tour.duration, &tour.figshare.start, &tour.figshare.end];
            let times = times.into_iter().chain([&tour.youtube.start, &tour.youtube.end]);
            if let Some(time) = times.flatten().find(|time| !is_clock_time(time)) {
                return Err(format!("gives {name} the time `{time}`; write h:mm:ss"));
            }
        }
        Ok(())
    }
}

impl Tour {
    /// The word by which users ask for it: `kuala-lumpur`.
    pub fn word(&self) -> String {
        self.name.to_lowercase().replace(' ', "-")
    }

    /// Its file's name without the ending.
    pub fn stem(&self) -> &str {
        self.figshare.file.trim_end_matches(".mp4")
    }

    /// The page of the original.
    pub fn youtube_url(&self) -> String {
        format!("https://www.youtube.com/watch?v={}", self.youtube.id)
    }

    /// Where the copy from `source` begins and ends, for the commands that read it.
    pub(crate) fn range(&self, source: Source) -> (Option<&str>, Option<&str>) {
        let (start, end) = match source {
            Source::Figshare => (&self.figshare.start, &self.figshare.end),
            Source::Youtube => (&self.youtube.start, &self.youtube.end),
        };
        (start.as_deref(), end.as_deref())
    }

    /// What is wrong with the copy from `source`.
    pub(crate) fn defect(&self, source: Source) -> Option<&str> {
        match source {
            Source::Figshare => self.figshare.defect.as_deref(),
            Source::Youtube => self.youtube.defect.as_deref(),
        }
    }
}

/// `h:mm:ss`.
fn is_clock_time(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 3
        && parts.iter().all(|part| part.parse::<u8>().is_ok_and(|number| number < 60))
        && parts[1..].iter().all(|part| part.len() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Manifest {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/walking_tours.toml");
        Manifest::read(&path).unwrap()
    }

    #[test]
    fn ours_lists_the_ten_tours() {
        let manifest = ours();
        assert_eq!(manifest.tours.len(), 10);
        let venice = manifest.select(&["venice".to_owned()]).unwrap()[0];
        assert_eq!(venice.range(Source::Figshare), (None, Some("1:50:00")));
        assert_eq!(venice.range(Source::Youtube), (None, None));
        assert_eq!(venice.youtube_url(), "https://www.youtube.com/watch?v=fGX0Te6pFvk");
    }

    #[test]
    fn tours_are_named_in_any_spelling_and_once() {
        let manifest = ours();
        let names = |words: &[&str]| -> Vec<String> {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let tours = manifest.select(&words).unwrap();
            tours.iter().map(|tour| tour.name.clone()).collect()
        };
        assert_eq!(names(&["zurich", "Kuala Lumpur", "KUALA_LUMPUR"]), ["Kuala Lumpur", "Zurich"]);
        assert_eq!(names(&["chiangmai"]), ["Chiang Mai"]);
        assert_eq!(names(&["venice", "all"]).len(), 10);
        assert!(names(&[]).is_empty());
    }

    #[test]
    fn an_unknown_tour_brings_the_nearest() {
        for (word, expected) in [
            ("venise", "there is no tour `venise`; did you mean `venice`?"),
            ("kuala-lumpr", "did you mean `kuala-lumpur`?"),
            ("paris", "name some of amsterdam, bangkok, chiang-mai,"),
            ("", "name some of amsterdam"),
        ] {
            let message = ours().select(&[word.to_owned()]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_manifest_that_could_do_harm_is_refused() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/walking_tours.toml");
        let good = std::fs::read_to_string(path).unwrap();
        for (from, to, expected) in [
            ("\"Walking_Tour_Venice.mp4\"", "\"../Venice.mp4\"", "the file `../Venice.mp4`"),
            ("\"Walking_Tour_Venice.mp4\"", "\"Walking_Tour_Zurich.mp4\"", "twice"),
            ("fGX0Te6pFvk", "--exec=reboo", "no id of YouTube"),
            ("\"1:50:00\"", "\"1:50\"", "write h:mm:ss"),
            ("name = \"Venice\"", "name = \"All\"", "cannot be asked for"),
            ("fps = 30", "fps = 30\ncolour = 1", "unknown field `colour`"),
        ] {
            assert!(good.contains(from), "{from}");
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("tours.toml");
            std::fs::write(&file, good.replace(from, to)).unwrap();
            let message = Manifest::read(&file).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
