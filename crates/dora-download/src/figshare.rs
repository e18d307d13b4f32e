//! figshare's public API: which files an item has, with sizes and checksums, and under which licence.

use crate::error::DownloadError;
use crate::http::{Client, Hitch, Patience, Retry};
use crate::manifest::Tour;
use crate::stop::Stop;
use crate::text::{foreign, key};
use crate::transfer::Md5;
use serde::Deserialize;

/// Where figshare's API is.
pub const API: &str = "https://api.figshare.com";

/// How often to ask before anything has come: a network that is not there is told in seconds.
const FIRST_TRIES: u32 = 4;
/// Far more than an item with thousands of files takes.
const LARGEST_ANSWER_BYTES: u64 = 8 << 20;

/// An item: what can be fetched of it.
#[derive(Debug, Clone)]
pub struct Item {
    files: Vec<RemoteFile>,
    /// The licence that figshare states, with its address.
    pub licence: Option<String>,
    /// The item's page.
    pub page: String,
}

/// A file of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteFile {
    /// Its name there, for comparing and telling, never for a path.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its checksum, as figshare computed it.
    pub md5: Md5,
    /// Where to get it, the best address first.
    pub urls: Vec<String>,
}

#[derive(Deserialize)]
struct ArticleAnswer {
    #[serde(default)]
    files: Vec<FileAnswer>,
    license: Option<LicenceAnswer>,
}

#[derive(Deserialize)]
struct LicenceAnswer {
    name: String,
    #[serde(default)]
    url: String,
}

#[derive(Deserialize)]
struct FileAnswer {
    id: u64,
    name: String,
    size: u64,
    #[serde(default)]
    computed_md5: String,
    #[serde(default)]
    download_url: String,
    #[serde(default)]
    is_link_only: bool,
}

/// Asks the API at `api` for item `article`; the list is complete for `tours`, if figshare has them.
///
/// # Errors
/// It cannot be reached, or gives no such answer.
pub fn item(
    client: &Client,
    api: &str,
    article: u64,
    tours: &[&Tour],
    retry: Retry,
    stop: &Stop,
    say: impl Fn(&str),
) -> Result<Item, DownloadError> {
    let url = format!("{api}/v2/articles/{article}");
    let retry = Retry { tries: retry.tries.min(FIRST_TRIES), ..retry };
    let mut patience = Patience::new(retry, stop);
    let mut answer: ArticleAnswer = patiently(&mut patience, &say, || get(client, &url))?;
    let complete = |files: &[FileAnswer]| {
        tours.iter().all(|tour| files.iter().any(|file| same_name(&file.name, tour)))
    };
    if !complete(&answer.files) {
        // The item itself names its first files only.
        let url = format!("{url}/files?page=1&page_size=1000");
        answer.files = patiently(&mut patience, &say, || get(client, &url))?;
    }
    let licence =
        answer.license.map(|licence| foreign(&format!("{} {}", licence.name, licence.url)));
    let files: Result<Vec<RemoteFile>, String> = answer
        .files
        .into_iter()
        .filter(|file| tours.iter().any(|tour| same_name(&file.name, tour)))
        .map(|file| remote_file(api, file))
        .collect();
    let files = files.map_err(|what| DownloadError::Failed(format!("figshare {what}")))?;
    let page = format!("https://figshare.com/articles/dataset/_/{article}");
    Ok(Item { files, licence, page })
}

impl Item {
    /// The file of a tour.
    ///
    /// # Errors
    /// There is none; says which there are.
    pub fn file_of(&self, tour: &Tour) -> Result<&RemoteFile, DownloadError> {
        self.files.iter().find(|file| same_name(&file.name, tour)).ok_or_else(|| {
            DownloadError::Failed(format!(
                "{}: figshare has no file `{}`; take the original with `--source youtube`",
                tour.word(),
                tour.figshare.file
            ))
        })
    }
}

fn get<T: serde::de::DeserializeOwned>(client: &Client, url: &str) -> Result<T, Hitch> {
    client.json(url, LARGEST_ANSWER_BYTES)
}

fn patiently<T>(
    patience: &mut Patience<'_>,
    say: impl Fn(&str),
    ask: impl Fn() -> Result<T, Hitch>,
) -> Result<T, DownloadError> {
    let way_out = "look for the network and, behind a proxy, at HTTPS_PROXY, or take the originals with \
                   `--source youtube`";
    loop {
        let what = match ask() {
            Ok(answer) => return Ok(answer),
            Err(Hitch::Final(error)) => return Err(error),
            Err(Hitch::Refused(what)) => what,
            Err(Hitch::Passing { what, wait }) => match patience.wait(&what, wait, &say) {
                Ok(()) => continue,
                Err(DownloadError::Failed(what)) => what,
                Err(error) => return Err(error),
            },
        };
        return Err(DownloadError::Failed(format!("{what}; {way_out}")));
    }
}

/// Spaces, underscores and capitals make no other tour.
fn same_name(name: &str, tour: &Tour) -> bool {
    key(name) == key(&tour.figshare.file)
}

fn remote_file(api: &str, file: FileAnswer) -> Result<RemoteFile, String> {
    let name = foreign(&file.name);
    if file.is_link_only {
        return Err(format!("only links to `{name}`; take the original with `--source youtube`"));
    }
    if file.size == 0 {
        return Err(format!("lists `{name}` without a size"));
    }
    let md5 = Md5::parse(&file.computed_md5).ok_or_else(|| {
        format!("lists `{name}` with `{}` for an MD5", foreign(&file.computed_md5))
    })?;
    // The API hands files to programs; the address that it lists may be for browsers alone.
    let mut urls = vec![format!("{api}/v2/file/download/{}", file.id)];
    urls.extend(Some(file.download_url).filter(|url| !url.is_empty()));
    Ok(RemoteFile { name, size_bytes: file.size, md5, urls })
}
