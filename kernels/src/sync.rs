//! Memory that a team of workers shares without locks: phases, chunks, and buffers that check how they are used.
//!
//! All workers run the same program. A barrier ends a phase. In each phase a buffer is either read by everyone or
//! written in parts, and every part belongs to one chunk of the phase's work, which one worker has claimed:
//!
//! ```text
//! phase 1   while let Some(chunk) = worker.claim(8) { q.columns(&chunk, ..) <- .. }     writes q in parts
//!           worker.barrier()
//! phase 2   q.read(&worker)                                                              everyone reads q
//! ```
//!
//! This is sound without trusting the callers, because
//! 1. a worker (one for an index of a team) and a chunk (one for an index of a phase) cannot be copied;
//! 2. a borrow of a buffer borrows the worker, directly or through the chunk, so none outlives its phase: ending the
//!    phase takes `&mut Worker`;
//! 3. the first access to a buffer in a phase fixes what all others of that phase must agree on (read, or written in
//!    which parts); who disagrees panics;
//! 4. a chunk hands out its part of a buffer once.

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// A fixed number of workers that run the same program in phases.
#[derive(Debug)]
pub struct Team {
    id: u64,
    size: usize,
    /// Number of the current phase; never repeats.
    phase: AtomicU64,
    /// Workers that have reached the barrier of the current phase.
    arrived: AtomicUsize,
    /// Next chunk of the current phase that nobody has claimed.
    next_chunk: AtomicUsize,
    /// Which worker indices are taken.
    taken: Box<[AtomicBool]>,
    /// A worker panicked: the others must not wait for it.
    poisoned: AtomicBool,
}

/// Waits this many turns, some tens of microseconds, before it offers its core to others. A phase is hardly longer; a
/// worker that is late by more has lost its core to another process, and waiting harder only keeps both from it: two
/// decoding processes on two cores each get 1.4 times what they get with 20,000 turns.
const SPINS_BEFORE_YIELD: u32 = 500;

impl Team {
    /// A team of `size` workers (at least one).
    pub fn new(size: usize) -> Team {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        assert!(size > 0, "a team has at least one worker");
        Team {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            size,
            phase: AtomicU64::new(1),
            arrived: AtomicUsize::new(0),
            next_chunk: AtomicUsize::new(0),
            taken: (0..size).map(|_| AtomicBool::new(false)).collect(),
            poisoned: AtomicBool::new(false),
        }
    }

    /// Number of workers.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Runs `program` as worker `index`; all workers of the team must do so at the same time. Ends with a barrier.
    ///
    /// # Panics
    /// If `index` is taken or out of range, or another worker panicked.
    pub fn join<R>(&self, index: usize, program: impl FnOnce(&mut Worker<'_>) -> R) -> R {
        assert!(!self.taken[index].swap(true, Ordering::AcqRel), "worker {index} is taken");
        let mut worker =
            Worker { team: self, index, phase: self.phase.load(Ordering::Acquire), not_sync: PhantomData };
        let result = program(&mut worker);
        worker.barrier();
        result
    }
}

/// One member of a [`Team`], while it runs.
#[derive(Debug)]
pub struct Worker<'t> {
    team: &'t Team,
    index: usize,
    phase: u64,
    not_sync: PhantomData<Cell<()>>,
}

impl Worker<'_> {
    /// Index in the team.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of workers in the team.
    pub fn team_size(&self) -> usize {
        self.team.size
    }

    /// Ends the phase: returns when every worker of the team has called it.
    ///
    /// # Panics
    /// If another worker of the team panicked.
    pub fn barrier(&mut self) {
        let team = self.team;
        if team.arrived.fetch_add(1, Ordering::AcqRel) + 1 == team.size {
            team.arrived.store(0, Ordering::Relaxed);
            team.next_chunk.store(0, Ordering::Relaxed);
            team.phase.store(self.phase + 1, Ordering::Release);
        } else {
            let mut spins = 0;
            while team.phase.load(Ordering::Acquire) == self.phase {
                assert!(!team.poisoned.load(Ordering::Relaxed), "another worker of the team panicked");
                if spins < SPINS_BEFORE_YIELD {
                    spins += 1;
                    std::hint::spin_loop();
                } else {
                    std::thread::yield_now();
                }
            }
        }
        self.phase += 1;
    }

    /// Claims the next of the `of` chunks into which this phase's work is cut, or `None` when all are claimed.
    /// A phase has one such loop, and all workers must pass the same `of`.
    pub fn claim(&self, of: usize) -> Option<Chunk<'_>> {
        let index = self.team.next_chunk.fetch_add(1, Ordering::Relaxed);
        (index < of).then(|| Chunk {
            worker: self,
            index,
            of,
            given: Cell::new([std::ptr::null(); PARTS_PER_CHUNK]),
        })
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.team.poisoned.store(true, Ordering::Relaxed);
        }
        self.team.taken[self.index].store(false, Ordering::Release);
    }
}

