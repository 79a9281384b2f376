//! `braise run`: answers a prompt, or chats.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::args::{Cache, Compute, Constrain, Generation};
use crate::chat::terminal::Terminal;
use crate::chat::{Chat, Loop, Message, Role, shown};
use crate::engine::{Drafts, Loaded};
use crate::failure::Usage;
use crate::models::{self, resolve};
use crate::output::{notice, stdout};
use crate::prompt;
use crate::stats::Stats;
use crate::store::Store;

/// Answer a prompt, or chat
///
/// Without MODEL the default small model is used, and fetched the first time. A single argument with white space in it
/// is a PROMPT for that model. Without PROMPT, and with nothing piped in, a chat begins; /? in it tells more.
///
/// What is piped in is read to its end and put after PROMPT. Beside a PROMPT, a pipe in which nothing has come after 2
/// seconds is left unread, with a note on standard error; where it may take longer, end PROMPT with the word `-`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise run
  braise run \"Why is the sky blue?\"
  braise run smollm2:135m \"Sum this up:\" < notes.txt
  curl https://example.org | braise run smollm2:135m \"Sum this up:\" -
  braise run model.gguf --raw \"Once upon a time\" -n 100 --temp 0
  braise run \"Name three rivers\" --format json
  braise run large.gguf --draft small.gguf \"Write a haiku\"
  braise run large.gguf --gpu-layers 20 --verbose \"Write a haiku\"")]
pub struct RunArgs {
    /// Name of a model, or path of a .gguf file
    model: Option<String>,

    /// What to ask; what is piped in is put after it, and a - at its end waits for that
    prompt: Vec<String>,

    /// Continue PROMPT as it stands, with no chat template
    #[arg(long, conflicts_with = "system")]
    raw: bool,

    /// Instructions for the model, above the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    pub constrain: Constrain,

    /// Tokens that the context holds [default: what the model was trained for]
    #[arg(long, value_name = "N")]
    ctx: Option<NonZeroUsize>,

    /// Try tokens that come from here several at a time; the answer is the same, sooner where they are right
    #[arg(long, value_name = "DRAFTS", default_value = "ngram")]
    speculate: Speculate,

    /// Try tokens that MODEL drafts, a smaller model with the same vocabulary
    #[arg(long, value_name = "MODEL", conflicts_with = "speculate")]
    draft: Option<String>,

    /// Report rates and times on standard error
    #[arg(long)]
    verbose: bool,

    /// How the answer is made.
    #[command(flatten)]
    pub generation: Generation,

    #[command(flatten)]
    compute: Compute,

    #[command(flatten)]
    pub cache: Cache,
}

/// Where drafts come from that need no model of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Speculate {
    /// What followed the last few tokens where they stood before
    Ngram,
    /// One token at a time
    Off,
}

/// Does what was asked for.
pub fn run(mut args: RunArgs) -> Result<()> {
    let dash = prompt::take_dash(&mut args.prompt);
    let (model, words) = prompt::split(args.model.take(), std::mem::take(&mut args.prompt));
    let awaited = dash || words.is_none();
    let piped = prompt::piped(awaited)?;
    // what is asked does not matter to a model that there is not
    models::check(model.as_deref())?;
    let prompt = prompt::assemble(words, piped, args.raw)?;
    if args.raw && prompt.is_none() {
        return Err(Usage("--raw continues a text; give it as PROMPT or on standard input".into()).into());
    }
    let format = args.constrain.format()?;
    let path = resolve(model.as_deref())?;
    let draft_path = args.draft.as_deref().map(|model| resolve(Some(model))).transpose()?;
    let begin = Instant::now();
    let open = |path: &Path| {
        let mut loaded = Loaded::open(path, &args.compute)?;
        loaded.place(args.ctx, &args.compute, args.cache, args.verbose)?;
        Ok::<_, anyhow::Error>(loaded)
    };
    let loaded = open(&path)?;
    let draft = draft_path.as_deref().map(open).transpose()?;
    let drafts = match (&draft, args.speculate) {
        (Some(small), _) => Drafts::Model(small),
        (None, Speculate::Ngram) => Drafts::NGram,
        (None, Speculate::Off) => Drafts::None,
    };
    let mut chat = loaded.talker(args.ctx, &drafts, &args.compute, args.cache)?;
    if let Some((format, file)) = &format {
        chat.constrain(format).map_err(|e| match file {
            Some(file) => e.file(file),
            None => e,
        })?;
    }
    if let Some(note) = loaded.chat_note().filter(|_| !args.raw) {
        notice(format!("note: {note}"));
    }
    let load = begin.elapsed();
    if args.verbose {
        loaded.notes().iter().for_each(|note| notice(format!("note: {note}")));
        chat.measure()?;
    }
    match prompt {
        Some(prompt) => {
            let stats = answer(&mut chat, &prompt, &args, &mut stdout())?;
            if args.verbose {
                notice(Stats { load, ..stats });
            }
            Ok(())
        }
        None => {
            let mut input = Terminal::open(Store::open()?.history())?;
            let (mut out, mut notes) = (stdout(), io::stderr());
            let mut chat = Loop::new(&mut chat, &mut input, &mut out, &mut notes, args.generation);
            chat.verbose = args.verbose;
            chat.set_system(args.system.as_deref().unwrap_or(""));
            chat.run()
        }
    }
}

/// Writes the one answer to `prompt` to `out`; a chat's answer ends with a line end, raw text with its own last byte.
fn answer(chat: &mut dyn Chat, prompt: &str, args: &RunArgs, out: &mut dyn Write) -> Result<Stats> {
    if args.raw {
        return shown(out, |sink| chat.complete(prompt, &args.generation, sink));
    }
    let system = args.system.iter().map(|text| Message::new(Role::System, text));
    let messages: Vec<_> = system.chain([Message::new(Role::User, prompt)]).collect();
    let stats = shown(out, |sink| chat.reply(&messages, &args.generation, sink))?;
    writeln!(out)?;
    out.flush()?;
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::chat::Sink;

    /// Says what it was given.
    struct Mirror;

    impl Chat for Mirror {
        fn reply(&mut self, messages: &[Message], _: &Generation, sink: Sink<'_>) -> Result<Stats> {
            for message in messages {
                let _ = sink(&format!("{:?}={} ", message.role, message.content));
            }
            Ok(Stats { prefill_tokens: messages.len(), ..Stats::default() })
        }

        fn complete(&mut self, text: &str, options: &Generation, sink: Sink<'_>) -> Result<Stats> {
            let _ = sink(&format!("{text}|{}", options.temp));
            Ok(Stats::default())
        }
    }

    fn answered(flags: &[&str]) -> String {
        let words = ["braise", "run"].iter().chain(flags);
        let Command::Run(args) = Cli::try_parse_from(words).expect("is right").command else {
            panic!("is run")
        };
        let mut out = Vec::new();
        answer(&mut Mirror, "hi", &args, &mut out).expect("answers");
        String::from_utf8(out).expect("is UTF-8")
    }

    #[test]
    fn a_prompt_is_a_turn_and_raw_text_is_not() {
        assert_eq!(answered(&[]), "User=hi \n");
        assert_eq!(answered(&["--system", "Be brief"]), "System=Be brief User=hi \n");
        assert_eq!(answered(&["--raw", "--temp", "0.5"]), "hi|0.5");
    }

    #[test]
    fn raw_text_has_no_instructions() {
        assert!(Cli::try_parse_from(["braise", "run", "--raw", "--system", "x"]).is_err());
    }
}
