//! The engine behind the [`Chat`] that the conversation talks to.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use braise_engine::backend::cuda::{Loading, Watch};
use braise_engine::chat::ChatTemplate;
use braise_engine::constrain::{Constraint, Format, Grammars};
use braise_engine::device::{self, Choice, GpuLayers, Placement};
use braise_engine::generate::{Finish, Request, generate};
use braise_engine::kv::KvTypes;
use braise_engine::measure::{Limit, Peaks, Test};
use braise_engine::model::Model;
use braise_engine::sample::SamplerOptions;
use braise_engine::sequences::Capacity;
use braise_engine::session::{Session, SessionOptions};
use braise_engine::speculate::{DraftModel, NGram, Speculation};
use braise_engine::tokenizer::{ControlTokens, Special, Tokenizer};
use braise_engine::{chat, gguf::Gguf};
use indicatif::DecimalBytes;

use crate::args::{Cache, Compute, Generation};
use crate::chat::{Chat, Message, Role, Sink};
use crate::failure::Usage;
use crate::interrupt::{self, Interrupted};
use crate::machine::available_memory;
use crate::output::notice;
use crate::progress::Progress;
use crate::stats::Stats;

/// A model file with its tokenizer, open.
pub struct Loaded {
    model: Model,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl Loaded {
    /// Opens the file at `path`, which is to be of a model that writes.
    pub fn open(path: &Path, compute: &Compute) -> Result<Loaded> {
        let isa = compute.isa()?;
        let gguf = Gguf::open_with(path, compute.weights.residency())?;
        let tokenizer = Tokenizer::of(&gguf)?;
        let template = tokenizer.chat_template(&gguf)?;
        let model = Model::new(gguf, isa)?;
        let file = path.display();
        ensure!(
            !model.spec().is_encoder(),
            "{file}: the model is an encoder, which continues no text; `braise embed {file} TEXT` makes embeddings with it"
        );
        Ok(Loaded { model, tokenizer, template })
    }

    /// Moves the model to where `compute` says; a conversation of `ctx` tokens has to fit there. A line of notes says where
    /// it is and why, if there is something to say.
    pub fn place(
        &mut self,
        ctx: Option<NonZeroUsize>,
        compute: &Compute,
        cache: Cache,
        verbose: bool,
    ) -> Result<()> {
        place(&mut self.model, compute, &options(ctx, compute, cache), verbose)
    }

    /// What a user should know who talks to this model: nothing, if its file says how.
    pub fn chat_note(&self) -> Option<String> {
        let name = self.template.as_ref()?.built_in()?;
        Some(format!("the file has no chat template; going by the vocabulary, that of {name} is used"))
    }

    /// What a user should know of how this model runs: nothing, if it runs as fast as it can.
    pub fn notes(&self) -> Vec<String> {
        let isa = self.model.kernels().isa();
        let note = |(ty, slow)| format!("{ty} weights run on {slow} kernels: there is none for {isa} yet");
        self.model.slow_formats(false).into_iter().map(note).collect()
    }

    /// Begins a conversation, with drafts from `drafts`.
    pub fn talker<'m>(
        &'m self,
        ctx: Option<NonZeroUsize>,
        drafts: &Drafts<'m>,
        compute: &Compute,
        cache: Cache,
    ) -> Result<Talker<'m>> {
        let options = options(ctx, compute, cache);
        let session = begin(&self.model, &options)?;
        let speculation = match drafts {
            Drafts::None => None,
            Drafts::NGram => Some(Speculation::new(NGram::new())),
            Drafts::Model(small) => {
                let n_ctx = Some(session.n_ctx().min(small.model.spec().n_ctx));
                let options = SessionOptions { n_ctx, ..options };
                let drafter = DraftModel::new(&small.model, &small.tokenizer, &self.tokenizer, &options)?;
                Some(Speculation::new(drafter))
            }
        };
        let kv = options.kv;
        Ok(Talker { loaded: self, session, kv, speculation, constraint: None, peaks: None })
    }
}

