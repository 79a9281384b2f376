//! Who has which pages of the cache. Sequences that began alike may have pages in common; who writes into one of them gets
//! a copy first.

use std::ops::Range;

use braise_kernels::ops::{PAGE, Window};

use super::Room;
use crate::backend::Run;
use crate::block::{Attention, Spec};

/// Tokens that can be forgotten without reading those before them again, at least.
pub(super) const SPARE: usize = 512;

/// What tokens see, if a sequence has fewer pages for it than for all its tokens.
pub(super) fn window_of(a: &Attention, room: Room) -> Option<Window> {
    let all = room.n_ctx.div_ceil(PAGE);
    a.window.filter(|window| a.causal && pages_of_window(*window, room.chunk).is_some_and(|n| n < all))
}

/// Most pages that a sequence has where its tokens see a window: what the first of a chunk saw, had the last tokens been
/// forgotten, up to the end of the chunk. `None` if they overflow.
fn pages_of_window(window: Window, chunk: usize) -> Option<usize> {
    let positions = window.size().checked_add(SPARE)?.checked_add(chunk)?;
    positions.div_ceil(PAGE).checked_add(1)
}

/// Pages of all sequences together. `None` if they overflow.
pub(super) fn n_pages(window: Option<Window>, room: Room) -> Option<usize> {
    match window {
        None => Some(room.n_pages),
        Some(window) => Some(pages_of_window(window, room.chunk)?.checked_mul(room.n_seq)?.min(room.n_pages)),
    }
}

/// Who has which pages of a cache, wherever its memory is: in groups of layers whose tokens see equally far.
#[derive(Debug)]
pub(crate) struct PageTables {
    /// The first group counts the pages of whole sequences, whether or not a layer is in it.
    groups: Vec<Group>,
    /// Which of them each layer is in that has keys and values of its own.
    of_layer: Vec<Option<usize>>,
}

/// A page that must be copied in all layers of a group before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageCopy {
    pub(crate) group: usize,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

impl PageTables {
    /// All pages free. `None` if there are more than can be counted.
    pub(crate) fn new(spec: &Spec, room: Room) -> Option<PageTables> {
        let mut groups = vec![Group::new(None, room)?];
        let mut of_layer = Vec::with_capacity(spec.layers.len());
        for layer in &spec.layers {
            of_layer.push(match layer.mixer.cached() {
                Some(a) => Some(group_of(&mut groups, window_of(a, room), room)?),
                None => None,
            });
        }
        Some(PageTables { groups, of_layer })
    }

    /// How many groups there are.
    pub(crate) fn n_groups(&self) -> usize {
        self.groups.len()
    }

    /// The group of a layer that has keys and values of its own.
    pub(crate) fn group_of(&self, layer: usize) -> Option<usize> {
        self.of_layer[layer]
    }

    /// Pages of a group, of all sequences together.
    pub(crate) fn n_pages(&self, group: usize) -> usize {
        self.groups[group].n_pages
    }

    /// So many pages of a group, its first ones, were taken at some time.
    pub(crate) fn n_taken(&self, group: usize) -> usize {
        self.groups[group].unused.start as usize
    }

    /// The page table of a sequence in a group; pages that it has given back are still in it.
    pub(crate) fn pages(&self, group: usize, seq: usize) -> &[u32] {
        self.groups[group].pages(seq)
    }

    /// Pages that nobody has.
    pub(crate) fn free_pages(&self) -> usize {
        self.groups[0].free()
    }

    /// Pages that the sequences of some runs lack for them.
    pub(crate) fn lacking(&self, runs: &[Run]) -> usize {
        self.groups[0].lacking(runs)
    }

    /// Gives sequence `seq` the pages of `n` tokens from position `next` on, no more of them than a chunk, and takes those
    /// that no token from there on sees. The pages that it lacks must be free. Says which must be copied.
    pub(crate) fn make_room(&mut self, seq: usize, next: usize, n: usize) -> Vec<PageCopy> {
        let groups = self.groups.iter_mut().enumerate();
        let copies = groups.filter_map(|(group, pages)| {
            let (from, to) = pages.make_room(seq, next, n)?;
            Some(PageCopy { group, from, to })
        });
        copies.collect()
    }

    /// Whether what the token at position `n` of sequence `seq` sees is there, if those before it were read once.
    pub(crate) fn holds(&self, seq: usize, n: usize) -> bool {
        self.groups.iter().all(|group| group.holds(seq, n))
    }

    /// Takes the pages of all positions from `n` on.
    pub(crate) fn truncate(&mut self, seq: usize, n: usize) {
        self.groups.iter_mut().for_each(|group| group.truncate(seq, n));
    }

    /// Gives sequence `to`, which has no pages, those of the first `n` positions of `from` too.
    pub(crate) fn share(&mut self, from: usize, to: usize, n: usize) {
        self.groups.iter_mut().for_each(|group| group.share(from, to, n));
    }
}

