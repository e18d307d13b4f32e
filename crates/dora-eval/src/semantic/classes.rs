//! The classes of a data set: names, colours, and the numbers that stand for them in its annotations.

use crate::images::masks::{VOID, davis_palette};

/// Most classes: labels are bytes, and one of them is void.
const MOST: usize = 255;

/// What a list calls the pixels that have no class.
const VOID_NAMES: [&str; 4] = ["void", "unlabelled", "unlabeled", "ignore"];

/// Names and colours of ADE20K's annotations, from index 0, which is void, on.
const ADE20K: &str = include_str!("ade20k.txt");

/// Names, colours and numbers of classes. Numbers of annotation files are called indices, numbers
/// without gaps that heads predict are called labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Classes {
    /// A class for each label.
    classes: Vec<Class>,
    /// Labels of the indices; [`VOID`] or `None` for those that are no class.
    labels: Vec<Option<u8>>,
    /// Red, green and blue of each index.
    palette: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
struct Class {
    name: String,
    index: u8,
}

/// Why a list is no list of classes: one sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ClassesError(String);

impl Classes {
    /// ADE20K's 150 classes, whose indices begin with 1.
    ///
    /// # Errors
    /// Never: the list is part of the program.
    pub fn ade20k() -> Result<Self, ClassesError> {
        let lines: Vec<&str> = ADE20K.lines().collect();
        Self::parse(&lines, None)
    }

    /// Classes of a list in the order of their indices, `NAME` or `NAME RED GREEN BLUE`. The one named
    /// `void` (or `unlabelled`, `ignore`) and `void_index` are no classes; nor is index 255.
    ///
    /// Colours that are not given are those of the PASCAL VOC palette.
    pub fn parse(lines: &[&str], void_index: Option<u8>) -> Result<Self, ClassesError> {
        let lines: Vec<&str> =
            lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
        if lines.len() > MOST {
            let count = lines.len();
            return Err(ClassesError(format!("it names {count} classes, and {MOST} are the most")));
        }
        let mut found =
            Self { classes: Vec::new(), labels: vec![None; 256], palette: davis_palette() };
        found.labels[usize::from(VOID)] = Some(VOID);
        if let Some(void_index) = void_index {
            found.labels[usize::from(void_index)] = Some(VOID);
        }
        for (index, line) in (0..MOST as u8).zip(&lines) {
            let (name, colour) = parse_line(line)?;
            if let Some(colour) = colour {
                found.palette[3 * usize::from(index)..][..3].copy_from_slice(&colour);
            }
            let is_void = VOID_NAMES.contains(&name.to_lowercase().as_str());
            if is_void || void_index == Some(index) {
                found.labels[usize::from(index)] = Some(VOID);
                continue;
            }
            if found.classes.iter().any(|class| class.name == name) {
                return Err(ClassesError(format!("it names the class `{name}` twice")));
            }
            found.labels[usize::from(index)] = Some(found.classes.len() as u8);
            found.classes.push(Class { name: name.to_owned(), index });
        }
        if found.classes.len() < 2 {
            let count = found.classes.len();
            return Err(ClassesError(format!(
                "it names {count} classes besides void, and a head needs at least 2 to tell apart"
            )));
        }
        Ok(found)
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Never: there are at least two.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Names in the order of the labels.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.classes.iter().map(|class| class.name.as_str())
    }

    /// The index of a label in annotation files.
    pub fn index(&self, label: u8) -> u8 {
        self.classes[usize::from(label)].index
    }

    /// The label of an index, or [`VOID`]; `None` for an index that means nothing here.
    pub fn label(&self, index: u8) -> Option<u8> {
        self.labels[usize::from(index)]
    }

    /// The indices that annotations may hold, in words.
    pub fn expected(&self) -> String {
        let last = self.classes.last().map_or(0, |class| class.index);
        let voids: Vec<String> = (0..=255u8)
            .filter(|&index| self.label(index) == Some(VOID))
            .map(|index| index.to_string())
            .collect();
        let first = self.classes.first().map_or(0, |class| class.index);
        format!("{first} to {last} for classes and {} for void", voids.join(" or "))
    }

    /// Red, green and blue of all 256 indices.
    pub fn palette(&self) -> &[u8] {
        &self.palette
    }
}

/// Name and colour; a name may hold spaces and numbers.
fn parse_line(line: &str) -> Result<(&str, Option<[u8; 3]>), ClassesError> {
    let mut rest = line;
    let mut colour = [0; 3];
    for channel in colour.iter_mut().rev() {
        let Some((before, word)) = rest.rsplit_once(char::is_whitespace) else {
            return Ok((line, None));
        };
        if !word.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok((line, None));
        }
        *channel = word.parse().map_err(|_| {
            ClassesError(format!("the colour in `{line}` must be three numbers from 0 to 255"))
        })?;
        rest = before.trim_end();
    }
    Ok((rest, Some(colour)))
}
