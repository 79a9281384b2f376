//! A warp: 32 threads with places of their own in the code.
//!
//! Of the threads that can run, those at the lowest place run next, together. Compilers lay code out so that paths which
//! part meet again further down, so this is where threads that parted come together again. An instruction that lanes must
//! run together (`.sync`) waits until all of them are there.

use super::access::Copies;
use super::code::{Inst, Kernel, LANES, Op, Reduction, Reg, Row};
use super::memory::{Global, LOCAL_WINDOW, SHARED_WINDOW, Shared};
use super::types::Space;
use super::warpgroup::Sums;
use super::{Counts, Fault};

/// What a warp works with.
pub struct World<'a> {
    pub kernel: &'a Kernel,
    pub global: &'a mut Global,
    pub shared: &'a mut Shared,
    pub counts: &'a mut Counts,
    /// The most warp instructions of the launch.
    pub limit: u64,
}

/// A fault, with the lane and the line where it happened.
pub struct Failure {
    pub lane: u32,
    pub line: u32,
    pub fault: Fault,
}

/// Why a warp does not go on.
pub enum Stop {
    /// All threads have exited.
    Done,
    /// It has run for a while; it is another warp's turn.
    Slice,
    Barrier(Arrival),
    /// It waits for its warpgroup at an instruction: its place in the code, and its line.
    Meet(usize, u32),
}

/// A warp arrives at a barrier.
#[derive(Clone, Copy)]
pub struct Arrival {
    pub id: u64,
    pub threads: Option<u64>,
    pub wait: bool,
    pub reduce: Option<(Reduction, Reg, Reg)>,
    pub line: u32,
}

/// Steps of a warp until it is another one's turn.
const SLICE: u64 = 1 << 14;

pub struct Warp {
    pub index: usize,
    pub registers: Vec<Row>,
    /// Lanes that have a thread.
    pub threads: u32,
    /// Lanes whose thread has not exited.
    pub alive: u32,
    /// Lanes that wait for others at an instruction that they must run together.
    waiting: u32,
    places: [usize; LANES],
    /// The threads' local memories, one after another.
    pub local: Vec<u8>,
    pub copies: Vec<Copies>,
    /// What it knows of the clocks of the block's warps; its own is at `index`.
    pub known: [u32; LANES],
    /// Registers in which products of its warpgroup add up.
    pub sums: Sums,
}

/// What an operation does to the order of instructions.
enum Flow {
    Next,
    /// These lanes go elsewhere, the others on.
    Jump(u32, usize),
    /// Each of the lanes goes to its own place.
    Scatter(Vec<(u32, usize)>),
    Exit(u32),
    /// These lanes have to wait; the others of the group are through.
    Wait(u32),
    Arrive(Arrival),
    /// All lanes are at an instruction of the warpgroup.
    Meet,
}

/// The lanes in `mask`, from the lowest.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

impl Warp {
    /// The threads `index * 32` and following of a block; `threads` says which of them there are.
    pub fn new(index: usize, threads: u32, kernel: &Kernel, clock: u32) -> Self {
        Self {
            index,
            registers: vec![[0; LANES]; kernel.registers],
            threads,
            alive: threads,
            waiting: 0,
            places: [0; LANES],
            local: vec![0; kernel.local as usize * LANES],
            copies: (0..LANES).map(|_| Copies::default()).collect(),
            known: [clock; LANES],
            sums: if kernel.warpgroups { Sums::new(kernel.registers) } else { Sums::default() },
        }
    }

    /// Runs until it has to stop.
    pub fn run(&mut self, world: &mut World<'_>) -> Result<Stop, Failure> {
        let until = world.counts.warp_instructions + SLICE;
        while self.alive != 0 {
            let runnable = self.alive & !self.waiting;
            let Some(place) = lanes(runnable).map(|lane| self.places[lane]).min() else {
                return Err(self.stuck(world.kernel));
            };
            let group = self.at(runnable, place);
            let other = lanes(runnable & !group).map(|lane| self.places[lane]).min().unwrap_or(usize::MAX);
            if let Some(stop) = self.run_group(world, group, place, other)? {
                return Ok(stop);
            }
            if world.counts.warp_instructions > until {
                return Ok(Stop::Slice);
            }
        }
        Ok(Stop::Done)
    }

