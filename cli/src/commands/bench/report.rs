//! Results on standard output: a Markdown table at the end, or rows for scripts.

use anyhow::Result;
use braise_engine::threads::default_threads;
use clap::ValueEnum;
use indicatif::BinaryBytes;
use serde_json::{Map, Value};
use std::path::Path;

use super::row::{self, Row, count};
use crate::output::{markdown, print, print_json};

/// The form of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Markdown, to be read
    Md,
    /// One JSON list, for scripts
    Json,
    /// A JSON object a line, each as soon as it is known
    Jsonl,
    /// Comma-separated values with a line of names, each as soon as it is known
    Csv,
}

/// Takes results as they come.
pub struct Report {
    format: Format,
    explain: bool,
    rows: Vec<Row>,
}

impl Report {
    /// A report without results.
    pub fn new(format: Format, explain: bool) -> Report {
        Report { format, explain, rows: Vec::new() }
    }

    /// Adds a result, and prints it where the form allows that.
    pub fn add(&mut self, row: Row) -> Result<()> {
        match self.format {
            Format::Jsonl => print(&(serde_json::to_string(&row)? + "\n"))?,
            Format::Csv => {
                let fields = fields(&row)?;
                if self.rows.is_empty() {
                    print(&csv_line(fields.keys().cloned()))?;
                }
                print(&csv_line(fields.values().map(csv_value)))?;
            }
            Format::Md | Format::Json => {}
        }
        self.rows.push(row);
        Ok(())
    }

    /// Prints what could not be printed before.
    pub fn finish(self) -> Result<()> {
        match self.format {
            Format::Jsonl | Format::Csv => Ok(()),
            Format::Json => print_json(&self.rows),
            Format::Md => print(&self.markdown()),
        }
    }

    fn markdown(&self) -> String {
        // the rate of one sequence only where it is not that of all
        let columns = if self.rows.iter().any(|row| row.n_parallel > 1) { 12 } else { 11 };
        let header = [
            "model", "size", "params", "backend", "threads", "test", "t/s", "limit", "share", "peak", "plan",
            "t/s each",
        ];
        let rows = self.rows.iter().map(|row| cells(row)[..columns].to_vec());
        let right: Vec<_> =
            [1, 2, 4, 5, 6, 7, 8, 9, 10, 11].into_iter().filter(|column| *column < columns).collect();
        let mut text = markdown(&header[..columns], &right, rows);
        if let Some(row) = self.rows.last() {
            let cache = match (row.type_k, row.type_v) {
                ("f16", "f16") => String::new(),
                (k, v) => format!("key/value cache {k}/{v}, "),
            };
            let machine = match row.gpu_info.as_str() {
                "" => format!("{}, {}", row.cpu_info, row.isa),
                gpu => gpu.to_owned(),
            };
            text += &format!("\n{machine}, {cache}braise {}\n", row.build_commit);
        }
        text.extend(self.rows.iter().filter_map(divided));
        if self.explain {
            text.extend(self.rows.iter().map(|row| format!("\n{}\n", explanation(row))));
        }
        text
    }
}

fn cells(row: &Row) -> [String; 12] {
    let file = Path::new(&row.model).file_name().and_then(|name| name.to_str()).unwrap_or(&row.model);
    [
        file.to_owned(),
        BinaryBytes(row.model_size).to_string(),
        count(row.model_n_params),
        row.backends.to_owned(),
        row.n_threads.to_string(),
        row.test().to_string(),
        format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts),
        format!("{:.1}", row.limit_ts),
        format!("{:.0}%", row.share_of_limit * 100.0),
        taken(row).map_or_else(String::new, |bytes| BinaryBytes(bytes).to_string()),
        planned(row),
        format!("{:.2}", row.sequence_ts),
    ]
}

/// The most memory that was taken where the test ran.
fn taken(row: &Row) -> Option<u64> {
    row::taken(row.n_threads, !row.gpu_info.is_empty(), row.peak_rss, row.device_bytes)
}

/// The bytes that were planned, and how far that was from what was taken.
fn planned(row: &Row) -> String {
    let error = row.plan_error.map_or_else(String::new, |error| format!(" ({:+.1}%)", error * 100.0));
    format!("{}{error}", BinaryBytes(row.plan_bytes))
}

