//! What a user sees of GPUs and of all that can be wrong with them: on a library that stands in for an NVIDIA driver's, whose
//! kernels compute nothing, so that logits are 0 where a GPU was used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{BRAISE, Home, done, failed, texts, tiny};

/// The folder of the library; why there is none, else.
fn library() -> Result<&'static Path, &'static str> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| compile("driver", &[("libcuda.rs", "libcuda.so")]))
        .as_deref()
        .map_err(String::as_str)
}

/// Compiles libraries into a folder for them.
fn compile(folder: &str, libraries: &[(&str, &str)]) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{folder}-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    for (source, library) in libraries {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/driver").join(source);
        let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        command.args([
            "--edition",
            "2024",
            "--crate-type",
            "cdylib",
            "--check-cfg",
            "cfg(lacks_graphs)",
            "-o",
        ]);
        let output = command.arg(folder.join(library)).arg(source).output();
        let output = output.map_err(|e| format!("rustc cannot be started: {e}"))?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(folder)
}

/// A model of one layer, in `model.gguf`.
fn write_model(home: &Home) {
    fs::write(home.path("model.gguf"), tiny::sound()).expect("is written");
}

/// Computes logits on `device`, with a driver of these settings.
fn logits(home: &Home, driver: &Path, device: &str, settings: &str) -> Output {
    prepare(home, driver, device, settings).output().expect("starts")
}

fn prepare(home: &Home, driver: &Path, device: &str, settings: &str) -> Command {
    let mut command = home.prepare(BRAISE);
    command.current_dir(home.path("")).env("LD_LIBRARY_PATH", driver).env("FAKE_CUDA", settings);
    command.env_remove("CUDA_VISIBLE_DEVICES");
    command.args(["logits", "model.gguf", "--tokens", "1,2,3", "-o", "logits.bin", "--device", device]);
    command
}