/// Begins a session, and says so where it finds too little memory to be fast.
pub fn begin<'m>(model: &'m Model, options: &SessionOptions) -> braise_engine::Result<Session<'m>> {
    let session = Session::new(model, options)?;
    if let Some(warning) = session.warning() {
        notice(format!("warning: {warning}"));
    }
    Ok(session)
}

fn options(ctx: Option<NonZeroUsize>, compute: &Compute, cache: Cache) -> SessionOptions {
    SessionOptions {
        n_ctx: ctx.map(NonZeroUsize::get),
        threads: compute.threads.map(NonZeroUsize::get),
        chunk: None,
        kv: cache.types(),
    }
}

/// Moves `model` to where `compute` says, for sessions of these options. Says so on standard error if asked for, and in any
/// case if there is a GPU and a part of the model is not there.
pub fn place(model: &mut Model, compute: &Compute, options: &SessionOptions, verbose: bool) -> Result<()> {
    let on_gpus = !matches!(compute.gpu_layers, GpuLayers::Auto | GpuLayers::Last(0));
    if on_gpus && compute.device() == Choice::Cpu {
        let layers = compute.gpu_layers;
        return Err(
            Usage(format!("--gpu-layers {layers}: there are none with --device cpu; leave one out")).into()
        );
    }
    match move_to_devices(model, compute.device(), compute.gpu_layers, Capacity::ONE, options)? {
        Placement::Gpu { index, name, weight_bytes, slow } => {
            if verbose {
                let size = DecimalBytes(weight_bytes as u64);
                notice(format!("note: all layers are on GPU {index}, {name}: {size} of weights"));
            }
            if let Some(slow) = slow {
                notice(format!("note: {slow}"));
            }
        }
        Placement::Split(split) => {
            notice(format!("note: {split}"));
            for gpu in &split.gpus {
                if verbose {
                    let size = DecimalBytes(gpu.weight_bytes as u64);
                    notice(format!("note: {size} of weights are on cuda:{}", gpu.index));
                }
                if let Some(slow) = &gpu.slow {
                    notice(format!("note: cuda:{}: {slow}", gpu.index));
                }
            }
        }
        Placement::Cpu { because: Some(because), beside_gpu } if verbose || beside_gpu => {
            notice(format!("note: the model runs on the CPU: {because}"));
        }
        Placement::Cpu { .. } => {}
    }
    Ok(())
}

/// Moves `model` as [`device::place`] does, and shows how far that is. Ctrl-C ends it, and gives back what was taken.
pub fn move_to_devices(
    model: &mut Model,
    choice: Choice,
    layers: GpuLayers,
    capacity: Capacity,
    options: &SessionOptions,
) -> Result<Placement> {
    // where Ctrl-C cannot be taken over, it ends the program
    let interrupt = Arc::new(interrupt::Watch::begin().ok());
    let is_pressed = {
        let interrupt = Arc::clone(&interrupt);
        move || interrupt.as_ref().as_ref().is_some_and(interrupt::Watch::is_pressed)
    };
    let progress = Mutex::new(Progress::new("copying to the GPU", None));
    let asked = is_pressed.clone();
    model.watch_loading(Some(Watch::new(move |Loading { done, total }| {
        // a panic elsewhere leaves a bar that can be drawn on
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.set_total(total);
        progress.set(done);
        if asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })));
    let placed = device::place(model, choice, layers, capacity, options);
    model.watch_loading(None); // takes the bar away
    if is_pressed() {
        model.move_to_cpu();
        return Err(Interrupted.into());
    }
    Ok(placed?)
}

/// Where the tokens come from that are tried several at a time.
pub enum Drafts<'m> {
    /// Nowhere: one token at a time.
    None,
    /// The text itself.
    NGram,
    /// A smaller model.
    Model(&'m Loaded),
}

/// A conversation with a loaded model.
pub struct Talker<'m> {
    loaded: &'m Loaded,
    session: Session<'m>,
    kv: KvTypes,
    speculation: Option<Speculation<'m>>,
    constraint: Option<Constraint>,
    /// What the machine can do at most, if that was measured.
    peaks: Option<Peaks>,
}