/// Where the parts of a model are that is on several devices, and whose time the limit is, in a line.
fn divided(row: &Row) -> Option<String> {
    let share = |share: &str| {
        let (device, share) = share.split_once('=')?;
        Some(format!("{device} {:.0}%", share.parse::<f64>().ok()? * 100.0))
    };
    let shares: Vec<_> = row.limit_shares.split(' ').filter_map(share).collect();
    let line = || format!("\n{}: {}; time at the limit: {}\n", row.test(), row.split, shares.join(", "));
    (!row.split.is_empty()).then(line)
}

/// What bounds a result, in a paragraph.
fn explanation(row: &Row) -> String {
    let on_gpu = !row.gpu_info.is_empty();
    let advice = match row.bound {
        "memory bandwidth" => "a smaller quantization is what would make it faster",
        "arithmetic" => "more or wider multipliers are what would make it faster",
        "threads" => "the threads wait for CPUs: use fewer threads, or a quieter machine",
        _ if on_gpu => {
            "the rest of the time goes to starting kernels, and to those that keep neither memory nor multipliers busy"
        }
        _ => {
            "the rest of the time goes to instructions around the multiply-adds and to threads that wait for each other"
        }
    };
    let on_cpu = row.n_threads > 0;
    let place = match (on_gpu, on_cpu) {
        (true, true) => format!("{} and {}", row.gpu_info, threads(row.n_threads)),
        (true, false) => row.gpu_info.clone(),
        (false, _) => threads(row.n_threads),
    };
    let peaks = [("int8", row.limit_int8_gops), ("f32", row.limit_f32_gops), ("bf16", row.limit_bf16_gops)];
    let peaks: Vec<_> =
        peaks.iter().filter_map(|(name, gops)| Some(format!("{:.0} in {name}", (*gops)?))).collect();
    let of_peaks = if peaks.is_empty() { String::new() } else { format!(" of {}", peaks.join(" and ")) };
    let mut text = format!(
        "{}, {} on {place}: bound by {}; {advice}.\n- reached {:.1} of {:.1} GB/s, and {:.0} GOP/s{of_peaks}",
        row.model,
        row.test(),
        row.bound,
        row.read_gbs,
        row.limit_read_gbs,
        row.gops,
    );
    if on_cpu {
        text += &of_cpu(row);
    }
    let size = |bytes: u64| BinaryBytes(bytes).to_string();
    text += &format!(
        "\n- memory: {} planned, of which the cache {} and the batch {}",
        planned(row),
        size(row.plan_cache_bytes),
        size(row.plan_batch_bytes)
    );
    if let Some(taken) = taken(row) {
        text += &format!("; {} at the most", size(taken));
    }
    if let (Some(minor), Some(major)) = (row.minor_faults, row.major_faults) {
        text += &format!("\n- page faults: {minor} in memory, {major} from disk");
    }
    text
}

/// Weights that are read at less than this share of the bandwidth lie where others would be read faster.
const SLOW_PLACE: f64 = 0.85;

/// Its kernels, weights and threads on the CPU.
fn of_cpu(row: &Row) -> String {
    let kernel = |kernel: &str| match kernel.split_once(':') {
        Some((format, isa)) => match isa.strip_suffix(":slow") {
            Some(isa) => format!("{format} on {isa} (slow: other formats have faster ones)"),
            None => format!("{format} on {isa}"),
        },
        None => kernel.to_owned(),
    };
    let kernels: Vec<_> = row.kernels.split(' ').map(kernel).collect();
    let mut text = format!("\n- kernels: {}", kernels.join(", "));
    if let Some(read) = row.weights_read_gbs {
        text += &format!("\n- the weights can be read at {read:.1} GB/s where they lie");
        if read < SLOW_PLACE * row.limit_read_gbs {
            text += ", in small pages or far away: a copy of the file in pieces of 2 MB, or --no-mmap, may be faster";
        }
    }
    let cores = default_threads();
    if row.n_threads < cores {
        text += &format!("\n- threads: {} of {cores} cores are used", row.n_threads);
    } else if row.n_threads > cores {
        text += &format!("\n- threads: {} share {cores} cores", row.n_threads);
    }
    if let Some(share) = row.cpu_wait_share {
        text += &format!("\n- the threads waited {:.1}% of their time for a CPU", share * 100.0);
    }
    text
}

