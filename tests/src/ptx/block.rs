//! A block: its warps take turns, and meet at barriers.

use super::code::{Constant, Kernel, LANES, Op, Reduction, Reg, Special};
use super::memory::SHARED_START;
use super::warp::{Arrival, Failure, Stop, Warp, World, lanes};
use super::warpgroup::{Group, WARPS};
use super::{Counts, Fault};

/// Where a block is, and how a launch is laid out.
#[derive(Clone, Copy)]
pub struct Layout {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub at: [u32; 3],
    pub dynamic_shared: u64,
    /// The address of the parameters.
    pub params: u64,
}

impl Layout {
    /// The threads of a block.
    pub fn threads(&self) -> usize {
        self.block.iter().map(|&n| n as usize).product()
    }

    /// The place in the block of thread `number`.
    pub fn thread(&self, number: usize) -> [u32; 3] {
        let [x, y, _] = self.block.map(|n| n as usize);
        [number % x, number / x % y, number / x / y].map(|n| n as u32)
    }
}

/// A barrier that some warps have come to.
#[derive(Clone, Default)]
struct Barrier {
    arrived: u64,
    waiting: Vec<usize>,
    /// What those who arrived know of the clocks.
    joined: [u32; LANES],
    reduce: Option<Reduction>,
    count: u64,
    threads: u64,
    /// Where the waiting warps want the result.
    results: Vec<(usize, Reg)>,
}

/// Barriers of a block.
const BARRIERS: usize = 16;

/// A block's warps and barriers. A failure comes with the number of its warp.
pub struct Block {
    pub warps: Vec<Warp>,
    /// Where a warp waits, and the line.
    blocked: Vec<Option<(At, u32)>>,
    barriers: Vec<Barrier>,
    /// Four warps each.
    groups: Vec<Group>,
}

/// What a warp waits at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Barrier(usize),
    /// An instruction of its warpgroup, by its place in the code.
    Warpgroup(usize),
}

impl Block {
    /// The block at `layout.at`, whose clocks start at `clock`.
    pub fn new(kernel: &Kernel, layout: &Layout, variables: &[u64], clock: u32) -> Self {
        let threads = layout.threads();
        let count = threads.div_ceil(LANES);
        let warp = |index: usize| {
            let left = threads - index * LANES;
            let mask = if left >= LANES { u32::MAX } else { (1 << left) - 1 };
            let mut warp = Warp::new(index, mask, kernel, clock);
            for (reg, constant) in &kernel.constants {
                warp.registers[*reg as usize] = std::array::from_fn(|lane| {
                    value(constant, kernel, layout, variables, index * LANES + lane)
                });
            }
            warp
        };
        let warps = (0..count).map(warp).collect();
        let groups = (0..count.div_ceil(WARPS)).map(|_| Group::default()).collect();
        Self { warps, blocked: vec![None; count], barriers: vec![Barrier::default(); BARRIERS], groups }
    }

    /// Runs until all threads have exited.
    pub fn run(&mut self, world: &mut World<'_>) -> Result<(), (usize, Failure)> {
        let mut done = vec![false; self.warps.len()];
        loop {
            let mut moved = false;
            for (index, done) in done.iter_mut().enumerate() {
                while !*done && self.blocked[index].is_none() {
                    moved = true;
                    match self.warps[index].run(world).map_err(|failure| (index, failure))? {
                        Stop::Done => *done = true,
                        Stop::Slice => break,
                        Stop::Barrier(arrival) => {
                            self.arrive(index, arrival).map_err(|failure| (index, failure))?
                        }
                        Stop::Meet(place, line) => {
                            self.blocked[index] = Some((At::Warpgroup(place), line));
                            self.meet(world, index, place)?;
                        }
                    }
                }
            }
            if !moved {
                return match self.blocked.iter().position(Option::is_some) {
                    None => Ok(()),
                    Some(index) => Err((index, self.missing(index))),
                };
            }
        }
    }

    fn arrive(&mut self, index: usize, arrival: Arrival) -> Result<(), Failure> {
        let wrong = |what: String| Failure { lane: 0, line: arrival.line, fault: Fault::Trapped(what) };
        let id = usize::try_from(arrival.id).unwrap_or(usize::MAX);
        let Some(barrier) = self.barriers.get_mut(id) else {
            return Err(wrong(format!("there is no barrier {id}")));
        };
        let expected = match arrival.threads {
            None => self.warps.len() as u64,
            Some(threads) if threads > 0 && threads.is_multiple_of(LANES as u64) => threads / LANES as u64,
            Some(threads) => {
                return Err(wrong(format!("a barrier of {threads} threads, which are no whole warps")));
            }
        };
        let warp = &mut self.warps[index];
        warp.known[index] += 1;
        for (joined, known) in barrier.joined.iter_mut().zip(&warp.known) {
            *joined = (*joined).max(*known);
        }
        barrier.arrived += 1;
        if let Some((reduction, d, p)) = arrival.reduce {
            let row = &warp.registers[p as usize];
            barrier.count += lanes(warp.alive).filter(|&lane| row[lane] & 1 == 1).count() as u64;
            barrier.threads += u64::from(warp.alive.count_ones());
            barrier.reduce = Some(reduction);
            barrier.results.push((index, d));
        }
        if arrival.wait {
            barrier.waiting.push(index);
            self.blocked[index] = Some((At::Barrier(id), arrival.line));
        }
        if barrier.arrived >= expected {
            self.release(id);
        }
        Ok(())
    }

