//! Several sequences of tokens that are read and continued together, step by step (Yu et al. 2022, "Orca").
//!
//! A step reads tokens of any of them: the whole or a part of one's prompt beside single tokens of others. Weights are
//! read once for all; what looks at other tokens goes sequence by sequence. So what a sequence gets does not depend on
//! which others share its steps, to the bit, except in how the kernels of few and of many tokens round differently:
//!
//! - matrices: that of few where a step has up to 8 tokens in all;
//! - attention: that of few where the sequence has up to 8 tokens in the step;
//! - logits: that of few where up to 8 tokens ask for them, or there is no room for more than 8 sequences.
//!
//! They are computed where their model is, on the CPU or on a GPU. There, how many blocks share the positions of a token
//! follows from how many tokens attend, so that sums may be added in another order too.

mod check;
mod pipeline;
mod place;

use std::ops::{ControlFlow, Range};

use braise_kernels::ops::PAGE;

use crate::backend::cpu::PRIVATE_ROWS;
use crate::backend::{Batch, Run, cuda};
use crate::error::{Error, ErrorKind, Result};
use crate::kv::Room;
use crate::memory::{self, Promise};
use crate::model::Model;
use crate::parts::Location;
use crate::plan::{self, DevicePlan, Outline, Plan, Request};
use crate::sample::Scored;
use crate::session::{Logits, MAX_BEST, SessionOptions};
use crate::threads;
use check::{check_tokens, not_finite, request};
use pipeline::Pipeline;
pub(crate) use place::{Best, Place};
use place::{OnCpu, are_finite};

/// Most sequences that there can be at a time.
pub const MAX_SEQUENCES: usize = 64;

/// Most threads that are started: beyond, something is wrong with the number.
const MAX_THREADS: usize = 1024;

/// How many sequences there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Sequences at a time, 1 to [`MAX_SEQUENCES`].
    pub sequences: usize,
    /// Tokens of all of them together, each sequence's rounded up to whole pages of 256; `None`: all can be as long as
    /// the context is.
    pub tokens: Option<usize>,
}

impl Capacity {
    /// One sequence, as long as the context is.
    pub const ONE: Capacity = Capacity { sequences: 1, tokens: None };
}

/// Names a sequence; no other one of the same [`Sequences`] ever has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequenceId(u64);

/// What a step does for one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// Which one.
    pub sequence: SequenceId,
    /// What it reads.
    pub tokens: &'a [u32],
    /// Which of these tokens' logits are wanted.
    pub logits: Logits,
}

/// Logits of one token of a step: all, or the best of them.
#[derive(Debug)]
pub struct Row<'a, T = f32> {
    /// Which of the step's works asked for them.
    pub work: usize,
    /// The token's position in its sequence.
    pub position: usize,
    /// `n_vocab` numbers, or see [`Sequences::step_best`]; or the error that one of them is not finite.
    pub logits: Result<&'a [T]>,
}

/// What sequences take of the memory when the cache is full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planned {
    /// Of the machine's, if some parts of the model are computed there.
    pub machine: Option<Plan>,
    /// Of each GPU's that the model is on.
    pub gpus: Vec<DevicePlan>,
}

/// Several sequences of tokens, with the model's memory of them.
#[derive(Debug)]
pub struct Sequences<'m> {
    model: &'m Model,
    room: Room,
    place: Box<dyn Place + 'm>,
    /// Workers: none where a GPU computes.
    threads: usize,
    plan: Planned,
    /// Of what the plan says; held for as long as the sequences live.
    _promise: Option<Promise>,
    warning: Option<String>,
    /// By their places in the cache.
    sequences: Vec<Option<Sequence>>,
    next_id: u64,
    step: Step,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    tokens: Vec<u32>,
    /// Whether layers remember tokens that were forgotten: those before them have to be read again.
    stale: bool,
}

/// The tokens of a step; kept, so that steps take no memory.
#[derive(Debug, Default)]
struct Step {
    tokens: Vec<u32>,
    runs: Vec<Run>,
    /// Those whose logits are wanted, and for whom.
    wanted: Vec<u32>,
    asked: Vec<Asked>,
}

/// A token whose logits a work of the step asks for, by its position in its sequence.
#[derive(Debug, Clone, Copy)]
struct Asked {
    work: usize,
    position: usize,
}

/// Takes rows of logits that were computed where the sequences are.
type Give<'a> = &'a mut dyn FnMut(&mut dyn Place, &[Asked]) -> Result<ControlFlow<()>>;