/// The group of layers that see `window`; a new one, if no layer before did. `None` if its pages are more than can be counted.
fn group_of(groups: &mut Vec<Group>, window: Option<Window>, room: Room) -> Option<usize> {
    if let Some(group) = groups.iter().position(|group| group.window == window) {
        return Some(group);
    }
    groups.push(Group::new(window, room)?);
    Some(groups.len() - 1)
}

/// The pages of layers whose tokens see equally far.
#[derive(Debug)]
struct Group {
    window: Option<Window>,
    n_pages: usize,
    /// Those that were given back, and those that nobody has had yet.
    returned: Vec<u32>,
    unused: Range<u32>,
    /// How many sequences have each page that was used.
    owners: Vec<usize>,
    /// One for each sequence.
    tables: Vec<Table>,
}

/// The pages of a sequence.
#[derive(Debug, Clone, Default)]
struct Table {
    /// Which page holds each [`PAGE`] positions.
    pages: Vec<u32>,
    /// How many of the first it has given back.
    gone: usize,
}

impl Group {
    /// All pages free. `None` if there are more than can be counted.
    fn new(window: Option<Window>, room: Room) -> Option<Group> {
        let n_pages = n_pages(window, room)?;
        let unused = 0..u32::try_from(n_pages).ok()?;
        Some(Group {
            window,
            n_pages,
            returned: Vec::new(),
            unused,
            owners: Vec::new(),
            tables: vec![Table::default(); room.n_seq],
        })
    }

    /// Pages that nobody has.
    fn free(&self) -> usize {
        self.returned.len() + self.unused.len()
    }

    /// The page table of a sequence; those given back are still in it.
    fn pages(&self, seq: usize) -> &[u32] {
        &self.tables[seq].pages
    }

    /// Pages that the sequences of some runs lack for them.
    fn lacking(&self, runs: &[Run]) -> usize {
        let of_run = |(i, run): (usize, &Run)| {
            let grown = run.end().div_ceil(PAGE).saturating_sub(self.tables[run.seq].pages.len());
            let copied = self.shared_end(run.seq, run.first).is_some_and(|page| {
                // the last one that has it needs no copy
                let before = runs[..i].iter().filter(|run| self.shared_end(run.seq, run.first) == Some(page));
                before.count() + 1 < self.owners[page as usize]
            });
            grown + usize::from(copied)
        };
        runs.iter().enumerate().map(of_run).sum()
    }

    /// The page that a sequence's position `next` goes into, if it and others have it.
    fn shared_end(&self, seq: usize, next: usize) -> Option<u32> {
        let page = self.tables[seq].pages.get(next / PAGE).copied();
        page.filter(|page| self.owners[*page as usize] > 1)
    }

    /// See [`PageTables::make_room`]. Which page must be copied into which, if one must.
    fn make_room(&mut self, seq: usize, next: usize, n: usize) -> Option<(u32, u32)> {
        if let Some(window) = self.window {
            let seen = window.start(next.saturating_sub(SPARE)) / PAGE;
            while self.tables[seq].gone < seen {
                let table = &mut self.tables[seq];
                let page = table.pages[table.gone];
                table.gone += 1;
                self.give_back(page);
            }
        }
        let copied = self.shared_end(seq, next).map(|shared| {
            let own = self.take();
            self.tables[seq].pages[next / PAGE] = own;
            self.give_back(shared);
            (shared, own)
        });
        while self.tables[seq].pages.len() < (next + n).div_ceil(PAGE) {
            let page = self.take();
            self.tables[seq].pages.push(page);
        }
        copied
    }

    /// See [`PageTables::share`].
    fn share(&mut self, from: usize, to: usize, n: usize) {
        let Table { pages, gone } = &self.tables[from];
        let pages = pages[..n.div_ceil(PAGE)].to_vec();
        let table = Table { gone: (*gone).min(pages.len()), pages };
        table.pages[table.gone..].iter().for_each(|page| self.owners[*page as usize] += 1);
        self.tables[to] = table;
    }

    /// Whether a sequence has what the token at position `n` sees, if it has read the tokens before it once.
    fn holds(&self, seq: usize, n: usize) -> bool {
        self.window.is_none_or(|window| self.tables[seq].gone * PAGE <= window.start(n))
    }

    /// See [`PageTables::truncate`].
    fn truncate(&mut self, seq: usize, n: usize) {
        let kept = n.div_ceil(PAGE).max(self.tables[seq].gone);
        while self.tables[seq].pages.len() > kept {
            let page = self.tables[seq].pages.pop();
            page.into_iter().for_each(|page| self.give_back(page));
        }
        if n == 0 {
            self.tables[seq] = Table::default();
        }
    }

