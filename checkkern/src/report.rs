//! What was run, what failed, and what was left out and why.

use braise_kernels::isa::{Isa, IsaError};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Failures of a row that are described; the others are counted.
const DESCRIBED: usize = 5;

/// The cases of one row of the kernel table.
#[derive(Debug, Default)]
pub struct Cases {
    ran: usize,
    failed: usize,
    described: Vec<String>,
}

impl Cases {
    /// Counts a case that is right if `ok`; `describe` says what is wrong otherwise.
    pub fn expect(&mut self, ok: bool, describe: impl FnOnce() -> String) {
        self.ran += 1;
        if !ok {
            self.failed += 1;
            if self.described.len() < DESCRIBED {
                self.described.push(describe());
            }
        }
    }

    /// Whether some case has failed.
    pub fn failed(&self) -> bool {
        self.failed > 0
    }
}

/// One row of the kernel table, after its cases were run.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Cases that were run.
    pub cases: usize,
    /// Those of them that are wrong.
    pub failed: usize,
    /// What is wrong with the first of these.
    pub details: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Row {
    /// Whether some case was run, and none is wrong.
    pub fn passed(&self) -> bool {
        self.cases > 0 && self.failed == 0
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.passed() {
            return write!(f, "{}: {} cases ok", self.name, self.cases);
        }
        write!(f, "{}: {} of {} cases FAILED", self.name, self.failed, self.cases)?;
        self.details.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// What whoever watches a report hears.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A row of this name begins.
    Begins(&'a str),
    /// It is done.
    Ends(&'a Row),
    /// Something is left out, and why.
    Skips(&'a str, &'a str),
}

type Watcher = dyn FnMut(Event<'_>);

/// All rows that were run, and what was not.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    skipped: Vec<String>,
    watcher: Option<Box<Watcher>>,
    after: Option<String>,
    resumed: bool,
}

impl Report {
    /// A report that tells `watcher` what happens while it happens.
    pub fn watched(watcher: impl FnMut(Event<'_>) + 'static) -> Report {
        Report { watcher: Some(Box::new(watcher)), ..Report::default() }
    }

    /// Passes over all rows up to and including the one of this name, which an earlier run had come to.
    #[must_use]
    pub fn after(self, name: Option<String>) -> Report {
        Report { resumed: name.is_some(), after: name, ..self }
    }

    /// Whether it goes on behind what an earlier run did.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    fn tell(&mut self, event: Event<'_>) {
        if let Some(watcher) = &mut self.watcher {
            watcher(event);
        }
    }

    /// Runs the cases of the row of this name; gives nothing if the row is passed over. A row without cases has failed,
    /// and so has one that panics.
    pub fn row(&mut self, name: String, run: impl FnOnce(&mut Cases)) -> Option<&Row> {
        if let Some(last) = &self.after {
            if *last == name {
                self.after = None;
            }
            return None;
        }
        self.tell(Event::Begins(&name));
        let (mut cases, begin) = (Cases::default(), Instant::now());
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&mut cases))) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            cases.expect(false, || format!("panicked: {text}"));
        }
        let Cases { ran, failed, described: details } = cases;
        let row = Row { name, cases: ran, failed, details, seconds: begin.elapsed().as_secs_f64() };
        self.tell(Event::Ends(&row));
        self.rows.push(row);
        self.rows.last()
    }

    /// Notes that `what` was not run, and why.
    pub fn skip(&mut self, what: impl fmt::Display, why: impl fmt::Display) {
        let (what, why) = (what.to_string(), why.to_string());
        self.tell(Event::Skips(&what, &why));
        self.skipped.push(format!("{what}: {why}"));
    }

    /// The rows that were run.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The last line of the report.
    pub fn summary(&self) -> String {
        let (ran, skipped, why) = (self.rows.len(), self.skipped.len(), self.skipped.join("; "));
        format!("ran {ran}, skipped {skipped} ({})", if skipped == 0 { "nothing was left out" } else { &why })
    }

    /// Nothing if all rows are right.
    ///
    /// # Errors
    /// What failed; also if no row was run at all.
    pub fn verdict(&self) -> Result<(), String> {
        if self.rows.is_empty() {
            return Err("no row was run".to_owned());
        }
        let failed: Vec<_> = self.rows.iter().filter(|row| !row.passed()).map(Row::to_string).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
    }
}

