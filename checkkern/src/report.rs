//! What was run, what failed, and what was left out and why.

use braise_kernels::isa::{Isa, IsaError};
use std::fmt::Write as _;

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

/// All rows that were run, and what was not.
#[derive(Debug, Default)]
pub struct Report {
    ran: Vec<String>,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Report {
    /// Runs the cases of the row of this name and prints how it went. A row without cases has failed.
    pub fn row(&mut self, name: String, run: impl FnOnce(&mut Cases)) {
        let mut cases = Cases::default();
        run(&mut cases);
        if cases.failed() || cases.ran == 0 {
            let mut text = format!("{name}: {} of {} cases FAILED", cases.failed, cases.ran);
            for line in cases.described {
                write!(text, "\n    {line}").expect("a String takes all text");
            }
            println!("{text}");
            self.failed.push(text);
        } else {
            println!("{name}: {} cases ok", cases.ran);
        }
        self.ran.push(name);
    }

    /// Notes that `what` was not run, and why.
    pub fn skip(&mut self, what: impl std::fmt::Display, why: impl std::fmt::Display) {
        self.skipped.push(format!("{what}: {why}"));
    }

    /// The names of the rows that were run.
    pub fn ran(&self) -> &[String] {
        &self.ran
    }

    /// The last line of the report.
    pub fn summary(&self) -> String {
        let (ran, skipped, why) = (self.ran.len(), self.skipped.len(), self.skipped.join("; "));
        format!("ran {ran}, skipped {skipped} ({})", if skipped == 0 { "nothing was left out" } else { &why })
    }

    /// Nothing if all rows are right.
    ///
    /// # Errors
    /// What failed; also if no row was run at all.
    pub fn verdict(&self) -> Result<(), String> {
        if self.ran.is_empty() {
            return Err("no row was run".to_owned());
        }
        if self.failed.is_empty() { Ok(()) } else { Err(self.failed.join("\n")) }
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
        assert_eq!(report.ran(), ["good", "bad"]);
        assert_eq!(report.summary(), "ran 2, skipped 0 (nothing was left out)");
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
