//! Whether a session fits, and if not, what would.

use super::{Outline, Plan, Request};
use crate::error::{Error, ErrorKind};
use crate::kv::KvTypes;
use crate::memory::Memory;
use braise_kernels::ops::KvType;

/// How a session fits the memory that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// With all weights.
    Whole,
    /// Without so many bytes of the weights, which are read from the disk again and again.
    Streams {
        /// Bytes that do not fit.
        missing: u64,
    },
    /// Not at all.
    Not,
}

impl Plan {
    /// How a session fits `available` bytes, beside `droppable` bytes of weights that the system may drop. Other weights are
    /// not asked for: those of an open model are in memory already.
    pub fn fit(&self, droppable: u64, available: u64) -> Fit {
        match available.checked_sub(self.session()) {
            None => Fit::Not,
            Some(left) if droppable <= left => Fit::Whole,
            Some(left) => Fit::Streams { missing: droppable - left },
        }
    }
}

impl Outline {
    /// The longest context up to `request.n_ctx`, with otherwise the same request, for which a session takes at most `bytes`;
    /// 0 if there is none.
    pub fn longest_context(&self, request: &Request, bytes: u64) -> usize {
        let fits = |n_ctx: usize| {
            self.plan(&Request { n_ctx, ..*request }).is_some_and(|plan| plan.session() <= bytes)
        };
        // fits(low) and not fits(high)
        let (mut low, mut high) = (0, request.n_ctx);
        if fits(high) {
            return high;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        low
    }

    /// The plan of a session, or why it does not fit `memory`, and what would; `None` is a memory of unknown size.
    pub(crate) fn admit(&self, request: &Request, memory: Option<Memory>) -> Result<Plan, Error> {
        let plan = self.plan(request);
        match (plan, memory) {
            (Some(plan), None) => Ok(plan),
            (Some(plan), Some(memory)) if plan.session() <= memory.available => Ok(plan),
            (plan, memory) => Err(self.refusal(request, plan.as_ref(), memory)),
        }
    }

    /// The error of a session that does not fit.
    pub(crate) fn refusal(&self, request: &Request, plan: Option<&Plan>, memory: Option<Memory>) -> Error {
        let takes = match plan {
            Some(plan) => format!(
                "{} ({} of them keys and values in {})",
                gb(plan.session()),
                gb(plan.keys_and_values()),
                name(request.kv)
            ),
            None => "more than an address can name".to_owned(),
        };
        let free = memory.map_or(String::new(), |memory| {
            format!(", and {} of {} are free", gb(memory.available), gb(memory.total))
        });
        let what = format!(
            "there is not enough memory for a context of {} tokens: the session takes {takes}{free}",
            request.n_ctx
        );
        Error::new(ErrorKind::Memory, what).next(self.what_fits(request, memory))
    }

    /// What to do about a session that does not fit.
    fn what_fits(&self, request: &Request, memory: Option<Memory>) -> String {
        let Some(memory) = memory else { return "choose a smaller context".to_owned() };
        let smaller = Request { kv: KvTypes { k: KvType::Q8_0, v: KvType::Q8_0 }, ..*request };
        let longest = |request: &Request| self.longest_context(request, memory.available);
        let (same, small) = (longest(request), longest(&smaller));
        let small = Some(small).filter(|small| smaller.kv != request.kv && *small > same);
        match (same, small) {
            // what is free is not what the system gives
            (same, _) if same == request.n_ctx => {
                "end other programs, or choose a smaller context".to_owned()
            }
            (0, None) => "end other programs, or choose a smaller model".to_owned(),
            (0, Some(small)) => format!("choose a cache in q8_0, with which up to {small} tokens fit"),
            (same, None) => format!("choose at most {same} tokens"),
            (same, Some(small)) if small == request.n_ctx => {
                format!("choose at most {same} tokens, or a cache in q8_0, with which it fits")
            }
            (same, Some(small)) => {
                format!("choose at most {same} tokens, or {small} with a cache in q8_0")
            }
        }
    }
}

/// What a user should know of weights that do not fit; nothing if they do.
pub(crate) fn warning(plan: &Plan, droppable: u64, memory: Memory) -> Option<String> {
    let Fit::Streams { missing } = plan.fit(droppable, memory.available) else { return None };
    Some(format!(
        "the weights take {}, but beside the session's {} only {} of memory are free for them: up to {} are read from \
         the disk again for each token, which is slow; a smaller quantization may fit",
        gb(droppable),
        gb(plan.session()),
        gb(memory.available - plan.session()),
        gb(missing)
    ))
}

/// The formats of a cache, in a word.
fn name(kv: KvTypes) -> String {
    if kv.k == kv.v { kv.k.to_string() } else { format!("{} and {}", kv.k, kv.v) }
}

fn gb(bytes: u64) -> String {
    match bytes {
        0..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
