//! Ctrl-C: it ends the program at once, but where something asks for it, which gets the time to end well. A second one is for
//! what does not ask again.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Exit code of a program that Ctrl-C ends: 128 and the number of the signal.
pub const EXIT_CODE: u8 = 130;

/// Nobody asks; somebody does; and there was a Ctrl-C that he does not know of yet.
const UNWATCHED: u8 = 0;
const WATCHED: u8 = 1;
const PRESSED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNWATCHED);

/// The work was ended by Ctrl-C: nothing needs to be said.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// As long as it is there, Ctrl-C is asked for.
#[derive(Debug)]
pub struct Watch(());

impl Watch {
    /// Takes over Ctrl-C. There is one at a time.
    ///
    /// # Errors
    /// The system does not let it.
    pub fn begin() -> Result<Watch, String> {
        static HANDLER: OnceLock<Result<(), String>> = OnceLock::new();
        let set = || ctrlc::set_handler(pressed).map_err(|e| e.to_string());
        HANDLER.get_or_init(set).clone()?;
        STATE.store(WATCHED, Ordering::Relaxed);
        Ok(Watch(()))
    }

    /// Whether there was a Ctrl-C since [`Watch::take`].
    pub fn is_pressed(&self) -> bool {
        STATE.load(Ordering::Relaxed) == PRESSED
    }

    /// The same, after which it is forgotten.
    pub fn take(&self) -> bool {
        STATE.swap(WATCHED, Ordering::Relaxed) == PRESSED
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        STATE.store(UNWATCHED, Ordering::Relaxed);
    }
}

/// Notes a Ctrl-C that somebody asks for; ends the program otherwise.
fn pressed() {
    let noted = STATE.compare_exchange(WATCHED, PRESSED, Ordering::Relaxed, Ordering::Relaxed);
    if noted.is_err() {
        std::process::exit(i32::from(EXIT_CODE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_is_noted_where_somebody_asks() {
        let watch = Watch::begin().expect("no other handler");
        assert!(!watch.is_pressed() && !watch.take());
        pressed();
        assert!(watch.is_pressed() && watch.take() && !watch.is_pressed());
        pressed();
        assert!(watch.take(), "again, once it was taken");
    }
}
