//! Modules, memory and launches: what a driver offers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::block::{Block, Layout, last_clock};
use super::code::{Extent, Kernel, Op};
use super::lower::lower;
use super::memory::{Global, SHARED_START, Shared};
use super::parse::{Initial, Text, Threads, Variable};
use super::types::Space;
use super::warp::{Failure, World};
use super::{Counts, Fault, ParseError, Trap};

/// A module of PTX, ready to launch its kernels.
pub struct Module {
    /// Tells modules apart, for each has variables of its own.
    id: u64,
    kernels: HashMap<String, Result<Arc<Kernel>, String>>,
    variables: Vec<Variable>,
}

impl Module {
    /// Reads a module's text. What an instruction means is not checked here: one that is not known is a trap when it is
    /// reached.
    ///
    /// # Errors
    /// A text that is not PTX, or that has declarations which the interpreter does not know.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        static MODULES: AtomicU64 = AtomicU64::new(0);
        let text = Text::read(text)?;
        let entries = text.functions.iter().filter(|(_, function)| function.entry);
        let kernels =
            entries.map(|(name, function)| (name.clone(), lower(&text, function).map(Arc::new))).collect();
        Ok(Self { id: MODULES.fetch_add(1, Ordering::Relaxed), kernels, variables: text.variables })
    }

    /// The names of its kernels, sorted.
    pub fn entries(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// What in its kernels the interpreter does not know, each with the kernel and the line, sorted.
    pub fn unknown(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, kernel) in &self.kernels {
            match kernel {
                Err(reason) => found.push(format!("{name}: {reason}")),
                Ok(kernel) => found.extend(kernel.code.iter().filter_map(|inst| match &inst.op {
                    Op::Unknown(reason) => Some(format!("{name}, line {}: {reason}", inst.line)),
                    _ => None,
                })),
            }
        }
        found.sort_unstable();
        found
    }
}

/// The most shared memory of a block on any card (compute capability 9.0).
const MOST_SHARED: u64 = 227 << 10;

/// Warp instructions of a launch, unless the user says otherwise: some minutes.
const LIMIT: u64 = 1 << 30;

/// A device: its memory, and the variables of the modules that ran on it.
pub struct Machine {
    global: Global,
    /// The addresses of each module's variables.
    modules: HashMap<u64, Vec<u64>>,
    limit: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Self { global: Global::default(), modules: HashMap::new(), limit: LIMIT }
    }
}

impl Machine {
    /// A device with nothing in its memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// A launch of more than so many instructions (counted once for a warp, 2^31 at most) is a trap.
    pub fn limit_steps(&mut self, steps: u64) {
        self.limit = steps.min(1 << 31);
    }

