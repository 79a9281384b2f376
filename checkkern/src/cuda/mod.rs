//! Every CUDA kernel against the scalar truth, on whatever runs them: a GPU, or an interpreter of their PTX.
//!
//! A check launches kernels as the engine does, between sentinels, and compares what comes back as the checks of the CPU's
//! kernels do. [`check`] notes which kernels were launched, so that none can be forgotten. The first launch of each kernel is
//! repeated as a graph, which must leave the same bits.

mod attention;
mod choice;
mod delta_net;
mod heads;
mod latent;
mod matrix;
mod qkv;
mod recurrent;
mod rows;
mod sampling;
mod whole;

use std::collections::BTreeSet;

use braise_kernels::cuda::{Address, Device, Error, Kernel, Launch, ops};
use bytemuck::Pod;

use super::report::{Cases, Report};

/// What lies behind results, and in their place.
const SENTINEL: f32 = -1.234_567_9e33;

/// Values of it behind results.
const GUARD: usize = 16;

/// A device, what it holds for a check, and the kernels that it has run.
pub struct Bench<'a> {
    device: &'a mut dyn Device,
    /// What a check has allocated, with its bytes.
    held: Vec<(Address, usize)>,
    ran: BTreeSet<&'static str>,
    /// Kernels that computed something else as part of a graph.
    other_bits: Vec<&'static str>,
}