/// The levels to run: `forced` alone, or all that this CPU has. The others are noted as skipped.
///
/// # Errors
/// No level has the name `forced`, or this CPU lacks it.
pub fn select_levels(forced: Option<&str>, report: &mut Report) -> Result<Vec<Isa>, IsaError> {
    let forced = forced.map(Isa::by_name).transpose()?;
    let mut levels = Vec::new();
    for isa in Isa::ALL {
        if forced.is_some_and(|forced| forced != isa) {
            report.skip(isa, "BRAISE_ISA names another level");
        } else if !isa.is_supported() {
            report.skip(isa, format_args!("this CPU lacks one of {}", isa.features()));
        } else {
            levels.push(isa);
        }
    }
    Ok(levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_run_is_a_failure() {
        assert!(Report::default().verdict().is_err());
    }

    #[test]
    fn a_row_without_cases_is_a_failure() {
        let mut report = Report::default();
        report.row("empty".to_owned(), |_| ());
        assert!(report.verdict().unwrap_err().contains("empty: 0 of 0 cases FAILED"));
    }

    #[test]
    fn one_failed_case_fails_the_report_and_is_described() {
        let mut report = Report::default();
        report.row("good".to_owned(), |cases| cases.expect(true, String::new));
        assert_eq!(report.verdict(), Ok(()));
        report.row("bad".to_owned(), |cases| {
            cases.expect(true, String::new);
            cases.expect(false, || "what is wrong".to_owned());
        });
        assert_eq!(report.verdict().unwrap_err(), "bad: 1 of 2 cases FAILED\n    what is wrong");
        assert!(report.rows().iter().map(|row| row.name.as_str()).eq(["good", "bad"]));
        assert_eq!(report.summary(), "ran 2, skipped 0 (nothing was left out)");
    }

    #[test]
    fn a_row_that_panics_has_failed_and_the_next_one_runs() {
        let mut report = Report::default();
        report.row("bad".to_owned(), |_| panic!("no {}", "reason"));
        report.row("good".to_owned(), |cases| cases.expect(true, String::new));
        assert_eq!(report.verdict().unwrap_err(), "bad: 1 of 1 cases FAILED\n    panicked: no reason");
        assert_eq!(report.rows().len(), 2);
    }

    #[test]
    fn a_watcher_hears_everything_and_a_resumed_report_goes_on_behind_the_row_it_names() {
        let (told, heard) = std::sync::mpsc::channel();
        let report = Report::watched(move |event| told.send(format!("{event:?}")).expect("is heard"));
        let mut report = report.after(Some("b".to_owned()));
        for name in ["a", "b", "c"] {
            let row = report.row(name.to_owned(), |cases| cases.expect(true, String::new));
            assert_eq!(row.is_some(), name == "c");
        }
        report.skip("d", "because");
        assert!(report.is_resumed() && !Report::default().is_resumed());
        drop(report);
        let heard: Vec<String> = heard.iter().collect();
        assert_eq!(heard.len(), 3, "{heard:?}");
        assert!(heard[0] == "Begins(\"c\")" && heard[1].contains("cases: 1, failed: 0"), "{heard:?}");
        assert_eq!(heard[2], "Skips(\"d\", \"because\")");
    }

    #[test]
    fn a_forced_level_runs_alone_and_the_others_are_counted() {
        let mut report = Report::default();
        assert_eq!(select_levels(Some("portable"), &mut report).unwrap(), [Isa::Portable]);
        assert!(report.summary().starts_with("ran 0, skipped 3 (avx2: "), "{}", report.summary());
    }

    #[test]
    fn without_force_all_levels_of_the_cpu_run() {
        let mut report = Report::default();
        let levels = select_levels(None, &mut report).unwrap();
        assert_eq!(levels.last(), Some(&Isa::best()));
        assert_eq!(levels.len() + report.skipped.len(), Isa::ALL.len());
    }

    #[test]
    fn an_unknown_level_is_an_error() {
        assert!(select_levels(Some("avx3"), &mut Report::default()).is_err());
    }
}