    /// The address of `bytes` of memory, in which nobody may read what was not written. Addresses are multiples of 256
    /// and never used again.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        self.global.alloc(bytes)
    }

    /// The address of new memory that holds `bytes`.
    pub fn alloc_with(&mut self, bytes: &[u8]) -> u64 {
        self.global.alloc_with(bytes.to_vec(), false)
    }

    /// Gives memory back; its address must not be used any more.
    ///
    /// # Errors
    /// An address that is not that of an allocation.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        self.global.free(address)
    }

    /// Copies `bytes` to `address`.
    ///
    /// # Errors
    /// Memory that is not there.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.global.write(address, bytes, None)
    }

    /// Copies `bytes` bytes from `address`.
    ///
    /// # Errors
    /// Memory that is not there, or that nobody wrote.
    pub fn read(&mut self, address: u64, bytes: usize) -> Result<Vec<u8>, Fault> {
        self.global.read(address, bytes, None, false).map(<[u8]>::to_vec)
    }

    /// The address of a variable in global or constant memory, as `cuModuleGetGlobal` gives it.
    pub fn variable(&mut self, module: &Module, name: &str) -> Option<u64> {
        let index = module.variables.iter().position(|variable| variable.name == name)?;
        Some(self.variables(module)[index])
    }

    /// The addresses of a module's variables, which are made when they are first needed.
    fn variables(&mut self, module: &Module) -> Vec<u64> {
        if let Some(addresses) = self.modules.get(&module.id) {
            return addresses.clone();
        }
        let place = |variable: &Variable| match variable.space {
            Space::Shared => 0,
            space => self.global.alloc_with(vec![0; variable.size as usize], space == Space::Const),
        };
        let addresses: Vec<_> = module.variables.iter().map(place).collect();
        for (variable, &address) in module.variables.iter().zip(&addresses) {
            let bytes = variable.ty.bytes() as usize;
            let mut at = address;
            for initial in &variable.initial {
                let bits = match initial {
                    Initial::Bits(bits) => *bits,
                    Initial::Address(name, offset, _) => {
                        let index = module.variables.iter().position(|other| other.name == *name);
                        index.map_or(0, |index| addresses[index].wrapping_add_signed(*offset))
                    }
                };
                // the parser made sure that the values fit
                let _ = self.global.write(at, &bits.to_le_bytes()[..bytes.min(8)], None);
                at += bytes as u64;
            }
        }
        self.modules.insert(module.id, addresses.clone());
        addresses
    }

    /// Runs the kernel `entry` on a grid of blocks; `params` are its parameters, laid out as in C. Blocks run one after
    /// another, x fastest.
    ///
    /// # Errors
    /// The first thing that goes wrong; memory is then as far as the kernel came.
    pub fn launch(
        &mut self,
        module: &Module,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &[u8],
    ) -> Result<Counts, Trap> {
        let trap = |fault| Trap { entry: entry.to_owned(), line: 0, block: [0; 3], thread: [0; 3], fault };
        let kernel = match module.kernels.get(entry) {
            Some(Ok(kernel)) => kernel.clone(),
            Some(Err(reason)) => return Err(trap(Fault::Launch(reason.clone()))),
            None => return Err(trap(Fault::Launch("no such kernel".into()))),
        };
        let dynamic_shared = u64::from(dynamic_shared);
        let mut layout = Layout { grid, block, at: [0; 3], dynamic_shared, params: 0 };
        check(&kernel, &layout, params.len() as u64).map_err(|what| trap(Fault::Launch(what)))?;
        let variables = self.variables(module);
        layout.params = self.global.alloc_with(params.to_vec(), true);
        let counts = self.run(&kernel, layout, &variables).map_err(|(at, thread, failure)| Trap {
            entry: entry.to_owned(),
            line: failure.line,
            block: at,
            thread: layout.thread(thread),
            fault: failure.fault,
        });
        self.global.free(layout.params).map_err(trap)?;
        counts
    }

    fn run(
        &mut self,
        kernel: &Kernel,
        mut layout: Layout,
        variables: &[u64],
    ) -> Result<Counts, ([u32; 3], usize, Failure)> {
        let start = kernel.dynamic_start();
        let mut extents = kernel.shared.clone();
        extents.push(Extent { start, end: start + layout.dynamic_shared });
        let mut shared = Shared::new(start + layout.dynamic_shared, extents, kernel.granule);
        self.global.begin_launch(kernel.granule);
        let mut counts = Counts::default();
        let mut clock = 1;
        let [x, y, z] = layout.grid;
        let places = (0..z).flat_map(|z| (0..y).flat_map(move |y| (0..x).map(move |x| [x, y, z])));
        for at in places {
            layout.at = at;
            shared.begin(clock);
            self.global.begin_block(clock, counts.warp_instructions as u32);
            let mut block = Block::new(kernel, &layout, variables, clock);
            let (global, limit) = (&mut self.global, self.limit);
            let mut world = World { kernel, global, shared: &mut shared, counts: &mut counts, limit };
            block
                .run(&mut world)
                .map_err(|(warp, failure)| (at, warp * 32 + failure.lane as usize, failure))?;
            clock = last_clock(&block).saturating_add(1);
        }
        Ok(counts)
    }
}

/// What a driver would refuse.
fn check(kernel: &Kernel, layout: &Layout, params: u64) -> Result<(), String> {
    if params != kernel.params {
        return Err(format!("the kernel takes {} bytes of parameters, not {params}", kernel.params));
    }
    let [_, _, z] = layout.block;
    let threads = layout.block.iter().map(|&n| u64::from(n)).product::<u64>();
    if !(1..=1024).contains(&threads) || z > 64 {
        return Err(format!("a block of {:?} threads", layout.block));
    }
    let [x, y, z] = layout.grid;
    if x == 0 || y == 0 || z == 0 || x > i32::MAX as u32 || y > 65535 || z > 65535 {
        return Err(format!("a grid of {:?} blocks", layout.grid));
    }
    match kernel.threads {
        Some(Threads::Exactly(wanted)) if wanted != layout.block => {
            return Err(format!("blocks of {:?} threads, where the kernel wants {wanted:?}", layout.block));
        }
        Some(Threads::AtMost(most)) if threads > u64::from(most) => {
            return Err(format!("{threads} threads, where the kernel allows {most}"));
        }
        _ => {}
    }
    let shared = kernel.dynamic_start() - SHARED_START + layout.dynamic_shared;
    match shared > MOST_SHARED {
        true => Err(format!("{shared} bytes of shared memory")),
        false => Ok(()),
    }
}