    /// All have come: those who wait go on.
    fn release(&mut self, id: usize) {
        let barrier = std::mem::take(&mut self.barriers[id]);
        for index in barrier.waiting {
            self.blocked[index] = None;
            for (known, joined) in self.warps[index].known.iter_mut().zip(&barrier.joined) {
                *known = (*known).max(*joined);
            }
        }
        let result = match barrier.reduce {
            Some(Reduction::And) => u64::from(barrier.count == barrier.threads),
            Some(Reduction::Or) => u64::from(barrier.count > 0),
            _ => barrier.count,
        };
        for (index, d) in barrier.results {
            let alive = self.warps[index].alive;
            self.warps[index].set(d, &[result; LANES], alive);
        }
    }

    /// Runs the instruction of a warpgroup at `place` if all its warps are there.
    fn meet(&mut self, world: &mut World<'_>, index: usize, place: usize) -> Result<(), (usize, Failure)> {
        let first = index / WARPS * WARPS;
        let all = first..first + WARPS;
        let here = |at: &Option<(At, u32)>| at.is_some_and(|(at, _)| at == At::Warpgroup(place));
        if !self.blocked.get(all.clone()).is_some_and(|at| at.iter().all(here)) {
            return Ok(());
        }
        let inst = &world.kernel.code[place];
        if let Op::Warpgroup(instruction) = &inst.op {
            let step = world.counts.warp_instructions as u32;
            self.groups[index / WARPS]
                .run(instruction, &mut self.warps[all.clone()], world.shared, step)
                .map_err(|(warp, fault)| (first + warp, Failure { lane: 0, line: inst.line, fault }))?;
        }
        self.blocked[all].fill(None);
        Ok(())
    }

    /// Why what warp `index` waits at is never complete.
    fn missing(&self, index: usize) -> Failure {
        let (here, line) = self.blocked[index].unwrap_or((At::Barrier(0), 0));
        let first = index / WARPS * WARPS;
        let all = match here {
            At::Barrier(_) => 0..self.blocked.len(),
            At::Warpgroup(_) => first..self.blocked.len().min(first + WARPS),
        };
        let elsewhere = all.clone().find(|&warp| self.blocked[warp].is_none_or(|(other, _)| other != here));
        let (missing, why) = match elsewhere {
            Some(warp) if self.blocked[warp].is_some() => (warp, "it waits at another one"),
            Some(warp) => (warp, "it has exited"),
            None if all.len() < WARPS => (index, "there are fewer than four warps"),
            None => (index, "the barrier waits for more threads than there are"),
        };
        let missing = (missing * LANES) as u16;
        let fault = match here {
            At::Barrier(_) => Fault::Barrier { missing, why },
            At::Warpgroup(_) => Fault::Warpgroup { missing, why },
        };
        Failure { lane: self.warps[index].alive.trailing_zeros() % LANES as u32, line, fault }
    }
}

/// What `constant` is for thread `number` of a block.
fn value(constant: &Constant, kernel: &Kernel, layout: &Layout, variables: &[u64], number: usize) -> u64 {
    let lane = number % LANES;
    match *constant {
        Constant::Bits(bits) => bits,
        Constant::Variable(index, offset) => variables[index].wrapping_add_signed(offset),
        Constant::DynamicShared(offset) => kernel.dynamic_start().wrapping_add_signed(offset),
        Constant::Params(offset) => layout.params.wrapping_add_signed(offset),
        Constant::Special(special, part) => match special {
            Special::Thread => u64::from(layout.thread(number)[part]),
            Special::BlockSize => u64::from(layout.block[part]),
            Special::Block => u64::from(layout.at[part]),
            Special::GridSize => u64::from(layout.grid[part]),
            Special::Lane => lane as u64,
            Special::Warp => (number / LANES) as u64,
            Special::Warps => layout.threads().div_ceil(LANES) as u64,
            Special::MaskEqual => 1 << lane,
            Special::MaskBelow => (1 << lane) - 1,
            Special::MaskUpTo => (2 << lane) - 1,
            Special::MaskFrom => (u64::from(u32::MAX) << lane) & u64::from(u32::MAX),
            Special::MaskAbove => (u64::from(u32::MAX) << lane << 1) & u64::from(u32::MAX),
            Special::DynamicSharedSize => layout.dynamic_shared,
            Special::SharedSize => kernel.dynamic_start() - SHARED_START + layout.dynamic_shared,
            Special::Zero => 0,
            Special::One => 1,
        },
    }
}

impl Kernel {
    /// Where dynamic shared memory begins.
    pub fn dynamic_start(&self) -> u64 {
        self.shared_end.next_multiple_of(self.dynamic_align.max(128))
    }
}

/// The largest clock of a block's warps.
pub fn last_clock(block: &Block) -> u32 {
    block.warps.iter().flat_map(|warp| warp.known).max().unwrap_or(0)
}

/// Adds up what launches did.
impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
    }
}
