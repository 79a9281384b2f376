//! Models behind an https address.

use std::path::Path;
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail, ensure};
use braise_engine::catalogue::Name;
use ureq::{Agent, Timeout};

use super::copy::{Copied, check_space, copy};
use crate::progress::Progress;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// Fetches the file at `address` into `work`, as `to`.
pub fn fetch(address: &str, work: &Path, to: &Path) -> Result<Copied> {
    let config = Agent::config_builder()
        .https_only(address.starts_with("https:")) // no redirect leads to an insecure place
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .user_agent(concat!("braise/", env!("CARGO_PKG_VERSION")))
        .build();
    let response = Agent::new_with_config(config).get(address).call().map_err(|e| explain(address, e))?;
    let body = response.into_body();
    let total = body.content_length();
    check_space(work, total.unwrap_or(0))?;
    let mut progress = Progress::new("downloading", total);
    let mut reader = body.into_with_config().limit(u64::MAX).reader();
    copy(&mut reader, address, to, &mut progress)
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

    /// A server on this machine that gives one connection one answer.
    fn serve(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("has an address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("is called");
            let request = BufReader::new(stream.try_clone().expect("is cloned"));
            let asked = request.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).count();
            assert!(asked > 0);
            stream.write_all(answer.as_bytes()).expect("is sent");
        });
        format!("http://{address}/some/Tiny-1B-Q4_0.gguf?download=true")
    }

    fn fetched(answer: &'static str) -> Result<Vec<u8>, String> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let to = dir.path().join("x");
        let result = fetch(&serve(answer), dir.path(), &to);
        let copied = result.map_err(|e| crate::failure::line(&e))?;
        let data = std::fs::read(to).expect("is readable");
        assert_eq!(copied.bytes, data.len() as u64);
        Ok(data)
    }

    #[test]
    fn a_file_is_fetched_with_or_without_a_length() {
        let with = fetched("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nGGUF");
        assert_eq!(with.as_deref(), Ok(&b"GGUF"[..]));
        let without = fetched("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nGGUF");
        assert_eq!(without.as_deref(), Ok(&b"GGUF"[..]));
    }

    #[test]
    fn refusals_and_broken_downloads_say_what_to_do() {
        let absent = fetched("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").expect_err("is absent");
        assert!(absent.contains("404") && absent.contains("check the address"), "{absent}");
        let login = fetched("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").expect_err("is closed");
        assert!(login.contains("login"), "{login}");
        let cut = fetched("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nGGUF").expect_err("is cut");
        assert!(cut.contains("cannot be read to its end") && cut.ends_with("; pull again"), "{cut}");
        let nobody =
            fetch("http://127.0.0.1:1/x.gguf", Path::new("."), Path::new("x")).expect_err("nobody there");
        assert!(nobody.to_string().contains("check the address and the network"), "{nobody}");
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