/// Buffers of which one chunk can hand out its part.
const PARTS_PER_CHUNK: usize = 6;

/// One claimed chunk of a phase's work: the right to write its part of each buffer.
#[derive(Debug)]
pub struct Chunk<'w> {
    worker: &'w Worker<'w>,
    index: usize,
    of: usize,
    given: Cell<[*const (); PARTS_PER_CHUNK]>,
}

impl Chunk<'_> {
    /// This chunk's share of `total` units: the shares of all chunks are disjoint and cover them.
    pub fn range(&self, total: usize) -> Range<usize> {
        total * self.index / self.of..total * (self.index + 1) / self.of
    }

    /// Notes that this chunk's part of `buffer` has been handed out.
    fn give(&self, buffer: *const ()) {
        let mut given = self.given.get();
        let free = given.iter().position(|g| g.is_null()).expect("a chunk has a part of few buffers");
        assert!(!given[..free].contains(&buffer), "a chunk has one part of a buffer");
        given[free] = buffer;
        self.given.set(given);
    }
}

/// Which units of a phase's work a buffer holds: units `offset..` of `total`, each `unit` elements (rows or columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    /// Units of work in the phase, over which the chunks are cut.
    pub total: usize,
    /// First unit that lies in this buffer.
    pub offset: usize,
    /// Rows or columns of the buffer in a unit.
    pub unit: usize,
}

impl Units {
    /// All of the phase's work lies in this buffer: `total` units of `unit` elements.
    pub fn all(total: usize, unit: usize) -> Units {
        Units { total, offset: 0, unit }
    }

    /// The chunk's elements of the buffer, which has `len` of them.
    pub fn elements(self, chunk: &Chunk<'_>, len: usize) -> Range<usize> {
        let range = chunk.range(self.total);
        let at = |u: usize| (u.saturating_sub(self.offset) * self.unit).min(len);
        at(range.start)..at(range.end)
    }
}

/// What a phase does with a buffer, as numbers that all workers can compare.
type Mode = [usize; 5];
const READ: Mode = [0; 5];

fn write_mode(columns: bool, chunk: &Chunk<'_>, units: Units) -> Mode {
    [1 + usize::from(columns), chunk.of, units.total, units.offset, units.unit]
}

/// Where buffers begin: at a cache line, because matrix tiles are read line by line.
const LINE: usize = 64;

/// Bytes of a large page.
#[cfg(any(target_os = "linux", test))]
const LARGE_PAGE: usize = 2 << 20;

/// The addresses of large pages within `all` that are at least half `used`, given its used parts in order.
#[cfg(any(target_os = "linux", test))]
fn large_pages(
    used: impl Iterator<Item = Range<usize>> + Clone,
    all: Range<usize>,
) -> impl Iterator<Item = usize> {
    let pages = (all.start.next_multiple_of(LARGE_PAGE)..all.end).step_by(LARGE_PAGE);
    let whole = pages.filter(move |page| page + LARGE_PAGE <= all.end);
    whole.filter(move |page| {
        let parts =
            used.clone().map(|part| part.end.min(page + LARGE_PAGE).saturating_sub(part.start.max(*page)));
        parts.sum::<usize>() >= LARGE_PAGE / 2
    })
}

/// A buffer of rows that a team shares. It begins at a cache line.
#[derive(Debug)]
pub struct Shared<T> {
    /// Room for the elements, which begin at the first whole line. Bytes and not lines, because memory whose type is
    /// aligned by more than what the allocator aligns by anyway is not asked for as zeros, but written.
    data: Box<[UnsafeCell<u8>]>,
    /// Elements.
    len: usize,
    row_len: usize,
    of: PhantomData<T>,
    team: u64,
    /// `2 * phase + 1` while a worker sets `mode` for that phase, `2 * phase + 2` once it is set.
    state: AtomicU64,
    mode: [AtomicUsize; 5],
}

