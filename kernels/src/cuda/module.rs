//! The PTX that is part of this crate, the kernels in it, and launches of them.
//!
//! A kernel's parameters are checked when a launch is made, against what its PTX declares: a parameter too few would be read
//! from anywhere.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{Address, Error};

/// A file of PTX.
#[derive(Debug)]
pub struct Module {
    /// Its name.
    pub name: &'static str,
    /// Its text, which ends with a 0 for the driver.
    text: &'static str,
    /// The compute capability that it needs.
    pub compute: (u32, u32),
    /// Whether it needs this one and no other.
    pub alone: bool,
}

impl Module {
    /// Whether devices of a compute capability run it.
    pub fn runs_on(&self, compute: (u32, u32)) -> bool {
        if self.alone { self.compute == compute } else { self.compute <= compute }
    }

    /// The PTX.
    pub fn ptx(&self) -> &'static str {
        self.text.trim_end_matches('\0')
    }

    /// The PTX as a C string.
    pub(super) fn c_string(&self) -> &'static std::ffi::CStr {
        std::ffi::CStr::from_bytes_with_nul(self.text.as_bytes()).expect("the text ends with its only 0")
    }
}

/// One kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its name in the PTX.
    pub name: &'static str,
    /// Where it is.
    pub module: &'static Module,
    /// Type and size in bytes of its parameters.
    pub params: Vec<(&'static str, usize)>,
}

macro_rules! modules {
    ($($compute:literal $which:ident: $($name:literal)*;)*) => {
        /// All modules.
        pub static MODULES: &[Module] = &[$($(Module {
            name: $name,
            text: concat!(include_str!(concat!("../../cuda/ptx/", $name, ".ptx")), "\0"),
            compute: ($compute / 10, $compute % 10),
            alone: is_alone!($which),
        },)*)*];
    };
}

macro_rules! is_alone {
    (upwards) => {
        false
    };
    (alone) => {
        true
    };
}

modules! {
    75 upwards:
        "attention" "convolve" "delta_net" "elementwise" "experts" "heads" "norm" "peak" "rows" "sample" "state_space" "matvec_float" "matvec_q4_0"
        "matvec_q4_1" "matvec_q5_0" "matvec_q5_1" "matvec_q8_0" "matvec_q2_k" "matvec_q3_k" "matvec_q4_k"
        "matvec_q5_k" "matvec_q6_k" "matvec_iq2_xxs" "matvec_iq2_xs" "matvec_iq3_xxs" "matvec_iq1_s"
        "matvec_iq4_nl" "matvec_iq3_s" "matvec_iq2_s" "matvec_iq4_xs" "matvec_iq1_m" "matvec_tq1_0"
        "matvec_tq2_0" "matvec_mxfp4" "matvec_nvfp4"
        "qkv_q4_0" "qkv_q4_1" "qkv_q5_0" "qkv_q5_1" "qkv_q8_0" "qkv_q2_k" "qkv_q3_k" "qkv_q4_k" "qkv_q5_k"
        "qkv_q6_k" "qkv_iq2_xxs" "qkv_iq2_xs" "qkv_iq3_xxs" "qkv_iq1_s" "qkv_iq4_nl" "qkv_iq3_s" "qkv_iq2_s"
        "qkv_iq4_xs" "qkv_iq1_m" "qkv_tq1_0" "qkv_tq2_0" "qkv_mxfp4" "qkv_nvfp4" "qkv_q2_k_q3_k"
        "qkv_q2_k_q4_k" "qkv_q3_k_q4_k" "qkv_q3_k_q5_k" "qkv_q4_k_q5_k" "qkv_q4_k_q6_k" "qkv_q4_k_q8_0"
        "qkv_q5_k_q6_k" "qkv_q5_k_q8_0" "qkv_iq1_s_q4_k" "qkv_iq1_m_q4_k" "qkv_iq2_xxs_q4_k"
        "qkv_iq2_xs_q4_k" "qkv_iq2_s_q4_k" "qkv_iq3_xxs_q4_k" "qkv_iq3_s_q4_k" "qkv_iq4_nl_q5_k"
        "qkv_iq4_xs_q5_k" "qkv_float";
    80 upwards:
        "flash" "peak_tensor" "matmul_q4_0" "matmul_q4_1" "matmul_q5_0" "matmul_q5_1" "matmul_q8_0" "matmul_q2_k"
        "matmul_q3_k" "matmul_q4_k" "matmul_q5_k" "matmul_q6_k" "matmul_iq2_xxs" "matmul_iq2_xs"
        "matmul_iq3_xxs" "matmul_iq1_s" "matmul_iq4_nl" "matmul_iq3_s" "matmul_iq2_s" "matmul_iq4_xs"
        "matmul_iq1_m" "matmul_tq1_0" "matmul_tq2_0" "matmul_mxfp4" "matmul_nvfp4" "matmul_f32" "matmul_f16"
        "matmul_bf16";
    90 alone:
        "peak_wgmma" "matmul_wgmma_q4_0" "matmul_wgmma_q4_1" "matmul_wgmma_q5_0" "matmul_wgmma_q5_1" "matmul_wgmma_q8_0"
        "matmul_wgmma_q2_k" "matmul_wgmma_q3_k" "matmul_wgmma_q4_k" "matmul_wgmma_q5_k" "matmul_wgmma_q6_k"
        "matmul_wgmma_iq2_xxs" "matmul_wgmma_iq2_xs" "matmul_wgmma_iq3_xxs" "matmul_wgmma_iq1_s"
        "matmul_wgmma_iq4_nl" "matmul_wgmma_iq3_s" "matmul_wgmma_iq2_s" "matmul_wgmma_iq4_xs"
        "matmul_wgmma_iq1_m" "matmul_wgmma_tq1_0" "matmul_wgmma_tq2_0" "matmul_wgmma_mxfp4"
        "matmul_wgmma_nvfp4" "matmul_wgmma_f32" "matmul_wgmma_f16" "matmul_wgmma_bf16";
}