/// Whether the logits that were written last come from the GPU that computes nothing.
fn are_of_gpu(home: &Home) -> bool {
    let bytes = fs::read(home.path("logits.bin")).expect("was written");
    assert_eq!(bytes.len(), 3 * 4 * tiny::vocabulary().len());
    bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn a_gpu_is_used_where_all_is_well() {
    let driver = match library() {
        Ok(driver) => driver,
        Err(e) => return println!("skipped: {e}"),
    };
    let home = Home::new();
    write_model(&home);
    for device in ["auto", "cuda", "cuda:1"] {
        done(&logits(&home, driver, device, "count=2"));
        assert!(are_of_gpu(&home), "{device}");
    }
    done(&logits(&home, driver, "cpu", "cuInit=999"));
    assert!(!are_of_gpu(&home));
}

#[test]
fn auto_says_why_it_takes_the_cpu_and_cuda_fails() {
    let driver = match library() {
        Ok(driver) => driver,
        Err(e) => return println!("skipped: {e}"),
    };
    let home = Home::new();
    write_model(&home);
    // what both say, and what else the error says of the next step
    let cases = [
        (
            "version=11040",
            "supports CUDA 11.4, but 12.0 is needed: install driver 525",
            "run the model on the CPU",
        ),
        ("cuInit=803", "its kernel module are of different versions: restart the machine", "on the CPU"),
        ("cuInit=804", "does not serve this GPU: take its folder out of LD_LIBRARY_PATH", "on the CPU"),
        ("cuInit=34", "it is the stub that programs are linked with", "on the CPU"),
        ("compute=61", "Fake GPU has compute capability 6.1, but braise needs 7.5", "on the CPU"),
        (
            "cuDevicePrimaryCtxRetain=46",
            "the GPU is not available: another program has it for itself",
            "on the CPU",
        ),
        (
            "cuModuleLoadDataEx=218@3",
            "a PTX JIT compilation failed (CUDA_ERROR_INVALID_PTX); ptxas application ptx input, line 12; fatal",
            "on the CPU",
        ),
        ("cuModuleGetFunction=500", "cuModuleGetFunction: named symbol not found", "on the CPU"),
        ("cuMemAlloc_v2=2", "bytes were asked for, 1073741824 of 1073741824 are free", "a smaller model"),
        ("cuMemcpyHtoDAsync_v2=719", "the GPU was lost: cuMemcpyHtoDAsync: unspecified", "start again"),
    ];
    for (settings, what, next) in cases {
        let run = logits(&home, driver, "auto", settings);
        done(&run);
        let (_, stderr) = texts(&run);
        assert!(!are_of_gpu(&home), "{settings}");
        let note = stderr.lines().find(|line| line.starts_with("note: the model runs on the CPU: "));
        assert!(note.is_some_and(|note| note.contains(what)), "{settings}: {stderr}");
        fs::remove_file(home.path("logits.bin")).expect("was written");
        let error = failed(&logits(&home, driver, "cuda", settings), 1);
        assert!(error.contains(what) && error.contains(next), "{settings}: {error}");
        assert!(!home.path("logits.bin").exists(), "{settings}: an error is no result");
    }
    // too little memory is found before anything is taken
    let run = logits(&home, driver, "auto", "memory=1000");
    done(&run);
    assert!(texts(&run).1.contains("on a GPU, and Fake GPU has 0.00 GB free"), "{}", texts(&run).1);
    let error = failed(&logits(&home, driver, "cuda", "memory=1000"), 1);
    assert!(error.contains("on a GPU, and Fake GPU has 0.00 GB free; choose a smaller context"), "{error}");
}

#[test]
fn a_number_that_is_wrong_is_answered_with_those_that_are_right() {
    let driver = match library() {
        Ok(driver) => driver,
        Err(e) => return println!("skipped: {e}"),
    };
    let home = Home::new();
    write_model(&home);
    let error = failed(&logits(&home, driver, "cuda:7", "count=2"), 1);
    let want = "there is no GPU 7: the driver knows 2, cuda:0 to cuda:1; choose one of these, or run the model on the CPU";
    assert!(error.ends_with(want), "{error}");
    let error = failed(&logits(&home, driver, "cuda", "cuInit=100"), 1);
    assert!(
        error.ends_with("the driver knows none; run the model on the CPU, or see what `braise doctor` finds"),
        "{error}"
    );
    // which names the variable that hides them
    let mut doctor = home.prepare(BRAISE);
    doctor.env("LD_LIBRARY_PATH", driver).env("FAKE_CUDA", "cuInit=100").env("CUDA_VISIBLE_DEVICES", "");
    let told = doctor.args(["doctor", "--part", "gpus"]).output().expect("starts");
    assert!(done(&told).contains("CUDA_VISIBLE_DEVICES is ''"), "{told:?}");
}

#[test]
fn a_gpu_that_is_lost_on_the_way_is_an_error_and_no_result() {
    let driver = match library() {
        Ok(driver) => driver,
        Err(e) => return println!("skipped: {e}"),
    };
    let home = Home::new();
    write_model(&home);
    for (settings, call) in
        [("cuLaunchKernel=719@4", "cuLaunchKernel"), ("cuMemcpyDtoHAsync_v2=719", "cuMemcpyDtoHAsync")]
    {
        for device in ["auto", "cuda"] {
            let error = failed(&logits(&home, driver, device, settings), 1);
            let want = format!(
                "the GPU was lost: {call}: unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED); start again"
            );
            assert!(error.contains(&want), "{error}");
            assert!(!home.path("logits.bin").exists());
        }
    }
}

/// Ctrl-C while a model is copied ends the copy, gives everything back, and is told by the exit code; a second one does not wait
/// for that.
#[test]
#[cfg(unix)]
fn ctrl_c_ends_loading() {
    let driver = match library() {
        Ok(driver) => driver,
        Err(e) => return println!("skipped: {e}"),
    };
    let home = Home::new();
    write_model(&home);
    for (slow, times) in [(3_000, 1), (600_000, 2)] {
        let report = home.path("report");
        let _ = fs::remove_file(&report);
        let mut command = prepare(&home, driver, "cuda", &format!("slow={slow}"));
        let mut child = command.env("FAKE_CUDA_REPORT", &report).spawn().expect("starts");
        let begin = Instant::now();
        while fs::read_to_string(&report).unwrap_or_default() != "slow\n" {
            assert!(begin.elapsed() < Duration::from_secs(120), "nothing is copied");
            std::thread::sleep(Duration::from_millis(20));
        }
        for _ in 0..times {
            let kill = format!("kill -INT {}", child.id());
            assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
            std::thread::sleep(Duration::from_millis(300));
        }
        let status = child.wait().expect("ends");
        assert_eq!(status.code(), Some(130), "{times}");
        assert!(!home.path("logits.bin").exists());
        let left = fs::read_to_string(&report).expect("was written");
        if times == 1 {
            assert!(left.contains("device memory: 1 made"), "{left}");
            assert!(left.lines().all(|line| line.ends_with(" 0 left")), "{left}");
        } else {
            assert_eq!(left, "slow\n", "it ended at once");
        }
    }
}

/// A model of one layer, whose output alone is on the GPU.
#[test]
fn a_model_on_two_devices_is_measured_as_one() {
    let driver = match library() {
        Ok(driver) => driver,
        Err(e) => return println!("skipped: {e}"),
    };
    let home = Home::new();
    write_model(&home);
    let bench = |layers: &str, output: &str| {
        let mut command = home.prepare(BRAISE);
        command
            .current_dir(home.path(""))
            .env("LD_LIBRARY_PATH", driver)
            .env("FAKE_CUDA", "memory=400000000");
        command.env_remove("CUDA_VISIBLE_DEVICES");
        command.args(["bench", "model.gguf", "--pp", "4", "--tg", "2", "--reps", "1", "--threads", "1"]);
        done(&command.args(["--gpu-layers", layers, "--output", output]).output().expect("starts"))
    };
    let rows: Vec<serde_json::Value> = serde_json::from_str(&bench("1", "json")).expect("is JSON");
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert_eq!((&row["device"], &row["backends"]), (&"cpu+cuda:0".into(), &"CPU+CUDA".into()), "{row}");
        assert_eq!((row["n_threads"].as_u64(), &row["gpu_info"]), (Some(1), &"Fake GPU".into()));
        let text = |name: &str| row[name].as_str().expect("is text").to_owned();
        assert!(text("split").ends_with("the output: cuda:0 Fake GPU"), "{row}");
        let shares = text("limit_shares");
        let share =
            |of: &str| shares.split(' ').find_map(|share| share.strip_prefix(of)?.parse::<f64>().ok());
        let (cpu, gpu) = (share("cpu=").expect("a share"), share("cuda:0=").expect("a share"));
        assert!(cpu > 0.0 && (cpu + gpu - 1.0).abs() < 0.02, "{shares}");
        assert!(row["limit_ts"].as_f64() > Some(0.0) && row["device_bytes"].as_u64() > Some(0), "{row}");
        assert!(row["plan_bytes"].as_u64() > row["plan_cache_bytes"].as_u64(), "{row}");
    }
    assert!(bench("1", "md").contains("; time at the limit: cpu "));
    let whole: Vec<serde_json::Value> = serde_json::from_str(&bench("all", "json")).expect("is JSON");
    assert!(whole.iter().all(|row| row["device"] == "cuda:0" && row["limit_shares"] == ""), "{whole:?}");
}