// SAFETY: all access from several threads goes through `read`, `rows` and `columns`, which hand out either shared
// borrows or disjoint mutable ones, as the module's documentation says.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T: bytemuck::Zeroable + Copy + Send + Sync> Shared<T> {
    /// A buffer of `rows` rows of `row_len` zeros for the workers of `team`. Takes memory only once it is written.
    /// `None` if the system does not promise so much.
    pub fn zeroed(team: &Team, rows: usize, row_len: usize) -> Option<Shared<T>> {
        const { assert!(align_of::<T>() <= LINE) };
        let len = rows.checked_mul(row_len)?;
        let bytes = len.checked_mul(size_of::<T>())?.checked_add(LINE - 1)?;
        Some(Shared {
            data: bytemuck::try_zeroed_slice_box(bytes).ok()?,
            len,
            row_len,
            of: PhantomData,
            team: team.id,
            state: AtomicU64::new(0),
            mode: [const { AtomicUsize::new(0) }; 5],
        })
    }

    /// The same in large pages, where the system has them: for what is used whole and often. With small ones a core
    /// waits longer for addresses than for data.
    pub fn zeroed_in_large_pages(team: &Team, rows: usize, row_len: usize) -> Option<Shared<T>> {
        let buffer = Shared::zeroed(team, rows, row_len)?;
        buffer.ask_for_large_pages();
        Some(buffer)
    }

    #[cfg(target_os = "linux")]
    fn ask_for_large_pages(&self) {
        const PAGE: usize = 4096;
        let begin = self.data.as_ptr() as usize;
        let first = begin.next_multiple_of(PAGE);
        let len = (begin + size_of_val(&*self.data)).saturating_sub(first) / PAGE * PAGE;
        // SAFETY: the pages lie within the buffer, and the advice changes nothing that they hold; systems that do not
        // know it refuse.
        unsafe { libc::madvise(first as *mut libc::c_void, len, libc::MADV_HUGEPAGE) };
    }

    #[cfg(not(target_os = "linux"))]
    fn ask_for_large_pages(&self) {}

    /// Makes large pages of what lies in small ones, where at least half of a large one is among the first `used` elements of
    /// rows: for buffers of which nobody knows at first how much will be in use. What they hold stays.
    pub fn collapse(&mut self, used: usize) {
        #[cfg(target_os = "linux")]
        {
            let (begin, size) = (self.first() as usize, size_of::<T>());
            let rows = (0..self.n_rows()).map(|row| begin + row * self.row_len * size);
            let used = used.min(self.row_len) * size;
            for page in large_pages(rows.map(|row| row..row + used), begin..begin + self.bytes()) {
                // SAFETY: the page lies within the buffer, nobody else uses it (`&mut self`), and the advice changes nothing
                // that it holds; systems that do not know it refuse.
                unsafe { libc::madvise(page as *mut libc::c_void, LARGE_PAGE, libc::MADV_COLLAPSE) };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = used;
    }

    /// Elements in a row.
    pub fn row_len(&self) -> usize {
        self.row_len
    }

    /// Bytes of the whole buffer.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// The whole buffer, outside of phases.
    pub fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: `&mut self` makes this the only borrow of the elements.
        unsafe { std::slice::from_raw_parts_mut(self.first(), self.len) }
    }

    /// The whole buffer, in a phase in which nobody writes it.
    pub fn read<'a>(&'a self, worker: &'a Worker<'_>) -> &'a [T] {
        self.agree(worker, READ);
        // SAFETY: the workers of the only team that may use this buffer have agreed to read it until the end of the
        // phase, and the borrow of `worker` ends the result's life before that.
        unsafe { std::slice::from_raw_parts(self.first(), self.len) }
    }

    /// The chunk's rows, as one slice.
    #[allow(clippy::mut_from_ref, reason = "the chunk is the permission to write")]
    pub fn rows<'a>(&'a self, chunk: &'a Chunk<'_>, units: Units) -> &'a mut [T] {
        self.take(chunk, write_mode(false, chunk, units));
        let rows = units.elements(chunk, self.n_rows());
        // SAFETY: `rows` is within the buffer; rows of different chunks are disjoint because all workers agree on the
        // units and on the number of chunks, and this chunk has not been given its part before.
        unsafe {
            let first = self.first().add(rows.start * self.row_len);
            std::slice::from_raw_parts_mut(first, rows.len() * self.row_len)
        }
    }

    /// The chunk's columns of every row.
    pub fn columns<'a>(&'a self, chunk: &'a Chunk<'_>, units: Units) -> Columns<'a, T> {
        self.take(chunk, write_mode(true, chunk, units));
        Columns { buffer: self, range: units.elements(chunk, self.row_len) }
    }

    fn n_rows(&self) -> usize {
        self.len / self.row_len.max(1)
    }

    /// The first element; `zeroed` has left room to begin it at a whole line.
    fn first(&self) -> *mut T {
        UnsafeCell::raw_get(self.data.as_ptr()).map_addr(|begin| begin.next_multiple_of(LINE)).cast()
    }

    /// Makes the part of the buffer that `mode` gives to `chunk` exclusively the caller's.
    fn take(&self, chunk: &Chunk<'_>, mode: Mode) {
        self.agree(chunk.worker, mode);
        chunk.give(std::ptr::from_ref(self).cast());
    }

    /// Makes `mode` this phase's use of the buffer, or checks that it already is.
    fn agree(&self, worker: &Worker<'_>, mode: Mode) {
        assert!(worker.team.id == self.team, "a buffer belongs to one team");
        let (setting, set) = (2 * worker.phase + 1, 2 * worker.phase + 2);
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state == set {
                let agreed = mode.iter().zip(&self.mode).all(|(m, a)| *m == a.load(Ordering::Relaxed));
                assert!(agreed, "the workers disagree on the use of a buffer in one phase");
                return;
            }
            if state == setting {
                std::hint::spin_loop();
            } else if self.state.compare_exchange(state, setting, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                for (m, a) in mode.iter().zip(&self.mode) {
                    a.store(*m, Ordering::Relaxed);
                }
                self.state.store(set, Ordering::Release);
                return;
            }
        }
    }
}