    /// Those of `lanes` that are at `place`.
    fn at(&self, mask: u32, place: usize) -> u32 {
        lanes(mask).filter(|&lane| self.places[lane] == place).fold(0, |mask, lane| mask | 1 << lane)
    }

    fn move_to(&mut self, mask: u32, place: usize) {
        lanes(mask).for_each(|lane| self.places[lane] = place);
    }

    /// Runs the lanes `group` from `place` on, until they part, wait, or come to where others are.
    fn run_group(
        &mut self,
        world: &mut World<'_>,
        group: u32,
        mut place: usize,
        other: usize,
    ) -> Result<Option<Stop>, Failure> {
        let kernel = world.kernel;
        let until = world.counts.warp_instructions + SLICE;
        loop {
            // the last instruction is an exit without a guard
            let inst = &kernel.code[place];
            let active = match inst.guard {
                None => group,
                Some((reg, negated)) => {
                    let row = &self.registers[reg as usize];
                    lanes(group)
                        .filter(|&lane| (row[lane] & 1 == 1) != negated)
                        .fold(0, |mask, lane| mask | 1 << lane)
                }
            };
            world.counts.warp_instructions += 1;
            world.counts.thread_instructions += u64::from(active.count_ones());
            let steps = world.counts.warp_instructions;
            if steps > world.limit {
                let lane = group.trailing_zeros();
                return Err(Failure { lane, line: inst.line, fault: Fault::Endless(world.limit) });
            }
            let flow = match active {
                0 => Flow::Next,
                _ => self.step(world, inst, active, group, place).map_err(|(lane, fault)| Failure {
                    lane: lane as u32,
                    line: inst.line,
                    fault,
                })?,
            };
            let next = place + 1;
            match flow {
                Flow::Next => place = next,
                Flow::Jump(taken, target) if taken == group => place = target,
                Flow::Jump(taken, target) => {
                    self.move_to(group, next);
                    self.move_to(taken, target);
                    return Ok(None);
                }
                Flow::Scatter(targets) => {
                    self.move_to(group, next);
                    targets.into_iter().for_each(|(taken, target)| self.move_to(taken, target));
                    return Ok(None);
                }
                Flow::Exit(gone) => {
                    self.alive &= !gone;
                    // whoever waits for them looks again
                    self.waiting = 0;
                    self.move_to(group & !gone, next);
                    return Ok(None);
                }
                Flow::Wait(mask) => {
                    // lanes that waited here and are through go on with the group
                    let here = group | self.at(self.waiting, place);
                    self.move_to(here & !mask, next);
                    self.move_to(mask, place);
                    self.waiting = self.waiting & !here | mask;
                    return Ok(None);
                }
                Flow::Arrive(arrival) => {
                    self.move_to(self.alive, next);
                    self.waiting = 0;
                    return Ok(Some(Stop::Barrier(arrival)));
                }
                Flow::Meet => {
                    self.move_to(self.alive, next);
                    self.waiting = 0;
                    return Ok(Some(Stop::Meet(place, inst.line)));
                }
            }
            if place >= other || steps > until {
                self.move_to(group, place);
                return Ok(None);
            }
        }
    }

    /// All lanes that have not exited wait for each other.
    fn stuck(&self, kernel: &Kernel) -> Failure {
        let lane = self.alive.trailing_zeros();
        let line = kernel.code[self.places[lane as usize]].line;
        let elsewhere = self.alive & !self.at(self.alive, self.places[lane as usize]);
        let gone = self.threads & !self.alive;
        let (missing, why) = match elsewhere {
            0 => (gone, "it has exited"),
            _ => (elsewhere, "it waits at another one"),
        };
        Failure { lane, line, fault: Fault::Diverged { missing: missing.trailing_zeros(), why } }
    }

