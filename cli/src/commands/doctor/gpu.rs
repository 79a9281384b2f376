//! GPUs: which there are, why there are none, and what each computes and reaches.

use std::fs;
use std::path::Path;

use braise_checkkern::cuda;
use braise_checkkern::report::Report;
use braise_engine::device::GpuLayers;
use braise_engine::measure::{Agreement, GpuPeaks};
use braise_kernels::cuda::{Device, Error, Gpu, Managed};
use indicatif::DecimalBytes;

use super::check::{Check, Status};
use super::part::{Line, Part, tell};

/// The GPUs that the driver knows; else why there are none, and what to do if there should be one.
pub fn find() -> Vec<Check> {
    let found = Gpu::count();
    if let Ok(count @ 1..) = found {
        let detail = format!("the driver knows {count}");
        return vec![Check::measured(Part::Gpus, "GPUs", count as f64, detail)];
    }
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    vec![Surroundings::look(Path::new("/"), visible).explain(found.err().as_ref())]
}

/// How many [`find`] has found.
pub fn count(found: &[Check]) -> usize {
    found.iter().find_map(|check| check.value).map_or(0, |count| count as usize)
}

/// Checks the kernels on a GPU; gives whether it was lost on the way.
pub fn check(index: usize, report: &mut Report) -> bool {
    let part = Part::Gpu(index);
    let managed = Gpu::survey(index).ok().and_then(|survey| survey.managed);
    let mut gpu = match Gpu::open(index) {
        Ok(gpu) => gpu,
        Err(e) => {
            tell(&Line::Check(refused(part, &e)));
            return false;
        }
    };
    if let Some(managed) = managed.filter(|_| !report.is_resumed()) {
        tell(&Line::Check(Check::new(part, "memory", Status::Ok, in_words(&managed))));
    }
    if !report.is_resumed() {
        let memory = gpu.memory().map_or(0, |memory| memory.total as u64);
        let of = gpu.properties();
        let ((major, minor), blocks) = (of.compute, of.multiprocessors);
        let memory = DecimalBytes(memory);
        let detail =
            format!("{}, compute capability {major}.{minor}, {blocks} multiprocessors, {memory}", of.name);
        tell(&Line::Check(Check::new(part, "device", Status::Ok, detail)));
    }
    matches!(cuda::check(&mut gpu, report), Err(Error::Lost(_)))
}

/// What is free of a GPU's memory, who has the rest, and how fast it could be.
fn in_words(Managed { memory, processes, bus }: &Managed) -> String {
    let bytes = |bytes: usize| DecimalBytes(bytes as u64);
    let mut text = format!("{} of {} are free", bytes(memory.free), bytes(memory.total));
    if let Some((n @ 1.., taken)) = processes {
        text += &format!(", programs that compute there: {n}, with {}", DecimalBytes(*taken));
    }
    if let Some((bits, mhz)) = bus {
        let rate = 2e-3 * f64::from(*mhz) * f64::from(*bits) / 8.0;
        text += &format!("; {bits} bits at {mhz} MHz transfer {rate:.0} GB/s at most");
    }
    text
}

/// A GPU that cannot be used: too old, or broken.
fn refused(part: Part, e: &Error) -> Check {
    match e {
        Error::Unsupported { .. } => {
            Check::skip(part, "device", e.to_string()).next("models run on the CPU here")
        }
        _ => Check::new(part, "device", Status::Failed, e.to_string()).next(part.without()),
    }
}

/// Compares whole models on a GPU with the same on the CPU: all of one, and one whose first layers stay on the CPU.
pub fn models(index: usize) {
    let part = Part::GpuModels(index);
    for (name, layers) in [("model", GpuLayers::All), ("model split with the CPU", GpuLayers::Last(3))] {
        tell(&Line::Begin(name.to_owned()));
        let device = Gpu::open(index).map(|gpu| Box::new(gpu) as Box<dyn Device + Send>);
        let check = match (Agreement::of(device, layers), Gpu::open(index)) {
            (Ok(agreement), _) => {
                let status = if agreement.is_right() { Status::Ok } else { Status::Failed };
                let Agreement { many, few } = agreement;
                let detail =
                    format!("logits are {many:.1e} of their square off in a prompt, {few:.1e} one by one");
                Check::new(part, name, status, detail)
            }
            (Err(_), Err(e @ Error::Unsupported { .. })) => Check::skip(part, name, e.to_string()),
            (Err(e), _) => Check::new(part, name, Status::Failed, e.to_string()),
        };
        let ok = check.status == Status::Ok;
        tell(&Line::Check(if ok { check } else { check.next(part.without()) }));
    }
}

