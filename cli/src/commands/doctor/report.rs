//! The report: a line for each check of the machine, for each group of kernels, and for each kernel that is wrong.

use anyhow::{Result, bail};
use serde::Serialize;

use super::check::{Check, Status};
use crate::output::{Format, markdown, print, print_json};

/// All checks.
#[derive(Debug, Serialize)]
pub struct Report {
    braise: &'static str,
    ok: usize,
    failed: usize,
    skipped: usize,
    checks: Vec<Check>,
}

impl Report {
    /// A report on these.
    pub fn new(checks: Vec<Check>) -> Report {
        let count = |status| checks.iter().filter(|check| check.status == status).count();
        Report {
            braise: env!("CARGO_PKG_VERSION"),
            ok: count(Status::Ok) + count(Status::Note),
            failed: count(Status::Failed),
            skipped: count(Status::Skipped),
            checks,
        }
    }

    /// Prints it.
    pub fn print(&self, format: Format) -> Result<()> {
        match format {
            Format::Md => print(&self.markdown()),
            Format::Json => print_json(self),
        }
    }

    /// Nothing if nothing failed.
    ///
    /// # Errors
    /// How much did; also if there was nothing to check.
    pub fn verdict(&self) -> Result<()> {
        if self.failed > 0 {
            bail!(
                "{} of {} checks failed; the report says which, and what to do about each",
                self.failed,
                self.failed + self.ok
            );
        }
        if self.ok == 0 {
            bail!("nothing was checked; the report says why");
        }
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut rows = Vec::new();
        for (i, check) in self.checks.iter().enumerate() {
            if check.cases.is_none() || check.status != Status::Ok {
                rows.push(line(check));
            }
            let ends = self.checks.get(i + 1).is_none_or(|next| next.group != check.group);
            if ends {
                rows.extend(self.kernels(&check.group));
            }
        }
        let table = markdown(&["check", "result", "what was found; what to do"], &[], rows);
        format!("{table}\n{} ok, {} failed, {} skipped\n", self.ok, self.failed, self.skipped)
    }

    /// The line of the kernels of a group.
    fn kernels(&self, group: &str) -> Option<Vec<String>> {
        let kernels = || self.checks.iter().filter(|check| check.group == group && check.cases.is_some());
        let (n, cases) = (kernels().count(), kernels().filter_map(|check| check.cases).sum::<usize>());
        if n == 0 {
            return None;
        }
        let right = kernels().filter(|check| check.status == Status::Ok).count();
        let seconds: f64 = kernels().filter_map(|check| check.seconds).sum();
        let status = if right == n { Status::Ok } else { Status::Failed };
        let found = format!("{right} of {n} kernels are right in {cases} cases, {seconds:.0} s");
        Some(vec![format!("{group} kernels"), status.name().to_owned(), found])
    }
}

fn line(check: &Check) -> Vec<String> {
    let name = match check.group.as_str() {
        "machine" | "gpus" => check.name.clone(),
        _ if check.cases.is_some() => check.name.clone(), // names of kernels say where they belong
        group => format!("{group} {}", check.name),
    };
    let mut text = check.detail.clone();
    if let Some(next) = &check.next_step {
        text += &format!("; {next}");
    }
    vec![name, check.status.name().to_owned(), text.replace(['\n', '|'], " ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str, status: Status) -> Check {
        let check = Check::new("cpu:x", name, status, if status == Status::Ok { "" } else { "1 of 2 cases" });
        Check { cases: Some(2), seconds: Some(0.6), ..check }
    }

    #[test]
    fn right_kernels_are_one_line_and_wrong_ones_a_line_each() {
        let report = Report::new(vec![
            Check::new("machine", "memory", Status::Ok, "much"),
            kernel("a", Status::Ok),
            kernel("b", Status::Failed).next("do this"),
            kernel("c", Status::Ok),
            Check::skip("gpus", "GPU", "there is none"),
        ]);
        let text = report.markdown();
        let lines: Vec<&str> = text.lines().skip(2).map(str::trim).collect();
        let cells = |line: &str| {
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(cells(lines[0]), ["memory", "ok", "much"]);
        assert_eq!(cells(lines[1]), ["b", "FAILED", "1 of 2 cases; do this"]);
        assert_eq!(cells(lines[2]), ["cpu:x kernels", "FAILED", "2 of 3 kernels are right in 6 cases, 2 s"]);
        assert_eq!(cells(lines[3]), ["GPU", "skipped", "there is none"]);
        assert_eq!(lines[5], "3 ok, 1 failed, 1 skipped");
    }

    #[test]
    fn one_failure_is_enough_and_nothing_is_one() {
        let verdict = |checks: &[Check]| Report::new(checks.to_vec()).verdict();
        assert!(verdict(&[kernel("a", Status::Ok), kernel("b", Status::Note)]).is_ok());
        let error = verdict(&[kernel("a", Status::Ok), kernel("b", Status::Failed)]).expect_err("one failed");
        assert!(error.to_string().starts_with("1 of 2 checks failed; "), "{error}");
        assert!(verdict(&[Check::skip("gpus", "GPU", "there is none")]).is_err());
        assert!(verdict(&[]).is_err());
    }
}