    /// The lanes that can run an instruction now which those in the register `mask` must run together, and those that
    /// have to wait. `None` stands for all lanes of the warp.
    fn gather(&self, active: u32, place: usize, mask: Option<Reg>) -> Result<(u32, u32), (usize, Fault)> {
        let here = active | self.at(self.waiting, place);
        let Some(mask) = mask else {
            if let Some(gone) = lanes(self.threads & !self.alive).next() {
                let fault = Fault::Diverged { missing: gone as u32, why: "it has exited" };
                return Err((here.trailing_zeros() as usize, fault));
            }
            return Ok(if here == self.alive { (here, 0) } else { (0, here) });
        };
        let masks = &self.registers[mask as usize];
        let mut ready = 0;
        for lane in lanes(here) {
            let named = masks[lane] as u32;
            if named >> lane & 1 == 0 {
                return Err((
                    lane,
                    Fault::Diverged { missing: lane as u32, why: "its own mask does not name it" },
                ));
            }
            let needed = named & self.alive;
            let together = lanes(needed & here).all(|other| masks[other] as u32 == named);
            if needed & !here == 0 && together {
                ready |= 1 << lane;
            }
        }
        Ok((ready, here & !ready))
    }

    /// Runs `f` for the lanes that can run an instruction together, once for each set of them.
    fn together(
        &mut self,
        (active, group, place): (u32, u32, usize),
        mask: Option<Reg>,
        mut f: impl FnMut(&mut Self, u32) -> Result<(), (usize, Fault)>,
    ) -> Result<Flow, (usize, Fault)> {
        let (ready, wait) = self.gather(active, place, mask)?;
        let mut rest = ready;
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let set = mask.map_or(ready, |mask| self.registers[mask as usize][first] as u32 & rest);
            f(self, set)?;
            rest &= !set;
        }
        // all of those that run now, and nobody else, were here
        Ok(if wait == 0 && ready | group == group { Flow::Next } else { Flow::Wait(wait) })
    }

    /// Runs one instruction for the lanes `active` of `group`.
    fn step(
        &mut self,
        world: &mut World<'_>,
        inst: &Inst,
        active: u32,
        group: u32,
        place: usize,
    ) -> Result<Flow, (usize, Fault)> {
        let here = (active, group, place);
        let first = active.trailing_zeros() as usize;
        self.sums.touch(&inst.sums, world.counts.warp_instructions as u32).map_err(|fault| (first, fault))?;
        match &inst.op {
            Op::Pure { apply, d, s } => {
                let row = |i: usize| &self.registers[s[i] as usize];
                let result = apply(&[row(0), row(1), row(2), row(3)]);
                self.set(*d, &result, active);
            }
            Op::Load { at, bytes, extend, d } => self.load(world, at, *bytes, *extend, d, active)?,
            Op::Store { at, bytes, s } => self.store(world, at, *bytes, s, active)?,
            Op::Atomic { at, bytes, update, d, s } => {
                for lane in lanes(active) {
                    let operands = s.map(|reg| self.registers[reg as usize][lane]);
                    let change = |old| update(old, operands[0], operands[1]);
                    let old = self.update(world, at, *bytes, lane, change).map_err(|fault| (lane, fault))?;
                    if let Some(d) = d {
                        self.registers[*d as usize][lane] = old;
                    }
                }
            }
            Op::CopyAsync { to, from, bytes, size } => {
                for lane in lanes(active) {
                    let size = size.map(|reg| self.registers[reg as usize][lane] & 0xffff_ffff);
                    self.begin_copy(world, (to, from), *bytes, size, lane).map_err(|fault| (lane, fault))?;
                }
            }
            Op::CopyCommit => lanes(active).for_each(|lane| self.copies[lane].commit()),
            Op::CopyWait(count) => {
                for lane in lanes(active) {
                    self.end_copies(world, *count, lane).map_err(|fault| (lane, fault))?;
                }
            }
            Op::Branch(target) => return Ok(Flow::Jump(active, *target)),
            Op::BranchTable { index, targets } => {
                let mut found = Vec::new();
                for lane in lanes(active) {
                    let at = self.registers[*index as usize][lane] as usize;
                    let Some(&target) = targets.get(at) else {
                        return Err((
                            lane,
                            Fault::Trapped(format!("a branch to place {at} of a shorter table")),
                        ));
                    };
                    found.push((1 << lane, target));
                }
                return Ok(Flow::Scatter(found));
            }
            Op::Exit => return Ok(Flow::Exit(active)),
            Op::Barrier { id, threads, wait, reduce } => {
                let (ready, _) = self.gather(active, place, None)?;
                if ready == 0 {
                    return self.together(here, None, |_, _| Ok(()));
                }
                let value = |reg: Reg| self.registers[reg as usize][first];
                let (id, threads) = (value(*id), threads.map(value));
                return Ok(Flow::Arrive(Arrival {
                    id,
                    threads,
                    wait: *wait,
                    reduce: *reduce,
                    line: inst.line,
                }));
            }
            Op::WarpSync { mask } => {
                return self.together(here, Some(*mask), |warp, _| {
                    warp.known[warp.index] += 1;
                    Ok(())
                });
            }
            Op::Shuffle { mode, d, p, s, mask } => {
                return self.together(here, Some(*mask), |warp, set| warp.shuffle(*mode, (*d, *p), s, set));
            }
            Op::Vote { vote, d, p, mask } => {
                return self.together(here, Some(*mask), |warp, set| {
                    warp.vote(*vote, *d, *p, set);
                    Ok(())
                });
            }
            Op::Reduce { fold, d, s, mask } => {
                return self.together(here, Some(*mask), |warp, set| {
                    warp.reduce(fold, *d, *s, set);
                    Ok(())
                });
            }
            Op::Match { all, bits, d, p, s, mask } => {
                return self.together(here, Some(*mask), |warp, set| {
                    warp.find_equal(*all, *bits, (*d, *p), *s, set);
                    Ok(())
                });
            }
            Op::ActiveMask { d } => self.set(*d, &[u64::from(active); LANES], active),
            Op::LoadMatrix { at, transposed, d } => {
                return self.together(here, None, |warp, _| warp.load_matrix(world, at, *transposed, d));
            }
            Op::StoreMatrix { at, transposed, s } => {
                return self.together(here, None, |warp, _| warp.store_matrix(world, at, *transposed, s));
            }
            Op::TransposeMatrix { d, s } => {
                return self.together(here, None, |warp, _| {
                    warp.transpose_matrix(*d, *s);
                    Ok(())
                });
            }
            Op::Product(product) => {
                return self.together(here, None, |warp, _| {
                    warp.product(product);
                    Ok(())
                });
            }
            Op::Warpgroup(_) => {
                let (ready, _) = self.gather(active, place, None)?;
                if ready == 0 {
                    return self.together(here, None, |_, _| Ok(()));
                }
                return Ok(Flow::Meet);
            }
            Op::ProxyFence => {
                for lane in lanes(active) {
                    world.shared.fence_proxy(&self.who(lane, world.counts, false));
                }
            }
            Op::IsSpace { space, d, s } => {
                for lane in lanes(active) {
                    let address = self.registers[*s as usize][lane];
                    let found = match address {
                        SHARED_WINDOW.. => Space::Shared,
                        LOCAL_WINDOW.. => Space::Local,
                        _ if world.global.constant(address) == Some(true) => Space::Const,
                        _ => Space::Global,
                    };
                    self.registers[*d as usize][lane] = u64::from(found == *space);
                }
            }
            Op::Clock { d, bits } => {
                let clock = world.counts.warp_instructions & super::integer::mask(*bits);
                self.set(*d, &[clock; LANES], active);
            }
            Op::Fence => world.global.fence(world.counts.warp_instructions as u32),
            Op::Nothing => {}
            Op::Trap(reason) => return Err((first, Fault::Trapped(reason.clone()))),
            Op::Unknown(reason) => return Err((first, Fault::Unknown(reason.clone()))),
        }
        Ok(Flow::Next)
    }

    /// Puts a result into the lanes `mask` of a register.
    pub fn set(&mut self, d: Reg, result: &Row, mask: u32) {
        let row = &mut self.registers[d as usize];
        if mask == u32::MAX {
            *row = *result;
        } else {
            lanes(mask).for_each(|lane| row[lane] = result[lane]);
        }
    }
}