static KERNELS: LazyLock<HashMap<&'static str, Kernel>> = LazyLock::new(|| {
    let entries = MODULES
        .iter()
        .flat_map(|module| module.ptx().split(".entry ").skip(1).filter_map(move |text| entry(module, text)));
    entries.map(|kernel| (kernel.name, kernel)).collect()
});

/// The kernel whose declaration follows `.entry `.
fn entry(module: &'static Module, text: &'static str) -> Option<Kernel> {
    let (name, rest) = text.split_once('(')?;
    let (params, _) = rest.split_once(')')?;
    let param = |line: &'static str| {
        let mut words = line.trim().strip_prefix(".param ")?.split_whitespace();
        let ty = words.next()?.strip_prefix('.')?;
        let bits: usize = ty.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().ok()?;
        Some((ty, bits / 8))
    };
    let params =
        params.split(',').filter(|line| !line.trim().is_empty()).map(param).collect::<Option<_>>()?;
    Some(Kernel { name: name.trim(), module, params })
}

impl Kernel {
    /// The kernel of this name.
    ///
    /// # Errors
    /// [`Error::UnknownKernel`].
    pub fn find(name: &str) -> Result<&'static Kernel, Error> {
        KERNELS.get(name).ok_or_else(|| Error::UnknownKernel(name.to_owned()))
    }

    /// All kernels.
    pub fn all() -> impl Iterator<Item = &'static Kernel> {
        KERNELS.values()
    }
}

/// One parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// A pointer.
    At(Address),
    /// An integer of 64 bits.
    U64(u64),
    /// An integer of 32 bits.
    U32(u32),
    /// A float.
    F32(f32),
}

impl From<Address> for Arg {
    fn from(address: Address) -> Arg {
        Arg::At(address)
    }
}

impl From<u32> for Arg {
    fn from(x: u32) -> Arg {
        Arg::U32(x)
    }
}

impl From<u64> for Arg {
    fn from(x: u64) -> Arg {
        Arg::U64(x)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Arg {
        Arg::F32(x)
    }
}

/// A kernel with all it takes.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
    /// The parameters, each at the next multiple of its size, as PTX lays them out.
    pub params: Vec<u8>,
}

impl Launch {
    /// Launches `name` in `grid` blocks of `threads`.
    ///
    /// # Errors
    /// There is no such kernel, it takes other parameters, or there is nothing to run.
    pub fn new(name: &str, grid: [u32; 3], threads: u32, shared: u32, args: &[Arg]) -> Result<Launch, Error> {
        let kernel = Kernel::find(name)?;
        let wrong = |what: String| Err(Error::Parameters { kernel: kernel.name, what });
        if args.len() != kernel.params.len() {
            return wrong(format!("{} parameters instead of {}", args.len(), kernel.params.len()));
        }
        if grid.contains(&0) || grid[1].max(grid[2]) > 65535 || threads == 0 || threads > 1024 {
            return wrong(format!("a grid of {grid:?} blocks of {threads} threads"));
        }
        let mut params = Vec::new();
        for (i, (arg, (ty, _))) in args.iter().zip(&kernel.params).enumerate() {
            let bytes = match (*ty, arg) {
                ("u64" | "b64", Arg::At(Address(x)) | Arg::U64(x)) => x.to_le_bytes().to_vec(),
                ("u32" | "b32", Arg::U32(x)) => x.to_le_bytes().to_vec(),
                ("f32", Arg::F32(x)) => x.to_le_bytes().to_vec(),
                _ => return wrong(format!("parameter {i} is of type {ty}, and not {arg:?}")),
            };
            params.resize(params.len().next_multiple_of(bytes.len()), 0);
            params.extend(bytes);
        }
        Ok(Launch { kernel, grid, block: [threads, 1, 1], shared, params })
    }