/// The same columns of every row of a [`Shared`] buffer.
#[derive(Debug)]
pub struct Columns<'a, T> {
    buffer: &'a Shared<T>,
    range: Range<usize>,
}

impl<T: bytemuck::Zeroable + Copy + Send + Sync> Columns<'_, T> {
    /// Which columns they are.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// These columns of row `row`.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.buffer.n_rows());
        // SAFETY: the row is in the buffer and the columns in the row; columns of different chunks are disjoint, this
        // chunk has been given them once, and `&mut self` makes this the only borrow of them.
        unsafe {
            let first = self.buffer.first().add(row * self.buffer.row_len + self.range.start);
            std::slice::from_raw_parts_mut(first, self.range.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn run(team: &Team, program: impl Fn(&mut Worker<'_>) + Sync) {
        std::thread::scope(|s| {
            for index in 0..team.size() {
                let program = &program;
                s.spawn(move || team.join(index, program));
            }
        });
    }

    #[test]
    fn large_pages_are_used_at_least_by_half() {
        const MIB: usize = 1 << 20;
        let of = |used: &[[usize; 2]], all| -> Vec<usize> {
            large_pages(used.iter().map(|[start, end]| *start..*end), all).collect()
        };
        assert_eq!(of(&[[2 * MIB, 3 * MIB]], 0..8 * MIB), [2 * MIB]);
        assert_eq!(of(&[[2 * MIB, 3 * MIB - 1]], 0..8 * MIB), []);
        // parts of several rows, pages that are not whole, and a buffer without any
        let rows = [[MIB, 2 * MIB], [5 * MIB / 2, 3 * MIB], [7 * MIB / 2, 5 * MIB], [7 * MIB, 8 * MIB]];
        assert_eq!(of(&rows, MIB..8 * MIB), [2 * MIB, 4 * MIB, 6 * MIB]);
        assert_eq!(of(&rows, MIB..8 * MIB - 1), [2 * MIB, 4 * MIB]);
        assert_eq!(of(&[[0, MIB]], 0..MIB), []);
    }

    #[test]
    fn what_is_collapsed_keeps_what_it_holds() {
        let team = Team::new(1);
        let mut a = Shared::<u32>::zeroed(&team, 3, 1 << 20).unwrap();
        for (i, x) in a.get_mut().iter_mut().enumerate() {
            *x = i as u32;
        }
        for used in [0, 1, 1 << 19, 1 << 20, usize::MAX] {
            a.collapse(used);
            assert!(a.get_mut().iter().enumerate().all(|(i, x)| *x == i as u32));
        }
    }

    #[test]
    fn phases_pass_parts_to_readers() {
        for size in [1, 2, 5] {
            let team = Team::new(size);
            let (rows, cols) = (7, 30);
            let a = Shared::<u32>::zeroed(&team, rows, cols).unwrap();
            let b = Shared::<u32>::zeroed(&team, rows, cols).unwrap();
            run(&team, |worker| {
                for round in 1..200u32 {
                    while let Some(chunk) = worker.claim(4) {
                        let mut part = a.columns(&chunk, Units::all(10, 3));
                        for r in 0..rows {
                            let first = part.range().start;
                            for (c, v) in part.row(r).iter_mut().enumerate() {
                                *v = round * 1000 + (r * cols + first + c) as u32;
                            }
                        }
                    }
                    worker.barrier();
                    while let Some(chunk) = worker.claim(3) {
                        let seen = a.read(worker);
                        let units = Units::all(rows, 1);
                        let from = units.elements(&chunk, rows).start * cols;
                        for (i, v) in b.rows(&chunk, units).iter_mut().enumerate() {
                            *v = seen[from + i];
                        }
                    }
                    worker.barrier();
                    let expected = (0..rows * cols).map(|i| round * 1000 + i as u32);
                    assert!(b.read(worker).iter().copied().eq(expected), "round {round}");
                }
            });
        }
    }

    #[test]
    fn units_of_several_buffers_are_cut_as_one() {
        let team = Team::new(1);
        let [a, b] = [6, 8].map(|n| Shared::<u8>::zeroed(&team, 1, n).unwrap());
        team.join(0, |worker| {
            let mut n = 0;
            while let Some(chunk) = worker.claim(5) {
                n += a.columns(&chunk, Units { total: 7, offset: 0, unit: 2 }).row(0).len();
                n += b.columns(&chunk, Units { total: 7, offset: 3, unit: 2 }).row(0).len();
            }
            assert_eq!(n, 14);
        });
    }

    fn panics(f: impl FnOnce(&mut Worker<'_>, &Shared<u8>) + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(|| {
            let team = Team::new(1);
            let buffer = Shared::zeroed(&team, 4, 4).unwrap();
            team.join(0, |worker| f(worker, &buffer));
        })
        .is_err()
    }

    #[test]
    fn wrong_use_panics() {
        let units = Units::all(4, 1);
        assert!(!panics(|w, b| {
            b.rows(&w.claim(2).unwrap(), units);
            w.barrier();
            b.read(w);
        }));
        assert!(panics(|w, b| {
            b.rows(&w.claim(2).unwrap(), units);
            b.read(w);
        }));
        assert!(panics(|w, b| {
            let chunk = w.claim(2).unwrap();
            b.rows(&chunk, units);
            b.rows(&chunk, units);
        }));
        assert!(panics(|w, b| {
            b.rows(&w.claim(2).unwrap(), units);
            b.rows(&w.claim(3).unwrap(), units);
        }));
        assert!(panics(|w, b| {
            b.rows(&w.claim(2).unwrap(), units);
            b.columns(&w.claim(2).unwrap(), units);
        }));
        assert!(panics(|w, _| {
            let other = Team::new(1);
            Shared::<u8>::zeroed(&other, 1, 1).unwrap().read(w);
        }));
    }

    #[test]
    fn a_panic_of_one_worker_ends_the_others() {
        let team = Team::new(2);
        let results: Vec<_> = std::thread::scope(|s| {
            let handles = [0, 1].map(|i| {
                let team = &team;
                s.spawn(move || {
                    team.join(i, |w| {
                        if w.index() == 1 {
                            panic!("on purpose")
                        }
                    })
                })
            });
            handles.into_iter().map(|h| h.join().is_err()).collect()
        });
        assert_eq!(results, [true, true]);
    }

    #[test]
    fn buffers_begin_at_a_cache_line() {
        let team = Team::new(1);
        for len in [0, 1, 31, 32, 1000, 1 << 20] {
            let mut buffer = Shared::<u16>::zeroed(&team, 1, len).unwrap();
            let all = buffer.get_mut();
            assert_eq!((all.len(), all.as_ptr().addr() % LINE), (len, 0));
            assert!(all.iter().all(|x| *x == 0));
            all.fill(0xffff);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_taken_when_it_is_written() {
        let resident = || -> usize {
            let status = std::fs::read_to_string("/proc/self/statm").unwrap();
            4096 * status.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
        };
        const SIZE: usize = 1 << 30;
        let team = Team::new(1);
        let before = resident();
        let mut buffer = black_box(Shared::<u8>::zeroed_in_large_pages(&team, 1, SIZE).unwrap());
        // other tests run beside this one, and a large page is the least that is taken
        assert!(resident() < before + SIZE / 4, "nothing is written");
        buffer.get_mut()[..SIZE / 2].fill(1);
        assert!(resident() > before + SIZE / 4, "half of it is written");
    }

    #[test]
    fn memory_that_cannot_be_had_is_no_panic() {
        let team = Team::new(1);
        // an unused buffer would be optimized away, and with it the failure to get it
        let refused = |rows, row_len| black_box(Shared::<u32>::zeroed(&team, rows, row_len)).is_none();
        assert!(refused(usize::MAX, 2), "a size that overflows");
        assert!(refused(usize::MAX / 2, 1), "more bytes than can be counted");
        assert!(refused(usize::MAX / 8, 1), "more than an address space");
    }
}
