//! Models behind an https address. A download that breaks off is taken up again where it broke, now or by the next pull.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail, ensure};
use braise_engine::catalogue::Name;
use indicatif::DecimalBytes;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body, Timeout};

use super::copy::{Copied, check_space};
use super::partial::Partial;
use crate::output::notice;
use crate::progress::Progress;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a download is taken up again without another byte, and how long it waits before: this, then twice as long.
const RETRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);

/// Whether `text` is meant as an address.
pub fn is_address(text: &str) -> bool {
    text.contains("://")
}

/// The name under which the file at `address` is kept, from the last part of its path.
pub fn name_of(address: &str) -> Result<Name> {
    // plain http would let anyone on the way replace the model; on the machine itself there is no way
    let path = match address.split_once("://") {
        Some(("https", path)) => path,
        Some(("http", path)) if path.starts_with("127.0.0.1:") => path,
        _ => bail!("{address}: only https addresses are fetched; give one that begins with https://"),
    };
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let file = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next()).unwrap_or("");
    ensure!(
        file.to_lowercase().ends_with(".gguf"),
        "{address}: the address does not end with the name of a .gguf file; give the file's own address"
    );
    Ok(Name::from_file_name(file)?)
}

/// Fetches the file at `address` as `to`. `partial` is a folder on the same file system for what has come so far, where
/// this download may be found begun.
pub fn fetch(address: &str, partial: &Path, to: &Path) -> Result<Copied> {
    fetch_with(address, partial, to, PAUSE)
}

fn fetch_with(address: &str, dir: &Path, to: &Path, pause: Duration) -> Result<Copied> {
    let config = Agent::config_builder()
        .https_only(address.starts_with("https:")) // no redirect leads to an insecure place
        .http_status_as_error(false)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .user_agent(concat!("braise/", env!("CARGO_PKG_VERSION")))
        .build();
    let agent = Agent::new_with_config(config);
    let mut partial = Partial::open(dir, address)?;
    if partial.version().is_some() {
        notice(format!("going on after the {} that are here", DecimalBytes(partial.bytes())));
    }
    let (mut progress, mut failures) = (Progress::new("downloading", None), 0);
    let mut begun = false;
    loop {
        let before = partial.bytes();
        let why = match request(&agent, address, &partial) {
            Ok(response) => {
                begun = true;
                match receive(response, &mut partial, &mut progress)? {
                    Ok(()) => return partial.finish(to),
                    Err(e) => anyhow!("{address}: cannot be read to its end: {e}; pull again"),
                }
            }
            Err(e) if begun && may_pass(&e) => explain(address, e),
            Err(e) => return Err(explain(address, e)),
        };
        failures = if partial.bytes() > before { 0 } else { failures + 1 };
        // without a name for the version there is nothing to go on with
        if partial.version().is_none() || failures >= RETRIES {
            return Err(why);
        }
        let wait = pause * (1 << failures);
        notice(format!("the download broke off after {}; going on", DecimalBytes(partial.bytes())));
        sleep(wait);
    }
}

/// Asks for the file at `address`, or for what is missing of it as long as it has not changed.
fn request(agent: &Agent, address: &str, partial: &Partial) -> Result<Response<Body>, ureq::Error> {
    let mut request = agent.get(address);
    if let Some(version) = partial.version() {
        request = request.header("Range", format!("bytes={}-", partial.bytes())).header("If-Range", version);
    }
    let mut response = request.call()?;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        // nothing is missing, or less than nothing: what is here may be wrong
        response = agent.get(address).call()?;
    }
    match response.status() {
        status if status.is_success() => Ok(response),
        status => Err(ureq::Error::StatusCode(status.as_u16())),
    }
}

/// Takes in what a server sends. The inner error is that of the connection.
fn receive(
    response: Response<Body>,
    partial: &mut Partial,
    progress: &mut Progress,
) -> Result<std::io::Result<()>> {
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let first = first_byte(response.headers());
        ensure!(
            first == Some(partial.bytes()),
            "the server sent another part of the file than it was asked for; pull again"
        );
    } else {
        partial.restart(version(response.headers()))?;
    }
    let body = response.into_body();
    let rest = body.content_length();
    check_space(partial.dir(), rest.unwrap_or(0))?;
    if let Some(rest) = rest {
        progress.set_total(partial.bytes() + rest);
    }
    partial.append(&mut body.into_with_config().limit(u64::MAX).reader(), progress)
}