    /// Where each parameter begins in `params`.
    pub fn offsets(&self) -> impl Iterator<Item = usize> {
        self.kernel.params.iter().scan(0, |end: &mut usize, (_, size)| {
            let start = end.next_multiple_of(*size);
            *end = start + size;
            Some(start)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_the_ptx_is_a_kernel_with_parameters() {
        let entries: usize = MODULES.iter().map(|module| module.ptx().matches(".entry ").count()).sum();
        assert!(entries > 0);
        assert_eq!(Kernel::all().count(), entries, "names are unique, and all declarations are understood");
        for kernel in Kernel::all() {
            assert!(!kernel.params.is_empty(), "{}", kernel.name);
            let declared = kernel.module.ptx().matches(&format!("{}_param_", kernel.name)).count();
            assert!(declared >= kernel.params.len(), "{}", kernel.name);
        }
    }

    #[test]
    fn modules_are_of_the_version_that_drivers_from_525_on_load() {
        for module in MODULES {
            let alone = if module.alone { "a" } else { "" };
            let target = format!(".target sm_{}{}{alone}", module.compute.0, module.compute.1);
            assert!(module.ptx().starts_with(&format!(".version 8.0\n{target}\n")), "{}", module.name);
            assert_eq!(module.c_string().to_str(), Ok(module.ptx()));
        }
    }

    #[test]
    fn modules_of_one_compute_capability_run_on_no_other() {
        let runs = |name: &str| {
            let module = MODULES.iter().find(|module| module.name == name).expect("a module");
            [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)].map(|compute| module.runs_on(compute))
        };
        assert_eq!(runs("norm"), [true; 6]);
        assert_eq!(runs("matmul_q4_k"), [false, true, true, true, true, true]);
        assert_eq!(runs("matmul_wgmma_q4_k"), [false, false, false, true, false, false]);
    }

    #[test]
    fn all_files_of_ptx_are_modules() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/ptx");
        for file in folder.read_dir().expect("the folder of PTX") {
            let path = file.expect("an entry").path();
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name in ASCII");
            assert!(MODULES.iter().any(|module| module.name == name), "{name}");
        }
    }

    #[test]
    fn parameters_lie_as_ptx_lays_them_out() {
        let args = [Arg::At(Address(0x0102)), Arg::F32(1.0), Arg::U64(3), Arg::At(Address(4))];
        let launch = Launch::new("add_values", [2, 1, 1], 256, 0, &args).expect("what the kernel takes");
        let mut want = vec![2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        want.extend([4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(launch.params, want);
        assert_eq!(launch.offsets().collect::<Vec<_>>(), [0, 8, 16, 24]);
    }

    #[test]
    fn other_parameters_are_refused() {
        let good = [Arg::At(Address(1)), Arg::F32(1.0), Arg::U64(3), Arg::At(Address(4))];
        let launch = |grid, threads, args: &[Arg]| Launch::new("add_values", grid, threads, 0, args);
        assert!(launch([1, 1, 1], 1, &good).is_ok());
        assert!(matches!(launch([1, 1, 1], 1, &good[1..]), Err(Error::Parameters { .. })));
        for i in 0..good.len() {
            let mut bad = good;
            bad[i] = Arg::U32(1);
            let error = launch([1, 1, 1], 1, &bad).expect_err("a parameter of another type");
            assert!(error.to_string().contains(&format!("parameter {i} ")), "{error}");
        }
        for (grid, threads) in [([0, 1, 1], 1), ([1, 65536, 1], 1), ([1, 1, 1], 0), ([1, 1, 1], 1025)] {
            assert!(launch(grid, threads, &good).is_err(), "{grid:?} {threads}");
        }
        assert!(matches!(Launch::new("no_kernel", [1; 3], 1, 0, &[]), Err(Error::UnknownKernel(_))));
    }
}
