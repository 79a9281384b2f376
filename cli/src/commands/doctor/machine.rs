//! What of this machine, besides its kernels, decides whether and how well models run.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use anyhow::Result;
use braise_engine::memory::Memory;
use braise_engine::threads::{allowed_cpus, default_threads};
use braise_kernels::isa::Isa;
use indicatif::DecimalBytes;
use sysinfo::System;

use super::check::{Check, Status};
use crate::failure::line;
use crate::machine::{cpu_name, look};
use crate::store::Store;

const GROUP: &str = "machine";

/// Less memory or disk than this holds no model but the smallest.
const LITTLE: u64 = 1_000_000_000;

/// Everything about it.
pub fn checks() -> Vec<Check> {
    let mut checks = match look() {
        Ok(system) => vec![processor(&system), cores(), memory(&system)],
        Err(e) => vec![Check::skip(GROUP, "memory", format!("this system does not tell: {e}"))],
    };
    checks.push(large_pages(Path::new("/")));
    checks.extend(store(Store::open()));
    checks
}

fn processor(system: &System) -> Check {
    let levels = Isa::ALL.into_iter().filter(|isa| isa.is_supported()).map(Isa::name).collect::<Vec<_>>();
    Check::new(GROUP, "processor", Status::Ok, format!("{}, with {}", cpu_name(system), levels.join(", ")))
}

/// How many CPUs a control group's quota or the scheduler leaves of those that are there.
fn cores() -> Check {
    let physical = System::physical_core_count();
    let physical = physical.map_or("an unknown number of".to_owned(), |n| n.to_string());
    let may = available_parallelism().map_or(1, usize::from);
    let allowed = allowed_cpus().unwrap_or(may);
    let threads = default_threads();
    let detail =
        format!("{physical} physical cores, {allowed} CPUs allowed: braise computes on {threads} threads");
    if may < allowed {
        return Check::new(
            GROUP,
            "cores",
            Status::Note,
            format!("{detail}; a quota leaves the time of {may} CPUs"),
        )
        .next("raise the control group's CPU quota: threads are stopped when it is used up");
    }
    Check::new(GROUP, "cores", Status::Ok, detail)
}

fn memory(system: &System) -> Check {
    let total = system.total_memory();
    let now = braise_engine::memory::now();
    let now = now.unwrap_or(Memory { total, available: system.available_memory() });
    let (all, available) = (DecimalBytes(now.total), DecimalBytes(now.available));
    let detail = match now.total < total {
        true => {
            format!("{}, of which control groups may use {all}; {available} available", DecimalBytes(total))
        }
        false => format!("{all}, {available} available, no lower limit of a control group"),
    };
    let available = now.available;
    let check =
        |status| Check { value: Some(available as f64), ..Check::new(GROUP, "memory", status, detail) };
    if available < LITTLE {
        return check(Status::Note)
            .next("end other programs, or raise the limit: models need more than that");
    }
    check(Status::Ok)
}

/// Whether anonymous memory and files may lie in pages of 2 MB, below `root`.
fn large_pages(root: &Path) -> Check {
    let setting = fs::read_to_string(root.join("sys/kernel/mm/transparent_hugepage/enabled"));
    let chosen = setting.ok().and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned()));
    match chosen.as_deref() {
        Some(how @ ("always" | "madvise")) => {
            Check::new(GROUP, "large pages", Status::Ok, format!("transparent huge pages: {how}"))
        }
        Some(how) => Check::new(GROUP, "large pages", Status::Note, format!("transparent huge pages: {how}"))
            .next("weights are read faster after `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` as root"),
        None => Check::skip(GROUP, "large pages", "this system does not tell"),
    }
}

/// Whether models can be put where they are kept, and how many.
fn store(store: Result<Store>) -> Vec<Check> {
    let (folder, store) = match store.and_then(|store| Ok((store.check_writable()?, store))) {
        Ok(found) => found,
        Err(e) => return vec![Check::new(GROUP, "model store", Status::Failed, line(&e))],
    };
    let writable = format!("{} can be written to", store.root().display());
    let writable = Check::new(GROUP, "model store", Status::Ok, writable);
    let space = match fs4::available_space(&folder) {
        Err(e) => Check::skip(GROUP, "disk", format!("{}: {e}", folder.display())),
        Ok(bytes) => {
            let detail = format!("{} free for models", DecimalBytes(bytes));
            let status = if bytes < LITTLE { Status::Note } else { Status::Ok };
            let check = Check { value: Some(bytes as f64), ..Check::new(GROUP, "disk", status, detail) };
            match status {
                Status::Ok => check,
                _ => check.next("free some space, or set BRAISE_HOME to a folder on another disk"),
            }
        }
    };
    vec![writable, space]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_of_large_pages_is_the_one_in_brackets() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("sys/kernel/mm/transparent_hugepage");
        assert_eq!(large_pages(root.path()).status, Status::Skipped);
        fs::create_dir_all(&folder).expect("is created");
        for (text, status) in [
            ("[always] madvise never\n", Status::Ok),
            ("always [madvise] never\n", Status::Ok),
            ("always madvise [never]\n", Status::Note),
            ("always madvise never\n", Status::Skipped),
        ] {
            fs::write(folder.join("enabled"), text).expect("is written");
            let check = large_pages(root.path());
            assert_eq!(check.status, status, "{text}");
            assert_eq!(check.next_step.is_some(), status == Status::Note, "{text}");
        }
    }

    #[test]
    fn a_store_is_probed_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let checks = store(Ok(Store::at(folder.path().join("not/yet"))));
        let [writable, disk] = &checks[..] else { panic!("{checks:?}") };
        assert_eq!(writable.status, Status::Ok, "{writable:?}");
        assert!(disk.value.is_some_and(|bytes| bytes > 0.0), "{disk:?}");
        assert_eq!(folder.path().read_dir().expect("is readable").count(), 0);

        let file = folder.path().join("file");
        fs::write(&file, "").expect("is written");
        let [failed] = &store(Ok(Store::at(file.join("store"))))[..] else { panic!("one line is enough") };
        assert_eq!(failed.status, Status::Failed);
        assert!(failed.detail.contains("cannot create a file") && failed.detail.contains("; "), "{failed:?}");
    }

    #[test]
    fn this_machine_has_a_processor_cores_and_memory() {
        let checks = checks();
        for name in ["processor", "cores", "memory"] {
            let check = checks.iter().find(|check| check.name == name).expect("is checked");
            assert!(check.status != Status::Failed && !check.detail.is_empty(), "{check:?}");
        }
    }
}