/// Measures what a GPU can do at most.
pub fn peaks(index: usize) {
    let part = Part::GpuPeaks(index);
    let measured = Gpu::open(index).and_then(|mut gpu| GpuPeaks::measure(&mut gpu));
    let peaks = match measured {
        Ok(peaks) => peaks,
        Err(e) => return tell(&Line::Check(refused(part, &e))),
    };
    let rate = |name, value: f64, unit| {
        tell(&Line::Check(Check::measured(part, name, value, format!("{:.1} {unit}", value * 1e-9))));
    };
    rate("copy bandwidth", peaks.copy, "GB/s, bytes read and bytes written");
    rate("upload", peaks.upload, "GB/s");
    rate("download", peaks.download, "GB/s");
    match peaks.bf16 {
        Some(bf16) => rate("bf16 peak", bf16, "GOP/s on tensor cores"),
        None => {
            let why = "these tensor cores know no bf16";
            tell(&Line::Check(Check::skip(part, "bf16 peak", why)));
        }
    }
}

/// What can be seen of GPUs without a driver.
#[derive(Debug, Clone, Default, PartialEq)]
struct Surroundings {
    /// Linux inside Windows.
    wsl: bool,
    container: bool,
    /// NVIDIA's display controllers on the PCI bus.
    cards: usize,
    /// Whether the driver's kernel module is loaded.
    module: bool,
    /// A device file that this user may not open.
    denied: Option<String>,
    /// `CUDA_VISIBLE_DEVICES`.
    visible: Option<String>,
}

