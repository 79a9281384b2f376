//! Data races, found with vector clocks of warps (Fidge 1988, Mattern 1989).
//!
//! A warp's own clock moves on at every barrier and at every synchronization of its lanes, and at a barrier warps learn the
//! clocks of those that arrived. Two accesses by different threads, one of which writes, are a race unless a clock orders
//! them; only barriers and `bar.warp.sync` do that. Strong accesses (atomics, volatile, relaxed and above) do not race with
//! each other. Of the readers since the last write two are remembered, which misses a race only where named barriers order
//! a write after both of them and not after a third.

use super::code::LANES;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// Writes what is there already, which changes nothing for others.
    Repeat,
    /// Reads and writes, in one step.
    Update,
}

/// Who accesses memory: a thread of the block, what its warp knows of the clocks, and how.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub thread: u16,
    pub known: &'a [u32; LANES],
    /// Instructions of the launch so far.
    pub step: u32,
    pub strong: bool,
}

/// An access that was made.
#[derive(Clone, Copy, Default)]
pub struct Event {
    pub clock: u32,
    pub step: u32,
    pub thread: u16,
    pub strong: bool,
}

impl Event {
    fn new(who: &Who<'_>) -> Self {
        let clock = who.known[usize::from(who.thread) / LANES];
        Self { clock, step: who.step, thread: who.thread, strong: who.strong }
    }

    /// Whether an event of the same block cannot race with what `who` does now.
    fn before(self, who: &Who<'_>) -> bool {
        self.thread == who.thread
            || self.clock < who.known[usize::from(self.thread) / LANES]
            || who.strong && self.strong
    }
}

/// A race: the other access, and whether that one wrote.
pub struct Race {
    pub other: Event,
    pub wrote: bool,
}

/// What happened to a few bytes that are always accessed together.
#[derive(Clone, Copy, Default)]
pub struct Granule {
    pub write: Event,
    reads: [Event; 2],
}

impl Granule {
    /// Records an access. Events of clocks below `base` are those of other blocks; `passed` says which of them cannot
    /// race, where the others can.
    pub fn access(
        &mut self,
        who: &Who<'_>,
        access: Access,
        base: u32,
        passed: impl Fn(Event) -> bool,
    ) -> Result<(), Race> {
        let harmless = |event: Event| match event.clock {
            0 => true,
            clock if clock < base => who.strong && event.strong || passed(event),
            _ => event.before(who),
        };
        if access == Access::Repeat {
            self.write = Event::new(who);
            return Ok(());
        }
        if !harmless(self.write) {
            return Err(Race { other: self.write, wrote: true });
        }
        if access == Access::Read {
            let plain = Who { strong: false, ..*who };
            let [first, second] = &mut self.reads;
            let gone = match first.clock {
                0 => true,
                clock if clock < base => passed(*first),
                _ => first.before(&plain),
            };
            *(if gone { first } else { second }) = Event::new(who);
            return Ok(());
        }
        if let Some(&other) = self.reads.iter().find(|read| !harmless(**read)) {
            return Err(Race { other, wrote: false });
        }
        self.write = Event::new(who);
        Ok(())
    }
}
