//! `bench`, on a shape so small that every form of its report is made in no time.

use std::fs;

use serde_json::Value;

use super::{Home, done, failed, texts};

/// A home whose catalogue has shapes without files too: one that is small, one whose key/value cache is huge (a token
/// takes 128 KiB), and one whose weights are.
fn home() -> Home {
    let home = Home::new();
    let path = home.path("models.toml");
    let catalogue = fs::read_to_string(&path).expect("is there");
    let shapes = r#"
        [[model]]
        family = "mini"
        size = "1m"
        parameters = 409_600
        context = 64
        licence = "MIT"
        description = "For tests"
        shape = { layers = 2, dim = 128, ffn = 256, heads = 4, kv_heads = 2, head_dim = 32, vocab = 896 }
        [[model]]
        family = "wide"
        size = "4m"
        parameters = 4_199_424
        context = 64
        licence = "MIT"
        description = "For tests"
        shape = { layers = 1, dim = 32, ffn = 32, heads = 512, kv_heads = 512, head_dim = 64, vocab = 64 }
        [[model]]
        family = "giant"
        size = "100t"
        parameters = 141_733_929_000_000
        context = 64
        licence = "MIT"
        description = "For tests"
        shape = { layers = 6000, dim = 65536, ffn = 65536, heads = 512, kv_heads = 128, head_dim = 128, vocab = 128 }
    "#;
    fs::write(path, catalogue + shapes).expect("is written");
    home
}

const SMALL: [&str; 7] = ["bench", "--synthetic", "mini:Q8_0", "--pp", "8", "--tg", "2"];

fn bench(home: &Home, more: &[&str]) -> String {
    done(&home.braise(&[&SMALL, more].concat()))
}

#[test]
fn rows_have_the_fields_that_scripts_rely_on() {
    let home = home();
    let text = bench(&home, &["--pg", "4,2", "--threads", "1,2", "--reps", "2", "--output", "json"]);
    let rows: Vec<Value> = serde_json::from_str(&text).expect("is JSON");
    let tests: Vec<_> =
        rows.iter().map(|r| ["n_prompt", "n_gen", "n_threads"].map(|name| r[name].as_u64())).collect();
    let expected = [[8, 0, 1], [0, 2, 1], [4, 2, 1], [8, 0, 2], [0, 2, 2], [4, 2, 2]];
    assert_eq!(tests, expected.map(|row| row.map(Some)));
    for row in &rows {
        for name in ["model", "model_type", "cpu_info", "test_time", "isa", "kernels", "bound"] {
            assert!(row[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {row}");
        }
        for name in
            ["avg_ts", "median_ts", "limit_ts", "share_of_limit", "load_ms", "ttft_ms", "limit_read_gbs"]
        {
            assert!(row[name].as_f64() > Some(0.0), "{name}: {row}");
        }
        for name in ["plan_bytes", "model_size", "model_n_params", "avg_ns"] {
            assert!(row[name].as_u64() > Some(0), "{name}: {row}");
        }
        for name in ["samples_ns", "samples_ts"] {
            assert_eq!(row[name].as_array().map(Vec::len), Some(2), "{name}: {row}");
        }
        assert!(row["stddev_ts"].as_f64() >= Some(0.0) && row["n_depth"] == 0, "{row}");
        assert_eq!((&row["model"], &row["device"]), (&"mini:1m:Q8_0".into(), &"cpu".into()));
        assert_eq!(row["peak_rss"].as_u64() > Some(0), cfg!(target_os = "linux"), "{row}");
        assert_eq!(row["plan_error"].is_number(), cfg!(target_os = "linux"), "{row}");
        let part = |name: &str| row[name].as_u64().expect("is a size");
        assert!(part("plan_bytes") > part("plan_cache_bytes") + part("plan_batch_bytes"), "{row}");
        let number = |name: &str| row[name].as_f64().expect("was checked");
        let share = number("avg_ts") / number("limit_ts");
        assert!((number("share_of_limit") / share - 1.0).abs() < 1e-12, "{row}");
    }
    assert!(home.files().is_empty(), "random weights leave nothing behind");
}

/// A tenth, because libraries and pages of memory differ between machines.
#[test]
fn a_real_model_takes_the_memory_that_was_planned() {
    let Some(model) = std::env::var("BRAISE_TEST_MODEL").ok().filter(|path| !path.is_empty()) else {
        return println!("skipped: BRAISE_TEST_MODEL is not set");
    };
    if !cfg!(target_os = "linux") {
        return println!("skipped: the system does not tell what a process takes");
    }
    let home = Home::new();
    let args =
        ["bench", &model, "--pp", "64", "--tg", "2", "--reps", "1", "--threads", "2", "--output", "json"];
    let text = done(&home.braise(&args));
    let rows: Vec<Value> = serde_json::from_str(&text).expect("is JSON");
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(row["plan_error"].as_f64().is_some_and(|error| error.abs() < 0.1), "{row}");
    }
}

#[test]
fn every_form_has_a_result_for_each_test() {
    let home = home();
    let table = bench(&home, &["--reps", "1", "--explain", "--threads", "1", "--isa", "portable"]);
    assert!(table.starts_with("| model        | ") && table.contains(" pp8 |"), "{table}");
    assert!(table.contains("mini:1m:Q8_0, tg2 on 1 thread: bound by "), "{table}");
    assert!(table.contains("kernels: Q8_0 on portable"), "{table}");
    assert!(table.lines().next().is_some_and(|header| header.contains(" plan ")), "{table}");
    assert!(table.contains("- memory: ") && table.contains(" planned, of which the cache "), "{table}");

    let lines = bench(&home, &["--reps", "1", "--depth", "3", "--output", "jsonl"]);
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["n_depth"] == 3));

    let together = bench(&home, &["--reps", "1", "--parallel", "1,9", "--output", "json"]);
    let rates: Vec<Value> = serde_json::from_str(&together).expect("is JSON");
    let n: Vec<_> = rates.iter().map(|row| row["n_parallel"].as_u64().expect("is a number")).collect();
    assert_eq!(n, [1, 1, 9], "prompts are read alone");
    let number = |name: &str| rates[2][name].as_f64().expect("is a number");
    assert!((number("avg_ts") / number("sequence_ts") - 9.0).abs() < 1e-9, "{together}");

    let csv = bench(&home, &["--reps", "1", "--output", "csv"]);
    let names: Vec<_> =
        rows[0].as_object().expect("is an object").keys().map(|k| format!("\"{k}\"")).collect();
    let mut csv = csv.lines();
    assert_eq!(csv.next().expect("has a header"), names.join(","));
    assert_eq!(csv.count(), 2);
}

