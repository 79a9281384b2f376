//! `braise doctor`: what it says of right and wrong kernels, and that neither a crash nor a hang ends the report.

use std::process::Output;

use serde_json::Value;

use super::{BRAISE, Home, done, failed, texts};

/// A run with these arguments and variables.
fn doctor(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let home = Home::new();
    let mut command = home.prepare(BRAISE);
    command.arg("doctor").args(args).env_remove("BRAISE_ISA").envs(variables.iter().copied());
    command.output().expect("starts")
}

fn checks(report: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(report).expect("is JSON");
    report["checks"].as_array().expect("is a list").clone()
}

fn of_group<'a>(checks: &'a [Value], group: &str) -> Vec<&'a Value> {
    checks.iter().filter(|check| check["group"] == group).collect()
}

#[test]
fn the_kernels_of_a_level_are_right_and_the_rest_is_skipped_with_reasons() {
    let report = doctor(&["--output", "json"], &[("BRAISE_ISA", "portable")]);
    let checks = checks(&done(&report));
    let kernels = of_group(&checks, "cpu:portable");
    assert!(kernels.len() > 30, "{kernels:?}");
    for kernel in kernels {
        assert_eq!(kernel["status"], "ok", "{kernel}");
        assert!(kernel["cases"].as_u64() > Some(0) && kernel["seconds"].is_f64(), "{kernel}");
    }
    for other in ["cpu:avx2", "cpu:avx512vnni", "cpu:amx"] {
        let [skipped] = of_group(&checks, other)[..] else { panic!("{other} is one line") };
        assert_eq!(skipped["status"], "skipped", "{skipped}");
    }
    for (group, name) in
        [("machine", "memory"), ("machine", "model store"), ("cpu-peaks:portable", "read bandwidth")]
    {
        let found = of_group(&checks, group).into_iter().find(|check| check["name"] == name);
        assert!(found.is_some_and(|check| check["status"] != "failed"), "{group} {name}: {found:?}");
    }
    // peaks are measured when all checks are over
    let (_, stderr) = texts(&report);
    let lines = |begin: &str| {
        let is = |(_, line): &(usize, &str)| line.contains(begin);
        stderr.lines().enumerate().filter(is).map(|(at, _)| at).collect::<Vec<_>>()
    };
    let [measuring] = lines("measuring what the machine can do")[..] else { panic!("{stderr}") };
    let (kernels, peaks) = (lines("cpu:portable: "), lines("cpu-peaks:portable: "));
    assert!(kernels.last() < Some(&measuring) && peaks.first() > Some(&measuring), "{stderr}");
    let [gpus] = of_group(&checks, "gpus")[..] else { panic!("one line says which GPUs there are") };
    let skipped = gpus["status"] == "skipped" && gpus["next_step"].is_string();
    assert!(skipped || gpus["value"].is_number(), "{gpus}");
}

#[test]
fn a_device_alone_can_be_asked_for() {
    // no machine has so many GPUs
    let run = doctor(&["--device", "cuda:99", "--output", "json"], &[]);
    assert_eq!(run.status.code(), Some(1));
    let found = checks(&texts(&run).0);
    let [gpu] = of_group(&found, "gpu:99")[..] else {
        panic!("one line says why it cannot be had: {found:?}")
    };
    assert_eq!(gpu["status"], "failed", "{gpu}");
    assert!(of_group(&found, "cpu-peaks:portable").is_empty());
    let [cpu] = of_group(&found, "cpu:portable")[..] else { panic!("the CPU is one line") };
    assert_eq!((&cpu["status"], &cpu["detail"]), (&"skipped".into(), &"a GPU was asked for".into()), "{cpu}");

    let found =
        checks(&done(&doctor(&["--device", "cpu", "--output", "json"], &[("BRAISE_ISA", "portable")])));
    let [gpus] = of_group(&found, "gpus")[..] else { panic!("GPUs are one line") };
    assert_eq!((&gpus["status"], &gpus["detail"]), (&"skipped".into(), &"the CPU was asked for".into()));
    assert!(of_group(&found, "cpu:portable").len() > 30);
}

#[test]
fn a_level_that_cannot_be_had_is_wrong_usage() {
    let run = doctor(&[], &[("BRAISE_ISA", "avx3")]);
    assert!(failed(&run, 2).contains("BRAISE_ISA: unknown ISA level 'avx3'"));
    let run = doctor(&["--isa", "sse"], &[]);
    assert!(failed(&run, 2).contains("--isa: unknown ISA level 'sse'"));
}

#[test]
#[cfg(unix)] // a signal says how a process ended
fn wrong_kernels_fail_and_neither_a_crash_nor_a_hang_ends_the_report() {
    let run = doctor(&["--wrong-kernels", "--patience", "20", "--output", "json"], &[]);
    let (stdout, stderr) = texts(&run);
    assert_eq!(run.status.code(), Some(1), "{stderr}");
    let checks = checks(&stdout);
    let of = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.unwrap_or_else(|| panic!("{name} is not in {stdout}"))
    };
    for name in ["wrong/sign", "wrong/nan", "wrong/last", "wrong/crash", "wrong/hang"] {
        assert_eq!(of(name)["status"], "failed", "{name}");
        assert!(of(name)["next_step"].is_string(), "{name}");
    }
    assert!(
        of("wrong/sign")["detail"]
            .as_str()
            .is_some_and(|text| text.contains("cases; the first: exact, k 32"))
    );
    assert!(of("wrong/sign")["failures"].as_array().is_some_and(|failures| failures.len() == 5));
    assert!(
        of("wrong/crash")["detail"]
            .as_str()
            .is_some_and(|text| text.contains("its process ended (signal: 6"))
    );
    assert_eq!(of("wrong/hang")["detail"], "did not come back within 20 s");
    assert_eq!(of("right/last of all")["status"], "ok");
    assert!(
        stderr.ends_with("braise: 5 of 6 checks failed; the report says which, and what to do about each\n")
    );
}

#[test]
#[cfg(unix)]
fn the_table_has_a_line_for_each_wrong_kernel_and_one_for_all() {
    let run = doctor(&["--wrong-kernels", "--patience", "20"], &[]);
    let (stdout, stderr) = texts(&run);
    assert_eq!(run.status.code(), Some(1), "{stderr}");
    let rows: Vec<Vec<&str>> = stdout
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let row =
        |name: &str| rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}: {stdout}"));
    for name in ["wrong/sign", "wrong/nan", "wrong/last", "wrong/crash", "wrong/hang"] {
        assert_eq!(row(name)[1], "FAILED", "{stdout}");
        assert!(row(name)[2].contains("; report it"), "{stdout}");
    }
    assert_eq!(row("wrong kernels")[1], "FAILED");
    assert!(row("wrong kernels")[2].starts_with("1 of 6 kernels are right in "), "{stdout}");
    assert!(stdout.ends_with("\n1 ok, 5 failed, 0 skipped\n"), "{stdout}");
}