impl Talker<'_> {
    /// Makes all answers keep to `format`.
    pub fn constrain(&mut self, format: &Format) -> braise_engine::Result<()> {
        self.constraint = Some(Grammars::new(&self.loaded.tokenizer)?.constraint(format)?);
        Ok(())
    }

    /// Measures what the machine can do at most, so that statistics name the share of it; nothing where several devices share
    /// the work, each of which has limits of its own.
    pub fn measure(&mut self) -> braise_engine::Result<()> {
        if self.loaded.model.is_divided() {
            return Ok(());
        }
        let (model, threads) = (&self.loaded.model, self.session.threads());
        self.peaks = Some(Peaks::of_model(model, self.kv, threads, available_memory() / 2)?);
        Ok(())
    }

    /// Share of the limit that reading and then generating so many tokens reached in some time, behind `n_depth` others.
    fn share(&self, n_prompt: usize, n_gen: usize, n_depth: usize, time: Duration) -> Option<f64> {
        let test = Test { n_prompt, n_gen, n_depth, n_parallel: 1 };
        let limit = Limit::of(&self.loaded.model, self.kv, &test, &self.peaks?);
        (n_prompt + n_gen > 0 && !time.is_zero()).then(|| limit.seconds / time.as_secs_f64())
    }

    fn generate(&mut self, prompt: &[u32], options: &Generation, sink: Sink<'_>) -> Result<Stats> {
        let request = Request {
            prompt,
            sampler: sampler(options),
            max_tokens: options.max_tokens.map(NonZeroUsize::get),
            stop: &options.stop,
            constraint: self.constraint.as_ref(),
            control: ControlTokens::Hide,
        };
        let Self { loaded, session, speculation, .. } = self;
        let outcome = generate(session, &loaded.tokenizer, &request, speculation.as_mut(), sink)?;
        if outcome.finish == Finish::ContextFull {
            let n_ctx = self.session.n_ctx();
            return Err(anyhow!(
                "the answer breaks off: the context of {n_ctx} tokens is full; raise it with --ctx"
            ));
        }
        let before_decode = self.session.tokens().len().saturating_sub(outcome.decode_tokens);
        let before = before_decode.saturating_sub(outcome.prefill_tokens);
        let is_plain = outcome.speculation.drafted == 0;
        Ok(Stats {
            load: Duration::ZERO,
            first_token: outcome.prefill,
            prefill_tokens: outcome.prefill_tokens,
            prefill: outcome.prefill,
            prefill_share: self.share(outcome.prefill_tokens, 0, before, outcome.prefill),
            decode_tokens: outcome.decode_tokens,
            decode: outcome.decode,
            decode_share: self
                .share(0, outcome.decode_tokens, before_decode, outcome.decode)
                .filter(|_| is_plain),
            drafted: outcome.speculation.drafted,
            accepted: outcome.speculation.accepted,
        })
    }
}

impl Chat for Talker<'_> {
    fn reply(&mut self, messages: &[Message], options: &Generation, sink: Sink<'_>) -> Result<Stats> {
        let file = self.loaded.model.gguf().path();
        let template = self.loaded.template.as_ref().with_context(|| {
            format!("{}: the file has no chat template; continue a text with --raw", file.display())
        })?;
        let role = |role| match role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let messages: Vec<_> =
            messages.iter().map(|m| chat::Message::new(role(m.role), &m.content)).collect();
        let prompt = template.render(&chat::Conversation::new(messages)).map_err(|e| e.file(file))?;
        self.generate(&self.loaded.tokenizer.encode_chat_segments(&prompt.segments()), options, sink)
    }

    fn complete(&mut self, text: &str, options: &Generation, sink: Sink<'_>) -> Result<Stats> {
        self.generate(&self.loaded.tokenizer.encode_prompt(text, Special::Parse), options, sink)
    }
}

fn sampler(options: &Generation) -> SamplerOptions {
    SamplerOptions {
        temperature: options.temp,
        top_k: options.top_k,
        top_p: options.top_p,
        min_p: options.min_p,
        repeat_penalty: options.repeat_penalty,
        presence_penalty: options.presence_penalty,
        frequency_penalty: options.frequency_penalty,
        seed: options.seed,
        ..SamplerOptions::default()
    }
}