/// A number of threads, in words.
pub fn threads(n: usize) -> String {
    if n == 1 { String::from("1 thread") } else { format!("{n} threads") }
}

/// Names and values of a result, in order.
fn fields(row: &Row) -> Result<Map<String, Value>> {
    match serde_json::to_value(row)? {
        Value::Object(fields) => Ok(fields),
        other => anyhow::bail!("a result is an object, not {other}"),
    }
}

/// A value without JSON's quotes; lists are separated by blanks.
fn csv_value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(csv_value).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// A line of comma-separated values (RFC 4180, every value in quotes).
fn csv_line(values: impl Iterator<Item = String>) -> String {
    let quoted: Vec<_> = values.map(|value| format!("\"{}\"", value.replace('"', "\"\""))).collect();
    quoted.join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            build_commit: "abc",
            cpu_info: "A \"fast\" CPU".into(),
            gpu_info: String::new(),
            backends: "CPU",
            model: "dir/x.gguf".into(),
            model_filename: "dir/x.gguf".into(),
            model_type: "llama 1.24 B Q4_K_M".into(),
            model_size: 800_890_112,
            model_n_params: 1_235_814_400,
            synthetic: false,
            n_ubatch: 512,
            n_threads: 2,
            type_k: "f16",
            type_v: "f16",
            n_prompt: 0,
            n_gen: 128,
            n_depth: 64,
            n_parallel: 1,
            test_time: "2026-01-02T03:04:05Z".into(),
            avg_ns: 3_200_000_000,
            stddev_ns: 0,
            avg_ts: 40.0,
            stddev_ts: 0.5,
            median_ts: 40.0,
            sequence_ts: 40.0,
            samples_ns: vec![3_200_000_000, 3_200_000_001],
            samples_ts: vec![40.0, 40.5],
            limit_ts: 50.0,
            share_of_limit: 0.8,
            peak_rss: None,
            device_bytes: None,
            plan_bytes: 900_000_000,
            plan_cache_bytes: 30_000_000,
            plan_batch_bytes: 20_000_000,
            plan_error: None,
            load_ms: 10.0,
            ttft_ms: 25.0,
            isa: "avx512vnni",
            device: "cpu".into(),
            split: String::new(),
            limit_shares: String::new(),
            kernels: "Q4_K:avx512vnni Q6_K:avx2:slow".into(),
            bound: "memory bandwidth",
            read_gbs: 32.0,
            gops: 100.0,
            limit_read_gbs: 40.0,
            weights_read_gbs: Some(30.0),
            limit_int8_gops: Some(1700.0),
            limit_f32_gops: Some(420.0),
            limit_bf16_gops: None,
            minor_faults: Some(3),
            major_faults: Some(0),
            cpu_wait_share: Some(0.012),
        }
    }

    #[test]
    fn the_table_has_the_columns_of_llama_bench_and_the_limit() {
        let measured = Row { peak_rss: Some(880_000_000), plan_error: Some(0.0227), ..row() };
        let report = Report { format: Format::Md, explain: false, rows: vec![measured] };
        let text = report.markdown();
        let mut lines = text.lines();
        let header = "| model  |       size | params | backend | threads |        test |          t/s | limit | share \
                      |       peak |               plan |";
        assert_eq!(lines.next(), Some(header));
        let row = "| x.gguf | 763.79 MiB | 1.24 B | CPU     |       2 | tg128 @ d64 | 40.00 ± 0.50 |  50.0 |   80% \
                   | 839.23 MiB | 858.31 MiB (+2.3%) |";
        assert_eq!(lines.nth(1), Some(row));
        assert!(text.ends_with("\nA \"fast\" CPU, avx512vnni, braise abc\n"), "{text}");
        let four = Row { n_parallel: 4, sequence_ts: 10.0, ..super::tests::row() };
        let text = Report { format: Format::Md, explain: false, rows: vec![four] }.markdown();
        assert!(
            text.contains("       plan | t/s each |") && text.contains(" 4 x tg128 @ d64 | 40.00 ± 0.50 |"),
            "{text}"
        );
        assert!(text.contains("|   80% |      | 858.31 MiB |    10.00 |"), "{text}");
    }

    #[test]
    fn an_explanation_names_what_bounds_and_slow_kernels() {
        let text = explanation(&row());
        assert!(
            text.starts_with("dir/x.gguf, tg128 @ d64 on 2 threads: bound by memory bandwidth; "),
            "{text}"
        );
        for part in [
            "32.0 of 40.0 GB/s",
            "100 GOP/s of 1700 in int8 and 420 in f32",
            "Q4_K on avx512vnni, Q6_K on avx2 (slow: other formats have faster ones)",
            "- the weights can be read at 30.0 GB/s where they lie, in small pages or far away: a copy",
            "waited 1.2% of their time",
            "3 in memory, 0 from disk",
            "- memory: 858.31 MiB planned, of which the cache 28.61 MiB and the batch 19.07 MiB\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_gpu_is_reported_by_its_own_memory_and_limits() {
        let gpu = Row {
            gpu_info: "A GPU".into(),
            backends: "CUDA",
            device: "cuda:1".into(),
            n_threads: 0,
            peak_rss: Some(1 << 30),
            device_bytes: Some(1_000_000_000),
            plan_error: Some(-0.1),
            bound: "overhead",
            limit_int8_gops: None,
            limit_f32_gops: None,
            limit_bf16_gops: Some(500_000.0),
            cpu_wait_share: None,
            ..row()
        };
        let report = Report { format: Format::Md, explain: true, rows: vec![gpu] };
        let text = report.markdown();
        for part in [
            "| CUDA    |       0 | tg128 @ d64 |",
            "| 953.67 MiB | 858.31 MiB (-10.0%) |",
            "\nA GPU, braise abc\n",
            "on A GPU: bound by overhead; the rest of the time goes to starting kernels",
            "32.0 of 40.0 GB/s, and 100 GOP/s of 500000 in bf16\n- memory: 858.31 MiB (-10.0%) planned",
            "; 953.67 MiB at the most",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("threads:") && !text.contains("fast"), "{text}");
    }

    #[test]
    fn several_devices_are_named_with_their_shares() {
        let split = Row {
            gpu_info: "A GPU".into(),
            backends: "CPU+CUDA",
            device: "cpu+cuda:0".into(),
            split: "layers 0-3: CPU (--gpu-layers 4); layers 4-7 and the output: cuda:0 A GPU".into(),
            limit_shares: "cpu=0.75 cuda:0=0.25".into(),
            peak_rss: Some(1_000_000),
            device_bytes: Some(2_000_000),
            ..row()
        };
        let text = Report { format: Format::Md, explain: true, rows: vec![split] }.markdown();
        for part in [
            "| CPU+CUDA |       2 | tg128 @ d64 |",
            "| 2.86 MiB |",
            "\ntg128 @ d64: layers 0-3: CPU (--gpu-layers 4); layers 4-7 and the output: cuda:0 A GPU; time at the limit: \
             cpu 75%, cuda:0 25%\n",
            "on A GPU and 2 threads: bound by memory bandwidth",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn csv_has_a_value_for_each_name() {
        let fields = fields(&row()).expect("is an object");
        let header = csv_line(fields.keys().cloned());
        assert!(
            header.starts_with("\"build_commit\",\"cpu_info\",\"gpu_info\",")
                && header.ends_with("\"cpu_wait_share\"\n")
        );
        let line = csv_line(fields.values().map(csv_value));
        assert!(line.starts_with("\"abc\",\"A \"\"fast\"\" CPU\",\"\",\"CPU\","), "{line}");
        assert!(
            line.contains(",\"3200000000 3200000001\",\"40.0 40.5\",\"50.0\",\"0.8\",\"\",\"\",\"900000000\",\"30000000\",\"20000000\",\"\","),
            "{line}"
        );
        assert_eq!(header.matches("\",\"").count(), line.matches("\",\"").count(), "{line}");
    }
}