    /// A page that nobody has.
    fn take(&mut self) -> u32 {
        let page =
            self.returned.pop().or_else(|| self.unused.next()).expect("a page for each that is lacking");
        self.owners.resize(self.unused.start as usize, 0);
        self.owners[page as usize] = 1;
        page
    }

    fn give_back(&mut self, page: u32) {
        let owners = &mut self.owners[page as usize];
        *owners -= 1;
        if *owners == 0 {
            self.returned.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use braise_kernels::ops::row_of;

    use super::*;

    const ROOM: Room = Room { n_seq: 3, n_ctx: 100 * PAGE, chunk: PAGE, n_pages: 120 };

    fn run(seq: usize, first: usize, n: usize) -> Run {
        Run { seq, tokens: 0..n, first }
    }

    #[test]
    fn all_but_one_lack_a_copy() {
        let mut group = Group::new(None, ROOM).expect("few pages");
        assert_eq!(group.make_room(0, 0, 300), None);
        [1, 2].into_iter().for_each(|to| group.share(0, to, 300));
        assert_eq!(group.lacking(&[run(0, 300, 1)]), 1);
        assert_eq!(group.lacking(&[run(2, 300, 1), run(1, 300, 1)]), 2);
        let all = [run(2, 300, 1), run(0, 300, PAGE), run(1, 300, 1)];
        assert_eq!(group.lacking(&all), 2 + 1);
        let copies = all.map(|run| group.make_room(run.seq, run.first, run.tokens.len()));
        assert!(copies[0].is_some() && copies[1].is_some() && copies[2].is_none());
        assert_eq!(group.n_pages - group.free(), 5);
    }

    /// Every page is free or has as many owners as are counted, and nobody has been given the page of another.
    fn check(group: &Group) {
        let mut owners = vec![0; group.n_pages];
        let owned = group.tables.iter().flat_map(|table| &table.pages[table.gone..]);
        owned.for_each(|page| owners[*page as usize] += 1);
        assert!(owners.iter().zip(&group.owners).all(|(counted, known)| counted == known));
        let mut free: Vec<u32> = group.returned.iter().copied().chain(group.unused.clone()).collect();
        free.sort_unstable();
        assert!(free.into_iter().eq((0..group.n_pages as u32).filter(|page| owners[*page as usize] == 0)));
    }

    #[test]
    fn pages_are_shared_until_they_are_written() {
        let window = Window::Sliding(3 * PAGE + 5);
        for window in [None, Some(window)] {
            let mut group = Group::new(window, ROOM).expect("few pages");
            // the memory of the pages, and what each sequence has read: numbers that stand for texts
            let mut memory = vec![0; group.n_pages * PAGE];
            let mut texts: [Vec<u32>; 3] = Default::default();
            let mut random = fastrand::Rng::with_seed(3);
            for turn in 1..3000 {
                let seq = random.usize(..3);
                let other = (seq + 1) % 3;
                let (next, n) = (texts[seq].len(), random.usize(1..=PAGE));
                let held = |group: &Group, n: usize| if group.holds(seq, n) { n } else { 0 };
                match random.u8(..20) {
                    0 => {
                        let kept = held(&group, random.usize(..=next));
                        group.truncate(seq, kept);
                        texts[seq].truncate(kept);
                    }
                    1 => {
                        let kept = held(&group, next / 2).max(next % 2 * next);
                        group.truncate(other, 0);
                        group.share(seq, other, kept);
                        texts[other] = texts[seq][..kept].to_vec();
                    }
                    _ if next + n <= ROOM.n_ctx && group.lacking(&[run(seq, next, n)]) <= group.free() => {
                        if let Some((from, to)) = group.make_room(seq, next, n) {
                            let first = from as usize * PAGE;
                            memory.copy_within(first..first + PAGE, to as usize * PAGE);
                        }
                        (next..next + n).for_each(|p| memory[row_of(group.pages(seq), p)] = turn);
                        texts[seq].extend(std::iter::repeat_n(turn, n));
                    }
                    _ => {}
                }
                check(&group);
                for (table, text) in group.tables.iter().zip(&texts) {
                    assert_eq!(table.pages.len(), text.len().div_ceil(PAGE));
                    let there = table.gone * PAGE..text.len();
                    assert!(there.clone().all(|p| memory[row_of(&table.pages, p)] == text[p]));
                }
            }
        }
    }

    #[test]
    fn forgetting_less_than_the_spare_reads_nothing_again() {
        let mut group = Group::new(Some(Window::Sliding(100)), ROOM).expect("few pages");
        for next in (0..20 * PAGE).step_by(PAGE) {
            assert_eq!(group.make_room(0, next, PAGE), None);
        }
        // the last chunk could have begun a spare earlier
        assert!(group.holds(0, 19 * PAGE - SPARE));
        assert!(!group.holds(0, 7 * PAGE));
        group.truncate(0, 0);
        assert_eq!(group.free(), group.n_pages);
    }
}
