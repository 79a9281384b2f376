//! [`Gpu`] on a library that stands in for an NVIDIA driver's (`libcuda.rs`): that bytes arrive, that what is made is destroyed,
//! and what errors become. A process that has loaded a library keeps it, so each case runs in one of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use braise_kernels::cuda::{Address, Device, Error, Gpu, Launch, Piece};

/// The folder of the library, which is compiled once; with `cfg` if it is to be another one. Why there is none, else.
fn library(cfg: Option<&str>) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.join(format!("driver-{}-{}", cfg.unwrap_or("whole"), std::process::id()));
    compile("libcuda.rs", &folder.join("libcuda.so"), cfg)?;
    Ok(folder)
}

fn compile(source: &str, to: &Path, cfg: Option<&str>) -> Result<(), String> {
    let folder = to.parent().expect("a folder");
    std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver").join(source);
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "--crate-type", "cdylib", "-D", "warnings", "-o"]);
    command.arg(to).arg(source);
    command.args(["--check-cfg", "cfg(lacks_graphs)", "--check-cfg", "cfg(lacks_nothing)"]);
    command.args(cfg.into_iter().flat_map(|cfg| ["--cfg", cfg]));
    let output = command.output().map_err(|e| format!("rustc cannot be started: {e}"))?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn whole_library() -> Result<PathBuf, String> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    LIBRARY.get_or_init(|| library(None)).clone()
}

/// What the ignored test `name` writes, run on the library in `folder` with these settings.
fn run(name: &str, folder: &Path, settings: &str, report: &Path) -> String {
    let this = std::env::current_exe().expect("the path of this test");
    let output = Command::new(this)
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder)
        .env("FAKE_CUDA", settings)
        .env("FAKE_NVML", settings)
        .env("FAKE_CUDA_REPORT", report)
        .output()
        .expect("this program starts");
    let texts = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let text = texts.concat();
    assert!(output.status.success() && text.contains("1 passed"), "{settings}: {text}");
    text
}

/// The launch of some kernel.
fn launch() -> Launch {
    let args = [Address(256).into(), 0.5.into(), 1_u64.into(), Address(256).into()];
    Launch::new("add_values", [1; 3], 256, 0, &args).expect("what the kernel takes")
}

fn bytes(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + i / 251 + seed * 17) as u8).collect()
}

#[test]
fn bytes_arrive_and_all_that_is_made_is_destroyed() {
    let folder = match whole_library() {
        Ok(folder) => folder,
        Err(e) => return println!("skipped: {e}"),
    };
    let pinned = "memory=100000000";
    // where the system pins no memory, copies are slower, and nothing else
    for settings in [pinned, "memory=100000000 cuMemHostAlloc=2@3"] {
        let report = folder.join(format!("report-{}", settings.len()));
        run("a_gpu_at_work", &folder, settings, &report);
        let report = std::fs::read_to_string(report).expect("the library wrote it");
        for kind in
            ["device memory", "host memory", "streams", "events", "modules", "graphs", "graphs to run"]
        {
            let line = report.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(": "));
            let (made, left) = line.and_then(|line| line.split_once(" made, ")).expect(kind);
            assert!(made != "0" && left == "0 left", "{kind}: {report}");
        }
        assert!(report.contains("device memory: 3 made"), "one of three allocations in one: {report}");
        assert!(report.contains("streams: 2 made"), "{report}");
    }
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_gpu_at_work() {
    let mut gpu = Gpu::open(0).expect("there is one");
    let n = (9 << 20) + 7; // more than two buffers of uploads
    let a = gpu.allocate(n).expect("room");
    let mut got = vec![0; n];
    for seed in 0..3 {
        let want = bytes(n - seed, seed);
        gpu.upload(a, &want).expect("an upload");
        gpu.download(a, &mut got[..n - seed]).expect("a download");
        assert!(got[..n - seed] == want, "{seed}");
    }
    send(&mut gpu, a, &mut got);
    reserve(&mut gpu);
    gpu.launch(&launch()).expect("a launch");
    gpu.begin_capture().expect("a capture");
    gpu.launch(&launch()).expect("a launch");
    let graph = gpu.end_capture().expect("a graph");
    gpu.replay(graph).expect("a run");
    gpu.destroy(graph).expect("is there");
    assert!(gpu.replay(graph).is_err() && gpu.destroy(graph).is_err());
    gpu.begin_capture().expect("a capture");
    let left = gpu.end_capture().expect("a graph that nobody destroys");
    gpu.replay(left).expect("a run");
    // what is under way when a device goes is waited for, and its memory is there as long as it is used
    let mut last = gpu.host_buffer(1000).expect("a buffer");
    let buffer = gpu.host_buffer(1000).expect("a buffer");
    gpu.send(buffer, &[Piece { from: 0, bytes: 1000, to: a }]).expect("a copy");
    drop(gpu);
    last.fill(7);
    assert!(last.iter().all(|byte| *byte == 7));
}