#[test]
fn wrong_usage_is_code_2() {
    let home = home();
    let cases: [(&[&str], &str); 9] = [
        (&["--pp", "8,x"], "'x'"),
        (&["--pg", "8"], "two numbers"),
        (&["--reps", "0"], "--reps"),
        (&["--threads", "0"], "--threads"),
        (&["--device", "gpu"], "auto, cpu, cuda or cuda:N"),
        (&["--pp", "0", "--tg", "0"], "nothing to measure"),
        (&["--isa", "avx3"], "unknown ISA level 'avx3'"),
        (&["--synthetic", "mini:1m:Q9"], "no quantization is called \"Q9\""),
        (&["--synthetic", "maxi:1m:Q8_0"], "the catalogue has tiny:1m, mini:1m, "),
    ];
    for (args, expected) in cases {
        let error = failed(&home.braise(&[&["bench"], args].concat()), 2);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    // no machine has so many
    let error = failed(&home().braise(&[&SMALL[..], &["--device", "cuda:99"]].concat()), 1);
    assert!(error.contains("run the model on the CPU"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_made() {
    let home = home();
    let error = failed(&home.braise(&["bench", "--synthetic", "wide:4m:F16", "--depth", "16777216"]), 1);
    assert!(error.contains("not enough memory for a context of 16777728 tokens"), "{error}");
    assert!(error.contains("the session takes 2") && error.contains(" keys and values in f16"), "{error}");
    let error = failed(&home.braise(&["bench", "--synthetic", "giant:100t:F16"]), 1);
    assert!(error.contains("giant:100t:F16: its weights take 2"), "{error}");
}

#[test]
fn a_model_that_is_a_shape_only_cannot_be_fetched() {
    let home = home();
    for args in
        [&["pull", "mini:1m"][..], &["pull", "mini"], &["run", "mini:1m-q4_0", "hi"], &["bench", "mini"]]
    {
        let error = failed(&home.braise(args), 1);
        assert!(error.contains("cannot fetch mini"), "{args:?}: {error}");
        assert!(error.contains("`braise bench --synthetic mini:1m:Q4_K_M`"), "{args:?}: {error}");
    }
    let (_, stderr) = texts(&home.braise(&["pull", "mini"]));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