/// Of two GPUs the one that gets the model alone is opened, where the driver's management tells what is free on both.
#[test]
fn a_gpu_that_gets_nothing_is_not_opened() {
    let both = [("libcuda.rs", "libcuda.so"), ("libnvml.rs", "libnvidia-ml.so.1")];
    let managed = match compile("managed", &both) {
        Ok(folder) => folder,
        Err(e) => return println!("skipped: {e}"),
    };
    let home = Home::new();
    write_model(&home);
    let report = home.path("report");
    let contexts = |device: &str, nvml: &str| {
        let mut command = prepare(&home, &managed, device, "count=2");
        let run = command.env("FAKE_CUDA_REPORT", &report).env("FAKE_NVML", nvml).output().expect("starts");
        done(&run);
        assert!(are_of_gpu(&home), "{nvml}");
        let report = fs::read_to_string(&report).expect("was written");
        report.lines().find_map(|line| line.strip_prefix("contexts: ").map(str::to_owned))
    };
    assert_eq!(contexts("auto", "devices=2").as_deref(), Some("1 made, 0 left"));
    // what is not known is looked up on the GPU itself
    assert_eq!(contexts("auto", "devices=1").as_deref(), Some("2 made, 0 left"));
    assert_eq!(contexts("auto", "nvmlInit_v2=9").as_deref(), Some("2 made, 0 left"));
    // a GPU with too little is left out, and so is what a context takes
    assert_eq!(contexts("cuda:1", "devices=2 free=0").as_deref(), Some("1 made, 0 left"));
    let run =
        prepare(&home, &managed, "auto", "count=2").env("FAKE_NVML", "devices=2 free=500000000").output();
    let run = run.expect("starts");
    done(&run);
    assert!(!are_of_gpu(&home) && texts(&run).1.contains("have 0.00 GB free"), "{run:?}");
}