/// Copies that are asked for in another order than they were begun.
fn send(gpu: &mut Gpu, to: Address, got: &mut [u8]) {
    let mut want = bytes(got.len(), 9);
    gpu.upload(to, &want).expect("an upload");
    gpu.synchronize().expect("its end");
    let mut running = Vec::new();
    for copy in 0..3 {
        let mut buffer = gpu.host_buffer(1001).expect("a buffer");
        buffer.copy_from_slice(&bytes(1001, 20 + copy));
        let at = copy * 5000 + 3;
        want[at..at + 1000].copy_from_slice(&buffer[..1000]);
        want[at + 2000] = buffer[1000];
        let pieces = [(0, 1000, at), (1000, 1, at + 2000)];
        let pieces = pieces.map(|(from, bytes, at)| Piece { from, bytes, to: to.offset(at as u64) });
        running.push(gpu.send(buffer, &pieces).expect("a copy"));
    }
    for at in [1, 0, 0] {
        let mut buffer = gpu.reclaim(running.remove(at)).expect("is done");
        assert_eq!(buffer.len(), 1001);
        buffer.fill(0); // nobody reads it any more
    }
    gpu.download(to, got).expect("a download");
    assert!(*got == want);
    // a piece behind the end of its buffer, and one that goes nowhere
    let outside = Piece { from: 4, bytes: 7, to };
    let nowhere = Piece { from: 0, bytes: 8, to: Address(256) };
    for pieces in [[Piece { bytes: 4, ..outside }, outside], [Piece { bytes: 4, ..nowhere }, nowhere]] {
        let buffer = gpu.host_buffer(10).expect("a buffer");
        assert!(gpu.send(buffer, &pieces).is_err());
    }
}

/// One allocation of the driver for several, which goes with the last of them.
fn reserve(gpu: &mut Gpu) {
    let free = |gpu: &mut Gpu| gpu.memory().expect("is known").free;
    let before = free(gpu);
    let error = gpu.reserve(before + 1).expect_err("a byte too much");
    assert!(matches!(error, Error::OutOfMemory { asked, free, .. } if (asked, free) == (before + 1, before)));
    gpu.reserve(999).expect("room that nobody wants");
    gpu.reserve(1024).expect("room");
    assert_eq!(free(gpu), before - 1024);
    let [a, b] = [300, 512].map(|bytes| gpu.allocate(bytes).expect("reserved"));
    assert_eq!((free(gpu), b), (before - 1024, a.offset(512)));
    gpu.upload(b, &bytes(512, 1)).expect("lies within");
    gpu.free(a).expect("is there");
    assert!(gpu.free(a).is_err());
    assert_eq!(free(gpu), before - 1024);
    gpu.free(b).expect("is there");
    assert_eq!(free(gpu), before);
}

/// What goes wrong with GPU `FAKE_INDEX`, in words.
#[test]
#[ignore = "runs in a process of its own"]
fn a_gpu_in_trouble() {
    let index = std::env::var("FAKE_CUDA").ok().and_then(|text| text.split("index=").nth(1)?.parse().ok());
    let work = || {
        let mut gpu = Gpu::open(index.unwrap_or(0))?;
        gpu.launch(&launch())?;
        gpu.synchronize()
    };
    match work() {
        Ok(()) => println!("nothing is wrong"),
        Err(e) => println!("<{e}>"),
    }
}

