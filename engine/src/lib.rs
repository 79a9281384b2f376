//! The engine of braise: from a GGUF file to tokens.
//!
//! The path of a token, in the order of the modules: [`gguf`] maps the file, [`arch`] turns its
//! metadata into a [`block::Spec`], [`model`] binds the weights to it, [`tokenizer`] and [`chat`]
//! turn text into token ids, [`forward`] turns token ids into logits on a [`backend`] ([`device`] says which, [`parts`] what on which), and
//! [`sample`] picks the next token, of those that [`constrain`] allows. [`sequences`] are the states of several conversations, [`session`] that of one. [`speculate`] makes
//! several tokens of one pass. [`plan`] says how much memory that takes. [`measure`] says how fast all that is, and how fast it could be;
//! [`catalogue`] knows models and machines by name.

pub mod arch;
pub mod backend;
pub mod block;
pub mod catalogue;
pub mod chat;
pub mod constrain;
pub mod device;
pub mod error;
pub mod forward;
pub mod generate;
pub mod gguf;
pub mod kv;
pub mod measure;
pub mod memory;
pub mod model;
pub mod parts;
pub mod plan;
pub mod sample;
pub mod sequences;
pub mod session;
pub mod speculate;
pub mod threads;
pub mod tokenizer;

pub use error::{Error, ErrorKind, Result};