/// What sequences of this capacity have room for.
///
/// # Errors
/// An option is 0 or absurd.
pub(crate) fn room(model: &Model, capacity: Capacity, options: &SessionOptions) -> Result<Room> {
    Ok(request(model, capacity, options, 1)?.room(model.spec()))
}

impl<'m> Sequences<'m> {
    /// Room for sequences, of which there are none yet, on the device that the model is on. [`SessionOptions::n_ctx`] is that
    /// of each.
    ///
    /// # Errors
    /// An option is 0 or absurd, there is too little memory, or the threads cannot be started.
    pub fn new(model: &'m Model, capacity: Capacity, options: &SessionOptions) -> Result<Sequences<'m>> {
        let threads = options.threads.unwrap_or_else(threads::default_threads);
        let request = request(model, capacity, options, threads)?;
        let room = request.room(model.spec());
        let outline = Outline::of(model);
        let new = |place: Box<dyn Place + 'm>, threads: usize, plan: Planned| Sequences {
            model,
            room,
            place,
            threads,
            plan,
            _promise: None,
            warning: None,
            sequences: (0..room.n_seq).map(|_| None).collect(),
            next_id: 0,
            step: Step::default(),
        };
        let on = model.on_device.as_ref();
        if let Some(on) = on.filter(|on| on.on_cpu().next().is_none()) {
            let place: Box<dyn Place + 'm> = match on.alone() {
                Some(loaded) => Box::new(cuda::OnDevice::new(model, loaded, room, options.kv)?),
                None => Box::new(Pipeline::new(model, on, None, room, options.kv)?),
            };
            return Ok(new(place, 0, Planned { machine: None, gpus: on.plans(model, room, options.kv)? }));
        }
        let outline = outline.only(|part| on.is_none_or(|on| on.on_cpu().any(|parts| parts.contains(&part))));
        // what is read at a time does not depend on which parts are here
        let request = Request { chunk: Some(room.chunk), ..request };
        if !(1..=MAX_THREADS).contains(&threads) {
            let what = format!("{threads} threads");
            return Err(Error::new(ErrorKind::Input, what).next(format!("choose 1 to {MAX_THREADS}")));
        }
        // the system promises more than it has: what can never be filled must not be begun
        let memory = memory::now();
        let plan = outline.admit(&request, memory).map_err(|e| e.file(model.gguf().path()))?;
        let place = OnCpu::new(model, &outline, room, options.kv, threads)?;
        let cpu =
            place.ok_or_else(|| outline.refusal(&request, Some(&plan), memory).file(model.gguf().path()))?;
        let droppable = model.gguf().droppable_bytes().min(plan.weights);
        let warning = memory.and_then(|memory| plan::warning(&plan, droppable, memory));
        let place: Box<dyn Place + 'm> = match on {
            Some(on) => Box::new(Pipeline::new(model, on, Some(cpu), room, options.kv)?),
            None => Box::new(cpu),
        };
        let promise = Some(Promise::of(plan.session()));
        let gpus = on.map_or(Ok(Vec::new()), |on| on.plans(model, room, options.kv))?;
        let plan = Planned { machine: Some(plan), gpus };
        Ok(Sequences { warning, _promise: promise, ..new(place, threads, plan) })
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Tokens that a sequence can hold.
    pub fn n_ctx(&self) -> usize {
        self.room.n_ctx
    }

    /// Tokens that a step can read.
    pub fn max_step(&self) -> usize {
        self.room.chunk
    }

    /// Worker threads: none where GPUs alone compute.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What is taken of the memory when the cache is full.
    pub fn plan(&self) -> &Planned {
        &self.plan
    }

    /// What a user should know of the memory that was found: nothing, if all fits.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Bytes that were taken for keys, values and states; of a GPU all that the sequences take there.
    pub fn cache_bytes(&self) -> u64 {
        self.place.bytes()
    }

    /// Tokens that there is memory for beside those of all sequences, in whole pages.
    pub fn free_tokens(&self) -> usize {
        self.place.pages().free_pages() * PAGE
    }

    /// Begins a sequence without tokens.
    ///
    /// # Errors
    /// There are as many as there is room for, or no memory is left for its first token.
    pub fn add(&mut self) -> Result<SequenceId> {
        let seq = self.free_place()?;
        self.check_pages(1)?;
        Ok(self.place(seq, Vec::new(), false))
    }

    /// Ends a sequence: others can have its memory.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn remove(&mut self, id: SequenceId) -> Result<()> {
        let seq = self.find(id)?;
        self.place.truncate(seq, 0);
        self.sequences[seq] = None;
        Ok(())
    }

    /// The tokens that a sequence has read.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn tokens(&self, id: SequenceId) -> Result<&[u32]> {
        Ok(&self.sequence(self.find(id)?).tokens)
    }

    /// Begins a sequence with the first `n` tokens of another, and with what it knows of them: they are not read again,
    /// unless [`Sequences::truncate`] would make that necessary, and take no more memory until either goes on.
    ///
    /// # Errors
    /// There is no such sequence, it has not so many tokens, or there are as many as there is room for.
    pub fn fork(&mut self, id: SequenceId, n: usize) -> Result<SequenceId> {
        let from = self.find(id)?;
        let n_tokens = self.sequence(from).tokens.len();
        if n > n_tokens {
            let what = format!("the sequence has {n_tokens} tokens, and {n} are to be taken over");
            return Err(Error::new(ErrorKind::Input, what).next("take fewer"));
        }
        let to = self.free_place()?;
        let again = self.sequence(from).stale || (n < n_tokens && !self.keeps(from, n));
        if !again && let Err(error) = self.place.share(from, to, n) {
            self.place.truncate(to, 0);
            return Err(error);
        }
        let tokens = self.sequence(from).tokens[..n].to_vec();
        Ok(self.place(to, tokens, again))
    }

    /// Forgets all tokens of a sequence from position `n` on. Where layers are recurrent, or see windows that the cache no
    /// longer holds, those before are read again by its next step, or by [`Sequences::settle`].
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn truncate(&mut self, id: SequenceId, n: usize) -> Result<()> {
        let seq = self.find(id)?;
        if n < self.sequence(seq).tokens.len() {
            let again = self.sequence(seq).stale || !self.keeps(seq, n);
            self.place.truncate(seq, if again { 0 } else { n });
            let sequence = self.sequence_mut(seq);
            sequence.stale = again;
            sequence.tokens.truncate(n);
        }
        Ok(())
    }

    /// Reads again what [`Sequences::truncate`] made it necessary to.
    ///
    /// # Errors
    /// There is no such sequence, others have taken the room that it had ([`ErrorKind::CacheFull`]), or a GPU's errors: its
    /// tokens are to be read again then.
    pub fn settle(&mut self, id: SequenceId) -> Result<()> {
        let seq = self.find(id)?;
        self.check_pages(self.place.pages().lacking(&[self.run_of(seq, 0)]))?;
        self.settle_at(seq)
    }

    /// Reads the tokens of all `work` in one pass, and gives the logits that are asked for to `sink`, in order. `sink` may
    /// break off; the tokens are read all the same.
    ///
    /// # Errors
    /// Nothing was read, and no sequence has changed: there is no such sequence, or one has two works; a work has no tokens
    /// or one that is not in the vocabulary; they are more than [`Sequences::max_step`] or do not fit a sequence's context;
    /// the cache has no room for them ([`ErrorKind::CacheFull`]); the model is an encoder; or a GPU's errors, after which what
    /// the sequences had read before is read again by their next step, and some logits may have been given.
    pub fn step(
        &mut self,
        work: &[Work<'_>],
        sink: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let model = self.model;
        self.step_with(work, None, &mut |place, asked| {
            let rows = place.rows(asked.len())?.chunks_exact(model.spec().n_vocab);
            let mut rows = asked.iter().zip(rows).map(|(Asked { work, position }, row)| Row {
                work: *work,
                position: *position,
                logits: if are_finite(row) { Ok(row) } else { Err(not_finite(model, *position)) },
            });
            Ok(rows.try_for_each(&mut *sink))
        })
    }

    /// The same, with the `k` largest logits of each token alone (at least one, and no more than there are or than
    /// [`MAX_BEST`]): tokens and logits, in descending order, of equal ones the first before the others. A GPU finds them
    /// itself, which spares the transfer of the others.
    ///
    /// # Errors
    /// As [`Sequences::step`]; of logits beside the best it is not known whether they are finite.
    pub fn step_best(
        &mut self,
        work: &[Work<'_>],
        k: usize,
        sink: &mut dyn FnMut(Row<'_, Scored>) -> ControlFlow<()>,
    ) -> Result<()> {
        let model = self.model;
        let k = k.clamp(1, MAX_BEST.min(model.spec().n_vocab));
        self.step_with(work, Some(k), &mut |place, asked| {
            let rows = asked.iter().zip(place.best(asked.len(), k)?);
            let mut rows = rows.map(|(Asked { work, position }, best)| Row {
                work: *work,
                position: *position,
                logits: match best.iter().all(|(_, logit)| logit.is_finite()) {
                    true => Ok(&best[..]),
                    false => Err(not_finite(model, *position)),
                },
            });
            Ok(rows.try_for_each(&mut *sink))
        })
    }

    /// Whether [`Sequences::step_best`] costs less than [`Sequences::step`].
    pub fn finds_best(&self) -> bool {
        self.model.on_device.as_ref().is_some_and(|on| on.end() != Location::Cpu)
    }

    /// See [`Sequences::step`].
    fn step_with(&mut self, work: &[Work<'_>], best: Option<usize>, give: Give<'_>) -> Result<()> {
        if self.model.spec().is_encoder() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the model is an encoder, which continues no text",
            )
            .file(self.model.gguf().path())
            .next("ask it for embeddings"));
        }
        self.check_step(work)?;
        if work.is_empty() {
            return Ok(());
        }
        for work in work {
            self.settle_at(self.find(work.sequence)?)?;
        }
        self.step.clear();
        let read = self.push_all(work).and_then(|()| self.pass(best, give));
        self.undo_if_failed(read)
    }

    fn push_all(&mut self, work: &[Work<'_>]) -> Result<()> {
        for (index, work) in work.iter().enumerate() {
            let seq = self.find(work.sequence)?;
            let first = self.sequence(seq).tokens.len();
            let rows = self.push(seq, work.tokens)?;
            let wanted = work.logits.of(rows.clone());
            let asked = wanted.clone().map(|row| Asked { work: index, position: first + row - rows.start });
            self.step.asked.extend(asked);
            self.step.wanted.extend(wanted.map(|row| row as u32));
        }
        Ok(())
    }

    /// Where the step failed, its sequences have what they had before, and nothing is known of what layers remember.
    fn undo_if_failed(&mut self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            for Run { seq, first, .. } in std::mem::take(&mut self.step.runs) {
                self.place.truncate(seq, 0);
                let sequence = self.sequence_mut(seq);
                sequence.tokens.truncate(first);
                sequence.stale = true;
            }
        }
        result
    }

    /// Whether `tokens` can follow those of a sequence, as far as its context and the vocabulary go.
    pub(crate) fn check(&self, id: SequenceId, tokens: &[u32]) -> Result<()> {
        check_tokens(self.model, (self.tokens(id)?.len(), self.n_ctx()), tokens)
    }

    /// Reads `tokens`, no more than a step can, without logits; what some of them became behind the last layer,
    /// (tokens, n_embd).
    pub(crate) fn values(&mut self, id: SequenceId, tokens: &[u32], wanted: Range<usize>) -> Result<&[f32]> {
        self.read(self.find(id)?, tokens)?;
        self.place.values(wanted)
    }

    fn read(&mut self, seq: usize, tokens: &[u32]) -> Result<()> {
        self.step.clear();
        let read = self.push(seq, tokens);
        let read = read.and_then(|_| self.place.forward(self.step.batch(0..0), None));
        self.undo_if_failed(read)
    }

    /// Whether there is nothing wrong with the step.
    fn check_step(&mut self, work: &[Work<'_>]) -> Result<()> {
        self.step.clear();
        let mut n_tokens = 0;
        for (i, Work { sequence, tokens, .. }) in work.iter().enumerate() {
            self.check(*sequence, tokens)?;
            if work[..i].iter().any(|other| other.sequence == *sequence) {
                let what = "a sequence has two works in one step";
                return Err(Error::new(ErrorKind::Input, what).next("join their tokens"));
            }
            n_tokens += tokens.len();
            let run = self.run_of(self.find(*sequence)?, tokens.len());
            self.step.runs.push(run);
        }
        if n_tokens > self.max_step() {
            let what = format!("a step of {n_tokens} tokens, but there is room for {}", self.max_step());
            return Err(Error::new(ErrorKind::Input, what).next("read them in several"));
        }
        self.check_pages(self.place.pages().lacking(&self.step.runs))
    }

    /// What a sequence has to read for `n` more tokens: of a stale one all.
    fn run_of(&self, seq: usize, n: usize) -> Run {
        let Sequence { tokens, stale, .. } = self.sequence(seq);
        let first = if *stale { 0 } else { tokens.len() };
        Run { seq, tokens: 0..tokens.len() + n - first, first }
    }

    fn check_pages(&self, lacking: usize) -> Result<()> {
        let free = self.place.pages().free_pages();
        if lacking > free {
            let what = format!(
                "the cache is full: it holds {} pages of {PAGE} tokens, of which {free} are free, and {lacking} more are \
                 needed",
                self.room.n_pages
            );
            return Err(Error::new(ErrorKind::CacheFull, what).next("wait until a sequence ends"));
        }
        Ok(())
    }

    /// A place that no sequence has.
    fn free_place(&self) -> Result<usize> {
        self.sequences.iter().position(Option::is_none).ok_or_else(|| {
            let what = format!("there are {} sequences, and there is no room for more", self.sequences.len());
            Error::new(ErrorKind::CacheFull, what).next("wait until one of them ends")
        })
    }

    fn place(&mut self, seq: usize, tokens: Vec<u32>, stale: bool) -> SequenceId {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences[seq] = Some(Sequence { id, tokens, stale });
        id
    }

    /// Whether a sequence that forgets what is behind position `n` still has what comes before.
    fn keeps(&self, seq: usize, n: usize) -> bool {
        !self.model.spec().is_recurrent() && self.place.holds(seq, n)
    }

    /// A sequence's place.
    fn find(&self, id: SequenceId) -> Result<usize> {
        let place = self.sequences.iter().position(|s| s.as_ref().is_some_and(|s| s.id == id));
        place.ok_or_else(|| {
            Error::new(ErrorKind::Input, "there is no such sequence").next("it was removed: add another")
        })
    }

    fn sequence(&self, seq: usize) -> &Sequence {
        self.sequences[seq].as_ref().expect("a sequence at this place")
    }

    fn sequence_mut(&mut self, seq: usize) -> &mut Sequence {
        self.sequences[seq].as_mut().expect("a sequence at this place")
    }

    fn settle_at(&mut self, seq: usize) -> Result<()> {
        if !std::mem::take(&mut self.sequence_mut(seq).stale) {
            return Ok(());
        }
        let known = std::mem::take(&mut self.sequence_mut(seq).tokens);
        let read = known.chunks(self.room.chunk).try_for_each(|tokens| self.read(seq, tokens));
        if read.is_err() {
            self.sequence_mut(seq).tokens = known;
        }
        read
    }

    /// Adds tokens to the step and to their sequence, which has pages for them or finds them free; which tokens of the
    /// step they are.
    fn push(&mut self, seq: usize, tokens: &[u32]) -> Result<Range<usize>> {
        let read = &mut self.sequences[seq].as_mut().expect("a sequence at this place").tokens;
        let first = read.len();
        read.extend(tokens);
        let step = &mut self.step;
        step.tokens.extend(tokens);
        let rows = step.tokens.len() - tokens.len()..step.tokens.len();
        step.runs.push(Run { seq, tokens: rows.clone(), first });
        self.place.make_room(seq, first, tokens.len())?;
        Ok(rows)
    }

    /// Runs the step, and gives the logits, or the `best` of them.
    fn pass(&mut self, best: Option<usize>, give: Give<'_>) -> Result<()> {
        // parts of about one size: not more than 8 tokens by one kernel, and the rest by the other
        let wanted = self.step.wanted.len();
        let parts = wanted.div_ceil(n_logits(self.room)).max(1);
        for part in 0..parts {
            let rows = wanted * part / parts..wanted * (part + 1) / parts;
            let batch = self.step.batch(rows.clone());
            match part {
                0 => self.place.forward(batch, best)?,
                _ => self.place.logits(batch, best)?,
            }
            // whoever breaks off knows it
            if !rows.is_empty() && give(&mut *self.place, &self.step.asked[rows])?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Step {
    fn clear(&mut self) {
        self.tokens.clear();
        self.runs.clear();
        self.wanted.clear();
        self.asked.clear();
    }

    /// With some of the logits that are wanted.
    fn batch(&self, wanted: Range<usize>) -> Batch<'_> {
        Batch { tokens: &self.tokens, runs: &self.runs, logits: &self.wanted[wanted] }
    }
}

/// Tokens whose logits are computed at a time: as many as can be without changing a bit of them, or one of each sequence.
pub(crate) fn n_logits(room: Room) -> usize {
    if room.n_seq <= PRIVATE_ROWS { PRIVATE_ROWS } else { MAX_SEQUENCES }
}