#[test]
fn errors_say_what_is_wrong_and_what_helps() {
    let folder = match whole_library() {
        Ok(folder) => folder,
        Err(e) => return println!("skipped: {e}"),
    };
    let report = folder.join("no report");
    let cases = [
        ("", "nothing is wrong"),
        (
            "version=11040",
            "<the NVIDIA driver supports CUDA 11.4, but 12.0 is needed: install driver 525 or newer>",
        ),
        (
            "cuDriverGetVersion=999",
            "<the NVIDIA driver's library (libcuda) cannot be used: cuDriverGetVersion",
        ),
        ("cuInit=34", "<the NVIDIA driver's library (libcuda) cannot be used: it is the stub"),
        ("cuInit=803", "different versions: restart the machine"),
        ("cuInit=804", "does not serve this GPU: take its folder out of LD_LIBRARY_PATH"),
        ("cuInit=999", "<cuInit: unknown error (CUDA_ERROR_UNKNOWN)>"),
        ("cuInit=100", "<there is no GPU 0: the driver knows none>"),
        ("count=0", "<there is no GPU 0: the driver knows none>"),
        ("count=1 index=7", "<there is no GPU 7: the driver knows one, cuda:0>"),
        ("count=2 index=7", "<there is no GPU 7: the driver knows 2, cuda:0 to cuda:1>"),
        ("compute=61", "<Fake GPU has compute capability 6.1, but braise needs 7.5>"),
        ("cuDevicePrimaryCtxRetain=46", "<the GPU is not available: another program has it for itself, or"),
        ("cuStreamCreate=719@2", "<the GPU was lost: cuStreamCreate: unspecified launch failure"),
        (
            "cuModuleLoadDataEx=218",
            "cannot load the kernels elementwise: a PTX JIT compilation failed (CUDA_ERROR_INVALID_PTX); \
             ptxas application ptx input, line 12; fatal: Parsing error; ptxas fatal: aborted>",
        ),
        ("cuModuleLoadDataEx=719", "<the GPU was lost: cuModuleLoadDataEx: unspecified launch failure"),
        ("cuLaunchKernel=1", "<cuLaunchKernel: invalid argument (CUDA_ERROR_INVALID_VALUE)>"),
        ("cuStreamSynchronize=700", "<the GPU was lost: cuStreamSynchronize: an illegal memory access"),
    ];
    for (settings, want) in cases {
        let text = run("a_gpu_in_trouble", &folder, settings, &report);
        assert!(text.contains(want), "{settings}: {text}");
    }
    let lacking = library(Some("lacks_graphs")).expect("was compiled before");
    let text = run("a_gpu_in_trouble", &lacking, "", &report);
    assert!(text.contains("(libcuda) cannot be used: it has no cuGraphLaunch>"), "{text}");
}

/// What is known of GPUs 0 and 1 before they are opened.
#[test]
#[ignore = "runs in a process of its own"]
fn a_gpu_before_it_is_opened() {
    for index in 0..2 {
        let survey = Gpu::survey(index).expect("it is there");
        assert_eq!(survey.properties.name, "Fake GPU");
        println!("<{:?}, {:?}>", survey.managed, survey.managed.and_then(|managed| managed.bandwidth()));
    }
    assert!(matches!(Gpu::survey(2), Err(Error::NoDevice { index: 2, count: 2 })));
}

#[test]
fn management_tells_what_is_free_without_a_context() {
    let plain = match whole_library() {
        Ok(folder) => folder,
        Err(e) => return println!("skipped: {e}"),
    };
    let managed = library(Some("lacks_nothing")).expect("was compiled before");
    compile("libnvml.rs", &managed.join("libnvidia-ml.so.1"), None).expect("was compiled before");
    let survey = |folder: &Path, nvml: &str| {
        let report = folder.join("survey");
        let text = run("a_gpu_before_it_is_opened", folder, &format!("count=2 {nvml}"), &report);
        assert!(!report.exists(), "a context was made");
        text.lines()
            .filter_map(|line| line.strip_prefix('<')?.strip_suffix('>').map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let all = "Some(Managed { memory: Memory { free: 5000, total: 9000 }, processes: Some((2, 7000)), bus: Some((5120, 2619)) })";
    let found = survey(&managed, "free=5000 total=9000");
    // the management knows nothing of the second
    assert_eq!(found, [format!("{all}, Some(3352320000000.0)"), "None, None".to_owned()]);
    let bare = all.replace("Some((2, 7000))", "None").replace("Some((5120, 2619))", "None");
    let lacking =
        "nvmlDeviceGetComputeRunningProcesses_v3=3 nvmlDeviceGetMemoryBusWidth=3 nvmlDeviceGetMigMode=3";
    assert_eq!(survey(&managed, &format!("free=5000 total=9000 {lacking}"))[0], format!("{bare}, None"));
    for settings in
        ["mig=1", "nvmlInit_v2=9", "nvmlDeviceGetMemoryInfo=4", "nvmlDeviceGetHandleByPciBusId_v2=6"]
    {
        assert_eq!(survey(&managed, settings)[0], "None, None", "{settings}");
    }
    assert_eq!(survey(&plain, "")[0], "None, None", "without the library");
}
