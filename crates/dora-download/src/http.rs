//! Requests, and what to make of a server's refusals: which are worth another try, and when.

use crate::error::DownloadError;
use crate::stop::Stop;
use crate::text::foreign;
use std::time::{Duration, SystemTime};
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::{Agent, Body, ResponseExt};

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(30);

/// Makes requests.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    https: bool,
}

/// How often to try again, and how long to wait before.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Tries in a row that bring nothing.
    pub tries: u32,
    /// The wait after the first failure; each failure doubles it.
    pub first_wait: Duration,
    /// The longest wait, and the longest that a server may ask for.
    pub longest_wait: Duration,
}

impl Default for Retry {
    /// About seven minutes of a server or a network that is away.
    fn default() -> Self {
        Self {
            tries: 9,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(600),
        }
    }
}

/// Why a try came to nothing.
#[derive(Debug)]
pub(crate) enum Hitch {
    /// Another try may help; `wait` is what the server asks for.
    Passing {
        what: String,
        wait: Option<Duration>,
    },
    /// The server will not give this address's content, ever.
    Refused(String),
    Final(DownloadError),
}

impl From<DownloadError> for Hitch {
    fn from(error: DownloadError) -> Self {
        Self::Final(error)
    }
}

impl Hitch {
    pub(crate) fn passing(what: impl Into<String>) -> Self {
        Self::Passing { what: what.into(), wait: None }
    }
}

/// Counts failures in a row and waits between tries.
pub(crate) struct Patience<'a> {
    retry: Retry,
    failures: u32,
    stop: &'a Stop,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(retry: Retry, stop: &'a Stop) -> Self {
        Self { retry, failures: 0, stop }
    }

    /// Something has come: earlier failures are forgotten.
    pub(crate) fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next try, and tells through `say` when and why.
    ///
    /// # Errors
    /// No more tries, or the server asks for too long a wait: what went wrong last. A signal.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        asked: Option<Duration>,
        say: impl Fn(&str),
    ) -> Result<(), DownloadError> {
        self.failures += 1;
        let tries = self.retry.tries;
        if self.failures >= tries {
            return Err(DownloadError::Failed(format!("{what}, {tries} times in a row")));
        }
        let doubled = self.retry.first_wait.saturating_mul(1 << (self.failures - 1).min(20));
        let wait = match asked {
            Some(asked) if asked > self.retry.longest_wait => {
                let seconds = asked.as_secs();
                return Err(DownloadError::Failed(format!(
                    "{what} and to come back in {seconds} s"
                )));
            }
            Some(asked) => asked.max(self.retry.first_wait),
            None => doubled.min(self.retry.longest_wait),
        };
        if wait >= Duration::from_secs(1) {
            say(&format!("{what}; trying again in {} s", wait.as_secs()));
        }
        self.stop.sleep(wait)
    }
}

impl Client {
    /// One that accepts what `base` offers: https where that is https. Proxies are those of the
    /// environment (`HTTPS_PROXY`, `NO_PROXY`).
    pub fn new(base: &str) -> Self {
        Self::with_silence(base, SILENCE)
    }

    /// One with another limit of silence.
    pub fn with_silence(base: &str, silence: Duration) -> Self {
        let https = base.starts_with("https:");
        let config = Agent::config_builder()
            .https_only(https)
            .http_status_as_error(false)
            .user_agent(concat!("dora-download/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_send_request(Some(silence))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence))
            .timeout_per_write(Some(silence))
            .build();
        Self { agent: Agent::new_with_config(config), https }
    }

    /// Asks for `url`, follows redirects, and gives an answer with one of the statuses `wanted`.
    pub(crate) fn get(
        &self,
        url: &str,
        headers: &[(header::HeaderName, String)],
        wanted: &[StatusCode],
    ) -> Result<Response<Body>, Hitch> {
        let asked = ureq::http::Uri::try_from(url).ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("https"))
                || (matches!(uri.scheme_str(), Some("http")) && !self.https)
        });
        let Some(asked) = asked else {
            return Err(Hitch::Refused(format!("`{}` is no web address to trust", foreign(url))));
        };
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.call().map_err(|error| unreached(&asked, &error))?;
        if wanted.contains(&response.status()) {
            return Ok(response);
        }
        let redirected = response.get_uri() != &asked;
        Err(judge(response.get_uri().host(), response.status(), response.headers(), redirected))
    }

    /// The JSON at `url`, of at most `limit_bytes`.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &str,
        limit_bytes: u64,
    ) -> Result<T, Hitch> {
        let mut response = self.get(url, &[], &[StatusCode::OK])?;
        let body = response.body_mut().with_config().limit(limit_bytes).read_to_vec();
        let body = body.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => {
                failed(format!("`{url}` answers with more than {limit_bytes} bytes"))
            }
            error => Hitch::passing(format!("`{url}` broke off ({})", foreign(&error.to_string()))),
        })?;
        serde_json::from_slice(&body).map_err(|error| {
            let what = foreign(&error.to_string());
            failed(format!("`{url}` answers with something else than was asked for ({what})"))
        })
    }
}

