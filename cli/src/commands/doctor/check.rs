//! One line of the report.

use braise_checkkern::report::Row;
use serde::{Deserialize, Serialize};

use super::part::Part;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is right.
    Ok,
    /// It works, but could be better.
    Note,
    /// It was not run.
    Skipped,
    /// It is wrong.
    Failed,
}

impl Status {
    /// As it stands in a table.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Note => "note",
            Status::Skipped => "skipped",
            Status::Failed => "FAILED",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What it belongs to: the machine, or a part of the kernels such as `cpu:avx2`.
    pub group: String,
    /// Its name.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found, or why it was not run.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_step: Option<String>,
    /// Of a kernel: cases that were compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cases: Option<usize>,
    /// Of a kernel: what is wrong with the first cases that are.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub failures: Vec<String>,
    /// Of a kernel: how long they took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds: Option<f64>,
    /// Of a measurement: bytes or operations per second, or a number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<f64>,
}

impl Check {
    /// A check that came out so.
    pub fn new(group: impl ToString, name: &str, status: Status, detail: impl Into<String>) -> Check {
        Check {
            group: group.to_string(),
            name: name.to_owned(),
            status,
            detail: detail.into(),
            next_step: None,
            cases: None,
            failures: Vec::new(),
            seconds: None,
            value: None,
        }
    }

    /// One that was left out.
    pub fn skip(group: impl ToString, name: &str, why: impl Into<String>) -> Check {
        Check::new(group, name, Status::Skipped, why)
    }

    /// A measurement.
    pub fn measured(group: impl ToString, name: &str, value: f64, detail: impl Into<String>) -> Check {
        Check { value: Some(value), ..Check::new(group, name, Status::Ok, detail) }
    }

    /// With what to do next.
    #[must_use]
    pub fn next(self, step: impl Into<String>) -> Check {
        Check { next_step: Some(step.into()), ..self }
    }

    /// A row of the kernel table.
    pub fn of_row(part: Part, row: &Row) -> Check {
        let first = row.details.first().map(|first| format!("; the first: {first}")).unwrap_or_default();
        let check = match (row.passed(), row.cases) {
            (true, _) => Check::new(part, &row.name, Status::Ok, ""),
            (false, 0) => Check::broken(part, &row.name, "no case was run"),
            (false, cases) => {
                Check::broken(part, &row.name, format!("{} of {cases} cases{first}", row.failed))
            }
        };
        let (failures, seconds) = (row.details.clone(), Some(row.seconds));
        Check { cases: Some(row.cases), failures, seconds, ..check }
    }

    /// A kernel that gives no right results, or none at all.
    pub fn broken(part: Part, name: &str, why: impl Into<String>) -> Check {
        let check = Check::new(part, name, Status::Failed, why).next(part.without());
        Check { cases: Some(0), ..check }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_right_only_if_cases_ran_and_none_is_wrong() {
        let row = |cases, failed| Row {
            name: "dot/q8_0".into(),
            cases,
            failed,
            details: vec!["1 instead of 2".into(); failed.min(2)],
            seconds: 0.5,
        };
        let of = |cases, failed| Check::of_row(Part::Wrong, &row(cases, failed));
        assert_eq!((of(3, 0).status, of(3, 0).next_step), (Status::Ok, None));
        assert_eq!((of(0, 0).status, of(0, 0).detail.as_str()), (Status::Failed, "no case was run"));
        let wrong = of(3, 2);
        assert_eq!(wrong.status, Status::Failed);
        assert_eq!(wrong.detail, "2 of 3 cases; the first: 1 instead of 2");
        assert!(wrong.next_step.is_some() && wrong.failures.len() == 2);
    }
}