/// Where in the file a part of it begins (RFC 9110, section 14.4).
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get("Content-Range")?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// A name for this version of the file that a server can compare (RFC 9110, section 13.1.5).
fn version(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let tag = text("ETag").filter(|tag| tag.starts_with('"')); // weak ones begin with W/
    tag.or_else(|| text("Last-Modified")).map(str::to_owned)
}

/// Whether another attempt may succeed: there was no answer, or one that is about the server's own state.
fn may_pass(e: &ureq::Error) -> bool {
    !matches!(e, ureq::Error::StatusCode(code) if (400..500).contains(code) && ![408, 429].contains(code))
}

fn explain(address: &str, e: ureq::Error) -> Error {
    let next = match &e {
        ureq::Error::StatusCode(401 | 403) => {
            "the server asks for a login: fetch it with a browser, pull the file"
        }
        ureq::Error::StatusCode(404 | 410) => "there is no such file: check the address",
        ureq::Error::StatusCode(_) => "the server refused: try again later",
        ureq::Error::HostNotFound => "there is no such server, or no network: check both",
        ureq::Error::Timeout(Timeout::RecvBody | Timeout::RecvResponse) => {
            "the server fell silent: try again later"
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => {
            "the server's certificate is not accepted: check the address, the clock, and any proxy"
        }
        _ => "check the address and the network",
    };
    anyhow!("{address}: cannot fetch: {e}; {next}")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// An answer, which may depend on the lines of the request.
    type Answer = Box<dyn Fn(&[String]) -> String + Send>;

    /// A server on this machine that gives each connection one of the answers.
    fn serve(answers: Vec<Answer>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("has an address");
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("is called");
                let request = BufReader::new(stream.try_clone().expect("is cloned"));
                let asked: Vec<_> =
                    request.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                assert!(!asked.is_empty());
                stream.write_all(answer(&asked).as_bytes()).expect("is sent");
            }
        });
        format!("http://{address}/some/Tiny-1B-Q4_0.gguf?download=true")
    }

    /// What comes of the answers; the folder is where a download that broke off is kept.
    fn fetched_into(dir: &Path, address: &str) -> Result<String, String> {
        let to = dir.join("x");
        let result = fetch_with(address, &dir.join("partial"), &to, Duration::from_millis(1));
        let kept = dir.join("partial/origin.json").exists();
        assert_eq!(dir.join("partial").exists(), kept, "nothing is left that is of no use");
        assert!(!kept || result.is_err());
        let copied = result.map_err(|e| crate::failure::line(&e))?;
        let data = std::fs::read_to_string(&to).expect("is readable");
        assert_eq!(copied, super::super::copy::checksum(&to).expect("is readable"));
        Ok(data)
    }

    fn fetched(answer: &'static str) -> Result<String, String> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fetched_into(dir.path(), &serve(vec![Box::new(|_| answer.to_owned())]))
    }

    /// A server that has the file `text` in the version `tag`, and breaks off after `n` bytes of each answer.
    fn breaking(text: &'static str, tag: &'static str, n: usize) -> Answer {
        Box::new(move |asked| {
            let header = |name: &str| {
                let is_it = |line: &&String| line.to_lowercase().starts_with(name);
                asked.iter().find(is_it).map(|line| line[name.len()..].trim().to_owned())
            };
            let from =
                header("range: bytes=").filter(|_| header("if-range:").is_some_and(|known| known == tag));
            let from = from.map(|from| from.trim_end_matches('-').parse().expect("is a number"));
            let first: usize = from.unwrap_or(0);
            let (len, rest) = (text.len(), &text[first..]);
            let (status, range) = match from {
                Some(_) => ("206 Part", format!("Content-Range: bytes {first}-{}/{len}\r\n", len - 1)),
                None => ("200 OK", String::new()),
            };
            let sent = &rest[..n.min(rest.len())];
            format!("HTTP/1.1 {status}\r\n{range}Content-Length: {}\r\nETag: {tag}\r\n\r\n{sent}", rest.len())
        })
    }

    fn times(n: usize, answer: impl Fn() -> Answer) -> Vec<Answer> {
        (0..n).map(|_| answer()).collect()
    }

    const TEXT: &str = "GGUF and eleven more";

    #[test]
    fn a_download_that_breaks_off_is_gone_on_with() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // 20 bytes in parts of three: six that break off, each with progress, and the last
        let address = serve(times(7, || breaking(TEXT, "\"1\"", 3)));
        assert_eq!(fetched_into(dir.path(), &address).as_deref(), Ok(TEXT));
    }

    #[test]
    fn the_next_pull_goes_on_where_the_last_one_gave_up() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut answers = vec![breaking(TEXT, "\"1\"", 8)];
        answers.extend(times(RETRIES as usize, || breaking(TEXT, "\"1\"", 0)));
        answers.push(Box::new(|asked| {
            assert!(asked.iter().any(|line| line.to_lowercase() == "range: bytes=8-"), "{asked:?}");
            breaking(TEXT, "\"1\"", 99)(asked)
        }));
        let address = serve(answers);
        let error = fetched_into(dir.path(), &address).expect_err("nothing comes any more");
        assert!(error.ends_with("; pull again"), "{error}");
        assert_eq!(fetched_into(dir.path(), &address).as_deref(), Ok(TEXT));
    }

    #[test]
    fn two_versions_never_become_one_file() {
        const NEW: &str = "GGUF in other words!";
        for (old, new) in [("\"1\"", "\"2\""), ("\"1\"", "W/\"1\"")] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let address = serve(vec![breaking(TEXT, old, 8), breaking(NEW, new, 99)]);
            assert_eq!(fetched_into(dir.path(), &address).as_deref(), Ok(NEW), "{new}");
        }
        // a weak name is none to go on with
        let dir = tempfile::tempdir().expect("a temporary folder");
        let address = serve(vec![breaking(TEXT, "W/\"1\"", 8), breaking(NEW, "W/\"1\"", 99)]);
        fetched_into(dir.path(), &address).expect_err("breaks off");
        assert_eq!(fetched_into(dir.path(), &address).as_deref(), Ok(NEW));
        // nor is another address
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut answers = vec![breaking(TEXT, "\"1\"", 8)];
        answers.extend(times(RETRIES as usize, || breaking(TEXT, "\"1\"", 0)));
        fetched_into(dir.path(), &serve(answers)).expect_err("breaks off");
        let other = serve(vec![breaking(NEW, "\"1\"", 99)]);
        assert_eq!(fetched_into(dir.path(), &other).as_deref(), Ok(NEW));
    }

    #[test]
    fn a_part_that_was_not_asked_for_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let wrong =
            "HTTP/1.1 206 Part\r\nContent-Range: bytes 9-19/20\r\nContent-Length: 11\r\n\r\neleven more";
        let address = serve(vec![breaking(TEXT, "\"1\"", 8), Box::new(|_| wrong.to_owned())]);
        let error = fetched_into(dir.path(), &address).expect_err("is another part");
        assert!(error.contains("another part"), "{error}");
    }

    #[test]
    fn more_than_there_is_is_begun_again() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let gone = "HTTP/1.1 416 No\r\nContent-Range: bytes */4\r\nContent-Length: 0\r\n\r\n";
        let address = serve(vec![
            breaking(TEXT, "\"1\"", 8),
            Box::new(|_| gone.to_owned()),
            breaking("GGUF", "\"1\"", 99),
        ]);
        assert_eq!(fetched_into(dir.path(), &address).as_deref(), Ok("GGUF"));
    }

    #[test]
    fn a_file_is_fetched_with_or_without_a_length() {
        let with = fetched("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nGGUF");
        assert_eq!(with.as_deref(), Ok("GGUF"));
        let without = fetched("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nGGUF");
        assert_eq!(without.as_deref(), Ok("GGUF"));
    }

    #[test]
    fn refusals_and_broken_downloads_say_what_to_do() {
        let absent = fetched("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").expect_err("is absent");
        assert!(absent.contains("404") && absent.contains("check the address"), "{absent}");
        let login = fetched("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").expect_err("is closed");
        assert!(login.contains("login"), "{login}");
        let cut = fetched("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nGGUF").expect_err("is cut");
        assert!(cut.contains("cannot be read to its end") && cut.ends_with("; pull again"), "{cut}");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let nobody = fetched_into(dir.path(), "http://127.0.0.1:1/x.gguf").expect_err("nobody there");
        assert!(nobody.contains("check the address and the network"), "{nobody}");
    }

    #[test]
    fn names_come_from_the_address_and_only_safe_addresses_are_taken() {
        let name = |address| name_of(address).map(|name| name.to_string());
        let tiny = name("https://example.org/a/Tiny-1B-Q4_0.gguf?download=true").expect("has a name");
        assert_eq!(tiny, "tiny:1b-q4_0");
        for bad in
            ["http://example.org/x.gguf", "ftp://a/x.gguf", "https://a/x.zip", "https://a", "https://x.gguf"]
        {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(name("http://127.0.0.1.example.org/x.gguf").is_err());
    }
}
