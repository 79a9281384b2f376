//! Runs a part of the checks in a process of its own, and watches it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::check::{Check, Status};
use super::part::{Line, Part};
use crate::output::notice;

/// How often a part begins anew behind a check that did not come back. A machine on which more do not is known to be broken.
const RESTARTS: usize = 5;

/// How long a process may take to end once it was told to.
const GRACE: Duration = Duration::from_secs(5);

/// How a process ended.
enum End {
    /// It came to its end.
    Done,
    /// The GPU was lost in this check, which says so.
    Lost { during: Option<String> },
    /// It ended early or was ended, during a check if one had begun.
    Broken { during: Option<String>, why: String },
}

/// The checks of `part`. Of those that end their process, or say nothing for as long as `patience`, this is what failed.
pub fn run(part: Part, patience: Duration) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..=RESTARTS {
        let end = start(part, after.as_deref()).map(|child| watch(part, child, patience, &mut checks));
        let (during, why) = match end {
            Ok(End::Done) => return checks,
            Ok(End::Lost { during }) => (during, None),
            Ok(End::Broken { during, why }) => (during, Some(why)),
            Err(e) => (None, Some(crate::failure::line(&e))),
        };
        if let Some(why) = why {
            let check = match &during {
                Some(name) => Check::broken(part, name, why),
                None => Check::new(part, "its process", Status::Failed, why).next(part.without()),
            };
            say(part, &check);
            checks.push(check);
        }
        if during.is_none() {
            return checks;
        }
        after = during;
    }
    let why = format!("{} checks before them did not come back", RESTARTS + 1);
    checks.push(Check::skip(part, "the checks behind it", why));
    checks
}

fn start(part: Part, after: Option<&str>) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.args(["doctor", "--part", &part.to_string()]);
    command.args(after.into_iter().flat_map(|after| ["--after", after]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot start a process for the checks")
}

/// Collects the checks of a process until it ends, or says nothing for too long.
fn watch(part: Part, mut child: Child, patience: Duration, checks: &mut Vec<Check>) -> End {
    let (lines, last_words) = listen(&mut child);
    let mut last = None; // the check that began last, and whether it is done
    let during = |last: Option<(String, bool)>| last.and_then(|(name, done)| (!done).then_some(name));
    loop {
        match lines.recv_timeout(patience) {
            Ok(Line::Begin(name)) => last = Some((name, false)),
            Ok(Line::Check(check)) => {
                if let Some((_, done)) = &mut last {
                    *done = true;
                }
                say(part, &check);
                checks.push(check);
            }
            Ok(Line::Lost) => return ended(child, End::Lost { during: last.map(|(name, _)| name) }),
            Ok(Line::Done) => return ended(child, End::Done),
            Err(RecvTimeoutError::Timeout) => {
                let why = format!("did not come back within {} s", patience.as_secs());
                let _ = child.kill(); // it may have ended just now
                return ended(child, End::Broken { during: during(last), why });
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = wait(&mut child);
                let how = status.map_or_else(|| "without a status".to_owned(), |status| status.to_string());
                let said = last_words.recv_timeout(GRACE).unwrap_or_default();
                let said = said.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
                return End::Broken { during: during(last), why: format!("its process ended ({how}){said}") };
            }
        }
    }
}

/// What a process writes: the lines of its standard output, and all of its standard error, once it is closed.
fn listen(child: &mut Child) -> (Receiver<Line>, Receiver<String>) {
    let ((told, lines), (said, last_words)) = (channel(), channel());
    if let Some(out) = child.stdout.take() {
        spawn(move || {
            let heard = BufReader::new(out).lines().map_while(Result::ok);
            // a line that is none of the report is another program's: a driver writes where it likes
            for line in heard.filter_map(|text| serde_json::from_str(&text).ok()) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
    }
    if let Some(mut err) = child.stderr.take() {
        spawn(move || {
            let mut bytes = Vec::new();
            let _ = err.read_to_end(&mut bytes); // what came until then will do
            let _ = said.send(String::from_utf8_lossy(&bytes).into_owned());
        });
    }
    (lines, last_words)
}

/// Waits for the end of a process, but not for ever: one that waits for a broken GPU cannot be ended.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(None) if begin.elapsed() < GRACE => sleep(Duration::from_millis(10)),
            status => return status.ok().flatten(),
        }
    }
}

fn ended(mut child: Child, end: End) -> End {
    if wait(&mut child).is_none() {
        let _ = child.kill();
        wait(&mut child); // what is measured next should not share the machine with it; nothing more can be done
    }
    end
}

/// Progress: a line for each check.
fn say(part: Part, check: &Check) {
    let detail = if check.detail.is_empty() { String::new() } else { format!(", {}", check.detail) };
    notice(format!("{part}: {}: {}{detail}", check.name, check.status.name()));
}