/// One family of kernels.
type Check = fn(&mut Bench<'_>, &mut Cases) -> Result<(), Error>;

/// All families; those of a matrix product with weights of one type are made by [`matrix`].
const CHECKS: &[(&str, Check)] = &[
    ("norm_rows", rows::norm_rows),
    ("activate_rows", rows::activate_rows),
    ("weigh_rows", rows::weigh_rows),
    ("sum_rows", rows::sum_rows),
    ("add and scale", rows::add_and_scale),
    ("matvec's epilogues", matrix::epilogues),
    ("matvec of experts", matrix::experts),
    ("matmul of experts", matrix::ordered_experts),
    ("rotations", heads::rotations),
    ("finish_heads", heads::finish_heads),
    ("queries alone", qkv::queries_alone),
    ("qkv", qkv::qkv),
    ("attention", attention::attend),
    ("flash", attention::flash),
    ("maps of heads", latent::maps),
    ("finish_latent", latent::finish_latent),
    ("convolve", recurrent::convolve),
    ("state_space", recurrent::state_space),
    ("delta_net", delta_net::delta_net),
    ("gate_heads", delta_net::gate_heads),
    ("norm of parts", recurrent::norm_parts),
    ("argmax", choice::argmax),
    ("top_k and draw", choice::top_k_and_draw),
    ("top_k of shares", sampling::shared_top_k),
    ("sample", sampling::sample),
    ("penalize", sampling::penalize),
    ("route", choice::route),
    ("experts", choice::experts),
    ("transfers", whole::transfers),
    ("copies beside each other", whole::copies_beside),
    ("copy_words", whole::copies),
    ("multiply_tiles", whole::tiles),
    ("graphs", whole::graphs),
];

/// Runs every check on `device`; kernels that need a newer one are noted as skipped.
///
/// # Errors
/// [`Error::Lost`]: the device was lost in the last row, which has failed. Nothing more can be run on it in this process.
pub fn check(device: &mut dyn Device, report: &mut Report) -> Result<(), Error> {
    let compute = device.properties().compute;
    let place = device.properties().name.clone();
    let mut bench = Bench { device, held: Vec::new(), ran: BTreeSet::new(), other_bits: Vec::new() };
    let mut row = |name: String, check: &mut dyn FnMut(&mut Bench<'_>, &mut Cases) -> Result<(), Error>| {
        let mut lost = Ok(());
        report.row(format!("{name}/{place}"), |cases| {
            let (done, freed) = (check(&mut bench, cases), bench.let_go());
            if let Some(e @ Error::Lost(_)) = done.as_ref().err().or(freed.as_ref().err()) {
                lost = Err(e.clone());
            }
            match done {
                Err(Error::Unsupported { .. }) => cases.expect(compute < (8, 0), || "unsupported".to_owned()),
                done => cases.expect(done.is_ok(), || format!("{done:?}")),
            }
            cases.expect(freed.is_ok(), || format!("{freed:?}"));
            let other_bits = std::mem::take(&mut bench.other_bits);
            cases.expect(other_bits.is_empty(), || format!("other bits as a graph: {other_bits:?}"));
        });
        lost
    };
    for ty in matrix::types() {
        let name = ty.name().to_lowercase();
        row(format!("rows/{name}"), &mut |bench, cases| rows::embed_rows(bench, ty, cases))?;
        row(format!("matvec/{name}"), &mut |bench, cases| matrix::matvec(bench, ty, cases))?;
        row(format!("matmul/{name}"), &mut |bench, cases| matrix::matmul(bench, ty, cases))?;
    }
    for (name, check) in CHECKS {
        row((*name).to_owned(), &mut |bench, cases| check(bench, cases))?;
    }
    let can_run = |kernel: &&Kernel| kernel.module.runs_on(compute);
    let all: BTreeSet<&str> = Kernel::all().filter(can_run).map(|kernel| kernel.name).collect();
    if report.is_resumed() {
        report.skip("all kernels", "some were launched by an earlier process");
    } else {
        report.row(format!("all kernels/{place}"), |cases| {
            let forgotten: Vec<_> = all.difference(&bench.ran).collect();
            cases.expect(forgotten.is_empty(), || format!("never launched: {forgotten:?}"));
        });
    }
    for kernel in Kernel::all().filter(|kernel| !can_run(kernel)) {
        report.skip(kernel.name, format_args!("{place} has compute capability {compute:?}"));
    }
    Ok(())
}

impl Bench<'_> {
    /// Memory that holds `values`, and behind them what may be read behind matrices.
    fn put<T: Pod>(&mut self, values: &[T]) -> Result<Address, Error> {
        let mut bytes = bytemuck::cast_slice(values).to_vec();
        bytes.resize(bytes.len() + ops::WEIGHT_PADDING, 0xff);
        let address = self.device.allocate(bytes.len())?;
        self.held.push((address, bytes.len()));
        self.device.upload(address, &bytes)?;
        Ok(address)
    }

    /// Room for n results, sentinels in their place and behind them.
    fn room(&mut self, n: usize) -> Result<Address, Error> {
        self.put(&vec![SENTINEL; n + GUARD])
    }

    /// `n` bytes that are 0.
    fn zeros(&mut self, n: usize) -> Result<Address, Error> {
        let address = self.device.allocate(n)?;
        self.held.push((address, n));
        self.device.clear(address, n)?;
        Ok(address)
    }

    fn get<T: Pod>(&mut self, from: Address, n: usize) -> Result<Vec<T>, Error> {
        let mut values = vec![T::zeroed(); n];
        self.device.download(from, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// The n results in a [`Bench::room`], after a look at the sentinels.
    fn results(&mut self, from: Address, n: usize, what: &str, cases: &mut Cases) -> Result<Vec<f32>, Error> {
        let mut values: Vec<f32> = self.get(from, n + GUARD)?;
        let untouched = values.drain(n..).all(|value| value == SENTINEL);
        cases.expect(untouched, || format!("{what}: wrote beyond the results"));
        cases.expect(!values.contains(&SENTINEL), || format!("{what}: left a result unwritten"));
        Ok(values)
    }

    /// Runs a kernel; the first time, which loads its module, as a graph after that, from the same memory.
    fn run(&mut self, launch: Result<Launch, Error>) -> Result<(), Error> {
        let launch = launch?;
        let name = launch.kernel.name;
        let before = if self.ran.insert(name) { Some(self.memory()?) } else { None };
        self.device.launch(&launch)?;
        self.device.synchronize()?;
        let Some(before) = before else { return Ok(()) };
        let after = self.memory()?;
        for ((address, _), bytes) in self.held.iter().zip(&before) {
            self.device.upload(*address, bytes)?;
        }
        self.device.begin_capture()?;
        let captured = self.device.launch(&launch);
        let graph = self.device.end_capture()?;
        let ran = captured.and_then(|()| self.device.replay(graph)).and_then(|()| self.device.synchronize());
        self.device.destroy(graph)?;
        ran?;
        if self.memory()? != after {
            self.other_bits.push(name);
        }
        Ok(())
    }

    /// The bytes of all that is held.
    fn memory(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let held = self.held.clone();
        held.into_iter().map(|(address, bytes)| self.get(address, bytes)).collect()
    }

    /// Frees what is held.
    fn let_go(&mut self) -> Result<(), Error> {
        std::mem::take(&mut self.held).into_iter().try_for_each(|(address, _)| self.device.free(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use braise_kernels::cuda::{Graph, Memory, Properties};

    /// A device that nothing works on any more.
    struct Dead(Properties);

    fn lost<T>() -> Result<T, Error> {
        Err(Error::Lost("a kernel went wrong".to_owned()))
    }

    impl Device for Dead {
        fn properties(&self) -> &Properties {
            &self.0
        }
        fn memory(&mut self) -> Result<Memory, Error> {
            lost()
        }
        fn allocate(&mut self, _: usize) -> Result<Address, Error> {
            lost()
        }
        fn free(&mut self, _: Address) -> Result<(), Error> {
            lost()
        }
        fn upload(&mut self, _: Address, _: &[u8]) -> Result<(), Error> {
            lost()
        }
        fn download(&mut self, _: Address, _: &mut [u8]) -> Result<(), Error> {
            lost()
        }
        fn clear(&mut self, _: Address, _: usize) -> Result<(), Error> {
            lost()
        }
        fn launch(&mut self, _: &Launch) -> Result<(), Error> {
            lost()
        }
        fn begin_capture(&mut self) -> Result<(), Error> {
            lost()
        }
        fn end_capture(&mut self) -> Result<Graph, Error> {
            lost()
        }
        fn replay(&mut self, _: Graph) -> Result<(), Error> {
            lost()
        }
        fn destroy(&mut self, _: Graph) -> Result<(), Error> {
            lost()
        }
        fn synchronize(&mut self) -> Result<(), Error> {
            lost()
        }
    }

    #[test]
    fn a_lost_device_fails_one_row_and_ends_the_checks() {
        let properties = Properties {
            name: "dead".to_owned(),
            compute: (9, 0),
            multiprocessors: 1,
            shared_bytes: 0,
            warpgroups: false,
        };
        let mut report = Report::default();
        let ended = check(&mut Dead(properties), &mut report);
        assert!(matches!(ended, Err(Error::Lost(_))), "{ended:?}");
        let [row] = report.rows() else { panic!("{:?}", report.rows()) };
        assert!(!row.passed() && row.details[0].contains("a kernel went wrong"), "{row}");
    }
}
