//! Every CUDA kernel against the scalar truth, on whatever runs them: a GPU, or an interpreter of their PTX.
//!
//! A check launches kernels as the engine does, between sentinels, and compares what comes back as the checks of the CPU's
//! kernels do. [`check`] notes which kernels were launched, so that none can be forgotten.

mod attention;
mod choice;
mod interpreter;
mod matrix;
mod qkv;
mod recurrent;
mod rows;

use std::collections::BTreeSet;

use braise_kernels::cuda::{Address, Device, Error, Kernel, Launch, ops};
use bytemuck::Pod;

use super::report::{Cases, Report};
pub use interpreter::Interpreter;

/// What lies behind results, and in their place.
const SENTINEL: f32 = -1.234_567_9e33;

/// Values of it behind results.
const GUARD: usize = 16;

/// A device, what it holds for a check, and the kernels that it has run.
pub struct Bench<'a> {
    device: &'a mut dyn Device,
    held: Vec<Address>,
    ran: BTreeSet<&'static str>,
}

/// One family of kernels.
type Check = fn(&mut Bench<'_>, &mut Cases) -> Result<(), Error>;

/// All families; those of a matrix product with weights of one type are made by [`matrix`].
const CHECKS: &[(&str, Check)] = &[
    ("norm_rows", rows::norm_rows),
    ("activate_values", rows::activate_values),
    ("add and scale", rows::add_and_scale),
    ("matvec's epilogues", matrix::epilogues),
    ("matvec of experts", matrix::experts),
    ("matmul of experts", matrix::ordered_experts),
    ("rotations", attention::rotations),
    ("finish_heads", attention::finish_heads),
    ("queries alone", qkv::queries_alone),
    ("qkv", qkv::qkv),
    ("attention", attention::attend),
    ("flash", attention::flash),
    ("convolve", recurrent::convolve),
    ("state_space", recurrent::state_space),
    ("delta_net", recurrent::delta_net),
    ("gate_heads", recurrent::gate_heads),
    ("norm of parts", recurrent::norm_parts),
    ("argmax", choice::argmax),
    ("top_k and draw", choice::top_k_and_draw),
    ("route", choice::route),
    ("experts", choice::experts),
];

/// Runs every check on `device`; kernels that need a newer one are noted as skipped.
pub fn check(device: &mut dyn Device, report: &mut Report) {
    let compute = device.properties().compute;
    let place = device.properties().name.clone();
    let mut bench = Bench { device, held: Vec::new(), ran: BTreeSet::new() };
    let mut row = |name: String, check: &mut dyn FnMut(&mut Bench<'_>, &mut Cases) -> Result<(), Error>| {
        report.row(format!("{name}/{place}"), |cases| {
            match check(&mut bench, cases) {
                Err(Error::Unsupported { .. }) => cases.expect(compute < (8, 0), || "unsupported".to_owned()),
                done => cases.expect(done.is_ok(), || format!("{done:?}")),
            }
            let freed = bench.let_go();
            cases.expect(freed.is_ok(), || format!("{freed:?}"));
        });
    };
    for ty in matrix::types() {
        let name = ty.name().to_lowercase();
        row(format!("rows/{name}"), &mut |bench, cases| rows::embed_rows(bench, ty, cases));
        row(format!("matvec/{name}"), &mut |bench, cases| matrix::matvec(bench, ty, cases));
        row(format!("matmul/{name}"), &mut |bench, cases| matrix::matmul(bench, ty, cases));
    }
    for (name, check) in CHECKS {
        row((*name).to_owned(), &mut |bench, cases| check(bench, cases));
    }
    let can_run = |kernel: &&Kernel| kernel.module.compute <= compute;
    let all: BTreeSet<&str> = Kernel::all().filter(can_run).map(|kernel| kernel.name).collect();
    report.row(format!("all kernels/{place}"), |cases| {
        let forgotten: Vec<_> = all.difference(&bench.ran).collect();
        cases.expect(forgotten.is_empty(), || format!("never launched: {forgotten:?}"));
    });
    for kernel in Kernel::all().filter(|kernel| !can_run(kernel)) {
        report.skip(kernel.name, format_args!("{place} has compute capability {compute:?}"));
    }
}

impl Bench<'_> {
    /// Memory that holds `values`, and behind them what may be read behind matrices.
    fn put<T: Pod>(&mut self, values: &[T]) -> Result<Address, Error> {
        let mut bytes = bytemuck::cast_slice(values).to_vec();
        bytes.resize(bytes.len() + ops::WEIGHT_PADDING, 0xff);
        let address = self.device.allocate(bytes.len())?;
        self.held.push(address);
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
        self.held.push(address);
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

    fn run(&mut self, launch: Result<Launch, Error>) -> Result<(), Error> {
        let launch = launch?;
        self.device.launch(&launch)?;
        self.device.synchronize()?;
        self.ran.insert(launch.kernel.name);
        Ok(())
    }

    /// Frees what is held.
    fn let_go(&mut self) -> Result<(), Error> {
        std::mem::take(&mut self.held).into_iter().try_for_each(|address| self.device.free(address))
    }
}