/// An answer that no later try will better.
pub(crate) fn failed(what: String) -> Hitch {
    Hitch::Final(DownloadError::Failed(what))
}

/// No answer at all.
fn unreached(uri: &ureq::http::Uri, error: &ureq::Error) -> Hitch {
    let host = uri.host().unwrap_or("the server");
    let why = foreign(&error.to_string());
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Protocol(_) => Hitch::passing(format!("{host} cannot be reached ({why})")),
        _ => Hitch::Refused(format!("{host} cannot be asked ({why})")),
    }
}

/// What a status that was not wanted means (RFC 9110, RFC 6585).
fn judge(host: Option<&str>, status: StatusCode, headers: &HeaderMap, redirected: bool) -> Hitch {
    let host = host.unwrap_or("the server");
    let code = status.as_u16();
    let wait = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
    match code {
        // The address that a redirect gave has expired: the first address gives a fresh one.
        403 if redirected => Hitch::passing(format!("{host} no longer accepts the address (403)")),
        429 => Hitch::Passing { what: format!("{host} asks for fewer requests (429)"), wait },
        408 | 425 => Hitch::Passing { what: format!("{host} asks to try again ({code})"), wait },
        501 | 505 => Hitch::Refused(format!("{host} cannot do what was asked ({code})")),
        500.. => Hitch::Passing { what: format!("{host} has trouble ({code})"), wait },
        // A firewall that wants to see a browser answers so.
        202 => Hitch::Refused(format!("{host} wants to see a browser (202)")),
        404 | 410 => Hitch::Refused(format!("{host} does not have it ({code})")),
        _ => Hitch::Refused(format!("{host} refuses ({code})")),
    }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(value).ok()?;
            Some(date.duration_since(now).unwrap_or(Duration::ZERO))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_as_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, expected_s) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("99999999999999999999999", None),
        ] {
            let wait = retry_after(value, now);
            assert_eq!(wait, expected_s.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn what_began_encrypted_stays_so() {
        let client = Client::new("https://api.figshare.com");
        for url in ["http://127.0.0.1:9/x", "file:///etc/passwd", "ftp://h/x", "/x", ""] {
            let refused = client.get(url, &[], &[StatusCode::OK]).unwrap_err();
            assert!(
                matches!(refused, Hitch::Refused(what) if what.contains("no web address")),
                "{url}"
            );
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let passes = |code: u16, redirected| {
            let status = StatusCode::from_u16(code).unwrap();
            matches!(judge(Some("h"), status, &HeaderMap::new(), redirected), Hitch::Passing { .. })
        };
        for code in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(passes(code, false), "{code}");
        }
        for code in [202, 204, 301, 400, 401, 403, 404, 410, 416, 451, 501, 505] {
            assert!(!passes(code, false), "{code}");
        }
        assert!(passes(403, true));
        assert!(!passes(404, true));
    }

    #[test]
    fn patience_ends_and_is_renewed() {
        let retry = Retry {
            tries: 3,
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_secs(2),
        };
        let stop = Stop::default();
        let mut patience = Patience::new(retry, &stop);
        for _ in 0..2 {
            assert!(patience.wait("it broke", None, |_| ()).is_ok());
        }
        let message = patience.wait("it broke", None, |_| ()).unwrap_err().to_string();
        assert_eq!(message, "it broke, 3 times in a row");
        patience.renew();
        assert!(patience.wait("it broke", None, |_| ()).is_ok());
        let long = Some(Duration::from_secs(3600));
        let message = patience.wait("h asks for patience", long, |_| ()).unwrap_err().to_string();
        assert_eq!(message, "h asks for patience and to come back in 3600 s");
    }
}