impl Surroundings {
    /// What the file system below `root` says.
    fn look(root: &Path, visible: Option<String>) -> Surroundings {
        let exists = |path: &str| root.join(path).exists();
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let of_nvidia = |device: &Path| {
            let controls_display = text(&device.join("class")).starts_with("0x03");
            text(&device.join("vendor")).trim() == "0x10de" && controls_display
        };
        let entries = |path: &str| fs::read_dir(root.join(path)).into_iter().flatten().flatten();
        let denied = entries("dev")
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("nvidia"))
            .map(|entry| entry.path())
            .filter(|path| !path.is_dir())
            .find(|path| {
                let opened = fs::OpenOptions::new().read(true).write(true).open(path);
                opened.is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
            });
        Surroundings {
            wsl: text(&root.join("proc/version")).to_lowercase().contains("microsoft"),
            container: exists(".dockerenv") || exists("run/.containerenv"),
            cards: entries("sys/bus/pci/devices").filter(|entry| of_nvidia(&entry.path())).count(),
            module: exists("proc/driver/nvidia/version"),
            denied: denied.map(|path| path.display().to_string()),
            visible,
        }
    }

    /// Why no GPU is used: the driver's `error`, or that it knows none.
    fn explain(&self, error: Option<&Error>) -> Check {
        let said = error.map_or("the NVIDIA driver knows no GPU".to_owned(), Error::to_string);
        let check = match error {
            None | Some(Error::NoDriver | Error::DriverTooOld { .. }) => Check::skip(Part::Gpus, "GPU", ""),
            Some(_) => Check::new(Part::Gpus, "GPU", Status::Failed, ""),
        };
        let (fact, next) = self.reason(error);
        let detail = if fact.is_empty() { said } else { format!("{said}: {fact}") };
        Check { detail, ..check.next(next) }
    }

    /// A fact that explains it, and what to do.
    fn reason(&self, error: Option<&Error>) -> (String, &'static str) {
        let no_driver = matches!(error, Some(Error::NoDriver));
        if self.wsl && (no_driver || matches!(error, Some(Error::DriverTooOld { .. }))) {
            let next = "install the newest NVIDIA driver in Windows, and none in WSL; it puts libcuda.so.1 into \
                        /usr/lib/wsl/lib";
            return ("this is WSL".to_owned(), next);
        }
        if matches!(error, Some(Error::DriverTooOld { .. })) {
            return (String::new(), "models run on the CPU until then");
        }
        if let Some(path) = &self.denied {
            let next =
                "run as a member of the group that owns that file, or let the container have the device";
            return (format!("this user may not open {path}"), next);
        }
        if no_driver && self.module {
            let next = "in a container, start it with `--gpus all` (NVIDIA Container Toolkit); elsewhere install the \
                        driver's libraries, of the version of its kernel module";
            return (
                "its kernel module is loaded, but its library libcuda.so.1 is not here".to_owned(),
                next,
            );
        }
        if let (false, Some(visible)) = (no_driver, &self.visible) {
            return (format!("CUDA_VISIBLE_DEVICES is '{visible}'"), "unset CUDA_VISIBLE_DEVICES");
        }
        match (self.cards, self.container) {
            (0, true) => (
                "no NVIDIA GPU is to be seen in this container".to_owned(),
                "if the machine has one, start the container with `--gpus all` (NVIDIA Container Toolkit)",
            ),
            (0, false) if no_driver => (
                "no NVIDIA GPU is on the PCI bus".to_owned(),
                "nothing, unless there should be one: then see whether it is plugged in, or given to this virtual machine",
            ),
            (n, _) if no_driver => {
                (format!("NVIDIA GPUs on the PCI bus: {n}"), "install NVIDIA driver 525 or newer")
            }
            _ => (
                String::new(),
                "see what `nvidia-smi` and `dmesg` say; after an update of the driver, restart the machine",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root folder with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("lies in a folder")).expect("is created");
            fs::write(path, text).expect("is written");
        }
        root
    }

    #[test]
    fn what_is_to_be_seen_is_seen() {
        let root = root(&[
            ("proc/version", "Linux version 5.15.90.1-microsoft-standard-WSL2"),
            (".dockerenv", ""),
            ("sys/bus/pci/devices/0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0/class", "0x030200\n"),
            ("sys/bus/pci/devices/1/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/1/class", "0x040300\n"), // its sound
            ("sys/bus/pci/devices/2/vendor", "0x8086\n"),
            ("sys/bus/pci/devices/2/class", "0x030000\n"),
            ("proc/driver/nvidia/version", "NVRM version"),
            ("dev/nvidia0", ""),
        ]);
        let seen = Surroundings::look(root.path(), None);
        let all = Surroundings { wsl: true, container: true, cards: 1, module: true, ..Default::default() };
        assert_eq!(seen, all);
        let empty = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Surroundings::look(empty.path(), None), Surroundings::default());
    }

    #[test]
    fn each_reason_has_its_next_step() {
        let none = Surroundings::default;
        let broken = Error::Driver { call: "cuInit", message: "unknown error".to_owned() };
        let old = Error::DriverTooOld { major: 11, minor: 4 };
        let cases = [
            (none(), Some(Error::NoDriver), "no NVIDIA GPU is on the PCI bus; nothing, unless"),
            (
                Surroundings { cards: 2, ..none() },
                Some(Error::NoDriver),
                "on the PCI bus: 2; install NVIDIA driver 525",
            ),
            (
                Surroundings { container: true, ..none() },
                Some(Error::NoDriver),
                "in this container; if the machine",
            ),
            (
                Surroundings { module: true, cards: 1, ..none() },
                Some(Error::NoDriver),
                "libcuda.so.1 is not here; in a",
            ),
            (Surroundings { wsl: true, ..none() }, Some(Error::NoDriver), "this is WSL; install the newest"),
            (
                none(),
                Some(old.clone()),
                "CUDA 11.4, but 12.0 is needed: install driver 525 or newer; models run on the CPU",
            ),
            (Surroundings { wsl: true, ..none() }, Some(old), "this is WSL; install the newest"),
            (
                Surroundings { denied: Some("/dev/nvidia0".into()), ..none() },
                None,
                "may not open /dev/nvidia0; run as",
            ),
            (
                Surroundings { visible: Some("-1".into()), ..none() },
                None,
                "CUDA_VISIBLE_DEVICES is '-1'; unset",
            ),
            (Surroundings { container: true, ..none() }, None, "in this container; if the machine"),
            (Surroundings { cards: 1, ..none() }, None, "knows no GPU; see what `nvidia-smi`"),
            (none(), Some(broken.clone()), "cuInit: unknown error; see what `nvidia-smi`"),
        ];
        for (surroundings, error, expected) in cases {
            let check = surroundings.explain(error.as_ref());
            let text = format!("{}; {}", check.detail, check.next_step.unwrap_or_default());
            assert!(text.contains(expected), "{text}");
            let failed = error.as_ref() == Some(&broken);
            assert_eq!(check.status, if failed { Status::Failed } else { Status::Skipped }, "{text}");
        }
    }
}
